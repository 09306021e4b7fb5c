"""Orders to the spread plane's ends, and what they tell: Python's half of ``crates/http/src/spread/order.rs``.

Keys are bytes of fixed length (``crates/spread/src/ticket.rs``); no ``repr`` shows one.
"""

from __future__ import annotations

from typing import Any

import msgspec

from polder.snapshot.schema import Frozen


class Terms(Frozen, frozen=True):
    """What relays enforce: begin (Unix seconds), life (seconds), 2^``pace`` blocks a second, 2^``rate`` KiB/s over one relay."""

    starts: int
    lasts: int
    pace: int
    rate: int


class TicketRelay(Frozen, frozen=True):
    """What a user needs for one relay: ``grant`` 8, ``mac`` 16, ``destination`` 48 bytes."""

    id: int
    address: str
    epoch: int
    grant: bytes
    mac: bytes
    destination: bytes

    def __repr__(self) -> str:
        return f"TicketRelay({self.address}, keys withheld)"


class Ticket(Frozen, frozen=True):
    """The user's half: session name (16 bytes), session key (32), the member list's version, relays."""

    session: bytes
    key: bytes
    terms: Terms
    members: int
    relays: tuple[TicketRelay, ...]

    def __repr__(self) -> str:
        return f"Ticket({len(self.relays)} relays, keys withheld)"


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


class Redundancy(Frozen, frozen=True):
    """Extra copies per packet (0 to 4), or (datagrams, repairs) of a group of forward error correction."""

    copies: float
    fec: tuple[int, int] | None = None


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


class Drop(Frozen, frozen=True):
    """Forwarder: end a session."""

    site: str


Order = Guest | UserTicket | Prefer | Drop

_TAGS: dict[type, str] = {Guest: "expect", UserTicket: "ticket", Prefer: "prefer", Drop: "drop"}


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
    """A forwarder's session: times in microseconds (0: not known), ``ends_in`` in seconds, tunnels opened and failed over it."""

    site: str
    up: bool
    prefer: bool
    rtt_us: int
    open_us: int
    tunnel_open_us: int
    tunnels: int
    failed: int
    ends_in: float
    paths: tuple[PathNow, ...]


class WantTicket(msgspec.Struct, frozen=True):
    """Access point: a user whom the site's rules admit asks for a ticket. ``not_after``: the end of his certificate."""

    site: str
    user: str
    key: bytes
    not_after: int
    renews: bytes | None
    copies: float
