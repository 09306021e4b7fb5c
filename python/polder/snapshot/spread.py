"""Orders to the spread plane's ends, and what they tell: Python's half of ``crates/http/src/spread/order.rs``.

Keys are bytes of fixed length (``crates/spread/src/ticket.rs``); no ``repr`` shows one.
"""

from __future__ import annotations

from typing import Any

import msgspec

from polder.model.spread_messages import Redundancy, Terms, Ticket
from polder.snapshot.schema import Frozen


class PeerKey(Frozen, frozen=True):
    """A servlet's key (32 bytes) at one relay in one epoch."""

    relay: int
    epoch: int
    key: bytes

    def __repr__(self) -> str:
        return f"PeerKey({self.relay:016x}, epoch {self.epoch}, key withheld)"


class Hosted(Frozen, frozen=True):
    """The servlet's half; ``me``: the first eight bytes of its own ring id."""

    session: bytes
    key: bytes
    terms: Terms
    me: int
    relays: tuple[PeerKey, ...]

    def __repr__(self) -> str:
        return f"Hosted({len(self.relays)} relays, keys withheld)"


class RelayMember(Frozen, frozen=True):
    """A relay: the first eight bytes of its ring id, and ``ip:port`` for datagrams."""

    id: int
    address: str


class MemberList(Frozen, frozen=True):
    """The relays of one version."""

    version: int
    list: tuple[RelayMember, ...]


class Guest(Frozen, frozen=True):
    """Servlet: expect a session, or carry on the one named ``renews``.

    ``user``: SPIFFE id; ``key``: SHA-256 of the user's SubjectPublicKeyInfo; the session goes to ``site`` only.
    """

    hosted: Hosted
    renews: bytes | None
    user: str
    key: bytes
    site: str
    redundancy: Redundancy


class UserTicket(Frozen, frozen=True):
    """Forwarder: begin a session with ``site``, or carry it on.

    ``pin``: SHA-256 of the servlet's public key; ``now``: the overlay's time in Unix microseconds; ``renews``: the site's session goes
    on under this ticket; ``prefer``: use it for tunnels.
    """

    site: str
    hosts: tuple[str, ...]
    ports: tuple[int, ...]
    pin: bytes
    now: int
    ticket: Ticket
    members: MemberList
    redundancy: Redundancy
    renews: bool
    prefer: bool


class Prefer(Frozen, frozen=True):
    """Forwarder: whether a site's tunnels use its session."""

    site: str
    on: bool


Order = Guest | UserTicket | Prefer

_TAGS: dict[type, str] = {Guest: "expect", UserTicket: "ticket", Prefer: "prefer"}


def tagged(order: Order) -> dict[str, Any]:
    """An order as the native side reads it."""
    return {_TAGS[type(order)]: order}


class PathNow(msgspec.Struct, frozen=True):
    """A relay of a session: ``state`` is ``live``, ``suspect``, ``untried`` or ``unusable``; ``weight`` and ``loss`` are shares;
    ``delay_us`` more than over the quickest; counts of packets; ``mtu``: longest datagram known to pass.
    """

    relay: str
    state: str
    weight: float
    loss: float
    delay_us: int | None
    sent: int
    received: int
    duplicates: int
    mtu: int


class SessionNow(msgspec.Struct, frozen=True):
    """A forwarder's session: times in microseconds (0: not known), ``ends_in`` in seconds, tunnels opened and failed over it.

    ``tunnel_rtt_us``: round trip to the same servlet through an access point. ``carrier``: ``relays``, or ``tunnel`` while no relay
    answers; ``detours``: how often that happened. ``recovered``: datagrams regained by repairs.
    """

    site: str
    up: bool
    prefer: bool
    rtt_us: int
    open_us: int
    tunnel_rtt_us: int
    tunnels: int
    failed: int
    carrier: str
    detours: int
    recovered: int
    ends_in: float
    paths: tuple[PathNow, ...]
