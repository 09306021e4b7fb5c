"""Network namespaces, their devices and addresses: thin, and only ever inside the laboratory."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterable

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_CLONE_NEWNET = 0x4000_0000
_IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE = 10, 3
_UDP_BUFFER = 1 << 20
_libc = ctypes.CDLL(None, use_errno=True)


class LinkError(RuntimeError):
    """A network command failed; the text is the tool's own. Nothing outside the laboratory was touched."""


def ip(commands: Iterable[str], host: str | None = None) -> None:
    """Run commands of iproute2 in one batch, in the namespace ``host`` or in the laboratory's own."""
    _batch(["ip", *(["-netns", host] if host else []), "-batch", "-"], commands)


def tc(commands: Iterable[str], host: str) -> None:
    """Run commands of tc in one batch."""
    _batch(["tc", "-netns", host, "-batch", "-"], commands)


def _batch(argv: list[str], commands: Iterable[str]) -> None:
    text = "\n".join(commands) + "\n"
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LinkError(f"{' '.join(argv)}: {done.stderr.strip()} in:\n{text}")


def nft(commands: Iterable[str], host: str) -> None:
    """Run commands of nftables in one batch: all of them, or none."""
    _batch([*enter(host), "nft", "-f", "-"], commands)


def bring_up_loopback() -> None:
    """A new network namespace starts with its loopback device down."""
    ip(["link set lo up"])


def enter(host: str) -> list[str]:
    """The words before a command that make it run on ``host``."""
    return ["nsenter", f"--net=/run/netns/{host}", "--"]


def sysctl(host: str, settings: dict[str, int]) -> None:
    """Set kernel parameters below ``net.`` on ``host``."""
    words = [f"net.{key}={value}" for key, value in settings.items()]
    done = subprocess.run([*enter(host), "sysctl", "-qw", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LinkError(f"sysctl on {host}: {done.stderr.strip()}")


def open_tun(host: str, name: str) -> int:
    """Make the TUN device ``name`` on ``host``; returns its non-blocking descriptor, which carries bare IP packets."""
    try:
        return _there(host, lambda: _open_tun(name))
    except OSError as error:
        hint = "; run as root, or let everybody open /dev/net/tun (mode 0666, as most distributions ship it)"
        denied = hint if isinstance(error, PermissionError) else ""
        raise LinkError(f"cannot make the TUN device {name} on {host}: {error}{denied}") from error


def open_udp(host: str, address: str, port: int) -> int:
    """A non-blocking UDP socket (IPv4) bound on ``host``; datagrams are never fragmented. Its descriptor; raises ``LinkError``."""

    def there() -> int:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UDP_BUFFER)
        opened.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
        opened.bind((address, port))
        return opened.detach()

    try:
        return _there(host, there)
    except OSError as error:
        raise LinkError(f"cannot open a UDP socket at {address}, port {port}, on {host}: {error}") from error


def _there(host: str, act: Callable[[], int]) -> int:
    """The descriptor that ``act`` opens on ``host``.

    A socket or device belongs to the namespace of the thread that opened it, and the descriptor works from everywhere, so a
    thread goes there and comes to its end.
    """
    result: list[int | OSError] = []

    def work() -> None:
        try:
            _go(host)
            result.append(act())
        except OSError as error:
            result.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if isinstance(result[0], OSError):
        raise result[0]
    return result[0]


def _go(host: str) -> None:
    place = os.open(f"/run/netns/{host}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(place, _CLONE_NEWNET) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
    finally:
        os.close(place)


def _open_tun(name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError:
        os.close(fd)
        raise
    return fd


def shaper_counts(host: str, device: str) -> dict[str, int]:
    """``bytes``, ``packets`` and ``drops`` of the outermost queueing discipline of a device."""
    done = subprocess.run(
        ["tc", "-netns", host, "-json", "-statistics", "qdisc", "show", "dev", device],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LinkError(f"tc on {host}: {done.stderr.strip()}")
    root = next(one for one in json.loads(done.stdout) if one.get("root"))
    return {key: int(root[key]) for key in ("bytes", "packets", "drops")}
