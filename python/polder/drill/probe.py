"""A reader for the time of a drill: one page again and again, as a browser would load it."""

from __future__ import annotations

import asyncio

import aiohttp

from polder.drill.plan import Load
from polder.shell.clock import monotonic

_EVERY = 0.2
_PATIENCE = 15.0
"""Seconds after which a person has gone."""


class Probe:
    """Loads ``url`` through ``proxy`` (``ip:port``) five times a second, each load on a connection of its own."""

    def __init__(self, proxy: str, url: str) -> None:
        self.loads: list[Load] = []
        self._proxy = f"http://{proxy}"
        self._url = url
        self._pending: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Begin no more loads; wait for those that run."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, *self._pending, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            task = asyncio.create_task(self._load())
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)
            await asyncio.sleep(_EVERY)

    async def _load(self) -> None:
        began = monotonic()
        try:
            async with asyncio.timeout(_PATIENCE):
                why = await self._fetch() or ""
        except TimeoutError:
            why = f"no answer within {_PATIENCE:g} s"
        self.loads.append(Load(began, monotonic() - began, why))

    async def _fetch(self) -> str | None:
        """``None`` when the page came. A connection that dies is tried once more on a fresh one, as browsers do (RFC 9110 §9.2.2)."""
        why = None
        for _ in range(2):
            try:
                async with (
                    aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
                    session.get(self._url, proxy=self._proxy, allow_redirects=False) as answer,
                ):
                    await answer.read()
                    return f"status {answer.status}" if answer.status >= 500 else None
            except (aiohttp.ClientError, OSError) as error:
                why = f"{type(error).__name__}: {error}"
        return why
