"""Signed statements that travel through the overlay, and members of the ring."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Protocol, TypeVar

import msgspec

from polder.model.ids import RingId, SpiffeId

T = TypeVar("T")

RingKey = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
"""A place on the ring on the wire: 16 bytes, big-endian; the length is checked when it is decoded."""


class Frozen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=False):
    """Base of all values that are put on a wire or into a table."""


class Member(Frozen, frozen=True, order=True):
    """A node as others know it. ``ring_id`` is 16 bytes, big-endian; ``address`` is ``ip:port`` or ``[ip]:port``."""

    name: str
    ring_id: RingKey
    address: str

    @property
    def id(self) -> RingId:
        """The ring id as a number."""
        return RingId(int.from_bytes(self.ring_id, "big"))

    @classmethod
    def of(cls, name: str, ring_id: int, address: str) -> Member:
        """A member from a numeric ring id."""
        return cls(name, ring_id.to_bytes(16, "big"), address)


class PathMode(StrEnum):
    """How a request crosses the overlay (``docs/design/paths.md``)."""

    RING = "ring"
    BEACON = "beacon"
    DIRECT = "direct"


class Rule(Frozen, frozen=True):
    """Whom an access rule names: ``kind`` is ``user``, ``group`` or ``anyone`` (every enrolled user; ``name`` empty)."""

    kind: str
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> Rule:
        """``user:ann``, ``group:staff`` or ``anyone``; raises ``ValueError``."""
        kind, _, name = text.partition(":")
        if (kind == "anyone") == (not name) and kind in {"user", "group", "anyone"}:
            return cls(kind, name)
        raise ValueError(f"{text!r} is not an access rule: write user:NAME, group:NAME or anyone")

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


class Tell(Frozen, frozen=True):
    """A site asks who its users are: access points seal their word to ``key`` (X25519, public), which its agent has.

    ``address``: with the users' source addresses.
    """

    key: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    address: bool = False


class SiteRecord(Frozen, frozen=True, tag="site"):
    """What a site tells the overlay about itself, signed by its own key. The highest ``epoch`` counts."""

    site: str
    epoch: int
    hosts: tuple[str, ...]
    ports: tuple[int, ...]
    allow: tuple[Rule, ...]
    deny: tuple[Rule, ...]
    mode: PathMode
    not_after: int
    """Unix seconds."""
    tell: Tell | None = None


class Appointment(Frozen, frozen=True, tag="appointment"):
    """A site's word that ``servlet`` may carry to it in ``epoch``, signed by the site. Times in Unix seconds."""

    site: str
    servlet: str
    servlet_ring_id: bytes
    epoch: int
    not_before: int
    not_after: int


class RevocationList(Frozen, frozen=True, omit_defaults=True, tag="revocations"):
    """Who is no longer believed, signed by the issuer. The highest ``epoch`` counts.

    ``keys``: SHA-256 of members' and retired issuers' SubjectPublicKeyInfo. ``issuers``: certificates (DER) of those in use, the
    one that signs first, said while there are two.
    """

    epoch: int
    issued_at: int
    identities: tuple[str, ...]
    keys: tuple[bytes, ...]
    issuers: tuple[bytes, ...] = ()


class Signed(Frozen, frozen=True):
    """An encoded record, its ECDSA P-256 signature (over ``b"polder/1\\0" + payload``), the signer's chain (DER, leaf first)."""

    payload: bytes
    signature: bytes
    chain: tuple[bytes, ...]


class Verifier(Protocol):
    """How deciding rooms check signatures without knowing the room that does it."""

    def __call__(self, signed: Signed, now: float) -> SpiffeId:
        """Return who signed; raise ``Refused`` when the chain, its time, its revocation or the signature is bad."""


def encode(value: msgspec.Struct) -> bytes:
    """MessagePack bytes of a record."""
    return msgspec.msgpack.encode(value)


def decode(data: bytes, kind: type[T]) -> T:
    """The record in ``data``; raises ``ValueError`` when it is not one of ``kind``."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"not a {kind.__name__}: {error}") from error


def to_builtins(value: Any) -> Any:
    """Plain dicts and lists, for logs and ``--json``."""
    return msgspec.to_builtins(value)
