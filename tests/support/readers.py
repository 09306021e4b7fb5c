"""Readers of a site who never stop, and notice everything: pages, WebSockets that stay open, downloads that take their time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from tests.support.origin import PIECE


@dataclass
class Seen:
    """What the readers saw. ``slowest`` page in seconds; ``troubles`` says what went wrong, with the second when it did."""

    pages: int = 0
    retried: int = 0
    failed: int = 0
    slowest: float = 0.0
    echoes: int = 0
    sockets_broken: int = 0
    downloads: int = 0
    downloaded_bytes: int = 0
    downloads_broken: int = 0
    troubles: list[str] = field(default_factory=list)

    @property
    def dropped(self) -> int:
        """Pages, sockets and downloads that a person would have missed."""
        return self.failed + self.sockets_broken + self.downloads_broken


class Readers:
    """Readers behind one ``proxy`` (``ip:port``). ``rate``: pages per second; ``sockets`` of them open all the time."""

    def __init__(self, proxy: str, host: str, *, rate: float = 10.0, sockets: int = 2, download: int = 4_000_000) -> None:
        self.seen = Seen()
        self._proxy = f"http://{proxy}"
        self._host = host
        self._rate = rate
        self._sockets = sockets
        self._download = download
        self._born = time.monotonic()
        self._ending = False

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Seen]:
        """Read until the end of the block; then what is open is brought to its end."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=20, sock_read=30)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            work = [self._pages(session), self._downloads(session), *(self._echo(session, n) for n in range(self._sockets))]
            tasks = [asyncio.create_task(one) for one in work]
            try:
                yield self.seen
            finally:
                self._ending = True
                async with asyncio.timeout(120):
                    await asyncio.gather(*tasks)

    async def moved(self, pages: int = 10, echoes: int = 4) -> None:
        """Until so many more of each have come."""
        before = self.seen.pages, self.seen.echoes
        async with asyncio.timeout(60):
            while self.seen.pages < before[0] + pages or self.seen.echoes < before[1] + echoes:
                await asyncio.sleep(0.02)

    async def _pages(self, session: aiohttp.ClientSession) -> None:
        loads: set[asyncio.Task[None]] = set()
        while not self._ending:
            task = asyncio.create_task(self._page(session))
            loads.add(task)
            task.add_done_callback(loads.discard)
            await asyncio.sleep(1 / self._rate)
        await asyncio.gather(*loads)

    async def _page(self, session: aiohttp.ClientSession) -> None:
        """As a browser: what may be said twice is said once more when its connection died."""
        began = time.monotonic()
        for attempt in (1, 2):
            try:
                async with session.get(f"http://{self._host}/", proxy=self._proxy) as answer:
                    text = await answer.text()
                    if answer.status != 200 or "The wiki is up" not in text:
                        raise aiohttp.ClientPayloadError(f"status {answer.status}: {text[:200]}")
                break
            except (aiohttp.ClientError, TimeoutError) as error:
                if attempt == 1 and isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError):
                    self.seen.retried += 1
                    continue
                self.seen.failed += 1
                self._note("page", error)
                return
        self.seen.pages += 1
        self.seen.slowest = max(self.seen.slowest, time.monotonic() - began)

    async def _echo(self, session: aiohttp.ClientSession, number: int) -> None:
        try:
            async with session.ws_connect(f"ws://{self._host}/echo", proxy=self._proxy) as socket:
                while not self._ending:
                    text = f"{number} {self.seen.echoes}"
                    await socket.send_str(text)
                    if await socket.receive_str(timeout=30) != f"echo {text}":
                        raise aiohttp.ClientPayloadError("another echo")
                    self.seen.echoes += 1
                    await asyncio.sleep(0.1)
        except (aiohttp.ClientError, TimeoutError, TypeError) as error:
            self.seen.sockets_broken += 1
            self._note("socket", error)

    async def _downloads(self, session: aiohttp.ClientSession) -> None:
        while not self._ending:
            try:
                await self._fetch(session)
                self.seen.downloads += 1
            except (aiohttp.ClientError, TimeoutError) as error:
                self.seen.downloads_broken += 1
                self._note("download", error)
                await asyncio.sleep(0.2)

    async def _fetch(self, session: aiohttp.ClientSession) -> None:
        """One download of some 4 s, at the pace of a slow line."""
        seen = 0
        pause = 4.0 * len(PIECE) / self._download
        async with session.get(f"http://{self._host}/bytes/{self._download}", proxy=self._proxy) as answer:
            async for chunk in answer.content.iter_chunked(len(PIECE)):
                start = seen % len(PIECE)
                if chunk != (PIECE * 2)[start : start + len(chunk)]:
                    raise aiohttp.ClientPayloadError(f"other bytes at {seen}")
                seen += len(chunk)
                self.seen.downloaded_bytes += len(chunk)
                await asyncio.sleep(pause * len(chunk) / len(PIECE))
        if seen != self._download:
            raise aiohttp.ClientPayloadError(f"{seen} of {self._download} bytes")

    def _note(self, what: str, error: BaseException) -> None:
        self.seen.troubles.append(f"{time.monotonic() - self._born:.1f} s: {what}: {error!r}"[:300])
