"""What a node remembers (RFC 2209 §1), what it is told about itself, and what it wants done."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field

from polder.model.reservations import Ask
from polder.rsvp.adspec import Adspec
from polder.rsvp.adspec import Hop as Link
from polder.rsvp.errors import Code, RsvpError
from polder.rsvp.intserv import Flowspec, Tspec
from polder.rsvp.messages import ResvConf
from polder.rsvp.objects import Address, ErrorSpec, Hop, Scope, Sender, Session, Style
from polder.rsvp.timers import Timers
from polder.rsvp.wire import Raw

LOCAL = 0
"""The number of the interface behind which this host's own applications sit."""
SessionKey = tuple[Address, int, int]
PathKey = tuple[SessionKey, Sender]
ResvKey = tuple[SessionKey, int, Address, Sender | None]
"""Session, outgoing interface, next hop; with style FF the sender too, since each of its flows stands alone."""
OutKey = tuple[SessionKey, Address, int]
"""Session, previous hop, the interface towards it."""
TrafficKey = tuple[SessionKey, int, Sender | None]


@dataclass(frozen=True, slots=True)
class Config:
    """How a node behaves; ``polder.settings.rsvp`` says why and at what cost."""

    name: str = "router"
    period: float = 30.0
    lost: int = 3
    longest_period: float = 300.0
    blockade: int = 2
    repair_wait: float = 2.0
    first_retry: float = 0.5
    retries: int = 7
    reduce: bool = True
    ahead: bool = True
    most_paths: int = 4096
    most_reservations: int = 4096
    bundle_bytes: int = 4 << 20

    def lifetime(self, period: float) -> float:
        """Seconds that state lives without a refresh, where refreshes come every ``period`` seconds on average (RFC 2205 §3.7)."""
        return (self.lost + 0.5) * 1.5 * min(max(period, 0.001), self.longest_period)


@dataclass(frozen=True, slots=True)
class Interface:
    """A link of this node. ``capacity``: bytes/s that may be reserved on the way out; ``rate``: what the link carries.

    ``policy``: reservations on it need the policy decision point's word; ``link``: its name there. ``other``: its address of the other IP
    version.
    """

    index: int
    address: Address
    capacity: float = float("inf")
    rate: float = 125e6
    mtu: int = 1500
    latency_us: int = 0
    policy: bool = False
    link: str = ""
    other: Address | None = None

    def own(self, like: Address) -> Address:
        """Its address of the IP version of ``like``; the unspecified one, from which nothing is sent, when it has none."""
        for address in (self.address, self.other):
            if address is not None and address.version == like.version:
                return address
        return type(like)(0)

    def adds(self) -> Link:
        """What it adds to an ADSPEC: a packet may wait for one packet of its own flow at the served rate (C), and for one packet of
        another at the link's rate (D).
        """
        return Link(self.rate, self.mtu, self.latency_us, self.mtu, round(self.mtu / self.rate * 1e6) + 1)


@dataclass(slots=True)
class PathState:
    """A sender's announcement (PSB)."""

    session: Session
    sender: Sender
    tspec: Tspec
    adspec: Adspec | None
    policy: tuple[bytes, ...]
    extra: tuple[Raw, ...]
    hop: Hop
    iif: int
    ttl: int
    period: float
    out: tuple[int, ...] = ()

    def key(self) -> PathKey:
        """Its name."""
        return self.session.key(), self.sender


@dataclass(frozen=True, slots=True)
class Request:
    """What a next hop asks for."""

    session: Session
    style: Style
    flowspec: Flowspec
    senders: tuple[Sender, ...]
    scope: Scope | None = None
    policy: tuple[bytes, ...] = ()
    extra: tuple[Raw, ...] = ()

    def same_but_policy(self, other: Request) -> bool:
        """Whether a decision about one holds for the other; the policy data may be whole once and a hash later."""
        mine = (self.session.key(), self.style, self.flowspec, self.senders)
        return mine == (other.session.key(), other.style, other.flowspec, other.senders)


@dataclass(slots=True)
class ResvState:
    """A next hop's reservation (RSB): what it wants, and what was granted so far (``None``: the decision is awaited)."""

    key: ResvKey
    wanted: Request
    granted: Request | None = None
    period: float = 30.0
    bundle: bytes = b""
    ticket: int = 0
    ask: Ask | None = None
    confirm: Address | None = None


@dataclass(slots=True)
class Blockade:
    """A request that was too large upstream holds back what is not smaller (BSB, RFC 2205 §3.5)."""

    flowspec: Flowspec
    until: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """What traffic control is to do for a flow: on which interface, for whose packets, how much. No senders: anybody's."""

    interface: int
    session: Session
    senders: tuple[Sender, ...]
    flowspec: Flowspec


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message: out of ``interface``, with ``alert`` for routers on the way; ``source`` may be another's (RFC 2205 §3.3)."""

    interface: int
    source: Address
    destination: Address
    ttl: int
    alert: bool
    data: bytes


@dataclass(frozen=True, slots=True)
class Install:
    """Reserve; the same handle again changes it. ``Node.installed`` is to be called when it is in force, or cannot be."""

    handle: int
    traffic: Traffic


@dataclass(frozen=True, slots=True)
class Uninstall:
    """Let go."""

    handle: int


@dataclass(frozen=True, slots=True)
class Question:
    """Ask the policy decision point; ``Node.decided`` takes the answer with the ticket."""

    ticket: int
    ask: Ask


@dataclass(frozen=True, slots=True)
class Ended:
    """Tell the policy decision point that this reservation is over."""

    ask: Ask


@dataclass(frozen=True, slots=True)
class Event:
    """Something for an application of this host. ``kind``: path, path-gone, path-error, resv-error, confirmed."""

    kind: str
    session: Session
    sender: Sender | None = None
    tspec: Tspec | None = None
    adspec: Adspec | None = None
    flowspec: Flowspec | None = None
    error: ErrorSpec | None = None
    reason: str = ""


Action = Send | Install | Uninstall | Question | Ended | Event


@dataclass(slots=True)
class Book:
    """All state of a node, and what it has decided to do since it was last asked."""

    config: Config
    interfaces: dict[int, Interface]
    paths: dict[PathKey, PathState] = field(default_factory=dict)
    reservations: dict[ResvKey, ResvState] = field(default_factory=dict)
    blockades: dict[tuple[SessionKey, Address, Sender | None], Blockade] = field(default_factory=dict)
    installed: dict[SessionKey, dict[TrafficKey, tuple[int, Traffic]]] = field(default_factory=dict)
    handles: dict[int, SessionKey] = field(default_factory=dict)
    freed: list[int] = field(default_factory=list)
    totals: dict[int, float] = field(default_factory=dict)
    ports: Counter[tuple[Address, int, bool]] = field(default_factory=Counter)
    pending: dict[SessionKey, set[int]] = field(default_factory=dict)
    timers: Timers = field(default_factory=Timers)
    actions: list[Action] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    held: dict[int, dict[SessionKey, float]] = field(default_factory=dict)
    tickets: dict[int, ResvKey] = field(default_factory=dict)
    confirmations: dict[SessionKey, list[ResvConf]] = field(default_factory=dict)
    by_session: dict[SessionKey, tuple[set[PathKey], set[ResvKey]]] = field(default_factory=dict)

    def paths_of(self, session: SessionKey) -> list[PathState]:
        """Senders of a session, in a fixed order."""
        return sorted((self.paths[key] for key in self._of(session)[0]), key=lambda p: (p.sender.address.packed, p.sender.port))

    def reservations_of(self, session: SessionKey) -> list[ResvState]:
        """Reservations of a session."""
        return [self.reservations[key] for key in self._of(session)[1]]

    def _of(self, session: SessionKey) -> tuple[set[PathKey], set[ResvKey]]:
        return self.by_session.get(session, (set(), set()))

    def put_path(self, state: PathState) -> None:
        """Remember a sender."""
        self.paths[state.key()] = state
        self._session(state.session.key())[0].add(state.key())

    def drop_path(self, key: PathKey) -> PathState | None:
        """Forget a sender."""
        state = self.paths.pop(key, None)
        self.timers.cancel(("path", key))
        self._unlist(key[0], 0, key)
        return state

    def put_reservation(self, state: ResvState) -> None:
        """Remember a reservation."""
        self.reservations[state.key] = state
        self._session(state.key[0])[1].add(state.key)

    def drop_reservation(self, key: ResvKey) -> ResvState | None:
        """Forget a reservation; the policy decision point is told when it had decided."""
        state = self.reservations.pop(key, None)
        self.timers.cancel(("resv", key))
        self.timers.cancel(("decision", key))
        self._unlist(key[0], 1, key)
        if state is not None and state.ask is not None and state.granted is not None:
            self.actions.append(Ended(state.ask))
        return state

    def _session(self, key: SessionKey) -> tuple[set[PathKey], set[ResvKey]]:
        if key not in self.by_session:
            self.by_session[key] = (set(), set())
            self.ports[key[0], key[1], key[2] == 0] += 1
        return self.by_session[key]

    def _unlist(self, session: SessionKey, which: int, key: PathKey | ResvKey) -> None:
        both = self.by_session.get(session)
        if both is not None:
            both[which].discard(key)
            if not both[0] and not both[1]:
                del self.by_session[session]
                name = (session[0], session[1], session[2] == 0)
                self.ports[name] -= 1
                if not self.ports[name]:
                    del self.ports[name]

    def own_address(self, like: Address) -> Address:
        """An address of this node, of the IP version of ``like``; raises ``RsvpError`` when it has none."""
        for interface in self.interfaces.values():
            if not (own := interface.own(like)).is_unspecified:
                return own
        raise RsvpError(f"no network device of this host has an IPv{like.version} address", Code.API)

    def free_handle(self) -> int:
        """A small number that is free: traffic control numbers its classes with 16 bits."""
        return heapq.heappop(self.freed) if self.freed else len(self.handles) + 1

    def let_go(self, handle: int) -> None:
        """A handle may be used again."""
        del self.handles[handle]
        if self.handles:
            heapq.heappush(self.freed, handle)
        else:
            self.freed.clear()

    def settled(self, session: SessionKey) -> bool:
        """Whether everything of a session is decided, and in force on the links."""
        undecided = any(state.granted is None for state in self.reservations_of(session))
        return not undecided and not self.pending.get(session)

    def in_force(self, handle: int) -> SessionKey | None:
        """Traffic control has done it; whose it is."""
        session = self.handles.get(handle)
        if session is not None and session in self.pending:
            self.pending[session].discard(handle)
            if not self.pending[session]:
                del self.pending[session]
        return session

    def free(self, interface: int, without: SessionKey) -> float:
        """Bytes/s of a link that no other session holds, asked for or granted."""
        own = self.held.get(interface, {}).get(without, 0.0)
        return self.interfaces[interface].capacity - (self.totals.get(interface, 0.0) - own)

    def hold(self, session: SessionKey, rates: dict[int, float]) -> None:
        """What a session holds now, by interface."""
        for interface in self.interfaces:
            sessions, rate = self.held.setdefault(interface, {}), rates.get(interface, 0.0)
            before = sessions.pop(session, 0.0)
            if rate:
                sessions[session] = rate
            self.totals[interface] = self.totals.get(interface, 0.0) - before + rate if sessions else 0.0
