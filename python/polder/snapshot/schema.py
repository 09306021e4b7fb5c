"""The data-plane snapshot, events and configuration: Python's half of ``crates/types``.

Field names and types match the Rust structs one by one. MessagePack maps; enumerations are externally tagged as serde does it.
"""

from __future__ import annotations

from typing import Any

import msgspec

SCHEMA = 1


class Frozen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the values that cross the boundary."""


class IdentityMaterial(Frozen, frozen=True):
    """Certificate chain (DER, leaf first) and private key (PKCS #8 DER)."""

    chain: tuple[bytes, ...]
    key: bytes

    def __repr__(self) -> str:
        return f"IdentityMaterial({len(self.chain)} certificates, key withheld)"


class Revocations(Frozen, frozen=True):
    """The revocation list in force; ``fresh_until`` (Unix seconds) refuses new work afterwards; ``issuers``: those in use (DER)."""

    epoch: int = 0
    identities: tuple[str, ...] = ()
    keys: tuple[bytes, ...] = ()
    fresh_until: int | None = None
    issuers: tuple[bytes, ...] = ()


class Peer(Frozen, frozen=True):
    """A node that this process may link to; ``ring_id`` is 16 bytes, ``address`` is ``ip:port``."""

    name: str
    ring_id: bytes
    address: str
    warm: bool = False


class RingRoute(Frozen, frozen=True):
    """Next ring hop towards beacon key number ``key``; ``None``: this node owns it."""

    key: int
    next: str | None
    alternatives: tuple[str, ...] = ()


class Tell(Frozen, frozen=True):
    """A site asks who its users are: ``key`` is its agent's X25519 public key; ``address``: their addresses too."""

    key: bytes
    address: bool


class Told(Frozen, frozen=True):
    """Site role: ``how`` (``proxy-v2`` or ``header``) the origin is told, and the agent's keys."""

    how: str
    seal_secret: bytes
    seal_public: bytes
    sign_key: bytes
    sign_id: str
    window: int

    def __repr__(self) -> str:
        return f"Told({self.how}, keys withheld)"


class Site(Frozen, frozen=True):
    """A registered site. ``allow`` and ``deny`` are ``{"user": n}``, ``{"group": n}`` or ``"anyone"``."""

    name: str
    hosts: tuple[str, ...]
    ports: tuple[int, ...]
    allow: tuple[Any, ...]
    deny: tuple[Any, ...]
    mode: str
    beacons: tuple[str, ...] = ()
    servlets: tuple[str, ...] = ()
    ring: tuple[RingRoute, ...] = ()
    tell: Tell | None = None


class BeaconEntry(Frozen, frozen=True):
    """This node is a beacon for ``site``."""

    site: str
    servlets: tuple[str, ...]


class ServletEntry(Frozen, frozen=True):
    """This node is a servlet for ``site``; ``delivery`` is ``"dialout"`` or ``{"tcp": {address, bind, ports, preface}}``."""

    site: str
    delivery: Any


class Forwarder(Frozen, frozen=True):
    """A user's forwarder: access points, the hosts that go through them, and the PAC file's text.

    ``early_answer``: CONNECT is answered before the overlay has, so that the client's first bytes travel with the open.
    ``plane``: ``tunnel``, ``spread`` or ``auto``.
    """

    access_points: tuple[str, ...]
    hosts: tuple[str, ...]
    pac: str
    early_answer: bool = True
    plane: str = "tunnel"


class Tracing(Frozen, frozen=True):
    """How openings of tunnels are traced: ``sample_ppm`` of a million that begin here; ``honour`` a client's own trace;

    ``to_origin``: pass a client's trace fields on to origins.
    """

    sample_ppm: int
    honour: bool = False
    to_origin: bool = False


class Limits(Frozen, frozen=True):
    """Bounds; units, reasons and memory costs stand at the knobs in ``polder.settings``."""

    tunnels_per_identity: int = 512
    tunnel_rate_per_identity: int = 200
    connections_per_source: int = 256
    handshake_rate_per_source: int = 50
    connections: int = 16384
    replay_bytes: int = 65536
    open_timeout_ms: int = 2000
    header_timeout_ms: int = 10000
    idle_timeout_ms: int = 600000
    stream_window: int = 1 << 20
    link_window: int = 256 << 20
    streams_per_link: int = 20000
    max_hops: int = 32
    keepalive_timeout_ms: int = 60000
    stall_timeout_ms: int = 10000
    body_rate_floor: int = 256
    streams_per_client: int = 256
    reset_rate_per_client: int = 50
    silence_ms: int = 1500
    retry_percent: int = 20
    retry_burst: int = 50
    connections_per_identity: int = 256
    frame_rate_per_identity: int = 10_000
    head_bytes: int = 16384
    head_fields: int = 100
    stalled_per_identity: int = 32
    handshake_rate_per_identity: int = 5
    handshake_percent: int = 20
    work_percent_per_identity: int = 10
    spread_stream_window: int = 4 << 20
    spread_session_window: int = 8 << 20
    spread_streams: int = 256
    spread_idle_ms: int = 60000
    spread_tolerated_percent: int = 5
    refusal_rate: int = 1000
    flood_patience_ms: int = 5000
    overwork_rest: int = 3
    homes_per_identity: int = 16
    crowd_bytes: int = 1 << 20
    unsent_bytes: int = 262144
    memory_bytes: int = 0


class SpreadEpoch(Frozen, frozen=True):
    """A relay's key of one epoch, 32 bytes; taken from ``not_before`` to ``not_after`` (Unix seconds)."""

    number: int
    key: bytes
    not_before: int
    not_after: int

    def __repr__(self) -> str:
        return f"SpreadEpoch({self.number}, key withheld)"


class SpreadMembers(Frozen, frozen=True):
    """The relays of one version of the overlay: first eight bytes of the ring id, and ``ip:port`` for datagrams."""

    version: int
    list: tuple[tuple[int, str], ...]


class Spread(Frozen, frozen=True):
    """A node's part in the spread plane.

    ``me``: the first eight bytes of its ring id. ``epochs``: current, previous within its grace, next. ``members``: the current
    list, then the previous one. ``sessions``: most that the relay remembers. ``span_ms``: by how much a packet's time may differ.
    ``return_age``: seconds for which a reply may use a user's address. ``end_key``: P-256 key (PKCS #8) by which users know this
    process as the end of their sessions; empty: none end here.
    """

    me: int
    epochs: tuple[SpreadEpoch, ...]
    members: tuple[SpreadMembers, ...]
    sessions: int
    span_ms: int
    return_age: int
    end_key: bytes = b""

    def __repr__(self) -> str:
        return f"Spread({self.me:016x}, end key withheld)"


class Snapshot(Frozen, frozen=True):
    """Everything the data plane of one process needs to decide about bytes."""

    version: int
    trust_domain: str
    roots: tuple[bytes, ...]
    identity: IdentityMaterial
    revocations: Revocations = Revocations()
    peers: tuple[Peer, ...] = ()
    sites: tuple[Site, ...] = ()
    beacons: tuple[BeaconEntry, ...] = ()
    servlets: tuple[ServletEntry, ...] = ()
    limits: Limits = Limits()
    forwarder: Forwarder | None = None
    tracing: Tracing | None = None
    shortcuts: bool = False
    cut: tuple[str, ...] = ()
    told: Told | None = None
    spread: Spread | None = None
    schema: int = SCHEMA


class EngineConfig(Frozen, frozen=True):
    """What an engine is born with: ``role`` is ``node``, ``forwarder`` or ``site``.

    ``inherit``: descriptors of sockets that listen already, by their address as in ``listen``; the caller closes its own.
    ``spread_listen``: UDP addresses of the relay; ``spread_buffer``: room of each of its sockets, bytes (0: 4 MiB).
    """

    role: str
    listen: tuple[str, ...]
    workers: int = 1
    event_queue: int = 4096
    call_timeout_ms: int = 5000
    origins: tuple[tuple[int, str], ...] = ()
    inherit: tuple[tuple[str, int], ...] = ()
    spread_listen: tuple[str, ...] = ()
    spread_buffer: int = 0
    schema: int = SCHEMA


class Call(Frozen, frozen=True):
    """A peer's control call, with what its verified certificate says; answer with ``reply(id, …)``."""

    id: int
    kind: str
    name: str
    ring_id: bytes | None
    source: str
    method: str
    body: bytes


class Answer(Frozen, frozen=True):
    """The answer to ``call``; ``status`` 0: none came, ``body`` says why."""

    id: int
    status: int
    body: bytes


class Link(Frozen, frozen=True):
    """A link came up (``rtt_us`` known) or went down (``reason``)."""

    name: str
    up: bool
    rtt_us: int
    reason: str


class DialOutChange(Frozen, frozen=True):
    """A site's agent dialled this node, or its last connection ended."""

    site: str
    up: bool


class SpreadWanted(Frozen, frozen=True):
    """Forwarder: tunnels go to this target, and a session of the spread plane would be of use."""

    host: str
    port: int


class SpreadSession(Frozen, frozen=True):
    """Forwarder: a session of the spread plane is up, or is over (``reason``)."""

    site: str
    up: bool
    reason: str


class Refusal(Frozen, frozen=True):
    """Something the data plane refused and the operator should see."""

    what: str
    why: str
    who: str
    source: str


class Log(Frozen, frozen=True):
    """A log record of the native side."""

    level: str
    target: str
    text: str


class Span(Frozen, frozen=True):
    """A part of a sampled trace has ended: ids in hexadecimal (``parent`` empty at a root), times in microseconds.

    ``error``: RFC 9209's token, ``given_up``, or empty when it went well.
    """

    trace: str
    span: str
    parent: str
    name: str
    stage: str
    error: str
    began_us: int
    took_us: int


class Lost(Frozen, frozen=True):
    """Events dropped because the queue was full."""

    count: int


Event = Call | Answer | Link | DialOutChange | SpreadWanted | SpreadSession | Refusal | Log | Span | Lost

EVENT_KINDS: dict[str, type] = {
    "call": Call,
    "answer": Answer,
    "link": Link,
    "dial_out": DialOutChange,
    "spread_wanted": SpreadWanted,
    "spread_session": SpreadSession,
    "refused": Refusal,
    "log": Log,
    "span": Span,
    "lost": Lost,
}


def decode_event(data: bytes) -> Event:
    """One event from its bytes; raises ``ValueError`` if the two halves of the schema differ."""
    raw = msgspec.msgpack.decode(data)
    ((kind, body),) = raw.items()
    event: Event = msgspec.convert(body, EVENT_KINDS[kind])
    return event
