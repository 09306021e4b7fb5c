"""``Door``: who may come in before it costs a TLS handshake, how many at once, and for how long.

A handshake costs a millisecond of a core and 40 KiB; counting a source costs neither. So connections are accepted bare, judged by their
source, and only then TLS begins.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter
from collections.abc import Callable

from polder.api.limits import SourceRates, source_of
from polder.shell.clock import monotonic

refusals = logging.getLogger("polder.refused")

MAX_CONNECTIONS = 512
"""Open at once, handshakes included, with up to 40 KiB of TLS buffers each."""

MAX_PER_SOURCE = 32
"""Open at once from one source: several machines behind one address."""

MAX_SECONDS = 60.0
"""Longest life of a connection: our exchanges take less than one, and slow ones starve nobody."""

_HANDSHAKE = 10.0
_SHUTDOWN = 5.0


class Door:
    """Makes the protocols of a listener that speaks TLS by ``tls`` and then ``factory``'s protocol. ``None``: no TLS."""

    def __init__(
        self,
        factory: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None,
        rates: SourceRates,
        *,
        connections: int = MAX_CONNECTIONS,
        per_source: int = MAX_PER_SOURCE,
        seconds: float = MAX_SECONDS,
    ) -> None:
        self.factory = factory
        self.tls = tls
        self.seconds = seconds
        self.turned_away = 0
        self.failed = 0
        """Handshakes that came to nothing."""
        self._rates = rates
        self._connections = connections
        self._per_source = per_source
        self._open: Counter[str] = Counter()

    def __call__(self) -> asyncio.Protocol:
        """A protocol for a connection that was just accepted."""
        return _Visitor(self)

    def enter(self, source: str) -> bool:
        """Count a connection; false: too many, or too often."""
        full = self._open.total() >= self._connections or self._open[source] >= self._per_source
        if full or self._rates.admit(source, monotonic()) > 0:
            self.turned_away += 1
            return False
        self._open[source] += 1
        return True

    def leave(self, source: str) -> None:
        """A counted connection has ended."""
        self._open[source] -= 1
        if self._open[source] <= 0:
            del self._open[source]

    def __len__(self) -> int:
        """Connections at this moment."""
        return self._open.total()


class _Visitor(asyncio.Protocol):
    """One connection. Plain at first; after the handshake everything goes on to the protocol behind the door."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._source: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._handshake: asyncio.Task[None] | None = None
        self._inner: asyncio.Protocol | None = None
        self._early: list[bytes] = []
        """A client sends with the last message of its handshake, before the protocol behind has been made."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        peer = transport.get_extra_info("peername")
        source = source_of(peer[0]) if peer else ""
        if not self._door.enter(source):
            transport.abort()
            return
        self._source = source
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._door.seconds, transport.abort)
        if self._door.tls is None:
            self._begin(transport)
            return
        transport.pause_reading()
        self._handshake = loop.create_task(self._shake_hands(transport, self._door.tls))

    async def _shake_hands(self, transport: asyncio.Transport, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        try:
            wrapped = await loop.start_tls(
                transport, self, context, server_side=True, ssl_handshake_timeout=_HANDSHAKE, ssl_shutdown_timeout=_SHUTDOWN
            )
        except ssl.SSLCertVerificationError as error:
            refusals.warning(
                f"a certificate that is not a member's: {error.verify_message}",
                extra={"what": "handshake", "source": self._source},
            )
            wrapped = None
        except OSError:  # broken off, or too slow (ssl.SSLError and TimeoutError are OSError)
            wrapped = None
        if wrapped is None:
            self._door.failed += 1
            transport.abort()
            self._leave()
        else:
            self._begin(wrapped)

    def _begin(self, transport: asyncio.Transport) -> None:
        self._inner = self._door.factory()
        self._inner.connection_made(transport)
        early, self._early = self._early, []
        for data in early:
            self._inner.data_received(data)

    def data_received(self, data: bytes) -> None:
        if self._inner is None:
            self._early.append(data)
        else:
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
        inner, self._inner = self._inner, None
        self._leave()
        if inner is not None:
            inner.connection_lost(exc)

    def _leave(self) -> None:
        if self._source is not None and self._timer is not None:
            self._timer.cancel()
            self._door.leave(self._source)
            self._source = None
