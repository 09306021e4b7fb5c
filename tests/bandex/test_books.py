"""Double entry: whatever moves, everything adds up; a settlement brings everybody to zero with few payments."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.bandex.books import Movement, Posting, bill, net, transfer

NAMES = [f"u{n}" for n in range(6)] + [f"p{n}" for n in range(3)] + ["b0", "b1"] + [f"i{n}" for n in range(3)]
amounts = st.integers(1, 10**12)


@st.composite
def books(draw: st.DrawFn) -> tuple[dict[str, int], dict[str, str]]:
    """Balances after some checks, and who answers for whom: users for providers, some providers for banks."""
    guarantors = {f"u{n}": f"p{draw(st.integers(0, 2))}" for n in range(6)}
    guarantors |= {f"p{n}": f"b{draw(st.integers(0, 1))}" for n in range(3) if draw(st.booleans())}
    held = dict.fromkeys(NAMES, 0)
    for user, isp, amount in draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), amounts), max_size=20)):
        for posting in transfer("check", f"u{user}", f"i{isp}", amount).postings:
            held[posting.account] += posting.amount
    return held, guarantors


@given(books())
def test_a_settlement_brings_everybody_to_zero(found: tuple[dict[str, int], dict[str, str]]) -> None:
    held, guarantors = found
    total = {isp: held[isp] for isp in held if isp.startswith("i")}
    for movement in bill(held, guarantors):
        for posting in movement.postings:
            held[posting.account] += posting.amount
    assert all(held[account] == 0 for account in guarantors)
    dues = net(held)
    assert len(dues) < max(1, len([amount for amount in held.values() if amount]) or 1) or not dues
    for due in dues:
        assert due.amount > 0 and due.debtor not in guarantors and due.creditor.startswith("i")
        for posting in transfer("payment", due.creditor, due.debtor, due.amount).postings:
            held[posting.account] += posting.amount
    assert set(held.values()) <= {0}
    assert {isp: sum(due.amount for due in dues if due.creditor == isp) for isp in total} == total


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(-(10**6), 10**6)), min_size=1, max_size=6))
def test_what_does_not_add_up_is_no_movement(found: list[tuple[str, int]]) -> None:
    postings = tuple(Posting(*one) for one in found)
    good = sum(amount for _, amount in found) == 0 and all(amount for _, amount in found)
    if good:
        assert Movement("check", postings).postings == postings
        return
    with pytest.raises(ValueError, match="does not add up"):
        Movement("check", postings)


def test_a_long_chain_of_guarantors_is_billed() -> None:
    """Providers that guarantee each other can make chains as long as they like, and not stop anybody's settlement by it."""
    names = [f"p{number}" for number in range(5000)]
    held = {"p0": -7, "isp": 7}
    for movement in bill(held, dict(itertools.pairwise(names))):
        for posting in movement.postings:
            held[posting.account] = held.get(posting.account, 0) + posting.amount
    assert {name: amount for name, amount in held.items() if amount} == {names[-1]: -7, "isp": 7}


def test_guarantors_in_a_circle_are_found() -> None:
    with pytest.raises(ValueError, match="in a circle"):
        bill({"a": -1, "b": 1}, {"a": "b", "b": "a"})
    with pytest.raises(ValueError, match="do not add up"):
        net({"a": 1})
