"""The test that looks for roles finds a planted leak, and finds nothing where there is nothing."""

from __future__ import annotations

import random

import pytest

from polder.lab.telling import corrected, distinct, tell

SITES, NODES = 12, 8


def drawn(seed: int, leak: float) -> tuple[list[list[float]], list[list[bool]]]:
    """Times in ms with slow nodes, far sites and noise; the three beacons of each site are ``leak`` slower."""
    rng = random.Random(seed)
    nodes = [rng.uniform(0, 50) for _ in range(NODES)]
    sites = [rng.uniform(0, 50) for _ in range(SITES)]
    labels = [[n in beacons for n in range(NODES)] for beacons in (rng.sample(range(NODES), 3) for _ in sites)]
    table = [[sites[s] + nodes[n] + rng.gauss(0, 0.5) + leak * labels[s][n] for n in range(NODES)] for s in range(SITES)]
    return table, labels


def test_a_leak_of_a_millisecond_is_found() -> None:
    told = tell(*drawn(1, leak=1.0), seed=1)
    assert told.p < 0.001
    assert 0.6 < told.difference < 1.2


def test_without_a_leak_p_values_are_spread_evenly() -> None:
    ps = sorted(tell(*drawn(seed, leak=0.0), seed=seed, deals=400).p for seed in range(60))
    assert sum(p < 0.05 for p in ps) <= 9  # Binomial(60, 0.05): more with a chance of 0.1 %; seeds are fixed
    assert ps[30] > 0.3


def test_a_slow_node_is_no_role_and_a_role_that_all_have_says_nothing() -> None:
    table, labels = drawn(3, leak=0.0)
    slow = [[value + 1000.0 * (n == 0) for n, value in enumerate(row)] for row in table]
    assert tell(slow, labels, seed=3).p == pytest.approx(tell(table, labels, seed=3).p, abs=0.01)
    with pytest.raises(ValueError, match="no site"):
        tell(table, [[True] * NODES] * SITES, seed=1)


def test_many_looks_are_paid_for() -> None:
    assert corrected([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert corrected([0.9, 0.8]) == [1.0, 1.0]


def test_one_other_header_is_seen() -> None:
    same = {name: ["403 proxy-status"] for name in "abc"}
    assert distinct(same) == 1
    assert distinct(same | {"b": ["403 proxy-status", "403 server"]}) == 2
