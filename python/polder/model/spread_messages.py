"""Control calls of the spread plane: a relay's keys, and tickets on their way from the issuer to both ends (``docs/design/spread.md``)."""

from __future__ import annotations

from polder.model.records import Frozen, Member


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


class Issue(Frozen, frozen=True):
    """Access point → beacon, method ``issue``: a ticket for a user whom the site's rules admit.

    ``key``: SHA-256 of the user's SubjectPublicKeyInfo; ``not_after``: end of his certificate, Unix seconds; ``renews``: the session
    that is to be carried on; ``copies``: extra copies per packet towards the user.
    """

    site: str
    user: str
    key: bytes
    not_after: int
    renews: bytes | None
    copies: float


class IssuedRelay(Frozen, frozen=True):
    """What a user needs for one relay; see ``crates/spread/src/ticket.rs``."""

    id: int
    address: str
    epoch: int
    grant: bytes
    mac: bytes
    destination: bytes

    def __repr__(self) -> str:
        return f"IssuedRelay({self.address}, keys withheld)"


class Issued(Frozen, frozen=True):
    """Answer to ``issue`` and to a user's ``ticket``: the user's half. It names no servlet.

    ``pin``: SHA-256 of the servlet's public key; ``renewed``: an older session goes on under this one; ``members``: all relays by
    (first eight bytes of the ring id, address), of which ``version`` is that of the list; ``now``: the overlay's time, Unix µs.
    """

    site: str
    hosts: tuple[str, ...]
    ports: tuple[int, ...]
    session: bytes
    key: bytes
    starts: int
    lasts: int
    pace: int
    rate: int
    pin: bytes
    renewed: bool
    now: int
    version: int
    members: tuple[tuple[int, str], ...]
    relays: tuple[IssuedRelay, ...]

    def __repr__(self) -> str:
        return f"Issued({self.site}, {len(self.relays)} relays, keys withheld)"


class Expect(Frozen, frozen=True):
    """Beacon → servlet, method ``expect``: a user's session ends at you, for this site only."""

    site: str
    session: bytes
    key: bytes
    starts: int
    lasts: int
    pace: int
    rate: int
    user: str
    user_key: bytes
    renews: bytes | None
    copies: float

    def __repr__(self) -> str:
        return f"Expect({self.site}, keys withheld)"


class Expected(Frozen, frozen=True):
    """Answer to ``expect``: SHA-256 of the key by which the user knows the servlet."""

    pin: bytes


def node_number(member: Member) -> int:
    """How packets name a node: the first eight bytes of its ring id."""
    return int.from_bytes(member.ring_id[:8], "big")
