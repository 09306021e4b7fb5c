"""What a supervisor is told: ``sd_notify(3)``, the watchdog, and sockets kept for a restart."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Iterable, MutableMapping

_KEPT = "polder"
"""Name of our descriptors in systemd's store."""


def notify(*lines: str, descriptors: Iterable[int] = ()) -> None:
    """Tell systemd, if it started us. ``descriptors`` go along with ``FDSTORE=1``. Nobody listening is no failure."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        socket.send_fds(sock, ["\n".join(lines).encode()], list(descriptors))


def reloading() -> None:
    """A reload begins; ``READY=1`` ends it (``Type=notify-reload``: the clock tells systemd which reload is meant)."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def keep(descriptors: Iterable[int]) -> None:
    """Have systemd keep listening sockets over a crash, in place of those it kept: clients then wait instead of being refused."""
    notify("FDSTOREREMOVE=1", f"FDNAME={_KEPT}")
    for descriptor in descriptors:
        notify("FDSTORE=1", f"FDNAME={_KEPT}", "FDPOLL=0", descriptors=(descriptor,))


def watchdog_period(env: MutableMapping[str, str], pid: int) -> float | None:
    """Seconds between two signs of life, half of what systemd waits; ``None``: it does not watch this process."""
    limit = env.pop("WATCHDOG_USEC", "")
    watched = env.pop("WATCHDOG_PID", str(pid))
    return int(limit) / 2e6 if limit.isdigit() and int(limit) > 0 and watched == str(pid) else None


async def feed(period: float) -> None:
    """Give signs of life for as long as the event loop turns."""
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(period)
