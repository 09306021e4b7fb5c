"""The judge of a soak sees leaks, and nothing in what only swings."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.lab.leaks import BLOCKS, blocks, leaks, slope


def _samples(seed: int, per_hour: float, minutes: float = 15.0) -> list[tuple[float, float]]:
    """Every 5 s a level of 100 with work that comes and goes, and a walk that hangs together in time."""
    rng, walk, made = Random(seed), 0.0, []
    for at in range(0, int(60 * minutes), 5):
        walk = 0.8 * walk + rng.gauss(0, 0.5)
        work = rng.choice([0, 0, 0, 5, 20])
        made.append((float(at), 100 + per_hour * at / 3600 + walk + work))
    return made


@pytest.mark.parametrize("seed", range(20))
def test_what_swings_does_not_leak(seed: int) -> None:
    found = slope(blocks(_samples(seed, 0.0), 30))
    assert found is not None and found.low <= found.per_hour <= found.high
    assert not leaks(found, 6)


@pytest.mark.parametrize("seed", range(20))
def test_a_leak_is_seen_within_a_quarter_of_an_hour(seed: int) -> None:
    found = slope(blocks(_samples(seed, 40.0), 30))
    assert found is not None and leaks(found, 6) and abs(found.per_hour - 40) < 15


def test_one_step_is_no_leak() -> None:
    samples = [(float(at), 100.0 + (30 if at > 200 else 0)) for at in range(0, 900, 5)]
    found = slope(blocks(samples, 30))
    assert found is not None and not leaks(found, 0)


def test_too_little_to_judge() -> None:
    assert slope([(float(at), 1.0) for at in range(BLOCKS - 1)]) is None
    assert blocks([], 30) == []


@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(-1e6, 1e6)), min_size=1, max_size=60), st.floats(1, 100))
def test_blocks_hold_the_least(samples: list[tuple[float, float]], seconds: float) -> None:
    samples = sorted(samples)
    made = blocks(samples, seconds)
    assert min(value for _, value in made) == min(value for _, value in samples)
    assert [at for at, _ in made] == sorted({at for at, _ in made})
