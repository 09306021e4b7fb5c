"""Chains: only leaf ← issuer ← pinned root, in time, of this trust domain; everything else is refused with its reason."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from polder.model import Refused, Verdict
from polder.trust import make_issuer, verify_chain
from polder.trust.chain import SKEW, parse_chain
from tests.support.identities import DAY, DOMAIN, NOW, Pki, new_key, who

PKI = Pki()
ANN = PKI.member("user", "ann", groups=("staff", "ops"))
N1 = PKI.member("node", "n1")
OTHER = Pki()
FOREIGN = Pki(domain="other.test")


def verdict(chain: tuple[bytes, ...], now: float = NOW, roots: tuple[bytes, ...] = PKI.roots) -> Verdict:
    with pytest.raises(Refused) as caught:
        verify_chain(chain, roots, DOMAIN, now)
    return caught.value.verdict


def leaf(*, key: object = None, sign_with: object = None, ca: bool = False, names: list[str] | None = None) -> tuple[bytes, ...]:
    """A chain whose leaf departs from the profile in one thing."""
    public = getattr(key, "public_key", new_key().public_key)()
    uris = [str(who("user", "eve"))] if names is None else names
    builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(PKI.issuer.certificate.subject)
    builder = builder.public_key(public).serial_number(7)
    builder = builder.not_valid_before(datetime.fromtimestamp(NOW - 1, UTC)).not_valid_after(
        datetime.fromtimestamp(NOW + DAY, UTC)
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    if uris:
        san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        builder = builder.add_extension(san, critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(PKI.issuer.key.public_key())
    builder = builder.add_extension(identifier, critical=False)
    signed = builder.sign(sign_with or PKI.issuer.key, hashes.SHA256())  # type: ignore[arg-type]
    return signed.public_bytes(Encoding.DER), *PKI.issuer.chain()


def test_a_good_chain_says_who_it_is() -> None:
    identity = verify_chain(ANN.chain, PKI.roots, DOMAIN, NOW).identity
    assert identity is not None
    assert (str(identity.id), identity.groups, identity.ring_id) == (f"spiffe://{DOMAIN}/user/ann", ("staff", "ops"), None)
    node = verify_chain(N1.chain, PKI.roots, DOMAIN, NOW).identity
    assert node is not None
    assert (node.ring_id, node.hosts) == (N1.profile.ring_id, (f"n1.node.{DOMAIN}",))


def test_any_of_several_roots_will_do() -> None:
    assert verify_chain(ANN.chain, OTHER.roots + PKI.roots, DOMAIN, NOW).identity


@pytest.mark.parametrize(
    ("now", "why"), [(NOW + DAY + 1, Verdict.EXPIRED), (NOW + 4000 * DAY, Verdict.EXPIRED), (NOW - 301 - SKEW, Verdict.NOT_YET)]
)
def test_time(now: float, why: Verdict) -> None:
    assert verdict(ANN.chain, now) is why


def test_clocks_may_differ_a_little() -> None:
    assert verify_chain(ANN.chain, PKI.roots, DOMAIN, NOW - 300 - SKEW + 1)
    assert verify_chain(ANN.chain, PKI.roots, DOMAIN, NOW + DAY)


def test_another_root_of_the_same_name_is_foreign() -> None:
    assert verdict(OTHER.member("user", "ann").chain) is Verdict.FOREIGN
    assert verdict(ANN.chain, roots=OTHER.roots) is Verdict.FOREIGN
    assert verdict(ANN.chain, roots=()) is Verdict.FOREIGN


def test_another_trust_domain_is_foreign_even_under_our_root() -> None:
    assert verdict(FOREIGN.member("user", "ann").chain) is Verdict.FOREIGN
    assert verdict(leaf(names=["spiffe://other.test/user/ann"])) is Verdict.FOREIGN


def test_a_foreign_leaf_under_our_issuers_certificate_is_refused() -> None:
    assert verdict((OTHER.member("user", "ann").chain[0], *PKI.issuer.chain())) is Verdict.FOREIGN
    assert verdict(leaf(sign_with=new_key())) is Verdict.FOREIGN


def test_the_issuer_must_be_there_and_the_order_right() -> None:
    assert verdict(ANN.chain[:1]) is Verdict.FOREIGN
    assert verdict((ANN.chain[0], ANN.chain[0])) is Verdict.FOREIGN
    assert verdict(ANN.chain[::-1]) is Verdict.FOREIGN


def test_a_member_cannot_issue() -> None:
    below = leaf(sign_with=ANN.key)
    assert verdict((below[0], ANN.chain[0])) is Verdict.FOREIGN


def test_an_issuer_speaks_for_itself_but_no_root_and_no_third() -> None:
    assert verify_chain(PKI.issuer.chain(), PKI.roots, DOMAIN, NOW).identity is None
    assert verdict(PKI.roots) is Verdict.FOREIGN  # self-signed, but a root speaks through its issuer only
    assert verdict(OTHER.issuer.chain()) is Verdict.FOREIGN
    below = make_issuer(PKI.issuer.key, PKI.issuer.certificate, new_key(), NOW, random.Random(3))
    assert verdict(below.chain()) is Verdict.FOREIGN
    assert verdict(leaf(ca=True)) is Verdict.FOREIGN


@pytest.mark.parametrize(
    "names",
    [
        [],
        [str(who("user", "eve"))] * 2,
        ["https://o.test/user/eve"],
        [f"spiffe://{DOMAIN}/root/eve"],
        [f"spiffe://{DOMAIN}/user/EVE"],
        [f"spiffe://{DOMAIN}/user/a/b"],
        [f"spiffe://{DOMAIN}/node/eve"],  # a node without a ring id
    ],
)
def test_names_that_are_not_exactly_one_of_ours(names: list[str]) -> None:
    assert verdict(leaf(names=names)) is Verdict.MALFORMED


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65_537, 2048)])
def test_other_keys_are_malformed(key: object) -> None:
    assert verdict(leaf(key=key)) is Verdict.MALFORMED


@pytest.mark.parametrize(
    "chain", [(), (b"",), ANN.chain + PKI.roots, (b"x" * 9000, ANN.chain[1]), (ANN.chain[0][:-1], ANN.chain[1])]
)
def test_what_is_no_chain(chain: tuple[bytes, ...]) -> None:
    assert verdict(chain) is Verdict.MALFORMED


@given(st.lists(st.binary(max_size=400), max_size=3))
def test_any_bytes_are_refused(chain: list[bytes]) -> None:
    with pytest.raises(Refused):
        parse_chain(tuple(chain))


@settings(max_examples=300)
@given(st.integers(0, len(ANN.chain[0]) - 1), st.integers(1, 255), st.integers(0, 1))
def test_no_changed_byte_passes(at: int, flip: int, which: int) -> None:
    certificates = list(ANN.chain)
    changed = bytearray(certificates[which])
    changed[at % len(changed)] ^= flip
    certificates[which] = bytes(changed)
    with pytest.raises(Refused):
        verify_chain(tuple(certificates), PKI.roots, DOMAIN, NOW)


def test_a_signature_has_one_spelling() -> None:
    at = len(ANN.chain[0]) - len(x509.load_der_x509_certificate(ANN.chain[0]).signature) - 1
    for unused in range(1, 8):
        changed = ANN.chain[0][:at] + bytes([unused]) + ANN.chain[0][at + 1 :]
        assert verdict((changed, *ANN.chain[1:])) is Verdict.MALFORMED
