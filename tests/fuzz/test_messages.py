"""What Python reads of strangers: seeds hold, and get past the first check; a bounded number of mutants holds, too."""

from __future__ import annotations

import random

import pytest
from scripts.fuzz_messages import TARGETS, fuzz, holds, mutate, seeds


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_mutants_hold(name: str) -> None:
    inputs = seeds(name)
    assert inputs, "no seeds"
    assert any(holds(name, data) for data in inputs), "no seed gets past the first check"
    assert fuzz(name, lambda runs: runs >= 2000, seed=7) is None


def test_a_target_that_fails_is_found() -> None:
    """Else the runner could pass everything."""

    def fragile(data: bytes) -> None:
        if len(data) % 7 == 0:
            raise IndexError("as if")

    TARGETS["token"], kept = fragile, TARGETS["token"]
    try:
        assert fuzz("token", lambda runs: runs >= 2000, seed=1) is not None
    finally:
        TARGETS["token"] = kept
    assert mutate([b"abc"], random.Random(1)) == mutate([b"abc"], random.Random(1)), "repeatable"
