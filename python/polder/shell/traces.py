"""``Traces``: spans of the data plane go to a collector, OTLP over HTTP in JSON.

Bounded and lossy: what a slow or absent collector cannot take is dropped and counted; nothing waits for it. The names follow
``opentelemetry-proto``'s ``trace.proto`` in proto3 JSON, with ids in hexadecimal as OTLP/JSON wants them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from pathlib import Path
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout

from polder import __version__
from polder.settings.traces import TraceSettings
from polder.shell.metrics import Number
from polder.snapshot.schema import Span, Tracing

log = logging.getLogger("polder.traces")

_BATCH = 512
_TIMEOUT = ClientTimeout(total=10)
_INTERNAL, _SERVER, _CLIENT = 1, 2, 3
_KINDS = {"access point": _SERVER, "forwarder": _SERVER, "hop": _SERVER, "ask": _CLIENT, "deliver": _CLIENT}
_ERROR = 2


class Traces:
    """Give it spans with ``take``; run ``forever`` as a task. ``part`` and ``name`` say whose spans they are."""

    def __init__(self, settings: TraceSettings, part: str, name: str) -> None:
        self.exported = 0
        self.lost = 0
        self._settings = settings
        self._resource = {"attributes": _attributes({"service.name": f"polder-{part}", "service.instance.id": name})}
        self._waiting: deque[Span] = deque()
        self._told = False

    def tracing(self) -> Tracing | None:
        """What the data plane is to do."""
        if self._settings.endpoint is None:
            return None
        return Tracing(round(self._settings.sample * 1_000_000), self._settings.inbound == "honour", self._settings.to_origin)

    def configure(self, settings: TraceSettings) -> None:
        """Other settings; what waits goes to the new collector."""
        self._settings = settings

    def take(self, span: Span) -> None:
        """Keep a span until it is sent; the oldest goes when there are too many."""
        if len(self._waiting) >= self._settings.queue:
            self._waiting.popleft()
            self.lost += 1
        self._waiting.append(span)

    def numbers(self) -> dict[str, Number]:
        """For ``/metrics``."""
        return {"spans_exported": self.exported, "spans_unexported": self.lost}

    async def forever(self) -> None:
        """One round: wait, then send what waits."""
        await asyncio.sleep(self._settings.every)
        await self.flush()

    async def flush(self) -> None:
        """Send everything that waits, batch by batch; what the collector does not take is lost."""
        if not self._waiting or self._settings.endpoint is None:
            return
        async with ClientSession(timeout=_TIMEOUT) as session:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
                if not await self._send(session, self._settings.endpoint, batch):
                    return

    async def close(self) -> None:
        """The last spans, if the collector takes them quickly."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self.flush()

    async def _send(self, session: ClientSession, endpoint: str, batch: list[Span]) -> bool:
        try:
            headers = await asyncio.to_thread(self._headers)
            async with session.post(endpoint, json=self.document(batch), headers=headers) as response:
                why = "" if response.status < 300 else f"HTTP status {response.status}"
        except (ClientError, OSError, TimeoutError) as error:
            why = str(error) or type(error).__name__
        if why:
            self.lost += len(batch)
            if not self._told:
                log.warning("the collector does not take traces; they are dropped", extra={"error": why})
        else:
            self.exported += len(batch)
        self._told = bool(why)
        return not why

    def _headers(self) -> dict[str, str]:
        file = self._settings.token_file
        return {} if file is None else {"Authorization": f"Bearer {Path(file).read_text(encoding='utf-8').strip()}"}

    def document(self, spans: list[Span]) -> dict[str, Any]:
        """An ``ExportTraceServiceRequest``."""
        scope = {"name": "polder", "version": __version__}
        return {"resourceSpans": [{"resource": self._resource, "scopeSpans": [{"scope": scope, "spans": [*map(_span, spans)]}]}]}


def _span(span: Span) -> dict[str, Any]:
    begin = span.began_us * 1000
    told: dict[str, Any] = {
        "traceId": span.trace,
        "spanId": span.span,
        "name": span.name,
        "kind": _KINDS.get(span.name, _INTERNAL),
        "startTimeUnixNano": str(begin),
        "endTimeUnixNano": str(begin + span.took_us * 1000),
        "attributes": _attributes({"polder.stage": span.stage} if span.stage else {}),
        "status": {"code": _ERROR, "message": span.error} if span.error else {},
    }
    return told | ({"parentSpanId": span.parent} if span.parent else {})


def _attributes(values: dict[str, str]) -> list[dict[str, Any]]:
    return [{"key": key, "value": {"stringValue": value}} for key, value in values.items()]
