"""Renewal: when, how often again, and the proof."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.model import Refused, Verdict
from polder.trust.renewal import backoff, check_proof, prove, renew_at
from tests.support.identities import new_key

KEY = new_key()


@given(st.integers(), st.floats(1, 1e9))
def test_renewal_comes_between_a_half_and_two_thirds_of_the_life(seed: int, life: float) -> None:
    begin = 1e9
    at = renew_at(begin, begin + life, random.Random(seed))
    assert begin + life * 0.56 <= at <= begin + life * 0.667


def test_renewals_spread() -> None:
    times = sorted(renew_at(0, 1000, random.Random(seed)) for seed in range(200))
    assert times[-1] - times[0] > 80


@given(st.integers(1, 10_000), st.integers())
def test_pauses_grow_to_five_minutes(attempt: int, seed: int) -> None:
    pause = backoff(attempt, random.Random(seed))
    assert min(300, 2.0 ** min(attempt - 1, 16)) / 2 <= pause <= 300
    assert attempt > 1 or pause <= 1


def test_only_the_holder_of_the_key_can_prove_it() -> None:
    proof = prove(KEY, "nonce")
    check_proof(KEY.public_key(), "nonce", proof)
    for key, nonce, signature in (
        (new_key(), "nonce", proof),
        (KEY, "other", proof),
        (KEY, "nonce", proof[:-1]),
        (KEY, "nonce", b""),
    ):
        with pytest.raises(Refused) as caught:
            check_proof(key.public_key(), nonce, signature)
        assert caught.value.verdict is Verdict.BAD_SIGNATURE
