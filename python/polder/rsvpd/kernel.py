"""What the kernel knows: devices, their addresses, which way data go, and when that changed (rtnetlink(7))."""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv4Address

from polder.rsvp.objects import Address
from polder.rsvp.state import LOCAL

_NETLINK_ROUTE, _GETROUTE, _REQUEST = 0, 26, 1
_GROUPS = 0x1 | 0x10 | 0x40
"""Links, IPv4 addresses, IPv4 routes."""
_RTA_DST, _RTA_OIF = 1, 4
_LOCAL_ROUTE = 2
_SIOCGIFADDR, _SIOCGIFMTU = 0x8915, 0x8921
_MOST_KNOWN = 16_384


def device_address(device: str) -> IPv4Address | None:
    """The first IPv4 address of a device."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket, _SIOCGIFADDR, struct.pack("256s", device.encode()[:15]))
        except OSError:
            return None
    return IPv4Address(answer[20:24])


def device_mtu(device: str) -> int:
    """The largest packet that a device carries."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, _SIOCGIFMTU, struct.pack("256s", device.encode()[:15]))
    return int(struct.unpack_from("=i", answer, 16)[0])


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

    def changed(self) -> None:
        """Take what was said, and forget what was known."""
        self._known.clear()
        try:
            while self._hearing.recv(65536):
                pass
        except BlockingIOError:
            pass
        except OSError:
            self._known.clear()  # the kernel said more than was heard (ENOBUFS): nothing is known for certain then either

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
        if destination.version != 4:
            return ()
        self._number += 1
        body = struct.pack("=BBBBBBBBI", socket.AF_INET, 32, 0, 0, 0, 0, 0, 0, 0)
        body += struct.pack("=HH4s", 8, _RTA_DST, destination.packed)
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


def read_socket(raw: socket.socket, take: Callable[[bytes, int], None], most: int = 64) -> None:
    """Packets that wait at a raw socket, each with the number of the interface where it came in; at most ``most``."""
    for _ in range(most):
        try:
            data, ancillary, _, _ = raw.recvmsg(65536, 64)
        except BlockingIOError:
            return
        for level, kind, value in ancillary:
            if (level, kind) == (socket.IPPROTO_IP, 8) and len(value) >= 12:
                take(data, int(struct.unpack_from("=i", value)[0]))


def devices() -> list[tuple[int, str]]:
    """Network devices but the loopback, by number."""
    return [(index, name) for index, name in socket.if_nameindex() if name != "lo"]
