"""``Engine``: the native data plane as an asyncio object.

Nothing here is on the path of a byte. Events wake asyncio through a file descriptor; no native thread attaches to Python.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from polder import _native
from polder.snapshot.schema import Answer, EngineConfig, Event, Snapshot, decode_event
from polder.snapshot.spread import Order, SessionNow, tagged

BUILD: str = _native.PROFILE
"""How the native part was built: ``release``, or ``debug`` (whose speed says nothing)."""

_BATCH = 256


@dataclass(frozen=True)
class Distribution:
    """A histogram at one moment: ``counts[i]`` observations lie above ``bounds[i - 1]`` and at most at ``bounds[i]``; the last
    count is of those above all bounds. Bounds and ``sum`` in base units."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    def cumulative(self) -> list[tuple[str, float]]:
        """Buckets as OpenMetrics wants them: upper bound as text, observations at most there."""
        total, buckets = 0, []
        for bound, count in zip((*self.bounds, math.inf), self.counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == math.inf else repr(bound), float(total)))
        return buckets


def meanings() -> tuple[tuple[str, str, str], ...]:
    """Name, kind (``counter``, ``gauge``, ``histogram``) and help text of everything that native code counts."""
    return tuple(_native.meanings())


def heap() -> tuple[int, int]:
    """Bytes that this process holds of the C library's allocator (native code, and what Python keeps beyond 512 bytes), and bytes that the
    allocator holds of the system; zeros where the library is not glibc."""
    return _native.heap()


class CallFailed(Exception):
    """A control call got no good answer. ``status`` is HTTP's; 0: no answer came (unreachable, timeout, refused identity)."""

    def __init__(self, status: int, why: str, body: bytes = b"") -> None:
        super().__init__(why)
        self.status = status
        self.body = body


class Engine:
    """One native engine. Construct inside a running loop; ``on_event`` gets every event that is not an answer."""

    def __init__(self, config: EngineConfig, on_event: Callable[[Event], None]) -> None:
        self._native = _native.Engine(msgspec.msgpack.encode(config))
        self._on_event = on_event
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._native.event_fd(), self._drain)

    @property
    def addresses(self) -> list[str]:
        """Where the engine listens, ``ip:port``, in the order of ``config.listen``."""
        return list(self._native.addresses())

    @property
    def listeners(self) -> list[tuple[str, int]]:
        """Address as configured and descriptor of each listening socket; the descriptors stay the engine's."""
        return list(self._native.listeners())

    @property
    def spread_addresses(self) -> list[str]:
        """Where the relay of the spread plane takes datagrams (``ip:port``), in the order of the configuration."""
        return list(self._native.spread_addresses())

    def listen(self, addresses: Iterable[str], inherited: Iterable[tuple[str, int]] = ()) -> None:
        """Listen on ``addresses`` and nowhere else; connections stay, and so do listeners that are still wanted.

        ``inherited``: sockets that listen already, by address; the caller closes its own. Raises ``OSError`` or ``ValueError``:
        nothing has changed.
        """
        self._native.listen(list(addresses), list(inherited))

    def apply(self, snapshot: Snapshot) -> int:
        """Put a snapshot in force; returns its version. Raises ``ValueError`` when it is unusable: the last one stays."""
        return int(self._native.apply(msgspec.msgpack.encode(snapshot)))

    async def call(self, name: str, ring_id: bytes, address: str, method: str, body: bytes, timeout: float) -> bytes:
        """Call ``method`` at a node over the link to it; ``timeout`` in seconds. Raises ``CallFailed``."""
        try:
            call_id = self._native.call(name, ring_id, address, method, body, int(timeout * 1000))
        except RuntimeError as error:  # stopped
            raise CallFailed(0, str(error)) from error
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._waiting[call_id] = future
        try:
            answer = await future
        finally:
            self._waiting.pop(call_id, None)
        if answer.status != 200:
            raise CallFailed(answer.status, answer.body.decode("utf-8", "replace")[:500], answer.body)
        return answer.body

    def spread(self, order: Order) -> None:
        """Order something of the spread plane's ends. Raises ``ValueError``: what is wrong with the order."""
        self._native.spread(msgspec.msgpack.encode(tagged(order)))

    def sessions(self) -> tuple[SessionNow, ...]:
        """A forwarder's sessions of the spread plane."""
        return msgspec.msgpack.decode(self._native.spread(msgspec.msgpack.encode("sessions")), type=tuple[SessionNow, ...])

    def reply(self, call_id: int, status: int, body: bytes) -> None:
        """Answer a peer's call. A late answer is dropped."""
        self._native.reply(call_id, status, body)

    def counters(self) -> dict[str, int]:
        """Plain counters of the data plane by name."""
        return dict(self._native.counters())

    def histograms(self) -> dict[str, Distribution]:
        """Times and sizes by name."""
        read = self._native.histograms()
        return {name: Distribution(tuple(bounds), tuple(counts), total) for name, bounds, counts, total in read}

    def status(self) -> dict[str, Any]:
        """Links and their measured round-trip times, open tunnels, version in force."""
        result: dict[str, Any] = msgspec.msgpack.decode(self._native.status())
        return result

    def drain(self) -> None:
        """Take nothing new: close the listeners, tell everybody who is connected to go elsewhere. What runs goes on."""
        self._native.drain()

    async def stop(self, deadline: float) -> int:
        """Drain for ``deadline`` seconds, then cut what is left; returns how many tunnels that were."""
        cut = await asyncio.to_thread(self._native.stop, int(deadline * 1000))
        self._loop.remove_reader(self._native.event_fd())
        for future in self._waiting.values():
            future.cancel()
        return cut

    def _drain(self) -> None:
        batch = self._native.drain_events(_BATCH)
        if len(batch) == _BATCH:
            self._loop.call_soon(self._drain)
        for data in batch:
            try:
                self._take(decode_event(data))
            except Exception as error:  # one bad event must not cost the others
                self._loop.call_exception_handler({"message": "an event could not be handled", "exception": error})

    def _take(self, event: Event) -> None:
        if not isinstance(event, Answer):
            self._on_event(event)
            return
        future = self._waiting.get(event.id)
        if future is not None and not future.done():
            future.set_result(event)
