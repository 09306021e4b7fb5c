"""Why a query came out as it did: each assertion's part in it, and the delegation graph."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from polder.keynote import expr
from polder.keynote.assertion import licensees_text
from polder.keynote.checker import POLICY, Answer, Entry, clause_value, used
from polder.keynote.errors import Fault
from polder.keynote.expr import SORT, Scope, Tree
from polder.keynote.keys import Principal, show
from polder.keynote.limits import Limits
from polder.keynote.parser import Program, unparse


@dataclass(frozen=True, slots=True)
class Note:
    """One assertion's part: whether it counted, for what value, and why or why not."""

    number: int
    trusted: bool
    authorizer: str
    licensees: str
    counted: bool
    value: str
    kind: str
    """``counted``, ``conditions``, ``licensees``, ``refused`` or ``unused`` (it holds, but nobody above trusts its author)."""
    why: str


def explain(answer: Answer, limits: Limits | None = None) -> list[Note]:
    """A note for each assertion, in the order of the query, which must have been asked with ``whole=True``."""
    limits = limits or Limits()
    counted = used(answer.entries, answer.levels)
    return [_note(number, entry, answer, entry in counted, limits) for number, entry in enumerate(answer.entries, 1)]


def graph(answer: Answer) -> list[dict[str, Any]]:
    """The delegation graph: an edge for each assertion that was understood, from who trusts to whom, with what it lets through."""
    return [
        {
            "assertion": number,
            "from": show(entry.author),
            "to": sorted(map(show, entry.names)),
            "licensees": "anybody" if entry.assertion.open else licensees_text(entry.licensees),
            "value": answer.values[entry.level],
        }
        for number, entry in enumerate(answer.entries, 1)
        if entry.assertion is not None and entry.error is None and entry.author != ""
    ]


def drawn(answer: Answer) -> list[str]:
    """The graph as lines of text from POLICY down; a principal that appears again is only named."""
    naming: dict[Principal, list[tuple[int, Entry]]] = {}
    for number, entry in enumerate(answer.entries, 1):
        if entry.assertion is not None and entry.error is None and entry.author != "":
            naming.setdefault(entry.author, []).append((number, entry))
    lines: list[str] = []
    seen: set[Principal] = set()

    def draw(who: Principal, depth: int) -> None:
        again = who in seen and who in naming
        level = answer.values[answer.levels.get(who, 0)]
        lines.append("  " * depth + f"{show(who)}: {level}" + (" (see above)" if again else ""))
        if again:
            return
        seen.add(who)
        for number, entry in naming.get(who, []):
            lines.append("  " * depth + f"  by assertion {number} ({answer.values[entry.level]})")
            for name in entry.names:
                draw(name, depth + 2)

    draw(POLICY, 0)
    return lines


def as_dict(answer: Answer, limits: Limits | None = None) -> dict[str, Any]:
    """Everything, for a program."""
    return {
        "value": answer.value,
        "values": list(answer.values),
        "passed": answer.passed,
        "assertions": [asdict(note) for note in explain(answer, limits)],
        "graph": graph(answer),
        "principals": {show(who): answer.values[level] for who, level in answer.levels.items()},
    }


def _note(number: int, entry: Entry, answer: Answer, counts: bool, limits: Limits) -> Note:
    kind, why = _reason(entry, answer, counts, limits)
    who = "unknown" if entry.assertion is None or entry.author == "" else show(entry.author)
    to = "unknown" if entry.assertion is None else "anybody" if entry.assertion.open else licensees_text(entry.licensees)
    return Note(number, entry.trusted, who, to, kind == "counted", answer.values[entry.level], kind, why)


def _reason(entry: Entry, answer: Answer, counts: bool, limits: Limits) -> tuple[str, str]:
    if entry.error is not None:
        return "refused", f"{entry.error.kind}: {entry.error}"
    assertion = entry.assertion
    assert assertion is not None  # no error was noted
    if not entry.conditions:
        return "conditions", _why_not(assertion.conditions or [], Scope(answer.attributes | assertion.constants, limits), answer)
    if not entry.level:
        missing = [show(name) for name in entry.names if not answer.levels.get(name)]
        if entry.licensees is None and not assertion.open:
            return "licensees", "its Licensees field is empty: it authorizes nobody"
        return "licensees", f"nobody showed that these allow the action: {', '.join(missing)}"
    if not counts:
        return "unused", f"it holds, but no chain from POLICY reaches {show(entry.author)}"
    return "counted", f"conditions hold for {answer.values[entry.conditions]}, and so do its licensees"


def _why_not(program: Program, scope: Scope, answer: Answer) -> str:
    """Of every clause, the part that is false."""
    if not program:
        return "its Conditions field is empty: it allows nothing"
    ranks = {value: rank for rank, value in enumerate(answer.values)}
    reasons = []
    for number, (test, value) in enumerate(program, 1):
        scope.groups = {}
        reason = _false(test, scope)
        if reason is None and isinstance(value, list):
            reason = f"in its block, {_why_not(value, scope, answer)}"
        elif reason is None and not clause_value(value, scope, ranks):
            reason = f"its value {unparse(value) if value else ''} is none of {', '.join(answer.values[1:])}"
        reasons.append(f"clause {number}: {reason}" if len(program) > 1 else str(reason))
    return "; ".join(reasons)


def _false(test: Tree, scope: Scope) -> str | None:
    """What makes a test false, or None if it is true."""
    try:
        if test[0](test, scope):
            return None
    except Fault as fault:
        return f"{unparse(test)} fails: {fault}"
    if test[0] is expr.conjunction:
        return next(reason for part in test[1] if (reason := _false(part, scope)) is not None)
    if test[0] is expr.disjunction:
        return " and ".join(reason for part in test[1] if (reason := _false(part, scope)) is not None)
    given = ", ".join(f'{name} is "{scope.get(name)[:80]}"' for name in dict.fromkeys(_asked(test)))
    return f"{unparse(test)} is false" + (f" ({given})" if given else "")


def _asked(tree: Tree) -> list[str]:
    """The attributes that a tree asks for."""
    if tree[0] in (expr.attribute, expr.attribute_is, expr.attribute_equals, expr.number_is):
        return [tree[1]]
    if tree[0] in (expr.conjunction, expr.disjunction):
        return [name for part in tree[1] for name in _asked(part)]
    return [name for part in tree[1:] if isinstance(part, tuple) and part and part[0] in SORT for name in _asked(part)]
