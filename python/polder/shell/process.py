"""The life of a shell's process: logs, signals, readiness for a supervisor, an orderly end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from polder.shell import logs


class Closeable(Protocol):
    """A running shell."""

    async def close(self) -> None:
        """End in good order."""


Start = Callable[[], Coroutine[Any, Any, Closeable]]
Ready = Callable[[Closeable], None]


def run(start: Start, log_level: str = "info", ready: Ready | None = None) -> int:
    """Run a shell until SIGTERM or SIGINT; returns the exit status (0, or 130 when interrupted from the keyboard).

    ``ready`` is told when the shell serves; a supervisor is told by ``sd_notify(3)``.
    """
    logs.setup(log_level)
    return asyncio.run(_live(start, ready))


async def _live(start: Start, ready: Ready | None) -> int:
    loop = asyncio.get_running_loop()
    started = asyncio.Event()
    ended: asyncio.Future[int] = loop.create_future()

    def end(status: int) -> None:
        if not ended.done():
            ended.set_result(status)

    loop.add_signal_handler(signal.SIGTERM, end, 0)
    loop.add_signal_handler(signal.SIGINT, end, 130)
    starting = asyncio.create_task(start())
    starting.add_done_callback(lambda _: started.set())
    ended.add_done_callback(lambda _: started.set())
    await started.wait()
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
