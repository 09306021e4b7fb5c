"""POSIX extended regular expressions whose cost is bounded (POSIX 1003.2, which RFC 2704 §4.6.5 asks for).

Nothing backtracks. A part of an expression maps the set of places where it may begin to the set of places where it may end; a set is an
integer with a bit per place, so that one step treats all places of the text at once. Steps are counted against the query's budget.
Groups follow the rule of leftmost, longest, and each part as long as the whole allows, from left to right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from polder.keynote.errors import Fault

_CLASSES: dict[str, Callable[[str], bool]] = {
    "alpha": lambda c: c.isascii() and c.isalpha(),
    "digit": lambda c: c.isascii() and c.isdigit(),
    "alnum": lambda c: c.isascii() and c.isalnum(),
    "upper": lambda c: "A" <= c <= "Z",
    "lower": lambda c: "a" <= c <= "z",
    "space": lambda c: c in " \t\n\r\f\v",
    "blank": lambda c: c in " \t",
    "punct": lambda c: "!" <= c <= "~" and not c.isalnum(),
    "print": lambda c: " " <= c <= "~",
    "graph": lambda c: "!" <= c <= "~",
    "cntrl": lambda c: ord(c) < 32 or ord(c) == 127,
    "xdigit": lambda c: c in "0123456789abcdefABCDEF",
}
_LIMIT_DEPTH = 32
_LIMIT_REPEAT = 255
Part = tuple[Any, ...]
"""("set", characters, negated) ("cat", parts) ("or", parts) ("rep", part, least, most) ("group", part, n) ("^",) ("$",)"""


class Regex:
    """A compiled expression. Compiling is linear in its length; an invalid one is a runtime error."""

    __slots__ = ("_at", "_text", "groups", "root")

    def __init__(self, text: str, longest: int) -> None:
        if len(text) > longest:
            raise Fault(f"a regular expression longer than {longest}")
        self._text = text
        self._at = 0
        self.groups = 0
        self.root = self._either(0)
        if self._at < len(text):
            raise Fault("an unmatched ) in a regular expression")

    def search(self, text: str, budget: list[int]) -> list[str] | None:
        """The groups of the leftmost longest match ("" for one without part in it), or None. ``budget[0]`` is what steps are left."""
        run = _Run(text, budget)
        everywhere = (1 << (len(text) + 1)) - 1
        if not run.ends(self.root, everywhere):
            return None
        if not self.groups:
            return []
        low, high = 0, len(text)
        while low < high:
            middle = (low + high) // 2
            if run.ends(self.root, (1 << (middle + 1)) - 1):
                high = middle
            else:
                low = middle + 1
        last = run.ends(self.root, 1 << low).bit_length() - 1
        found: dict[int, tuple[int, int]] = {}
        run.assign(self.root, low, last, found)
        return [text[slice(*found[n])] if n in found else "" for n in range(1, self.groups + 1)]

    def _peek(self) -> str:
        return self._text[self._at] if self._at < len(self._text) else ""

    def _either(self, depth: int) -> Part:
        if depth > _LIMIT_DEPTH:
            raise Fault("a regular expression nested too deeply")
        parts = [self._row(depth)]
        while self._peek() == "|":
            self._at += 1
            parts.append(self._row(depth))
        return parts[0] if len(parts) == 1 else ("or", parts)

    def _row(self, depth: int) -> Part:
        parts: list[Part] = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._repeated(self._atom(depth)))
        return parts[0] if len(parts) == 1 else ("cat", parts)

    def _atom(self, depth: int) -> Part:
        char = self._text[self._at]
        self._at += 1
        if char == "(":
            self.groups += 1
            number = self.groups
            inner = self._either(depth + 1)
            if self._peek() != ")":
                raise Fault("an unmatched ( in a regular expression")
            self._at += 1
            return ("group", inner, number)
        if char in "^$":
            return (char,)
        if char == ".":
            return ("set", frozenset(), True)
        if char == "[":
            return self._bracket()
        if char in "*+?{":
            raise Fault(f"{char} repeats nothing in a regular expression")
        if char == "\\":
            char = self._peek()
            if not char:
                raise Fault("a regular expression ends in a backslash")
            self._at += 1
        return ("set", frozenset(char), False)

    def _repeated(self, part: Part) -> Part:
        for _ in range(_LIMIT_DEPTH):
            char = self._peek()
            if char == "" or char not in "*+?{":
                return part
            self._at += 1
            least, most = {"*": (0, -1), "+": (1, -1), "?": (0, 1)}.get(char) or self._bounds()
            part = ("rep", part, least, most)
        raise Fault("too many repetitions of one part in a regular expression")

    def _bounds(self) -> tuple[int, int]:
        end = self._text.find("}", self._at)
        low, comma, high = self._text[self._at : end].partition(",")
        if end < 0 or not _number(low) or not (high == "" or _number(high)):
            raise Fault("an invalid {} in a regular expression")
        self._at = end + 1
        least = int(low)
        most = least if not comma else int(high) if high else -1
        if least > _LIMIT_REPEAT or most > _LIMIT_REPEAT or -1 < most < least:
            raise Fault("an invalid {} in a regular expression")
        return least, most

    def _bracket(self) -> Part:
        negated = self._peek() == "^"
        self._at += negated
        members: set[str] = set()
        first = True
        while True:
            char = self._peek()
            if char == "":
                raise Fault("an unmatched [ in a regular expression")
            if char == "]" and not first:
                self._at += 1
                return ("set", frozenset(members), negated)
            first = False
            if self._text.startswith("[:", self._at):
                name = self._named(":")
                if name not in _CLASSES:
                    raise Fault("an unknown class in a regular expression")
                members.update(filter(_CLASSES[name], map(chr, range(256))))
                continue
            low = self._element()
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("", "]"):
                self._at += 1
                high = self._element()
                if high < low:
                    raise Fault("an empty range in a regular expression")
                members.update(map(chr, range(ord(low), ord(high) + 1)))
            else:
                members.add(low)

    def _element(self) -> str:
        for mark in ".=":
            if self._text.startswith("[" + mark, self._at):
                name = self._named(mark)
                if len(name) != 1:
                    raise Fault("an unknown collating element in a regular expression")
                return name
        char = self._peek()
        self._at += 1
        return char

    def _named(self, mark: str) -> str:
        end = self._text.find(mark + "]", self._at + 2)
        if end < 0:
            raise Fault("an unmatched [ in a regular expression")
        name = self._text[self._at + 2 : end]
        self._at = end + 2
        return name


def _number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 4


class _Run:
    """One text being searched."""

    __slots__ = ("_budget", "_places", "_sets", "_text")

    def __init__(self, text: str, budget: list[int]) -> None:
        self._text = text
        self._budget = budget
        self._places: dict[str, int] = {}
        for place, char in enumerate(text):
            self._places[char] = self._places.get(char, 0) | 1 << place
        self._pay(len(text) >> 2)
        self._sets: dict[int, int] = {}

    def _pay(self, steps: int = 1) -> None:
        self._budget[0] -= steps
        if self._budget[0] < 0:
            raise Fault("regular expressions cost more than is allowed")

    def _set(self, part: Part) -> int:
        """The places whose character is in the set."""
        known = self._sets.get(id(part))
        if known is None:
            _, members, negated = part
            known = 0
            for char, places in self._places.items():
                if (char in members) is not negated:
                    known |= places
            self._pay(len(self._places) >> 2)
            self._sets[id(part)] = known
        return known

    def ends(self, part: Part, begins: int) -> int:
        """Where ``part`` may end if it begins at any of ``begins``."""
        self._pay()
        kind = part[0]
        if kind == "set":
            return (begins & self._set(part)) << 1
        if kind == "cat":
            for inner in part[1]:
                if not begins:
                    break
                begins = self.ends(inner, begins)
            return begins
        if kind == "or":
            result = 0
            for inner in part[1]:
                result |= self.ends(inner, begins)
            return result
        if kind == "group":
            return self.ends(part[1], begins)
        if kind == "rep":
            return self._repeat(self.ends, part, begins)
        return begins & (1 if kind == "^" else 1 << len(self._text))

    def begins(self, part: Part, ends: int) -> int:
        """Where ``part`` may begin if it ends at any of ``ends``."""
        self._pay()
        kind = part[0]
        if kind == "set":
            return ends >> 1 & self._set(part)
        if kind == "cat":
            for inner in reversed(part[1]):
                if not ends:
                    break
                ends = self.begins(inner, ends)
            return ends
        if kind == "or":
            result = 0
            for inner in part[1]:
                result |= self.begins(inner, ends)
            return result
        if kind == "group":
            return self.begins(part[1], ends)
        if kind == "rep":
            return self._repeat(self.begins, part, ends)
        return ends & (1 if kind == "^" else 1 << len(self._text))

    def _repeat(self, step: Callable[[Part, int], int], part: Part, places: int) -> int:
        _, inner, least, most = part
        for _ in range(least):
            places = step(inner, places)
            if not places:
                return 0
        reached = fresh = places
        turns = most - least
        while fresh and turns != 0:
            fresh = step(inner, fresh) & ~reached
            reached |= fresh
            turns -= 1
        return reached

    def assign(self, part: Part, begin: int, end: int, found: dict[int, tuple[int, int]]) -> None:
        """Note the groups of ``part``, which matches exactly from ``begin`` to ``end``."""
        kind = part[0]
        if kind == "group":
            found[part[2]] = (begin, end)
            self.assign(part[1], begin, end, found)
        elif kind == "or":
            for inner in part[1]:
                if self.ends(inner, 1 << begin) >> end & 1:
                    self.assign(inner, begin, end, found)
                    return
        elif kind == "cat":
            self._assign_row(part[1], begin, end, found)
        elif kind == "rep":
            self._assign_turns(part, begin, end, found)

    def _assign_row(self, parts: list[Part], begin: int, end: int, found: dict[int, tuple[int, int]]) -> None:
        lasts = [1 << end]
        for part in reversed(parts[1:]):
            lasts.append(self.begins(part, lasts[-1]))
        for part in parts:
            stop = (self.ends(part, 1 << begin) & lasts.pop()).bit_length() - 1
            self.assign(part, begin, stop, found)
            begin = stop

    def _assign_turns(self, part: Part, begin: int, end: int, found: dict[int, tuple[int, int]]) -> None:
        _, inner, least, most = part
        groups = tuple(_groups(inner))
        turn = 0
        while (begin < end or turn < least) and turn != most:
            rest = ("rep", inner, max(least - turn - 1, 0), most if most < 0 else most - turn - 1)
            stop = (self.ends(inner, 1 << begin) & self.begins(rest, 1 << end)).bit_length() - 1
            for group in groups:
                found.pop(group, None)
            self.assign(inner, begin, stop, found)
            turn += 1
            begin = stop


def _groups(part: Part) -> list[int]:
    kind = part[0]
    if kind == "group":
        return [part[2], *_groups(part[1])]
    if kind == "rep":
        return _groups(part[1])
    if kind in ("cat", "or"):
        return [group for inner in part[1] for group in _groups(inner)]
    return []
