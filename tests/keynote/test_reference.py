"""The reference C implementation answers as ours does, where somebody has built it: POLDER_KEYNOTE_REFERENCE names its shared library.

Left out are divisions: after one by zero in a test, the reference lets a block of that clause count (§5.3.4 says that the test is
false). Delegation goes from lower to higher names only: in circles the reference's search may stop before the fixed point of §5.3.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bench.keynote_reference import Reference
from hypothesis import given, settings
from hypothesis import strategies as st

from polder.keynote import Checker

LIBRARY = os.environ.get("POLDER_KEYNOTE_REFERENCE")
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="POLDER_KEYNOTE_REFERENCE does not name a libkeynote.so")

ACTION = {"a": "xyz", "b": "a", "c": "10", "num": "7", "frac": "2.5"}
_NAMES = st.sampled_from([*ACTION, "nobody", "_0", "_1", "_2", "_MAX_TRUST"])
_TEXTS = st.sampled_from(['"xyz"', '"a"', '"10"', '"x\\ty"', '"7"', '""', '"2.5"'])
STRINGS = st.recursive(
    st.one_of(_NAMES, _TEXTS),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda two: f"({two[0]} . {two[1]})"),
        inner.map(lambda one: f"$({one})"),
    ),
    max_leaves=3,
)
INTEGERS = st.recursive(
    st.one_of(st.integers(0, 12).map(str), st.sampled_from([f"@{name}" for name in ACTION])),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*"), inner).map(" ".join),
        inner.map(lambda one: f"({one})"),
        inner.map(lambda one: f"-({one})"),
    ),
    max_leaves=3,
)
FLOATS = st.recursive(
    st.one_of(st.sampled_from(["0.0", "2.5", "7.25"]), st.sampled_from([f"&{name}" for name in ACTION])),
    lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(" ".join),
    max_leaves=3,
)
_ORDER = ["<", ">", "<=", ">="]
_PATTERNS = st.sampled_from(['"^x.*z$"', '"(x)(y)"', '"[0-9]+"', '"(a|b)*"', '"x(.)z"', '"[[:alpha:]]{2,}$"', "b"])
TESTS = st.recursive(
    st.one_of(
        st.sampled_from(["true", "false"]),
        st.tuples(INTEGERS, st.sampled_from(["==", "!=", *_ORDER]), INTEGERS).map(" ".join),
        st.tuples(FLOATS, st.sampled_from(_ORDER), FLOATS).map(" ".join),
        st.tuples(STRINGS, st.sampled_from(["==", "!=", *_ORDER]), STRINGS).map(" ".join),
        st.tuples(STRINGS, st.just("~="), _PATTERNS).map(" ".join),
    ),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(" ".join),
        inner.map(lambda one: f"!({one})"),
        inner.map(lambda one: f"({one})"),
    ),
    max_leaves=4,
)
CLAUSES = st.tuples(TESTS, st.sampled_from(["", ' -> "true"', ' -> "false"', " -> _MAX_TRUST", ' -> { true -> "true"; }'])).map(
    "".join
)
PROGRAMS = st.lists(CLAUSES, min_size=1, max_size=3).map(lambda clauses: "; ".join(clauses) + ";")


def licensees(above: int) -> st.SearchStrategy[str]:
    """Of names after the author's, and of those who ask."""
    leaf = st.sampled_from([f'"n{n}"' for n in range(above, 5)] + ['"me"', '"you"'])
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(lambda three: "({} {} {})".format(*three)),
            st.tuples(st.sampled_from("12"), leaf, leaf).map(lambda three: "{}-of({}, {})".format(*three)),
        ),
        max_leaves=4,
    )


def assertion(author: int) -> st.SearchStrategy[str]:
    """Of POLICY (0) or one of the names."""
    name = "POLICY" if author == 0 else f"n{author}"
    return st.tuples(
        licensees(author + 1), st.sampled_from(["", "Conditions: true;\n", "Conditions: false;\n", "Conditions:\n"])
    ).map(lambda two: f'Authorizer: "{name}"\nLicensees: {two[0]}\n{two[1]}')


def same(policies: list[str], asking: list[str], action: dict[str, str]) -> None:
    """Both say the same."""
    assert LIBRARY is not None
    reference = Reference(Path(LIBRARY))
    theirs = reference.query(
        [text.encode() for text in policies],
        [],
        [who.encode() for who in asking],
        {name.encode(): value.encode() for name, value in action.items()},
    )
    assert Checker().query(policies, [], asking, action).passed is theirs


@settings(max_examples=1000)
@given(PROGRAMS)
def test_conditions(program: str) -> None:
    """All operators, types, blocks, groups."""
    same([f'Authorizer: "POLICY"\nLicensees: "me"\nConditions: {program}\n'], ["me"], ACTION)


@settings(max_examples=1000)
@given(st.tuples(*(st.lists(assertion(author), min_size=author == 0, max_size=2) for author in range(4))), st.booleans())
def test_delegation(rows: tuple[list[str], ...], both: bool) -> None:
    """Chains, alternatives, thresholds."""
    same([text for row in rows for text in row], ["me", "you"] if both else ["me"], {})
