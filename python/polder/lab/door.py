"""A door into a running laboratory: a port on this machine's loopback that leads to a user's forwarder inside.

``python -m polder.lab.door outside PORT SOCKET`` stays in the machine's network and ends with its stdin;
``python -m polder.lab.door inside PORT SOCKET`` runs on the user's host. They meet at a Unix socket: those are not bound to
network namespaces. Loopback only, in both directions.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

_CHUNK = 1 << 16

Dial = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


def _relay(dial: Dial) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """Handles a connection by carrying it to where ``dial`` leads."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await dial()
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))

    return handle


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        writer.close()


async def outside(port: int, path: str) -> None:
    """Serve loopback port ``port`` until stdin ends. Raises ``OSError`` when the port is taken."""
    server = await asyncio.start_server(_relay(lambda: asyncio.open_unix_connection(path)), "127.0.0.1", port)
    print("open", flush=True)
    async with server:
        await asyncio.to_thread(sys.stdin.buffer.read)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - one call at the end of a process


async def inside(port: int, path: str) -> None:
    """Serve the Unix socket until killed."""
    server = await asyncio.start_unix_server(_relay(lambda: asyncio.open_connection("127.0.0.1", port)), path)
    Path(path).chmod(0o600)  # noqa: ASYNC240 - once, before the first connection
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run({"outside": outside, "inside": inside}[sys.argv[1]](int(sys.argv[2]), sys.argv[3]))
