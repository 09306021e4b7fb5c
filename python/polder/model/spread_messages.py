"""Control calls of the spread plane: a relay's keys, and tickets on their way from the issuer to both ends (``docs/design/spread.md``)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from polder.model.records import Frozen, Member, Signed


class GrantQuery(Frozen, frozen=True):
    """Node → node, method ``grant``: your keys of this epoch, please. Every node asks every relay, so that nothing shows."""


class Granted(Frozen, frozen=True):
    """Answer to ``grant``: ``grant`` (8 bytes) and its key (32) for issuing, ``peer_key`` (32) for being a servlet.

    ``until``: Unix seconds at which the next epoch begins and these are to be asked for anew.
    """

    epoch: int
    until: int
    grant: bytes
    grant_key: bytes
    peer_key: bytes

    def __repr__(self) -> str:
        return f"Granted(epoch {self.epoch}, keys withheld)"


class RelayList(Frozen, frozen=True, tag="relays"):
    """Who relays, signed by the issuer: every node, in the order of the ring. Of two lists the one issued later counts.

    ``version`` follows from ``relays``, so that equal lists have equal versions at every node, without anybody to count them.
    """

    version: int
    issued_at: int
    relays: tuple[Member, ...]

    @classmethod
    def of(cls, members: Iterable[Member], now: float) -> RelayList:
        """The list of these."""
        relays = tuple(sorted(set(members), key=lambda member: member.ring_id))
        return cls(_version(relays), int(now), relays)

    def is_whole(self) -> bool:
        """Whether the version is that of the relays."""
        return self == RelayList.of(self.relays, self.issued_at)


def _version(relays: tuple[Member, ...]) -> int:
    return int.from_bytes(hashlib.sha256(msgspec.msgpack.encode(relays)).digest()[:4], "big")


class Terms(Frozen, frozen=True):
    """What relays enforce: begin (Unix seconds), life (seconds), 2^``pace`` blocks a second, 2^``rate`` KiB/s over one relay."""

    starts: int
    lasts: int
    pace: int
    rate: int


class Redundancy(Frozen, frozen=True):
    """Extra copies per packet (0 to 4); or ``fec``: (datagrams, repairs) of a group of forward error correction, 1 to 64 each."""

    copies: float
    fec: tuple[int, int] | None = None

    def bounded(self) -> Redundancy:
        """The nearest that may be: what came from elsewhere decides what a node sends."""
        fec = tuple(max(1, min(64, part)) for part in self.fec) if self.fec else None
        return Redundancy(max(0.0, min(4.0, self.copies)), (fec[0], fec[1]) if fec else None)


class Issue(Frozen, frozen=True):
    """Access point → beacon, method ``issue``: a ticket for a user whom the site's rules admit.

    ``key``: SHA-256 of the user's SubjectPublicKeyInfo; ``not_after``: end of his certificate, Unix seconds; ``renews``: the session
    that is to be carried on; ``redundancy``: of packets towards the user.
    """

    site: str
    user: str
    key: bytes
    not_after: int
    renews: bytes | None
    redundancy: Redundancy


class TicketRelay(Frozen, frozen=True):
    """What a user needs for one relay (``crates/spread/src/ticket.rs``): ``grant`` 8, ``mac`` 16, ``destination`` 48 bytes."""

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


class Issued(Frozen, frozen=True):
    """Answer to ``issue`` and to a user's ``ticket``: the user's half. It names no servlet.

    ``pin``: SHA-256 of the servlet's public key; ``renewed``: an older session goes on under this one; ``relays``: the ``RelayList``
    for which the ticket is, as the authority signed it; ``now``: the overlay's time, Unix µs.
    """

    site: str
    hosts: tuple[str, ...]
    ports: tuple[int, ...]
    pin: bytes
    renewed: bool
    now: int
    ticket: Ticket
    relays: Signed


class Expect(Frozen, frozen=True):
    """Beacon → servlet, method ``expect``: a user's session ends at you, for this site only."""

    site: str
    session: bytes
    key: bytes
    terms: Terms
    user: str
    user_key: bytes
    renews: bytes | None
    redundancy: Redundancy

    def __repr__(self) -> str:
        return f"Expect({self.site}, keys withheld)"


class Expected(Frozen, frozen=True):
    """Answer to ``expect``: SHA-256 of the key by which the user knows the servlet."""

    pin: bytes


def node_number(member: Member) -> int:
    """How packets name a node: the first eight bytes of its ring id."""
    return int.from_bytes(member.ring_id[:8], "big")
