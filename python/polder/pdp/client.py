"""A router's side: questions out, answers back, and a refusal in words while the policy decision point cannot be reached."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable

from polder.model.reservations import Ask, Verdict
from polder.pdp.frames import Count, Counted, FrameError, Judge, Judged, Over, pack, read, unpack
from polder.rsvp.errors import Policy

log = logging.getLogger("polder.pdp")
_PAUSE_S = 1.0
_CONNECT_S = 10.0
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class PdpClient:
    """Keeps one connection. ``judge`` answers within ``wait`` seconds, whatever happens; what is open when the connection breaks is asked
    again on the next one, since judging twice does no harm. A connection that has told nothing since a question went unanswered is
    given up: who is behind it may be gone without a word.
    """

    def __init__(self, pause: float = _PAUSE_S) -> None:
        """Aimed at nobody yet: every question goes unanswered. ``pause``: seconds between two tries to connect."""
        self._pause = pause
        self._connect: Callable[[], Awaitable[Streams]] | None = None
        self._aimed = asyncio.Event()
        self._wait = 0.0
        self._number = 0
        self._heard = 0
        self._open: dict[int, tuple[Ask, asyncio.Future[Verdict]]] = {}
        self._writer: asyncio.StreamWriter | None = None

    @classmethod
    def to(cls, endpoint: str, wait: float, tls: ssl.SSLContext | None = None, pause: float = _PAUSE_S) -> PdpClient:
        """For ``unix:/path`` or ``tls:address:port``."""
        client = cls(pause)
        client.aim(endpoint, wait, tls)
        return client

    def aim(self, endpoint: str, wait: float, tls: ssl.SSLContext | None = None) -> None:
        """Ask there from now on; what is open is asked there again."""
        kind, _, place = endpoint.partition(":")
        host, _, port = place.rpartition(":")
        if kind == "unix":
            self._connect = lambda: asyncio.open_unix_connection(place)
        else:
            self._connect = lambda: asyncio.open_connection(host.strip("[]"), int(port), ssl=tls, server_hostname="")
        self._wait = wait
        self._aimed.set()
        self._give_up()

    async def run(self) -> None:
        """Keep connected, for ever."""
        while True:
            await self._aimed.wait()
            assert self._connect is not None
            try:
                async with asyncio.timeout(_CONNECT_S):
                    reader, writer = await self._connect()
            except OSError as error:
                log.warning("the policy decision point cannot be reached", extra={"error": str(error) or "no answer"})
                await asyncio.sleep(self._pause)
                continue
            self._writer = writer
            try:
                for number, (ask, _) in self._open.items():
                    writer.write(pack(Judge(number, ask)))
                while (data := await read(reader)) is not None:
                    self._heard += 1
                    said: Judged = unpack(data, Judged)
                    _, future = self._open.get(said.number, (None, None))
                    if future is not None and not future.done():
                        future.set_result(said.verdict)
            except (FrameError, OSError) as error:
                log.warning("lost the policy decision point", extra={"error": str(error)})
            finally:
                self._writer = None
                with contextlib.suppress(OSError):
                    writer.close()
            await asyncio.sleep(self._pause)

    async def judge(self, ask: Ask) -> Verdict | None:
        """The verdict; ``None`` when there was none in time."""
        if self._connect is None:
            return None
        self._number += 1
        number, future = self._number, asyncio.get_running_loop().create_future()
        self._open[number] = (ask, future)
        writer, heard = self._writer, self._heard
        try:
            if writer is not None:
                writer.write(pack(Judge(number, ask)))
            return await asyncio.wait_for(future, self._wait)
        except FrameError:
            return None
        except TimeoutError:
            if writer is self._writer and heard == self._heard:
                self._give_up()
            return None
        finally:
            del self._open[number]

    def _give_up(self) -> None:
        """End the connection; ``run`` makes another."""
        if self._writer is not None:
            self._writer.transport.abort()

    def over(self, ask: Ask) -> None:
        """A reservation ended. When nobody listens it is not told: what was paid is paid, and deciders forget by time."""
        if self._writer is not None:
            self._writer.write(pack(Over(ask)))


async def count(path: str) -> dict[str, int]:
    """What the policy decision point at a Unix socket has decided so far; raises ``OSError``, ``FrameError``."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(pack(Count()))
        data = await read(reader)
        if data is None:
            raise FrameError("the policy decision point hung up")
        counted: Counted = unpack(data, Counted)
        return counted.counts
    finally:
        writer.close()


def unreachable() -> Verdict:
    """What is answered in place of a decision that did not come."""
    return Verdict(False, Policy.REJECTED, "the policy decision point does not answer: try again in a while", 0.0, "")
