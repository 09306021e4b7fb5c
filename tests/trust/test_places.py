"""Places on the ring: nobody's choice, and evenly spread."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from polder.model import RING_SIZE, distance
from polder.trust.places import assign_place


def settle(count: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    taken: list[int] = []
    for _ in range(count):
        taken.append(assign_place(taken, rng))
    return sorted(taken)


def arcs(places: list[int]) -> list[int]:
    return [distance(a, b) or RING_SIZE for a, b in zip(places, places[1:] + places[:1], strict=True)]


@settings(max_examples=30)
@given(st.integers(1, 60), st.integers())
def test_no_two_are_near_and_none_rules_a_large_part(count: int, seed: int) -> None:
    gaps = arcs(settle(count, seed))
    mean = RING_SIZE / count
    assert min(gaps) > mean / 20
    assert max(gaps) <= 6 * mean


def test_it_spreads_better_than_chance() -> None:
    worst = [max(arcs(settle(100, seed))) / (RING_SIZE / 100) for seed in range(20)]
    plain = []
    for seed in range(20):
        rng = random.Random(seed)
        plain.append(max(arcs(sorted(rng.getrandbits(128) for _ in range(100)))) / (RING_SIZE / 100))
    assert sorted(worst)[10] < 0.7 * sorted(plain)[10]


def test_it_cannot_be_foretold_from_who_is_there() -> None:
    taken = settle(10, 1)
    places = {assign_place(taken, random.Random(seed)) for seed in range(50)}
    assert len(places) == 50
