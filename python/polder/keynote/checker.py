"""The compliance checker: what a set of assertions says about an action (RFC 2704 §5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from polder.keynote import signatures
from polder.keynote.assertion import Assertion
from polder.keynote.errors import Fault, KeyNoteError, Why
from polder.keynote.expr import Scope, Tree, holds
from polder.keynote.keys import Principal, principal
from polder.keynote.limits import Limits
from polder.keynote.parser import Program
from polder.keynote.text import decode

POLICY = "POLICY"
ACCEPT = "_ACCEPT_SIGNATURES"
"""A constant of a trusted assertion: algorithms that it accepts beside the modern ones, such as "sig-rsa-sha1 sig-dsa-sha1"."""
_AGAIN = 4
"""After how many bad signatures of one query the values are found again at once; then once more when all have been checked."""


class Entry:
    """One assertion in one query, and what became of it."""

    __slots__ = (
        "assertion",
        "author",
        "checked",
        "conditions",
        "error",
        "level",
        "licensed",
        "licensees",
        "names",
        "text",
        "trusted",
    )

    def __init__(self, text: str | bytes, trusted: bool) -> None:
        self.text = text
        self.trusted = trusted
        self.assertion: Assertion | None = None
        self.author: Principal = ""
        self.licensees: Tree | None = None
        self.names: tuple[Principal, ...] = ()
        self.error: KeyNoteError | None = None
        self.checked = trusted
        """Nothing is left to prove about its origin."""
        self.conditions: int | None = None
        """Rank of its conditions, once they were asked."""
        self.licensed = 0
        self.level = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query came to: ``value``, its place ``index`` in the query's values, and each assertion's part."""

    value: str
    index: int
    values: tuple[str, ...]
    entries: tuple[Entry, ...]
    levels: dict[Principal, int]
    attributes: dict[str, str]

    @property
    def passed(self) -> bool:
        """Whether it is the highest value of the query."""
        return self.index == len(self.values) - 1


class Checker:
    """Answers queries. Keeps assertions whose signature it has verified, parsed, in a table hashed by their text, up to ``limits.cached``.

    ``accept`` names signature algorithms that are taken beside the modern ones; a policy may name more (`ACCEPT`). A checker
    belongs to one thread.
    """

    def __init__(self, limits: Limits | None = None, accept: Iterable[str] = ()) -> None:
        self.limits = limits or Limits()
        self.accept = signatures.MODERN | known_algorithms(accept)
        self.counts: Counter[str] = Counter()
        """Queries; signatures checked; whole queries refused, and assertions left out, by kind (`Why`)."""
        self._known: dict[str, Assertion] = {}
        self._proven: dict[tuple[str, Principal], str] = {}

    def query(
        self,
        policies: Sequence[str | bytes | Assertion],
        credentials: Sequence[str | bytes],
        authorizers: Sequence[str],
        attributes: Mapping[str, str],
        values: Sequence[str] = ("false", "true"),
        *,
        require_conditions: bool = False,
        whole: bool = False,
    ) -> Answer:
        """The policy compliance value of an action (§5.1, §5.3).

        ``policies`` are trusted as they stand; ``credentials`` need a good signature. ``authorizers`` ask for the action; ``values``
        go from the least to the most. ``require_conditions`` refuses credentials without a Conditions field, which would grant
        everything. ``whole`` asks every assertion, for an explanation; else those that cannot matter are passed over, and
        signatures are checked last. One bad assertion is left out, and its entry says why; KeyNoteError: the query itself is
        malformed or beyond a limit.
        """
        self.counts["queries"] += 1
        try:
            return self._query(policies, credentials, authorizers, attributes, values, require_conditions, whole)
        except KeyNoteError as error:
            self.counts[f"refused-{error.kind}"] += 1
            raise

    def _query(
        self,
        policies: Sequence[str | bytes | Assertion],
        credentials: Sequence[str | bytes],
        authorizers: Sequence[str],
        attributes: Mapping[str, str],
        values: Sequence[str],
        require_conditions: bool,
        whole: bool,
    ) -> Answer:
        ranks = self._ranks(values)
        self._measure(policies, credentials, authorizers)
        base = self._action(authorizers, attributes, values)
        entries = [self._trusted(policy) for policy in policies]
        accept = self.accept
        for entry in entries:
            if entry.assertion is not None and ACCEPT in entry.assertion.constants:
                accept = accept | self._named(entry)
        entries += [self._credential(text, require_conditions) for text in credentials]
        run = _Run(self, base, ranks, accept, whole)
        levels = run.levels(entries, [principal(text) for text in authorizers])
        for entry in entries:
            if entry.error is not None:
                self.counts[f"left-out-{entry.error.kind}"] += 1
        index = levels.get(POLICY, 0)
        return Answer(values[index], index, tuple(values), tuple(entries), levels, base)

    def numbers(self) -> dict[str, float | dict[str, float]]:
        """``counts`` under the names that Polder's metrics have for them; may be asked by another thread."""
        told: dict[str, float | dict[str, float]] = {f"keynote_{name}": self.counts[name] for name in ("queries", "signatures")}
        for start in ("refused", "left-out"):
            prefix, counts = f"{start}-", list(self.counts.items())
            found: dict[str, float] = {name.removeprefix(prefix): n for name, n in counts if name.startswith(prefix)}
            told[f"keynote_{start.replace('-', '_')}"] = found
        return told

    def proven(self, assertion: Assertion, author: Principal, accept: frozenset[str]) -> bool:
        """Whether this signature was verified before, with an algorithm that is accepted now."""
        return self._proven.get((assertion.text, author)) in accept

    def check(self, assertion: Assertion, author: Principal, accept: frozenset[str]) -> None:
        """Raise KeyNoteError unless the assertion's signature is its author's; remember one that is."""
        if not assertion.signature:
            raise KeyNoteError(Why.UNSIGNED, "it has no signature, and it is no policy")
        self.counts["signatures"] += 1
        name = signatures.verify(assertion.signed, assertion.signature, author, accept, self.limits)
        self._known[assertion.text] = assertion
        self._proven[assertion.text, author] = name
        if len(self._known) > self.limits.cached:
            del self._known[next(iter(self._known))]
        if len(self._proven) > self.limits.cached:
            del self._proven[next(iter(self._proven))]

    def _trusted(self, policy: str | bytes | Assertion) -> Entry:
        if isinstance(policy, Assertion):
            entry = Entry(policy.text, trusted=True)
            entry.assertion = policy
            return entry
        entry = Entry(policy, trusted=True)
        try:
            entry.assertion = Assertion(decode(policy, self.limits), self.limits)
        except KeyNoteError as error:
            entry.error = error
        return entry

    def _credential(self, text: str | bytes, require_conditions: bool) -> Entry:
        entry = Entry(text, trusted=False)
        try:
            plain = text if isinstance(text, str) else decode(text, self.limits)
            found = self._known.pop(plain, None)
            if found is not None:
                self._known[plain] = found
            else:
                found = Assertion(decode(plain, self.limits), self.limits)
            entry.assertion = found
            if not found.signature:
                raise KeyNoteError(Why.UNSIGNED, "it has no signature, and it is no policy")
            if require_conditions and found.conditions is None:
                raise KeyNoteError(Why.NO_CONDITIONS, "it has no Conditions, so that it would grant everything")
        except KeyNoteError as error:
            entry.error = error
        return entry

    def _named(self, entry: Entry) -> frozenset[str]:
        assert entry.assertion is not None  # asked by the caller
        try:
            return known_algorithms(entry.assertion.constants[ACCEPT].split())
        except KeyNoteError as error:
            entry.error = error
            return frozenset()

    def _ranks(self, values: Sequence[str]) -> dict[str, int]:
        ranks = {value: rank for rank, value in enumerate(values)}
        if not 2 <= len(ranks) == len(values) <= self.limits.values:
            raise KeyNoteError(Why.QUERY, f"a query has 2 to {self.limits.values} different values")
        return ranks

    def _measure(
        self, policies: Sequence[str | bytes | Assertion], credentials: Sequence[str | bytes], who: Sequence[str]
    ) -> None:
        limits = self.limits
        if len(policies) + len(credentials) > limits.assertions:
            raise KeyNoteError(Why.LIMIT, f"{len(policies) + len(credentials)} assertions; {limits.assertions} are allowed")
        size = sum(map(len, credentials)) + sum(len(p.text) if isinstance(p, Assertion) else len(p) for p in policies)
        if size > limits.query:
            raise KeyNoteError(Why.LIMIT, f"the assertions have {size} bytes; {limits.query} are allowed")
        if not 0 < len(who) <= limits.principals:
            raise KeyNoteError(Why.QUERY, f"1 to {limits.principals} principals must ask for an action")

    def _action(self, authorizers: Sequence[str], attributes: Mapping[str, str], values: Sequence[str]) -> dict[str, str]:
        limits = self.limits
        if len(attributes) > limits.attributes:
            raise KeyNoteError(Why.LIMIT, f"more than {limits.attributes} attributes")
        most = limits.value
        for name, value in attributes.items():
            if not name.isidentifier() or name[0] == "_" or not name.isascii():
                raise KeyNoteError(Why.QUERY, f"{name[:40]!r} is no attribute's name: letters, digits and _, no _ in front")
            if len(value) > most or "\0" in value:
                raise KeyNoteError(Why.QUERY, f"the value of {name} is longer than {most}, or holds a NUL")
        base = dict(attributes)
        base["_MIN_TRUST"], base["_MAX_TRUST"] = values[0], values[-1]
        base["_VALUES"], base["_ACTION_AUTHORIZERS"] = ",".join(values), ",".join(authorizers)
        return base


class _Run:
    """One query's way through the graph, from those who ask to POLICY."""

    def __init__(
        self, checker: Checker, base: dict[str, str], ranks: dict[str, int], accept: frozenset[str], whole: bool
    ) -> None:
        self._checker = checker
        self._limits = checker.limits
        self._base = base
        self._ranks = ranks
        self._most = len(ranks) - 1
        self._accept = accept
        self._whole = whole
        self._checks = 0

    def levels(self, entries: Sequence[Entry], authorizers: Sequence[Principal]) -> dict[Principal, int]:
        """Every principal's compliance value: the least fixed point of §5.3.

        First as if all signatures were good. If that comes to nothing, no signature is worth checking; else those are checked on
        which it rests, from POLICY down: what fails is left out, and the values are found again, in which nothing can count that did
        not before. When they have come to nothing no other signature is looked at: who forges the link that a stranger cannot have
        pays for all that hangs below it. From the failure after ``_AGAIN`` on the values are found once more, in the end: that may
        cost more than signatures do. What was not checked is worth nothing in the end, so that nobody who reads the entries
        believes it.
        """
        naming = self._naming(entries)
        levels = self._spread(entries, naming, authorizers)
        failed = 0
        for entry in self._unproven(entries, levels):
            if not (levels.get(POLICY) or self._whole):
                break
            self._check(entry)
            if entry.error is not None:
                failed += 1
                if failed <= _AGAIN:
                    levels = self._spread(entries, naming, authorizers)
        if failed > _AGAIN:
            levels = self._spread(entries, naming, authorizers)
        idle = [entry for entry in entries if entry.level and not entry.checked]
        for entry in idle:
            entry.level = 0
        if idle:
            levels = dict.fromkeys(authorizers, self._most) | {POLICY: levels.get(POLICY, 0)}
        return levels

    def _naming(self, entries: Sequence[Entry]) -> dict[Principal, list[Entry]]:
        """Which entries ask for each principal. An entry whose principals cannot be made out is an error from here on."""
        naming: dict[Principal, list[Entry]] = {}
        count = 0
        for entry in entries:
            if entry.assertion is None or entry.error is not None:
                continue
            try:
                entry.author, entry.licensees, entry.names = entry.assertion.resolve(self._base, self._limits)
            except KeyNoteError as error:
                entry.error = error
                continue
            for name in entry.names:
                naming.setdefault(name, []).append(entry)
            count += len(entry.names)
        if count > self._limits.names:
            raise KeyNoteError(Why.LIMIT, f"more than {self._limits.names} licensees in all")
        return naming

    def _spread(
        self, entries: Sequence[Entry], naming: Mapping[Principal, list[Entry]], authorizers: Sequence[Principal]
    ) -> dict[Principal, int]:
        """From those who ask to whoever trusts them. Values only rise, so that it ends."""
        for entry in entries:
            entry.licensed = entry.level = 0
        levels: dict[Principal, int] = dict.fromkeys(authorizers, self._most)
        queue = list(levels)
        for entry in entries:
            if entry.error is None and entry.assertion is not None and (entry.assertion.open or self._whole):
                self._raise(entry, entry.assertion, levels, queue)
        while queue:
            for entry in naming.get(queue.pop(), ()):
                if entry.error is None and entry.assertion is not None:
                    self._raise(entry, entry.assertion, levels, queue)
        return levels

    def _raise(self, entry: Entry, assertion: Assertion, levels: dict[Principal, int], queue: list[Principal]) -> None:
        licensed = self._most if assertion.open else 0 if entry.licensees is None else licensees(entry.licensees, levels)
        if licensed <= entry.licensed and not (self._whole and entry.conditions is None):
            return
        entry.licensed = licensed
        if entry.conditions is None:
            entry.conditions = self._conditions(assertion)
        level = min(licensed, entry.conditions)
        if level > entry.level:
            entry.level = level
            if level > levels.get(entry.author, 0):
                levels[entry.author] = level
                queue.append(entry.author)

    def _unproven(self, entries: Sequence[Entry], levels: Mapping[Principal, int]) -> list[Entry]:
        """The entries whose signatures must be checked: those that the answer rests on, the ones next to POLICY first; or all, where the
        whole is asked.
        """
        left = []
        for entry in entries:
            if (entry.level or self._whole) and not entry.checked and entry.error is None and entry.assertion is not None:
                entry.checked = self._checker.proven(entry.assertion, entry.author, self._accept)
                if not entry.checked:
                    left.append(entry)
        if not left or self._whole:
            return left
        waiting = set(map(id, left))
        return [entry for entry in used(entries, levels) if id(entry) in waiting]

    def _check(self, entry: Entry) -> None:
        assert entry.assertion is not None  # `_unproven` lists no other
        entry.checked = True
        self._checks += 1
        if self._checks > self._limits.signatures:
            raise KeyNoteError(Why.LIMIT, f"more than {self._limits.signatures} signatures to check")
        try:
            self._checker.check(entry.assertion, entry.author, self._accept)
        except KeyNoteError as error:
            entry.error = error

    def _conditions(self, assertion: Assertion) -> int:
        if assertion.conditions is None:
            return self._most
        values = self._base | assertion.constants if assertion.constants else self._base
        return value_of(assertion.conditions, Scope(values, self._limits), self._ranks)


def used(entries: Sequence[Entry], levels: Mapping[Principal, int]) -> list[Entry]:
    """The entries on a way from POLICY down that carry something."""
    naming: dict[Principal, list[Entry]] = {}
    for entry in entries:
        if entry.level:
            naming.setdefault(entry.author, []).append(entry)
    found: list[Entry] = []
    todo: list[Principal] = [POLICY]
    seen: set[Principal] = set(todo)
    while todo:
        for entry in naming.get(todo.pop(), ()):
            found.append(entry)
            for name in entry.names:
                if name not in seen and levels.get(name, 0):
                    seen.add(name)
                    todo.append(name)
    return found


def licensees(tree: Tree, levels: Mapping[Principal, int]) -> int:
    """The licensee compliance value of resolved licensees (§5.3.5)."""
    kind = tree[0]
    if kind == "is":
        return levels.get(tree[1], 0)
    if kind == "||":
        return max(licensees(part, levels) for part in tree[1])
    if kind == "&&":
        return min(licensees(part, levels) for part in tree[1])
    least: int = tree[1]
    return sorted((licensees(part, levels) for part in tree[2]), reverse=True)[least - 1]


def value_of(program: Program, scope: Scope, ranks: Mapping[str, int]) -> int:
    """The conditions compliance value: the most of all clauses whose test succeeds (§5.3.4)."""
    best, most = 0, len(ranks) - 1
    groups = scope.groups
    for test, value in program:
        scope.groups = groups
        if not holds(test, scope):
            continue
        best = max(best, clause_value(value, scope, ranks))
        if best == most:
            break
    return best


def clause_value(value: Program | Tree | None, scope: Scope, ranks: Mapping[str, int]) -> int:
    """What a clause whose test succeeded is worth; a value that the query does not know is worth the least."""
    if value is None:
        return len(ranks) - 1
    if isinstance(value, list):
        return value_of(value, scope, ranks)
    try:
        return ranks.get(value[0](value, scope), 0)
    except Fault:
        return 0


def known_algorithms(names: Iterable[str]) -> frozenset[str]:
    """These algorithms, if all are known."""
    chosen = frozenset(names)
    unknown = chosen - frozenset(signatures.ALGORITHMS)
    if unknown:
        raise KeyNoteError(
            Why.ALGORITHM,
            f"{', '.join(sorted(unknown))}: not a signature algorithm of {', '.join(sorted(signatures.ALGORITHMS))}",
        )
    return chosen
