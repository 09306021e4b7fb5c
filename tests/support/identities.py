"""A private authority in memory, with fast keys, for tests of identities."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from polder.model import Kind, SpiffeId
from polder.trust import ChainVerifier, Profile, make_issuer, make_root

NOW = 1_800_000_000.0
DOMAIN = "o.test"
DAY = 86_400.0


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def who(kind: str, name: str, domain: str = DOMAIN) -> SpiffeId:
    """A SPIFFE id of the test overlay."""
    return SpiffeId(domain, Kind(kind), name)


@dataclass
class Member:
    """Somebody's key and chain."""

    profile: Profile
    key: ec.EllipticCurvePrivateKey
    chain: tuple[bytes, ...]


@dataclass
class Pki:
    """Root and issuer of one overlay."""

    domain: str = DOMAIN
    now: float = NOW
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def __post_init__(self) -> None:
        self.root_key = new_key()
        self.root = make_root(self.root_key, self.domain, self.now, self.rng)
        self.issuer = make_issuer(self.root_key, self.root, new_key(), self.now, self.rng)
        self.roots = (self.root.public_bytes(Encoding.DER),)

    def member(
        self, kind: str, name: str, *, groups: tuple[str, ...] = (), hosts: tuple[str, ...] = (), life: float = DAY
    ) -> Member:
        """Issue a certificate; a node's ring id follows from its name."""
        ring_id = name.encode().ljust(16, b"\0")[:16] if kind == "node" else None
        profile, key = Profile(who(kind, name, self.domain), ring_id, groups, hosts), new_key()
        return Member(profile, key, self.issuer.issue(profile, key.public_key(), self.now, life, self.rng))

    def verifier(self) -> ChainVerifier:
        """Believes this overlay's members."""
        return ChainVerifier(self.roots, self.domain)
