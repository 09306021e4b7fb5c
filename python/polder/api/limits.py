"""Bounds on what strangers may ask of the authority: a token bucket per source, and how many may be connected."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Callable

BURST = 8
"""Requests at once, as a multiple of the rate per second, and at least this many: an enrolment takes two, a renewal two."""

MAX_CONNECTIONS = 512
"""Open at once, with up to 40 KiB of TLS buffers each."""

MAX_PER_SOURCE = 32
"""Open at once from one source: several machines behind one address."""

MAX_SECONDS = 60.0
"""Longest life of a connection: our exchanges take less than one, and slow ones starve nobody."""


def source_of(address: str) -> str:
    """The source that is counted: an IPv4 address or an IPv6 /64."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    if mapped is not None:
        return str(mapped)
    return str(ipaddress.ip_network((int(ip) >> 64 << 64, 64))) if ip.version == 6 else str(ip)


class SourceRates:
    """A token bucket per source, at most ``sources`` of them: the longest silent is forgotten first."""

    def __init__(self, rate: float, sources: int) -> None:
        self._rate = rate
        self._burst = max(float(BURST), rate * BURST)
        self._sources = sources
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def admit(self, source: str, now: float) -> float:
        """Take one token; returns 0, or the seconds until there is one."""
        level, since = self._buckets.pop(source, (self._burst, now))
        level = min(self._burst, level + (now - since) * self._rate)
        wait = 0.0 if level >= 1 else (1 - level) / self._rate
        self._buckets[source] = (level - 1 if wait == 0 else level, now)
        if len(self._buckets) > self._sources:
            self._buckets.popitem(last=False)
        return wait


class Door:
    """Wraps a protocol factory: refuses connections beyond a number, in all and per source, and ends each after a time."""

    def __init__(
        self,
        factory: Callable[[], asyncio.Protocol],
        connections: int = MAX_CONNECTIONS,
        per_source: int = MAX_PER_SOURCE,
        seconds: float = MAX_SECONDS,
    ) -> None:
        self.factory = factory
        self.seconds = seconds
        self.turned_away = 0
        self._connections = connections
        self._per_source = per_source
        self._open: Counter[str] = Counter()

    def __call__(self) -> asyncio.Protocol:
        """A protocol for a connection that was just accepted."""
        return _Watched(self)

    def enter(self, source: str) -> bool:
        """Count a connection; false: one too many."""
        if self._open.total() >= self._connections or self._open[source] >= self._per_source:
            self.turned_away += 1
            return False
        self._open[source] += 1
        return True

    def leave(self, source: str) -> None:
        """A counted connection has ended."""
        self._open[source] -= 1
        if self._open[source] <= 0:
            del self._open[source]


class _Watched(asyncio.Protocol):
    """Passes everything on to the protocol behind the door. Made at accept; ``connection_made`` comes after the handshake."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._inner: asyncio.Protocol | None = None
        self._source = ""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        peer = transport.get_extra_info("peername")
        self._source = source_of(peer[0]) if peer else ""
        if not self._door.enter(self._source):
            transport.abort()
            return
        self._timer = asyncio.get_running_loop().call_later(self._door.seconds, transport.abort)
        self._inner = self._door.factory()
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._inner is not None else None

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._inner is not None and self._timer is not None:
            self._timer.cancel()
            self._door.leave(self._source)
            self._inner.connection_lost(exc)
