"""One reader: loads a page with its pictures again and again, as a browser does, directly or through a proxy.

``python -m polder.lab.load`` takes a ``Reader`` as JSON on stdin and prints one JSON line per page load. Every page load opens
new connections (at most six), fetches the page, finds its pictures, scripts and style sheets, fetches them, and counts as good
when everything came whole within the time limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import re
import socket
import ssl
import sys
import time
from typing import Any
from urllib.parse import urljoin

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult

_PART = re.compile(rb'<(?:img|script|link)\b[^>]*? (?:src|href)="([^"]+)"')
CONNECTIONS = 6
"""Connections to one host at a time, as browsers have over HTTP/1.1."""


class Reader(msgspec.Struct, frozen=True, kw_only=True):
    """What one reader does. Times in seconds; ``start`` and all reported times are on the monotonic clock."""

    url: str
    start: float
    duration: float
    seed: int
    think: float = 0.5
    """Mean pause between two page loads (exponential)."""
    limit: float = 5.0
    """A page load that takes longer has failed."""
    proxy: str | None = None
    resolve: dict[str, str] = {}
    """Addresses of host names, for direct access."""
    ca: str | None = None
    pages: tuple[str, ...] = ()
    """Paths below ``url`` that are loaded in turn; none: ``url`` itself."""


class Load(msgspec.Struct, frozen=True):
    """One page load: when it started, how long it took (s), whether it was good, bytes of bodies, what went wrong, its path."""

    start: float
    seconds: float
    good: bool
    bytes: int
    error: str = ""
    page: str = ""


class _Fixed(AbstractResolver):
    """Host names as the experiment says."""

    def __init__(self, table: dict[str, str]) -> None:
        self._table = table

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        """The address of ``host``, or of itself if it is one."""
        address = self._table.get(host, host)
        kind = socket.AF_INET6 if ":" in address else socket.AF_INET
        flags = socket.AI_NUMERICHOST
        return [{"hostname": host, "host": address, "port": port, "family": kind, "proto": 0, "flags": flags}]

    async def close(self) -> None:
        """Nothing is held."""


async def load_page(reader: Reader, tls: ssl.SSLContext | None, now: float, page: str = "") -> Load:
    """Load the page (its path ``page`` below the reader's ``url``) once with fresh connections."""
    url = urljoin(reader.url, page)
    got = 0
    error = ""
    connector = aiohttp.TCPConnector(
        limit=CONNECTIONS, resolver=_Fixed(reader.resolve), ssl=tls if tls else False, use_dns_cache=False
    )
    try:
        async with asyncio.timeout(reader.limit), aiohttp.ClientSession(connector=connector) as session:

            async def fetch(url: str) -> bytes:
                nonlocal got
                async with session.get(url, proxy=reader.proxy) as answer:
                    body = await answer.read()
                    answer.raise_for_status()
                got += len(body)
                return body

            html = await fetch(url)
            parts = [urljoin(url, match.decode()) for match in _PART.findall(html)]
            await asyncio.gather(*map(fetch, parts))
    except (TimeoutError, aiohttp.ClientError, OSError) as failure:
        error = f"{type(failure).__name__}: {failure}"[:200]
    return Load(now, time.monotonic() - now, not error, got, error, page)


async def read_for_a_while(reader: Reader) -> None:
    """Load pages until the duration is over; a load that began within it is finished and reported."""
    rng = random.Random(reader.seed)
    tls = ssl.create_default_context(cafile=reader.ca) if reader.url.startswith("https:") else None
    end = reader.start + reader.duration
    await _sleep_until(reader.start + rng.uniform(0, reader.think))
    turns = itertools.cycle(reader.pages or ("",))
    while (now := time.monotonic()) < end:
        load = await load_page(reader, tls, now, next(turns))
        sys.stdout.write(msgspec.json.encode(load).decode() + "\n")
        sys.stdout.flush()
        await _sleep_until(time.monotonic() + rng.expovariate(1 / reader.think))


async def _sleep_until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))


def summary(loads: list[Load], duration: float) -> dict[str, Any]:
    """The row of a phase: loads, share of good ones, goodput, page times. Times in ms, of good loads."""
    good = sorted(load.seconds * 1000 for load in loads if load.good)
    row: dict[str, Any] = {
        "pages": len(loads),
        "good": len(good),
        "success": len(good) / len(loads) if loads else 0.0,
        "goodput_mbit_s": sum(load.bytes for load in loads if load.good) * 8 / duration / 1e6,
    }
    for name, share in (("median_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99)):
        row[name] = round(good[min(len(good) - 1, int(share * len(good)))], 1) if good else None
    return row


def main() -> int:
    """Read the reader's description, run it."""
    reader = msgspec.convert(json.load(sys.stdin), Reader)
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        asyncio.run(read_for_a_while(reader))
    return 0


if __name__ == "__main__":
    sys.exit(main())
