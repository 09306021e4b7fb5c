"""A live stream over HTTP, as a camera's: ``python -m polder.lab.olintserv.stream serve|play JSON``.

``serve`` makes 25 frames a second, every 12th a large one, and sends each to everybody who watches ``/live``, with its number and the
time of its making by the clock that all namespaces share. Who does not take them as fast as they are made misses frames, as with every
encoder for live pictures: nothing waits at the sender for longer than ``_BEHIND_S``. It takes ``address, port, mbit`` and prints a line
when it listens.

``play`` watches through a forwarder (HTTP CONNECT) until its input ends. It takes ``proxy, host, port`` and prints, four times a
second, the frames that came: ``{"frames": [[number, made, came, bytes], …], "opened": n}``. A connection over which nothing came for
``_PATIENCE_S``, or that broke, is given up and opened anew, at the present picture.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import sys

from polder.lab.olintserv.playing import FRAME_S
from polder.shell.clock import wall

HEAD = struct.Struct("!IId")
"""Number, length of what follows, time of making."""
KEY_EVERY, KEY_SHARE = 12, 3.0
"""Every 12th frame is a whole picture: three times as long as frames are on average."""
_BEHIND_S, _PATIENCE_S, _TELL_S = 0.5, 2.0, 0.25
_LONGEST = 1 << 20
_AGAIN_S = 0.1


def size(number: int, mbit: float) -> int:
    """Bytes of a frame, head and all: of each ``KEY_EVERY`` one is large, and together they make ``mbit``."""
    mean = mbit * 1e6 / 8 * FRAME_S
    share = KEY_SHARE if number % KEY_EVERY == 0 else (KEY_EVERY - KEY_SHARE) / (KEY_EVERY - 1)
    return round(mean * share)


class Camera:
    """The stream's sender."""

    def __init__(self, mbit: float) -> None:
        self.epoch = wall()
        self._mbit = mbit
        self._viewers: set[asyncio.StreamWriter] = set()

    async def serve(self, address: str, port: int) -> None:
        """Until killed."""
        server = await asyncio.start_server(self._accept, address, port)
        print(json.dumps({"epoch": self.epoch}), flush=True)
        async with server:
            await self._film()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            writer.close()
            return
        # What the kernel holds is late already: the queue is here, where frames can be left out.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nConnection: close\r\n\r\n")
        self._viewers.add(writer)

    async def _film(self) -> None:
        number = 0
        most = self._mbit * 1e6 / 8 * _BEHIND_S
        while True:
            await asyncio.sleep(max(0.0, self.epoch + number * FRAME_S - wall()))
            made, length = wall(), size(number, self._mbit) - HEAD.size
            frame = HEAD.pack(number, length, made) + bytes(length)
            for viewer in [*self._viewers]:
                if viewer.is_closing():
                    self._viewers.discard(viewer)
                elif viewer.transport.get_write_buffer_size() + len(frame) <= most:
                    viewer.write(frame)
            number += 1


class Player:
    """Watches, and tells what came."""

    def __init__(self, proxy: tuple[str, int], target: str) -> None:
        self._proxy, self._target = proxy, target
        self._frames: list[tuple[int, float, float, int]] = []
        self._opened = 0

    async def run(self) -> None:
        """Until the input ends; the last frames are told."""
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        loop.add_reader(sys.stdin, over.set)
        watching = asyncio.create_task(self._watch())
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), _TELL_S)
            self._tell()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        self._tell()

    def _tell(self) -> None:
        frames, self._frames = self._frames, []
        print(json.dumps({"frames": frames, "opened": self._opened}), flush=True)

    async def _watch(self) -> None:
        while True:
            try:
                await self._connection()
            except (OSError, TimeoutError, EOFError, ValueError, asyncio.LimitOverrunError):
                await asyncio.sleep(_AGAIN_S)

    async def _connection(self) -> None:
        async with asyncio.timeout(_PATIENCE_S):
            reader, writer = await asyncio.open_connection(*self._proxy)
        try:
            writer.write(f"CONNECT {self._target} HTTP/1.1\r\nHost: {self._target}\r\n\r\n".encode())
            writer.write(f"GET /live HTTP/1.1\r\nHost: {self._target}\r\n\r\n".encode())
            for _ in range(2):
                async with asyncio.timeout(_PATIENCE_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                if head.split(maxsplit=2)[1] != b"200":
                    raise ValueError(head.decode(errors="replace"))
            self._opened += 1
            while True:
                async with asyncio.timeout(_PATIENCE_S):
                    number, length, made = HEAD.unpack(await reader.readexactly(HEAD.size))
                    if length > _LONGEST:
                        raise ValueError("not a frame")
                    await reader.readexactly(length)
                self._frames.append((number, made, wall(), HEAD.size + length))
        finally:
            writer.close()


def main() -> int:
    """See the module."""
    work, given = sys.argv[1], json.loads(sys.argv[2])
    match work:
        case "serve":
            asyncio.run(Camera(given["mbit"]).serve(given["address"], given["port"]))
        case "play":
            host, _, port = given["proxy"].rpartition(":")
            asyncio.run(Player((host, int(port)), f"{given['host']}:{given['port']}").run())
        case _:
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
