"""Tokens and grants."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from polder.model import Kind, Refused, Verdict
from polder.trust.tokens import PREFIX, Grant, mint_token, token_hash
from tests.support.identities import DOMAIN


@given(st.integers())
def test_a_token_is_recognised_with_blanks_around_it(seed: int) -> None:
    token = mint_token(random.Random(seed))
    assert token_hash(f"  {token}\r\n") == token_hash(token)
    assert len(token_hash(token)) == 32


def test_tokens_differ_and_hold_256_bits() -> None:
    rng = random.Random(1)
    tokens = {mint_token(rng) for _ in range(200)}
    assert len(tokens) == len({token_hash(token) for token in tokens}) == 200
    assert all(len(token) == len(PREFIX) + 47 for token in tokens)


@example(seed=99934, at=46, letter="Z")
@given(st.integers(), st.integers(0, 46), st.sampled_from("ABCXYZabcxyz0189-_"))
def test_a_slip_of_the_hand_is_noticed(seed: int, at: int, letter: str) -> None:
    token = mint_token(random.Random(seed))
    place = len(PREFIX) + at
    changed = token[:place] + letter + token[place + 1 :]
    if changed == token:
        return
    with pytest.raises(Refused) as caught:
        token_hash(changed)
    assert caught.value.verdict is Verdict.MALFORMED


@given(st.text(max_size=80) | st.text("ABCabc019-_=", max_size=60).map(lambda text: PREFIX + text))
def test_anything_else_is_refused_without_an_echo(text: str) -> None:
    with pytest.raises(Refused) as caught:
        token_hash(text)
    assert len(text) < 8 or text not in str(caught.value)


@pytest.mark.parametrize(
    ("grant", "why"),
    [
        (Grant(Kind.ADMIN, "authority"), Verdict.DENIED),
        (Grant(Kind.USER, "Ann"), Verdict.MALFORMED),
        (Grant(Kind.NODE, "n1", groups=("g",)), Verdict.MALFORMED),
        (Grant(Kind.NODE, "n1", hosts=("a.example",)), Verdict.MALFORMED),
        (Grant(Kind.SITE, "wiki"), Verdict.MALFORMED),
        (Grant(Kind.SITE, "wiki", hosts=(f"n1.node.{DOMAIN}",)), Verdict.DENIED),
        (Grant(Kind.SITE, "wiki", hosts=(f"node.{DOMAIN}",)), Verdict.DENIED),
    ],
)
def test_grants_that_nobody_may_have(grant: Grant, why: Verdict) -> None:
    with pytest.raises(Refused) as caught:
        grant.check(DOMAIN)
    assert caught.value.verdict is why


@pytest.mark.parametrize(
    "grant",
    [
        Grant(Kind.NODE, "n1"),
        Grant(Kind.USER, "authority", groups=("staff",)),
        Grant(Kind.SITE, "wiki", hosts=(f"wiki.{DOMAIN}", "wiki.example")),
        Grant(Kind.ADMIN, "bob"),
    ],
)
def test_good_grants_name_an_identity(grant: Grant) -> None:
    assert str(grant.check(DOMAIN)) == f"spiffe://{DOMAIN}/{grant.kind}/{grant.name}"
