"""Fields into trees: the grammar of RFC 2704 §4.6 by recursive descent.

A parser of our own, because a general one costs hundreds of microseconds for each credential, and what strangers send is parsed before
anything is known about them (docs/design/keynote.md has the measurement). Depth and length are bounded, so that its recursion is.
"""

from __future__ import annotations

from typing import Any

from polder.keynote import expr
from polder.keynote.errors import Fault, KeyNoteError, Why
from polder.keynote.expr import SORT, Tree
from polder.keynote.limits import Limits
from polder.keynote.regex import Regex
from polder.keynote.text import COMPARISON, VALUE, plain_string, string, tokens

_RELATIONS = frozenset(expr.RELATIONS)
_TEXT_TESTS = {sign: expr.attribute_equals if sign == "==" else expr.attribute_is for sign in expr.RELATIONS}
_FOLLOWS = frozenset(("&&", "||", ")", "->", ";"))
_ARITHMETIC = {"+": 1, "-": 1, ".": 1, "*": 2, "/": 2, "%": 2, "^": 3}
_TEST_WORDS = {"true": True, "false": False}

Program = list[tuple[Tree, Any]]
"""Clauses: a test, and a string tree, a Program or None."""


def bad(text: str) -> KeyNoteError:
    """A mistake of who wrote the assertion."""
    return KeyNoteError(Why.SYNTAX, text)


def _named(token: str) -> bool:
    """An attribute's name that no match can set."""
    return token.isidentifier() and token[0] != "_"


def string_field(text: str, limits: Limits) -> Tree:
    """A field that is one string expression; most are one name or one literal."""
    plain = text.strip(" \t\n")
    if plain.isidentifier():
        return (expr.attribute, plain)
    value = plain_string(plain)
    if value is not None:
        return (expr.literal, value)
    return Parser(text, limits).whole_string()


def conditions(text: str, limits: Limits) -> Program:
    """The Conditions field. Most are one clause of comparisons joined by ``&&``: those are read in one step each."""
    parts: list[Tree] = []
    at, end = 0, "&&"
    while end == "&&":
        found = COMPARISON.match(text, at)
        if found is None:
            break
        number, name, sign, quoted, digits, end = found.groups()
        if bool(number) is (digits is None):
            break
        if number:
            parts.append((expr.number_is, name, int(digits), sign, expr.RELATIONS[sign]))
        else:
            parts.append((_TEXT_TESTS[sign], name, quoted, sign, expr.RELATIONS[sign]))
        at = found.end()
    else:
        value = VALUE.match(text, at) if end == "->" else None
        if value is not None and 4 * len(parts) <= limits.tokens:
            return [((expr.conjunction, parts) if len(parts) > 1 else parts[0], (expr.literal, value[1]))]
    parser = Parser(text, limits)
    program = parser.program()
    parser.finish()
    return program


class Parser:
    """One field's tokens, and how far they are read."""

    __slots__ = ("at", "depth", "limits", "names", "operators", "tokens")

    def __init__(self, text: str, limits: Limits) -> None:
        self.tokens = tokens(text, limits)
        self.at = 0
        self.depth = 0
        self.limits = limits
        self.names = 0
        self.operators = 0

    def deeper(self) -> None:
        """One level down; what goes down comes up with ``depth -= 1``."""
        self.depth += 1
        if self.depth > self.limits.depth:
            raise KeyNoteError(Why.LIMIT, f"an expression is nested more than {self.limits.depth} deep")

    def expect(self, token: str) -> None:
        """Read exactly this token."""
        if self.tokens[self.at] != token:
            raise bad(
                f"{self.tokens[self.at]!r} stands where {token!r} must" if self.tokens[self.at] else f"{token!r} is missing"
            )
        self.at += 1

    def finish(self) -> None:
        """Nothing may follow."""
        if self.tokens[self.at]:
            raise bad(f"{self.tokens[self.at]!r} stands where the field must end")

    def constants(self) -> dict[str, str]:
        """Local-Constants: a name, ``=``, a string, and so on (§4.6.2)."""
        found: dict[str, str] = {}
        row, at = self.tokens, 0
        while name := row[at]:
            if row[at + 1] != "=" or not name.isidentifier() or row[at + 2][:1] != '"':
                raise bad(f'Local-Constants hold NAME = "string"; near {name!r} they do not')
            if name in found:
                raise bad(f"the constant {name} is given twice")
            found[name] = string(row[at + 2])
            at += 3
        if len(found) > self.limits.attributes:
            raise KeyNoteError(Why.LIMIT, f"more than {self.limits.attributes} constants")
        return found

    def version(self) -> None:
        """KeyNote-Version: 2 or "2" (§4.6.1)."""
        if self.tokens[0] not in ("2", '"2"'):
            raise bad(f"KeyNote-Version is {self.tokens[0]}; only 2 is known")
        self.at = 1
        self.finish()

    def whole_string(self) -> Tree:
        """A field that is one string expression."""
        tree = self.sum(1)
        self.finish()
        return self.need(tree, "string")

    def need(self, tree: Tree, sort: str) -> Tree:
        """``tree``, if it is of that sort."""
        if SORT[tree[0]] == sort:
            return tree
        if sort == "test" and tree[0] is expr.attribute and tree[1].lower() in _TEST_WORDS:
            return (expr.constant, _TEST_WORDS[tree[1].lower()])
        raise bad(f"{unparse(tree)} is no {sort}")

    # Conditions (§4.6.5)

    def program(self, end: str = "") -> Program:
        """Clauses up to ``end``: the field's end, or the brace that closes a block."""
        clauses: Program = []
        while self.tokens[self.at] != end:
            test = self.need(self.either(), "test")
            value: Any = None
            if self.tokens[self.at] == "->":
                self.at += 1
                if self.tokens[self.at] == "{":
                    self.at += 1
                    self.deeper()
                    value = self.program("}")
                    self.depth -= 1
                    self.at += 1
                else:
                    value = self.need(self.sum(1), "string")
            self.expect(";")
            clauses.append((test, value))
        return clauses

    def either(self) -> Tree:
        """Tests joined with ``||``, or anything that binds tighter."""
        tree = self.both()
        if self.tokens[self.at] != "||":
            return tree
        parts = [self.need(tree, "test")]
        while self.tokens[self.at] == "||":
            self.at += 1
            parts.append(self.need(self.both(), "test"))
        return (expr.disjunction, parts)

    def both(self) -> Tree:
        """Tests joined with ``&&``, or anything that binds tighter. The two commonest relations are read here, in one step."""
        row = self.tokens
        parts: list[Tree] = []
        while True:
            at = self.at
            head = row[at]
            if (
                head == "@"
                and row[at + 3].isdigit()
                and row[at + 4] in _FOLLOWS
                and row[at + 2] in _RELATIONS
                and _named(row[at + 1])
            ):
                self.at = at + 4
                name, sign = row[at + 1], row[at + 2]
                tree: Tree = (expr.number_is, name, self.integer(row[at + 3]), sign, expr.RELATIONS[sign])
            elif (
                row[at + 1 : at + 2]
                and row[at + 1] in _RELATIONS
                and row[at + 2][:1] == '"'
                and row[at + 3] in _FOLLOWS
                and _named(head)
            ):
                self.at = at + 3
                tree = (_TEXT_TESTS[row[at + 1]], head, string(row[at + 2]), row[at + 1], expr.RELATIONS[row[at + 1]])
            else:
                tree = self.related()
            if row[self.at] != "&&":
                break
            self.at += 1
            parts.append(self.need(tree, "test"))
        if not parts:
            return tree
        parts.append(self.need(tree, "test"))
        return (expr.conjunction, parts)

    def related(self) -> Tree:
        """A relation, a negation, or an expression in a parenthesis, whose sort shows only at its end."""
        row = self.tokens
        if row[self.at] == "!":
            self.at += 1
            self.deeper()
            tree = self.need(self.related(), "test")
            self.depth -= 1
            return (expr.negation, tree)
        left = self.sum(1)
        sign = row[self.at]
        if sign in _RELATIONS:
            self.at += 1
            right = self.sum(1)
            sort = SORT[left[0]]
            if sort != SORT[right[0]] or sort == "test" or (sort == "float" and sign in ("==", "!=")):
                raise bad(f"{unparse(left)} {sign} {unparse(right)} compares {sort} with {SORT[right[0]]}")
            return (expr.relation, left, right, sign, expr.RELATIONS[sign])
        if sign == "~=":
            self.at += 1
            return self.matching(self.need(left, "string"), self.need(self.sum(1), "string"))
        return left

    def matching(self, left: Tree, right: Tree) -> Tree:
        """A match; an expression that is a literal is compiled now, and fails only when it is asked (§5.3.4)."""
        compiled = None
        if right[0] is expr.literal:
            try:
                compiled = Regex(right[1], self.limits.regex)
            except Fault:
                compiled = None
        return (expr.matches, left, right, compiled)

    def sum(self, least: int) -> Tree:
        """Arithmetic and concatenation of at least this precedence; all operators group to the left."""
        row = self.tokens
        tree = self.prefixed()
        while True:
            sign = row[self.at]
            rank = _ARITHMETIC.get(sign, 0)
            if rank < least:
                return tree
            self.at += 1
            self.operators += 1
            if self.operators > self.limits.operators:
                raise KeyNoteError(Why.LIMIT, f"more than {self.limits.operators} operators in a field")
            right = self.sum(rank + 1)
            sort = SORT[tree[0]]
            if sort != SORT[right[0]] or sort == "test" or (sort == "string") is not (sign == "."):
                raise bad(f"{sign} between {sort} {unparse(tree)} and {SORT[right[0]]} {unparse(right)}")
            if sort == "string":
                tree = (expr.concatenate, tree, right)
            elif sort == "integer":
                tree = (expr.int_operation, tree, right, sign)
            elif sign == "%":
                raise bad("% is for integers")
            else:
                tree = (expr.float_operation, tree, right, sign)

    def prefixed(self) -> Tree:
        """``- @ & $``, literals, attributes, parentheses."""
        token = self.tokens[self.at]
        self.at += 1
        first = token[:1]
        if first == '"':
            return (expr.literal, string(token))
        if first in "-@&$(" and first:
            if len(token) > 1:
                raise bad(f"{token!r} stands where an expression must")
            return self._prefix(token)
        if first.isdigit():
            if "." in token:
                return (expr.float_literal, self._float(token))
            return (expr.int_literal, self.integer(token))
        if not token.isidentifier():
            raise bad(f"{token!r} stands where an expression must" if token else "an expression is missing at the end")
        return (expr.attribute, token)

    def integer(self, token: str) -> int:
        """An integer literal."""
        value = int(token) if len(token) < 12 else expr.MOST + 1
        if value > expr.MOST:
            raise bad(f"the integer {token[:20]} is larger than {expr.MOST}")
        return value

    def _float(self, token: str) -> float:
        try:
            return expr.single(float(token))
        except Fault:
            raise bad(f"the float {token[:20]} is out of range") from None

    def _prefix(self, sign: str) -> Tree:
        self.deeper()
        if sign == "(":
            tree = self.either()
            self.expect(")")
        else:
            tree = self.prefixed()
            sort = SORT[tree[0]]
            if sign == "-":
                if sort not in ("integer", "float"):
                    raise bad(f"- before {sort} {unparse(tree)}")
                tree = (expr.int_minus if sort == "integer" else expr.float_minus, tree)
            else:
                tree = ({"@": expr.as_int, "&": expr.as_float, "$": expr.dereference}[sign], self.need(tree, "string"))
        self.depth -= 1
        return tree

    # Licensees (§4.6.4)

    def licensees(self) -> Tree | None:
        """The whole field: None when it is empty."""
        if not self.tokens[0]:
            return None
        tree = self.any_licensee()
        self.finish()
        return tree

    def any_licensee(self) -> Tree:
        """``("||", parts)``, ``("&&", parts)``, ``("of", k, parts)`` or ``("is", string tree)``."""
        parts = [self.all_licensees()]
        while self.tokens[self.at] == "||":
            self.at += 1
            parts.append(self.all_licensees())
        return parts[0] if len(parts) == 1 else ("||", parts)

    def all_licensees(self) -> Tree:
        """Principals joined with ``&&``."""
        parts = [self.licensee()]
        while self.tokens[self.at] == "&&":
            self.at += 1
            parts.append(self.licensee())
        return parts[0] if len(parts) == 1 else ("&&", parts)

    def licensee(self) -> Tree:
        """A threshold, a parenthesis, or one principal."""
        row, at = self.tokens, self.at
        if row[at].isdigit() and row[at + 1 : at + 4] == ["-", "of", "("]:
            self.at = at + 4
            return self._threshold(row[at])
        if row[at] == "(":
            self.at += 1
            self.deeper()
            tree = self.any_licensee()
            self.depth -= 1
            self.expect(")")
            if row[self.at] != "." or tree[0] != "is":
                return tree
            self.at += 1
            return ("is", (expr.concatenate, tree[1], self.need(self.sum(1), "string")))
        self.names += 1
        if self.names > self.limits.principals:
            raise KeyNoteError(Why.LIMIT, f"more than {self.limits.principals} licensees")
        return ("is", self.need(self.sum(1), "string"))

    def _threshold(self, count: str) -> Tree:
        parts = [self.licensee()]
        while self.tokens[self.at] == ",":
            self.at += 1
            parts.append(self.licensee())
        self.expect(")")
        if any(part[0] != "is" for part in parts):
            raise bad("a threshold lists principals alone")
        least = int(count) if len(count) < 6 else len(parts) + 1
        if not 1 <= least <= len(parts) or count[0] == "0":
            raise bad(f"{count[:6]}-of over {len(parts)} principals can never hold")
        return ("of", least, parts)


_WRITTEN = {
    expr.as_int: "@",
    expr.as_float: "&",
    expr.dereference: "$",
    expr.int_minus: "-",
    expr.float_minus: "-",
    expr.negation: "!",
}


def unparse(tree: Tree) -> str:
    """An expression as KeyNote text, for people."""
    kind = tree[0]
    if kind in _WRITTEN:
        inner = unparse(tree[1])
        return f"{_WRITTEN[kind]}{inner if len(tree[1]) == 2 else f'({inner})'}"
    if kind is expr.literal:
        return f'"{tree[1]}"' if len(tree[1]) <= 60 else f'"{tree[1][:40]}…"'
    if kind in (expr.attribute, expr.int_literal, expr.float_literal):
        return str(tree[1])
    if kind is expr.constant:
        return "true" if tree[1] else "false"
    if kind in (expr.attribute_is, expr.attribute_equals):
        return f"{tree[1]} {tree[3]} {unparse((expr.literal, tree[2]))}"
    if kind is expr.number_is:
        return f"@{tree[1]} {tree[3]} {tree[2]}"
    if kind is expr.concatenate:
        return f"({unparse(tree[1])} . {unparse(tree[2])})"
    if kind in (expr.int_operation, expr.float_operation):
        return f"({unparse(tree[1])} {tree[3]} {unparse(tree[2])})"
    if kind is expr.relation:
        return f"{unparse(tree[1])} {tree[3]} {unparse(tree[2])}"
    if kind is expr.matches:
        return f"{unparse(tree[1])} ~= {unparse(tree[2])}"
    sign = " && " if kind is expr.conjunction else " || "
    return f"({sign.join(map(unparse, tree[1]))})"
