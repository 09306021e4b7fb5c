"""Signed statements: who signed what, and every forgery that the overlay will meet."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polder.model import Appointment, PathMode, Refused, RevocationList, Signed, SiteRecord, Verdict, encode
from polder.trust import AUTHORITY, ChainVerifier, Revoked, make_list, sign
from polder.trust.envelope import CONTEXT, MAX_LIST, MAX_PAYLOAD
from tests.support.identities import DAY, DOMAIN, NOW, Pki, new_key, who

PKI = Pki()
WIKI = PKI.member("site", "wiki", hosts=("wiki.example",))
ANN = PKI.member("user", "ann")
RECORD = SiteRecord("wiki", 1, ("wiki.example",), (80,), (), (), PathMode.RING, int(NOW) + 60)
APPOINTMENT = Appointment("wiki", "n1", bytes(16), 7, int(NOW), int(NOW) + 60)
SIGNED = sign(RECORD, WIKI.key, WIKI.chain)


def verdict(signed: Signed, verifier: ChainVerifier | None = None, now: float = NOW) -> Verdict:
    with pytest.raises(Refused) as caught:
        (verifier or PKI.verifier())(signed, now)
    return caught.value.verdict


def test_a_statement_says_who_signed_it() -> None:
    assert PKI.verifier()(SIGNED, NOW) == who("site", "wiki")
    assert PKI.verifier().open(SIGNED, SiteRecord, NOW) == (who("site", "wiki"), RECORD)


def test_equal_statements_are_equal_bytes() -> None:
    assert sign(RECORD, WIKI.key, WIKI.chain) == SIGNED


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_no_changed_byte_of_payload_or_signature_passes(at: int, flip: int) -> None:
    whole = bytearray(SIGNED.payload + SIGNED.signature)
    whole[at % len(whole)] ^= flip
    cut = len(SIGNED.payload)
    with pytest.raises(Refused) as caught:
        PKI.verifier()(Signed(bytes(whole[:cut]), bytes(whole[cut:]), SIGNED.chain), NOW)
    assert caught.value.verdict is Verdict.BAD_SIGNATURE


def test_somebody_elses_chain_does_not_fit() -> None:
    assert verdict(Signed(SIGNED.payload, SIGNED.signature, ANN.chain)) is Verdict.BAD_SIGNATURE
    assert verdict(sign(RECORD, new_key(), WIKI.chain)) is Verdict.BAD_SIGNATURE


def test_a_signature_for_another_purpose_does_not_count() -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    bare = WIKI.key.sign(SIGNED.payload, ec.ECDSA(hashes.SHA256()))
    assert verdict(Signed(SIGNED.payload, bare, WIKI.chain)) is Verdict.BAD_SIGNATURE
    good = WIKI.key.sign(CONTEXT + SIGNED.payload, ec.ECDSA(hashes.SHA256()))
    assert PKI.verifier()(Signed(SIGNED.payload, good, WIKI.chain), NOW) == who("site", "wiki")


@pytest.mark.parametrize("signature", [b"", b"\x30", b"\0" * 64, b"\x30\x06\x02\x01\x00\x02\x01\x00"])
def test_malformed_signatures_are_bad_ones(signature: bytes) -> None:
    assert verdict(Signed(SIGNED.payload, signature, SIGNED.chain)) is Verdict.BAD_SIGNATURE


def test_expired_foreign_and_revoked_signers() -> None:
    verifier = PKI.verifier()
    assert verifier(SIGNED, NOW)
    assert verdict(SIGNED, verifier, NOW + DAY + 1) is Verdict.EXPIRED  # although the chain is remembered
    assert verdict(SIGNED, Pki().verifier()) is Verdict.FOREIGN
    verifier.revoked = Revoked.of(make_list(1, NOW, [who("site", "wiki")], []))
    assert verdict(SIGNED, verifier) is Verdict.REVOKED
    key = PKI.verifier().identity(WIKI.chain, NOW).key_hash
    verifier.revoked = Revoked.of(make_list(2, NOW, [], [key]))
    assert verdict(SIGNED, verifier) is Verdict.REVOKED


def test_one_kind_is_not_taken_for_another() -> None:
    signed = sign(APPOINTMENT, WIKI.key, WIKI.chain)
    with pytest.raises(Refused) as caught:
        PKI.verifier().open(signed, SiteRecord, NOW)
    assert caught.value.verdict is Verdict.MALFORMED


def test_long_statements_are_refused_before_the_signature_is_looked_at() -> None:
    assert verdict(Signed(bytes(MAX_PAYLOAD + 1), b"", WIKI.chain)) is Verdict.MALFORMED
    assert verdict(Signed(bytes(MAX_LIST + 1), b"", PKI.issuer.chain())) is Verdict.MALFORMED
    many = make_list(1, NOW, [who("user", f"user-{n}") for n in range(8000)], [n.to_bytes(32, "big") for n in range(8000)])
    assert len(PKI.verifier().open_revocations(PKI.issuer.sign_revocations(many), NOW).keys) == 8000


def test_only_the_authority_revokes() -> None:
    listed = make_list(3, NOW, [who("user", "ann")], [b"k" * 32])
    good = PKI.issuer.sign_revocations(listed)
    assert PKI.verifier().open_revocations(good, NOW) == listed
    assert PKI.verifier()(good, NOW) == who("admin", AUTHORITY)
    for forger in (ANN, WIKI, PKI.member("admin", "bob"), PKI.member("node", "n1")):
        with pytest.raises(Refused) as caught:
            PKI.verifier().open_revocations(sign(listed, forger.key, forger.chain), NOW)
        assert caught.value.verdict is Verdict.WRONG_HOLDER
    with pytest.raises(Refused):
        PKI.verifier().open_revocations(Pki().issuer.sign_revocations(listed), NOW)


def test_the_list_outlives_leaves() -> None:
    good = PKI.issuer.sign_revocations(make_list(3, NOW, [], []))
    assert PKI.verifier().open_revocations(good, NOW + 300 * DAY).epoch == 3


def test_an_issuers_chain_is_nobodys_identity() -> None:
    with pytest.raises(Refused) as caught:
        PKI.verifier().identity(PKI.issuer.chain(), NOW)
    assert caught.value.verdict is Verdict.FOREIGN


def test_the_memory_of_chains_is_bounded_and_does_not_decide() -> None:
    verifier = ChainVerifier(PKI.roots, DOMAIN, cache=2)
    members = [PKI.member("user", f"u{n}") for n in range(4)]
    for _ in range(2):
        for member in members:
            assert verifier.identity(member.chain, NOW).id == member.profile.id
    with pytest.raises(Refused):
        verifier.identity(Pki().member("user", "u0").chain, NOW)


def test_equal_lists_are_equal_bytes() -> None:
    ids = [who("user", name) for name in ("c", "a", "b")]
    shuffled = random.Random(2).sample(ids, 3)
    assert encode(make_list(1, NOW, ids, [b"2", b"1"])) == encode(make_list(1, NOW, shuffled, [b"1", b"2"]))
    assert isinstance(make_list(1, NOW, ids, []), RevocationList)
