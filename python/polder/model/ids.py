"""Names of things: SPIFFE ids, ring ids, and the arithmetic of the ring."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple, NewType

RingId = NewType("RingId", int)
"""A place on the ring, 0 … 2^128 − 1, assigned by the issuer and carried in the certificate."""

RING_BITS = 128
RING_SIZE = 1 << RING_BITS

_NAME = re.compile(r"[a-z0-9._-]{1,63}\Z")


class Kind(StrEnum):
    """The four kinds of identity that an authority issues."""

    NODE = "node"
    USER = "user"
    SITE = "site"
    ADMIN = "admin"


def parse_name(text: str) -> str:
    """Return ``text`` if it may be a name (1 to 63 of ``[a-z0-9._-]``); raise ``ValueError`` otherwise."""
    if not _NAME.match(text):
        raise ValueError(f"{text!r} is not a name: use 1 to 63 characters of a-z, 0-9, '.', '_' and '-'")
    return text


class SpiffeId(NamedTuple):
    """``spiffe://<trust_domain>/<kind>/<name>``: the one URI in a certificate."""

    trust_domain: str
    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/{self.kind}/{self.name}"

    @classmethod
    def parse(cls, uri: str) -> SpiffeId:
        """Split a SPIFFE id; raise ``ValueError`` if it is not one of ours in form."""
        match uri.removeprefix("spiffe://").split("/"):
            case [domain, kind, name] if uri.startswith("spiffe://") and domain and kind in set(Kind):
                return cls(domain, Kind(kind), parse_name(name))
        raise ValueError(f"{uri!r} is not spiffe://<trust-domain>/(node|user|site|admin)/<name>")


def distance(start: int, end: int) -> int:
    """Steps from ``start`` clockwise to ``end``: 0 … 2^128 − 1."""
    return (end - start) % RING_SIZE


def between(x: int, low: int, high: int) -> bool:
    """Whether ``x`` lies strictly inside the arc from ``low`` clockwise to ``high``; (a, a) is the whole ring but a."""
    if low == high:
        return x != low
    return 0 < distance(low, x) < distance(low, high)


def between_right(x: int, low: int, high: int) -> bool:
    """Whether ``x`` lies in the arc (low, high]; (a, a] is the whole ring."""
    return low == high or 0 < distance(low, x) <= distance(low, high)
