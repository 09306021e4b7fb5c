"""Lists of relays: the authority's word, and nobody else's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polder.model import Member, Refused, RevocationList, Signed, Verdict
from polder.model.spread_messages import RelayList
from polder.trust import sign
from tests.support.identities import NOW, Pki

PKI = Pki()
MEMBERS = tuple(Member(f"n{i}", bytes([i]) * 16, f"192.0.2.{i}:443") for i in range(1, 5))
LISTED = RelayList.of(MEMBERS, NOW)
SIGNED = PKI.issuer.sign_relays(LISTED)


def verdict(signed: Signed) -> Verdict:
    with pytest.raises(Refused) as caught:
        PKI.verifier().open_relays(signed, NOW)
    return caught.value.verdict


def test_what_the_issuer_signed_is_believed() -> None:
    assert PKI.verifier().open_relays(SIGNED, NOW) == LISTED


def test_nobody_else_may_name_relays() -> None:
    for kind, name in (("node", "n1"), ("site", "wiki"), ("user", "ann"), ("admin", "ops")):
        member = PKI.member(kind, name)
        assert verdict(sign(LISTED, member.key, member.chain)) is Verdict.WRONG_HOLDER


def test_a_list_under_another_lists_version_is_refused() -> None:
    for odd in (RelayList(LISTED.version, LISTED.issued_at, MEMBERS[1:]), RelayList(1, LISTED.issued_at, MEMBERS)):
        assert verdict(PKI.issuer.sign_relays(odd)) is Verdict.MALFORMED


def test_one_signed_statement_is_not_another() -> None:
    revocations = PKI.issuer.sign_revocations(RevocationList(1, int(NOW), (), ()))
    assert verdict(revocations) is Verdict.MALFORMED
    with pytest.raises(Refused):
        PKI.verifier().open_revocations(SIGNED, NOW)


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_no_changed_byte_passes(at: int, flip: int) -> None:
    payload = bytearray(SIGNED.payload)
    payload[at % len(payload)] ^= flip
    assert verdict(Signed(bytes(payload), SIGNED.signature, SIGNED.chain)) is Verdict.BAD_SIGNATURE
