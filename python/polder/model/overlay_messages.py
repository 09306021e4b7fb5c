"""Control calls between roles: bodies and answers. One call, one answer; the method's name selects the pair
(``METHODS``).

Authentication is the link's: the shell hands each body over together with a ``Caller`` that the peer's certificate
proved.
What must outlive the link (appointments, records, withdrawals) is ``Signed``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec

from polder.model.admin_messages import Drill, Drilled, Past, PastQuery, Report, ReportQuery
from polder.model.ids import Kind
from polder.model.records import Frozen, Member, RingKey, Signed
from polder.model.spread_messages import Expect, Expected, Granted, GrantQuery, Issue, Issued
from polder.model.verdicts import Refused, Verdict


class Caller(NamedTuple):
    """Who called, as the verified certificate says. ``ring_id`` (16 bytes) for nodes only."""

    kind: Kind
    name: str
    ring_id: bytes | None = None

    def is_member(self, member: Member) -> bool:
        """Whether the caller is the node that ``member`` describes (its address is the node's own affair)."""
        return self.kind is Kind.NODE and self.name == member.name and self.ring_id == member.ring_id


class Transport(StrEnum):
    """How a servlet reaches its site."""

    GRE = "gre"
    DIALOUT = "dialout"
    TCP = "tcp"


class Delivery(Frozen, frozen=True):
    """The private half of an appointment: only the servlet and the site know it. Never logged, never passed on.

    ``outer_remote``: the gateway's outer address, ``key``: the 32-bit GRE key, ``inner_local`` / ``inner_remote``:
    addresses inside the tunnel (``inner_remote`` alone for ``tcp``), ``mtu`` in bytes, ``ports``: (asked port, port at
    ``inner_remote``), ``preface``: a PROXY header with the word about the user goes ahead. Only ``transport`` and ``ports``
    mean something for ``dialout``.
    """

    transport: Transport
    outer_remote: str = ""
    key: int = 0
    inner_local: str = ""
    inner_remote: str = ""
    mtu: int = 0
    ports: tuple[tuple[int, int], ...] = ()
    preface: bool = False

    def __repr__(self) -> str:
        return f"Delivery({self.transport}, withheld)"


class Withdrawal(Frozen, frozen=True, tag="withdrawal"):
    """A site's signed word that ``servlet`` is out, in every epoch up to ``epoch``.

    Needed because a burned servlet would not say so itself. ``not_after`` (Unix seconds) lies behind the end of the last
    appointment that it kills: then it may be forgotten.
    """

    site: str
    servlet: str
    epoch: int
    not_after: int


class Appoint(Frozen, frozen=True):
    """Site → servlet, method ``appoint``.

    Idempotent: repeated as a heartbeat and to prolong. ``withdrawals``: for the beacons.
    """

    appointment: Signed
    delivery: Delivery
    withdrawals: tuple[Signed, ...] = ()


class Appointed(Frozen, frozen=True):
    """Answer to ``appoint``.

    ``ready``: deliveries can begin; ``beacons``: how many beacons took the current epoch's advertisement.
    """

    ready: bool
    beacons: int


class Dismiss(Frozen, frozen=True):
    """Site → servlet, method ``dismiss``: withdraw from the beacons, forget the delivery after ``drain`` seconds."""

    site: str
    epoch: int
    drain: float = 0.0


class Advertise(Frozen, frozen=True):
    """Servlet → owner of a beacon key, method ``advertise``.

    ``member`` is the servlet itself; ``ring_key`` is one of the site's beacon keys in ``key_epoch``. ``heir``: to a node behind
    the owner, which would own the key after its death.
    """

    appointment: Signed
    member: Member
    ring_key: RingKey
    key_epoch: int
    withdrawals: tuple[Signed, ...] = ()
    heir: bool = False


class Advertised(Frozen, frozen=True):
    """Answer to ``advertise``: the entry lives for ``lifetime`` seconds unless refreshed.

    ``heirs``: the nodes behind the owner of the key, nearest first, which are to be told too.
    """

    lifetime: float
    heirs: tuple[Member, ...] = ()


class Withdraw(Frozen, frozen=True):
    """Servlet → beacon, method ``withdraw``: take me off.

    Or, with a site's signed ``statement``, take *its* servlet off.
    """

    site: str
    epoch: int
    statement: Signed | None = None


class ServletsQuery(Frozen, frozen=True):
    """Access point → beacon, method ``servlets`` (path mode ``direct``)."""

    site: str


class ServletsAnswer(Frozen, frozen=True):
    """Servlets of a site, best first, to be forgotten after ``ttl`` seconds (bounds trap 2: shortcuts widen
    knowledge).
    """

    servlets: tuple[Member, ...]
    ttl: float


class Held(Frozen, frozen=True):
    """One line of a directory's digest: record ``name`` (``site/NAME`` or ``revocations``) is held at this rank.

    ``epoch`` is a site record's epoch, or a revocation list's epoch and time of issue in one number.
    """

    name: str
    epoch: int


class Sync(Frozen, frozen=True):
    """Anti-entropy, method ``sync``: what the caller holds, and records that it believes are news (a push, when
    ``held`` is None).
    """

    held: tuple[Held, ...] | None
    records: tuple[Signed, ...] = ()


class Synced(Frozen, frozen=True):
    """Answer to ``sync``: what the caller lacks, and ``wanted``: names that the answerer lacks (push them).

    ``more``: ask again.
    """

    records: tuple[Signed, ...]
    wanted: tuple[str, ...] = ()
    more: bool = False


class MembersQuery(Frozen, frozen=True):
    """Method ``members``: at most ``limit`` nodes, spread evenly over what the asked node knows."""

    limit: int = 256


class Members(Frozen, frozen=True):
    """Answer to ``members``."""

    members: tuple[Member, ...]


class EpochSecret(Frozen, frozen=True):
    """A secret that members share, from which beacon keys are made. In force from ``not_before`` (Unix seconds) on."""

    epoch: int
    not_before: int
    secret: bytes

    def __repr__(self) -> str:
        return f"EpochSecret(epoch={self.epoch}, not_before={self.not_before}, withheld)"


class SecretsQuery(Frozen, frozen=True):
    """Method ``secrets``, nodes only: give me epochs newer than ``after``."""

    after: int = 0


class Secrets(Frozen, frozen=True):
    """Answer to ``secrets``, oldest first."""

    secrets: tuple[EpochSecret, ...]


class Done(Frozen, frozen=True):
    """Answer to ``dismiss`` and ``withdraw``: done, or it was so already."""


class Probe(Frozen, frozen=True):
    """Site → any node, method ``probe``: can you reach me directly? The node tries the address that the call came from, no other.

    ``ports``: 1 to 8 TCP ports.
    """

    ports: tuple[int, ...]


class Probed(Frozen, frozen=True):
    """``address`` that was tried, and the ``ports`` that accepted a connection."""

    address: str
    open: tuple[int, ...]


class Heed(Frozen, frozen=True):
    """Authority, or whoever holds a newer list, → node, method ``revocations``: put this in force."""

    revocations: Signed


class Heeded(Frozen, frozen=True):
    """Answer to ``revocations``: the list in force now, and kept over a restart.

    ``connections`` and ``tunnels``: how many of the revoked were cut when ``epoch`` came into force; tunnels of users at this
    access point.
    """

    epoch: int
    issued_at: int
    connections: int
    tunnels: int


METHODS: dict[str, tuple[type[msgspec.Struct], type[msgspec.Struct]]] = {
    "appoint": (Appoint, Appointed),
    "dismiss": (Dismiss, Done),
    "advertise": (Advertise, Advertised),
    "withdraw": (Withdraw, Done),
    "servlets": (ServletsQuery, ServletsAnswer),
    "sync": (Sync, Synced),
    "members": (MembersQuery, Members),
    "secrets": (SecretsQuery, Secrets),
    "probe": (Probe, Probed),
    "report": (ReportQuery, Report),
    "past": (PastQuery, Past),
    "drill": (Drill, Drilled),
    "revocations": (Heed, Heeded),
    "grant": (GrantQuery, Granted),
    "issue": (Issue, Issued),
    "expect": (Expect, Expected),
}
"""Method → (body, answer). Method ``ring`` is in ``ring_messages``."""

_STATUS = {
    Verdict.MALFORMED: 400,
    Verdict.UNKNOWN: 404,
    Verdict.REPLAYED: 409,
    Verdict.USED: 409,
    Verdict.BUSY: 503,
    Verdict.WRONG_PLACE: 421,
}


def status_of(refused: Refused) -> int:
    """The status with which a control call answers a refusal (403 unless something fits better); the body is
    ``str(refused)``.
    """
    return _STATUS.get(refused.verdict, 403)
