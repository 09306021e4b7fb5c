"""What the kernel knows: devices, their addresses, which way data go, and when that changed (rtnetlink(7)); packets in and out."""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from polder.rsvp.errors import RsvpError
from polder.rsvp.ip import Packet
from polder.rsvp.objects import Address
from polder.rsvp.state import LOCAL

_NETLINK_ROUTE, _GETROUTE, _REQUEST = 0, 26, 1
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""Links; addresses and routes of IPv4, of IPv6."""
_DEVICES = frozenset({16, 17, 20, 21})
"""RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR."""
_RTA_DST, _RTA_OIF = 1, 4
_LOCAL_ROUTE = 2
_SIOCGIFADDR, _SIOCGIFMTU = 0x8915, 0x8921
_IP_PKTINFO = 8
_MOST_KNOWN = 16_384
_INET6 = Path("/proc/self/net/if_inet6")
_TENTATIVE, _GLOBAL, _ON_LINK = 0x40, 0x00, 0x20


@dataclass(frozen=True, slots=True)
class Device:
    """A network device: the largest packet that it carries, and an address of each version that it has."""

    index: int
    name: str
    mtu: int
    four: IPv4Address | None
    six: IPv6Address | None


def devices() -> list[Device]:
    """Network devices but the loopback that have an address, by number."""
    six, found = _six(), []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for index, name in socket.if_nameindex():
            if name == "lo":
                continue
            try:
                mtu = _ioctl(any_socket, _SIOCGIFMTU, name)
            except OSError:
                continue  # it went away meanwhile
            try:
                four = IPv4Address(_ioctl(any_socket, _SIOCGIFADDR, name)[20:24])
            except OSError:
                four = None
            if four is not None or index in six:
                found.append(Device(index, name, int(struct.unpack_from("=i", mtu, 16)[0]), four, six.get(index)))
    return found


def _ioctl(any_socket: socket.socket, number: int, device: str) -> bytes:
    return fcntl.ioctl(any_socket, number, struct.pack("256s", device.encode()[:15]))


def _six() -> dict[int, IPv6Address]:
    """An IPv6 address of each device: a global one where there is one, else that of the link."""
    found: dict[int, tuple[int, IPv6Address]] = {}
    try:
        lines = _INET6.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return {}  # the host does not speak it
    for line in lines:
        address, index, _, scope, flags, _ = line.split()
        rank = int(scope, 16)
        if int(flags, 16) & _TENTATIVE or rank not in {_GLOBAL, _ON_LINK}:
            continue
        known = found.get(int(index, 16))
        if known is None or rank < known[0]:
            found[int(index, 16)] = (rank, IPv6Address(bytes.fromhex(address)))
    return {index: address for index, (_, address) in found.items()}


class KernelRoutes:
    """Answers "which way?" from memory while nothing changes. ``fileno`` is readable when something did: then call ``changed``."""

    def __init__(self) -> None:
        self._asking = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE)
        self._hearing = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE)
        self._hearing.bind((0, _GROUPS))
        self._hearing.setblocking(False)
        self._known: dict[Address, tuple[int, ...]] = {}
        self._number = 0

    def fileno(self) -> int:
        """See the class."""
        return self._hearing.fileno()

    def changed(self) -> bool:
        """Take what was said, and forget what was known. Returns whether devices or their addresses may have changed too."""
        self._known.clear()
        changed = False
        while True:
            try:
                told = self._hearing.recv(65536)
            except BlockingIOError:
                return changed
            except OSError:
                return True  # the kernel said more than was heard (ENOBUFS)
            while len(told) >= 16:
                length, kind = struct.unpack_from("=IH", told)
                changed = changed or kind in _DEVICES
                told = told[max(16, (length + 3) & ~3) :]

    def way(self, destination: Address, source: Address) -> tuple[int, ...]:
        """Where data leave for ``destination``; ``LOCAL`` when it is an address of this host; nothing when there is no route."""
        known = self._known.get(destination)
        if known is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            known = self._known[destination] = self._ask(destination)
        return known

    def close(self) -> None:
        """End."""
        self._asking.close()
        self._hearing.close()

    def _ask(self, destination: Address) -> tuple[int, ...]:
        self._number += 1
        family = socket.AF_INET if destination.version == 4 else socket.AF_INET6
        packed = destination.packed
        body = struct.pack("=BBBBBBBBI", family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0)
        body += struct.pack("=HH", 4 + len(packed), _RTA_DST) + packed
        head = struct.pack("=IHHII", 16 + len(body), _GETROUTE, _REQUEST, self._number, 0)
        self._asking.send(head + body)
        answer = self._asking.recv(4096)
        kind = struct.unpack_from("=H", answer, 4)[0]
        if kind == 2 or len(answer) < 28:  # NLMSG_ERROR: no route
            return ()
        if answer[16 + 7] == _LOCAL_ROUTE:
            return (LOCAL,)
        at = 28
        while at + 4 <= len(answer):
            length, attribute = struct.unpack_from("=HH", answer, at)
            if attribute == _RTA_OIF:
                return (int(struct.unpack_from("=I", answer, at + 4)[0]),)
            at += max(4, (length + 3) & ~3)
        return ()


def read_socket(raw: socket.socket, take: Callable[[Packet, int], None], bad: Callable[[], None], most: int = 64) -> None:
    """Packets that wait at a raw socket, each with the number of the interface where it came in; at most ``most``. ``bad`` hears of
    each that is none.
    """
    for _ in range(most):
        try:
            data, ancillary, _, source = raw.recvmsg(65536, 256)
        except BlockingIOError:
            return
        told = {(level, kind): value for level, kind, value in ancillary}
        try:
            if raw.family == socket.AF_INET:
                index = struct.unpack_from("=i", told[socket.IPPROTO_IP, _IP_PKTINFO])[0]
                packet = Packet.read(data)
            else:
                to, index = struct.unpack_from("=16si", told[socket.IPPROTO_IPV6, socket.IPV6_PKTINFO])
                (left,) = struct.unpack_from("=i", told[socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT])
                packet = Packet.read6(data, IPv6Address(source[0].partition("%")[0]), IPv6Address(to), left)
        except (RsvpError, KeyError, struct.error):
            bad()
            continue
        take(packet, index)


def write_socket(raw: socket.socket, packet: Packet, interface: int, mtu: int, number: int) -> None:
    """Send a packet out of an interface, in pieces where it is larger than ``mtu``. Raises ``OSError``."""
    if raw.family == socket.AF_INET:
        way = [(socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=i4s4s", interface, bytes(4), bytes(4)))]
        to: tuple[object, ...] = (str(packet.destination), 0)
    else:
        way = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, struct.pack("=16si", bytes(16), interface))]
        to = (str(packet.destination), 0, 0, interface if packet.destination.is_link_local else 0)
    for piece in packet.pieces(mtu, number):
        raw.sendmsg([piece], way, 0, to)
