"""Lookups over answers true, false and endless."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from polder.model import RING_SIZE, Member
from polder.model.ring_messages import Found
from polder.ring.lookup import MAX_STEPS, Lookup
from tests.ring.test_table import at, owner, rings, table


@given(rings, st.integers(0, RING_SIZE - 1), st.data())
def test_it_ends_at_the_owner_though_some_are_silent(order: list[int], key: int, data: st.DataObject) -> None:
    start = data.draw(st.sampled_from(order))
    silent = data.draw(st.sets(st.sampled_from(order), max_size=len(order) // 3)) - {start}
    walk = Lookup(key, [at(start)])
    while not walk.members and not walk.stuck:
        asked = walk.ask()
        if asked.id in silent:
            continue
        one = table(order, order.index(asked.id), 4, 128)
        if one.owns(key):
            walk.answered(Found(asked, True, (asked,)))
        elif one.owners(key):
            walk.answered(Found(asked, True, one.owners(key)))
        else:
            walk.answered(Found(asked, False, tuple(one.preceding(key, 4))))
    if walk.members:
        assert walk.members[0].id == owner(order, key)
    else:
        assert silent


def test_nobody_is_asked_twice_and_no_step_goes_back() -> None:
    walk = Lookup(1000, [at(10)])
    first = walk.ask()
    walk.answered(Found(first, False, (at(5), at(10), at(900), at(500))))
    assert [walk.ask().id, walk.ask().id] == [900, 500]
    assert walk.stuck


def test_a_ring_that_never_ends_is_left() -> None:
    walk = Lookup(0, [at(1)])
    rng, steps = Random(1), 0
    while not walk.stuck:
        asked = walk.ask()
        nearer = Member.of(f"n{steps}", asked.id + rng.randrange(1, 1 << 64), "x")
        walk.answered(Found(asked, False, (nearer,)))
        steps += 1
    assert steps == MAX_STEPS and not walk.members
