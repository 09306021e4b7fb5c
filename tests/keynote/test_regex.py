"""POSIX extended regular expressions: what matches, which groups, and what it may cost."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.keynote.errors import Fault
from polder.keynote.regex import Regex


def search(pattern: str, text: str, budget: int = 4000) -> list[str] | None:
    """Groups, or None."""
    return Regex(pattern, 512).search(text, [budget])


@pytest.mark.parametrize(
    ("pattern", "text", "groups"),
    [
        ("a", "b", None),
        ("", "b", []),
        ("^$", "", []),
        ("a.c", "xa\ncx", []),
        ("(a|ab)(c|bcd)(d*)", "abcd", ["ab", "c", "d"]),
        ("(a*)*b", "aaab", ["aaa"]),
        ("(a|b)*c", "abac", ["a"]),
        ("((a)|(b))*", "ab", ["b", "", "b"]),
        ("(a?)(ab)?", "ab", ["", "ab"]),
        ("(x?){3}", "xx", [""]),
        ("(a+)(a*)", "aaa", ["aaa", ""]),
        ("([[:digit:]]+)-([^-]+)", "tel 020-1234-5", ["020", "1234"]),
        ("([]a-]+)", "x]-a", ["]-a"]),
        ("([[.-.][=a=]]+)", "x-a", ["-a"]),
        (r"(\(\.\*\))", "(.*)", ["(.*)"]),
        ("(a{2,3})", "aaaa", ["aaa"]),
        ("(a{2})(a{0,})", "aaaa", ["aa", "aa"]),
        ("(^a|b)$", "ab", ["b"]),
        ("wee|(week)(knights|night)", "weeknights", ["week", "night"]),
        ("(wee|week)(knights|night)", "weeknights", ["wee", "knights"]),
    ],
)
def test_groups(pattern: str, text: str, groups: list[str] | None) -> None:
    """Leftmost, longest, and each group as long as that allows."""
    assert search(pattern, text) == groups


@pytest.mark.parametrize(
    "pattern", ["(", ")", "a{1", "a{x}", "a{256}", "a{2,1}", "[", "[a", "[b-a]", "[[:word:]]", "*", "a|*", "\\", "(" * 50]
)
def test_invalid(pattern: str) -> None:
    """A runtime error of the test that asked."""
    with pytest.raises(Fault):
        Regex(pattern, 512)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("(a*)*b", "a" * 2000),
        ("(a|a)*b", "a" * 2000),
        ("(.*)*(.*)*(.*)*x", "a" * 2000),
        ("((a{0,255}){0,255}){0,255}b", "a" * 2000),
        ("(((((a*)*b)*c)*d)*e)*f", "abcde" * 400),
        ("a" * 255 + "{255}", "a" * 8000),
    ],
)
def test_bombs_stop(pattern: str, text: str) -> None:
    """Either the answer comes within the budget or the test fails; the budget is never left behind."""
    budget = [4000]
    try:
        Regex(pattern, 512).search(text, budget)
    except Fault as fault:
        assert "cost" in str(fault)
        assert budget[0] < 0
    assert budget[0] > -4000


ATOMS = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", "c"])
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}"])).map(lambda pair: f"({pair[0]}){pair[1]}"),
    ),
    max_leaves=6,
)


@given(PATTERNS, st.text("abcd", max_size=7))
def test_the_match_is_the_leftmost_longest(pattern: str, text: str) -> None:
    """As a search over all parts of the text with another engine says."""
    other = re.compile(pattern)
    spans = [(i, j) for i in range(len(text) + 1) for j in range(len(text), i - 1, -1) if other.fullmatch(text, i, j)]
    found = search(f"({pattern})", text, 1_000_000)
    if not spans:
        assert found is None
    else:
        begin, end = spans[0]
        assert found is not None
        assert found[0] == text[begin:end]


@given(st.text("ab(|)*+?{1,}[^]$.\\", max_size=30), st.text("ab", max_size=30))
def test_any_text_is_an_expression_or_a_fault(pattern: str, text: str) -> None:
    """Nothing else comes out, and at bounded cost."""
    budget = [4000]
    with contextlib.suppress(Fault):
        Regex(pattern, 512).search(text, budget)
    assert budget[0] > -4000
