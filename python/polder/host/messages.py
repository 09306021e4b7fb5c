"""The few messages between an unprivileged agent and the host helper: MessagePack, one per SEQPACKET datagram.

The helper takes meanings, never commands: a filter is asked for as a plan that the helper renders itself, an interface by a
name with our prefix. So an agent that was taken over can open or shut its own perimeter, and do nothing else to the host.
"""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_interface, ip_network

import msgspec

from polder.perimeter import Place, Plan

MAX_MESSAGE = 1 << 18
"""Bytes of one message: a plan of some thousand pairs."""
_NETWORK_DEVICE = re.compile(r"[A-Za-z0-9_.@-]{1,15}\Z")
_DEVICE = re.compile(r"pld[a-z0-9]{1,11}\Z")


def _check_device(name: str) -> None:
    if not _NETWORK_DEVICE.match(name):
        raise ValueError(f"{name!r} is not a network device's name")


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of what crosses the socket."""


class TunnelPeer(Message, frozen=True):
    """The far end of one GRE tunnel: its ``outer`` address, ``key``, and the ``inner`` networks (CIDR) behind it."""

    outer: str
    key: int
    inner: tuple[str, ...]

    def __post_init__(self) -> None:
        ip_address(self.outer)
        for network in self.inner:
            ip_network(network)
        if not 0 < self.key < 1 << 32:
            raise ValueError("a GRE key is a number from 1 to 4294967295")

    def __repr__(self) -> str:
        return f"TunnelPeer(outer={self.outer!r}, inner={self.inner!r}, key withheld)"


class Tunnel(Message, frozen=True, tag="tunnel"):
    """Make or change a tunnel device. ``name`` is ``pld`` and 1 to 11 letters or digits; ``addresses`` are inner ones (CIDR).

    ``local`` are our outer addresses, one per family at most. ``mode``: ``kernel`` (a GRE device per peer), ``tun`` (one
    device, whose bytes the caller carries), ``auto`` (kernel where the kernel can). ``mtu`` counts inner bytes.
    """

    name: str
    addresses: tuple[str, ...]
    local: tuple[str, ...] = ()
    peers: tuple[TunnelPeer, ...] = ()
    mtu: int = 1400
    mode: str = "auto"

    def __post_init__(self) -> None:
        if not _DEVICE.match(self.name):
            raise ValueError(f"{self.name!r} is not a tunnel's name: 'pld' and 1 to 11 of a-z, 0-9")
        for address in self.addresses:
            ip_interface(address)
        if len({ip_address(address).version for address in self.local}) < len(self.local):
            raise ValueError("a tunnel has one outer address of ours per family at most")
        if not 1280 <= self.mtu <= 9000:
            raise ValueError("the MTU of a tunnel is 1280 to 9000 bytes (IPv6 needs 1280: RFC 8200 §5)")
        if self.mode not in {"auto", "kernel", "tun"}:
            raise ValueError(f"{self.mode!r} is not a tunnel mode: auto, kernel or tun")


class FilterApply(Message, frozen=True, tag="filter_apply"):
    """Put a plan in force; after ``rollback_after`` seconds without ``FilterConfirm`` the filter before it comes back.

    ``None`` confirms at once. ``trusted``: interfaces of the inside, let be.
    """

    plan: Plan
    place: Place = Place.ROUTER
    trusted: tuple[str, ...] = ()
    rollback_after: float | None = None


class FilterConfirm(Message, frozen=True, tag="filter_confirm"):
    """Keep the applied filter."""

    site: str


class FilterRollback(Message, frozen=True, tag="filter_rollback"):
    """Put the filter back that was in force before the last unconfirmed ``FilterApply``, at once."""

    site: str


class FilterStatus(Message, frozen=True, tag="filter_status"):
    """Ask for the state and the counters of a site's filter."""

    site: str


class Remove(Message, frozen=True, tag="remove"):
    """Take away a tunnel device (``tunnel``) or a site's filter (``site``)."""

    tunnel: str | None = None
    site: str | None = None


class RsvpSocket(Message, frozen=True, tag="rsvp_socket"):
    """Ask for the raw sockets of RSVP (protocol 46), which also hear what passes by with Router Alert. Whoever holds them can send any
    packet: the helper gives them only where it was started for reservations.
    """


class LinkShape(Message, frozen=True, tag="link_shape"):
    """Make a device's queue ready for reservations: ``rate`` is what the link carries, in bytes/s of whole frames. Reservations come
    first, RSVP itself before them, all else shares what is left. Again with another rate: what this agent reserved stays. ``None``:
    give the device back its usual queue.
    """

    device: str
    rate: int | None

    def __post_init__(self) -> None:
        _check_device(self.device)
        if self.rate is not None and not 1_000 <= self.rate <= 1 << 40:
            raise ValueError("a link carries 1,000 to 2^40 bytes/s")


class FlowReserve(Message, frozen=True, tag="flow_reserve"):
    """Reserve for a flow on a shaped device; the same ``handle`` (1 to 50,000) again changes it.

    Packets to ``destination`` of ``protocol`` and ``port`` (0: any), from ``senders`` as (address, port; 0: any); none: from anybody.
    Up to ``rate`` bytes/s plus ``bucket`` bytes of IP packets get the reserved queue, served with ``served`` bytes/s; more is carried
    as anybody else's. Packets have at most ``max_packet`` bytes.
    """

    device: str
    handle: int
    protocol: int
    destination: str
    port: int
    senders: tuple[tuple[str, int], ...]
    rate: int
    bucket: int
    served: int
    max_packet: int

    def __post_init__(self) -> None:
        _check_device(self.device)
        version = ip_address(self.destination).version
        if any(ip_address(address).version != version or not 0 <= port < 1 << 16 for address, port in self.senders):
            raise ValueError("senders have an address of the destination's family and a port from 0 to 65535")
        for name, value, least, most in (
            ("handle", self.handle, 1, 50_000),
            ("protocol", self.protocol, 1, 255),
            ("port", self.port, 0, 65_535),
            ("rate", self.rate, 1, 1 << 40),
            ("bucket", self.bucket, 1, 1 << 31),
            ("served", self.served, self.rate, 1 << 40),
            ("max_packet", self.max_packet, 1, 65_535),
            ("number of senders", len(self.senders), 0, 256),
        ):
            if not least <= value <= most:
                raise ValueError(f"{name} is {least} to {most}, not {value}")


class FlowRelease(Message, frozen=True, tag="flow_release"):
    """Let a flow's reservation go; nothing happens when there is none."""

    device: str
    handle: int


class FlowCounts(Message, frozen=True, tag="flow_counts"):
    """Ask what the reserved flows of a device carried."""

    device: str


class Probe(Message, frozen=True, tag="probe"):
    """Ask what this host can do."""


Request = (
    Tunnel
    | FilterApply
    | FilterConfirm
    | FilterRollback
    | FilterStatus
    | Remove
    | Probe
    | RsvpSocket
    | LinkShape
    | FlowReserve
    | FlowRelease
    | FlowCounts
)


class Done(Message, frozen=True, tag="done"):
    """It is so."""


class TunnelUp(Message, frozen=True, tag="tunnel_up"):
    """The device is up. In mode ``tun`` descriptors come along in the order of ``fds``: ``tun``, ``raw4``, ``raw6``.

    None come when the call changed a device that the caller already has descriptors of.
    """

    name: str
    mode: str
    fds: tuple[str, ...] = ()


class RsvpReady(Message, frozen=True, tag="rsvp_ready"):
    """The raw sockets come along, in the order of ``sockets``: ``4``, ``6``, ``6-alert`` (see ``polder.host.shaping.open_rsvp``)."""

    sockets: tuple[str, ...]


class FlowsCarried(Message, frozen=True, tag="flows_carried"):
    """By handle: packets and bytes within the reservation, packets and bytes beyond it."""

    flows: dict[int, tuple[int, int, int, int]]


class FilterState(Message, frozen=True, tag="filter_state"):
    """A site's filter: in force or not, seconds until it is rolled back, counters as name → (packets, bytes)."""

    site: str
    in_force: bool
    rollback_in: float | None
    counters: dict[str, tuple[int, int]]


class Abilities(Message, frozen=True, tag="abilities"):
    """What the host can do: programs and kernel features by name; ``None`` is yes, a text says why not."""

    missing: dict[str, str | None]


class Failed(Message, frozen=True, tag="failed"):
    """It is not so: why, whether a retry may help."""

    why: str
    retry: bool = False


Reply = Done | TunnelUp | RsvpReady | FlowsCarried | FilterState | Abilities | Failed


def decode_request(data: bytes) -> Request:
    """A request; raises ``ValueError`` saying what is wrong with it."""
    try:
        request: Request = msgspec.msgpack.decode(data, type=Request)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"malformed request: {error}") from error
    return request


def decode_reply(data: bytes) -> Reply:
    """A reply of the helper."""
    try:
        reply: Reply = msgspec.msgpack.decode(data, type=Reply)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"malformed reply of the host helper: {error}: is it of another version?") from error
    return reply


def encode(message: Request | Reply) -> bytes:
    """The bytes of one message."""
    return msgspec.msgpack.encode(message)
