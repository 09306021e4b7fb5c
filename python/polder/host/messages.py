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
_DEVICE = re.compile(r"pld[a-z0-9]{1,11}\Z")


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


class Probe(Message, frozen=True, tag="probe"):
    """Ask what this host can do."""


Request = Tunnel | FilterApply | FilterConfirm | FilterRollback | FilterStatus | Remove | Probe


class Done(Message, frozen=True, tag="done"):
    """It is so."""


class TunnelUp(Message, frozen=True, tag="tunnel_up"):
    """The device is up. In mode ``tun`` descriptors come along in the order of ``fds``: ``tun``, ``raw4``, ``raw6``.

    None come when the call changed a device that the caller already has descriptors of.
    """

    name: str
    mode: str
    fds: tuple[str, ...] = ()


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


Reply = Done | TunnelUp | FilterState | Abilities | Failed


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
