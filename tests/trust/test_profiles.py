"""Profiles: what is issued is what is read back, for every kind; contents that do not fit their kind are refused."""

from __future__ import annotations

import random
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from polder.model import Kind
from polder.trust import AUTHORITY, GROUPS, RING_ID, Profile, key_hash, read_identity
from tests.support.identities import DAY, DOMAIN, NOW, Pki, new_key, who

PKI = Pki()
KEY = new_key()
NAMES = st.from_regex(r"[a-z0-9._-]{1,63}", fullmatch=True)
HOSTS = st.from_regex(r"[a-z0-9]{1,20}\.[a-z]{2,8}", fullmatch=True)


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    kind = draw(st.sampled_from(Kind))
    return Profile(
        who(kind, draw(NAMES)),
        draw(st.binary(min_size=16, max_size=16)) if kind is Kind.NODE else None,
        tuple(draw(st.lists(NAMES, max_size=5))) if kind is Kind.USER else (),
        tuple(draw(st.lists(HOSTS, max_size=5))) if kind is Kind.SITE else (),
        draw(st.none() | st.ip_addresses().map(str)) if kind is Kind.NODE else None,
    )


@settings(max_examples=60)
@given(profiles())
def test_what_is_issued_is_what_is_read(profile: Profile) -> None:
    chain = PKI.issuer.issue(profile, KEY.public_key(), NOW, DAY, random.Random(1))
    leaf = x509.load_der_x509_certificate(chain[0])
    said = read_identity(leaf)
    assert (said.id, said.ring_id, said.groups, said.hosts) == (
        profile.id,
        profile.ring_id,
        profile.groups,
        profile.dns_names(),
    )
    assert said.key_hash == key_hash(KEY.public_key())
    assert (said.not_before, said.not_after) == (NOW - 300, NOW + DAY)
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert san.get_values_for_type(x509.UniformResourceIdentifier) == [str(profile.id)]
    assert PKI.verifier().identity(chain, NOW) == said


@pytest.mark.parametrize("kind", list(Kind))
def test_extensions_of_a_leaf(kind: Kind) -> None:
    member = PKI.member(kind, "x", groups=("g",) if kind is Kind.USER else (), hosts=("h.example",) if kind is Kind.SITE else ())
    leaf = x509.load_der_x509_certificate(member.chain[0])
    usages = set(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    servers = {ExtendedKeyUsageOID.SERVER_AUTH} if kind is Kind.NODE else set()
    assert usages == {ExtendedKeyUsageOID.CLIENT_AUTH} | servers
    constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert not constraints.value.ca
    raw = {e.oid: e for e in leaf.extensions}
    assert (RING_ID in raw) == (kind is Kind.NODE)
    assert (GROUPS in raw) == (kind is Kind.USER)
    if kind is Kind.NODE:
        assert raw[RING_ID].value.value == member.profile.ring_id
        assert not raw[RING_ID].critical
    if kind is Kind.USER:
        assert raw[GROUPS].value.value == b"g"


def test_only_the_authority_among_admins_serves() -> None:
    chain = PKI.member("admin", AUTHORITY).chain
    usages = x509.load_der_x509_certificate(chain[0]).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert ExtendedKeyUsageOID.SERVER_AUTH in usages


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": who("node", "n1")},
        {"id": who("node", "n1"), "ring_id": b"short"},
        {"id": who("user", "a"), "ring_id": bytes(16)},
        {"id": who("site", "a"), "groups": ("g",)},
        {"id": who("user", "a"), "hosts": ("h.example",)},
        {"id": who("user", "a"), "ip": "192.0.2.1"},
        {"id": who("user", "A")},
        {"id": who("user", "a"), "groups": ("a,b",)},
        {"id": who("user", "a"), "groups": ("g",) * 33},
        {"id": who("site", "a"), "hosts": ("h.example",) * 65},
    ],
)
def test_contents_must_fit_the_kind(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Profile(**wrong)


def test_the_issuer_refuses_another_domain() -> None:
    with pytest.raises(ValueError, match="not of trust domain"):
        PKI.issuer.issue(Profile(who("user", "a", "other.test")), KEY.public_key(), NOW, DAY, random.Random(1))
    assert DOMAIN != "other.test"
