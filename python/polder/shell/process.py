"""The life of a shell's process: logs, signals, readiness for a supervisor, an orderly end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import Protocol

from polder.shell import logs


class Closeable(Protocol):
    """A running shell."""

    async def close(self) -> None:
        """End in good order."""


def run(start: Callable[[], Awaitable[Closeable]], log_level: str = "info", ready: Callable[[Closeable], None] | None = None) -> int:
    """Run a shell until SIGTERM or SIGINT; returns the exit status (0, or 130 when interrupted from the keyboard).

    ``ready`` is told when the shell serves; a supervisor is told by ``sd_notify(3)``.
    """
    logs.setup(log_level)
    return asyncio.run(_live(start, ready))


async def _live(start: Callable[[], Awaitable[Closeable]], ready: Callable[[Closeable], None] | None) -> int:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def end(status: int) -> None:
        if not ended.done():
            ended.set_result(status)

    loop.add_signal_handler(signal.SIGTERM, end, 0)
    loop.add_signal_handler(signal.SIGINT, end, 130)
    starting = asyncio.ensure_future(start())
    await asyncio.wait({starting, ended}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return ended.result()
    shell = starting.result()
    try:
        notify("READY=1")
        if ready is not None:
            ready(shell)
        return await ended
    finally:
        notify("STOPPING=1")
        await shell.close()


def notify(state: str) -> None:
    """Tell systemd, if it started us (``sd_notify(3)``)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect("\0" + address[1:] if address.startswith("@") else address)
            sock.send(state.encode())
