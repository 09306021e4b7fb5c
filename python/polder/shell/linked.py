"""``Linked``: a process with an engine: it applies snapshots, answers control calls and makes them.

The node's, the site's and the client's shells are each a ``Linked`` with their own verdicts and handlers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from polder.api.admin import AdminServer, Route
from polder.api.metrics import MetricsServer
from polder.engine import CallFailed, Engine
from polder.model import Kind, Member, Refused, Verdict, decode, encode
from polder.model.overlay_messages import METHODS, Caller, status_of
from polder.shell import health, logs, usage
from polder.shell.clock import monotonic, wall
from polder.shell.health import Check
from polder.shell.history import History
from polder.shell.metrics import Number
from polder.shell.tasks import Tasks
from polder.shell.traces import Traces
from polder.snapshot.fold import Verdicts, fold
from polder.snapshot.schema import (
    Call,
    DialOutChange,
    EngineConfig,
    Event,
    Link,
    Log,
    Lost,
    Refusal,
    Span,
    SpreadSession,
    SpreadWanted,
)

if TYPE_CHECKING:
    from polder.shell.process import Life

log = logging.getLogger("polder.shell")
native = logging.getLogger("polder.native")
refusals = logging.getLogger("polder.refused")

_LOOK = 0.05
"""Seconds between two looks at whether streams have ended."""
_GATHER = 0.01
"""Seconds within which changes go into one snapshot."""

Answer = TypeVar("Answer", bound=msgspec.Struct)
Handler = Callable[[Caller, str, bytes], bytes | Awaitable[bytes]]
"""Caller, its source address, body → answer. Raises ``Refused`` or ``ValueError`` (a malformed body)."""


class Linked:
    """Base of the shells. Subclasses say ``verdicts`` and register ``handlers``."""

    LIVE: frozenset[str] = frozenset()
    """Settings that ``configure`` can change while the shell runs."""

    def __init__(self, config: EngineConfig, life: Life[Any] | None = None) -> None:
        self.life = life
        self.tasks = Tasks()
        self.handlers: dict[str, Handler] = {}
        inherited = life.sockets.engine(config.listen) if life else ()
        self.engine = Engine(msgspec.structs.replace(config, inherit=inherited), self._on_event)
        self.admin: AdminServer | None = None
        self.metrics: MetricsServer | None = None
        self.version = 0
        self.history = History()
        self._born = monotonic()
        self.snapshots_refused = 0
        self.traces: Traces | None = None
        self._pending: asyncio.TimerHandle | None = None
        self._closing = False
        self._leaving = False
        self._released = False
        self._hurry = asyncio.Event()

    def verdicts(self) -> Verdicts:
        """What the rooms say now."""
        raise Refused(Verdict.UNKNOWN, "this shell decides nothing")

    def on_link(self, link: Link) -> None:
        """A link came up or went down."""

    def on_dial_out(self, change: DialOutChange) -> None:
        """A site's agent dialled this node, or left it."""

    def on_spread_wanted(self, wanted: SpreadWanted) -> None:
        """Forwarder: a session of the spread plane would be of use."""

    def on_spread_session(self, session: SpreadSession) -> None:
        """Forwarder: a session of the spread plane came up, or is over."""

    def sample(self) -> dict[str, float]:
        """What the history keeps: counters of the data plane, and numbers that go up and down."""
        return {**self.engine.counters(), "cpu_ms": usage.cpu_ms(), "rss_bytes": usage.rss_bytes()}

    def serve_admin(self, path: Path, routes: Mapping[str, Route]) -> None:
        """Make the administrator's socket: ``routes``, the look back, and what the process can be asked."""
        asked = self.life.routes() if self.life else {}
        self.admin = AdminServer(path, {**routes, **self.looking_back(), **asked})

    async def start_admin(self) -> None:
        """Serve the administrator, on the socket of the process before this one if there was one."""
        if self.admin is not None:
            await self.admin.start(self.life.sockets.listener(str(self.admin.path)) if self.life else None)

    async def start_metrics(self) -> None:
        """Serve ``/metrics`` and the like, on the listener of the process before this one if there was one."""
        if self.metrics is not None:
            await self.metrics.start(self.tasks, self.life.sockets if self.life else None)

    async def measure(self) -> None:
        """Ask others for what ``sample`` tells, just before it does."""

    def keep_history(self) -> None:
        """Begin to sample once a second, and to send spans."""
        self.tasks.forever("history", self._sample)
        if self.traces is not None:
            self.tasks.forever("traces", self.traces.forever)

    def looking_back(self) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
        """The administrator's routes into the past: ``history`` (``seconds``, ``names``) and ``logs`` (``count``)."""
        return {"history": self._history, "logs": lambda arguments: {"lines": logs.TAIL.lines(int(arguments.get("count", 200)))}}

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return monotonic() - self._born

    def dirty(self) -> None:
        """Something was decided: fold and apply within 10 ms. A process that has handed over decides nothing more."""
        if self._pending is None and not (self._closing or self._released):
            self._pending = asyncio.get_running_loop().call_later(_GATHER, self.apply)

    def apply(self) -> None:
        """Fold and apply now. A snapshot that the engine refuses is logged; the last one stays in force."""
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        try:
            self.version = self.engine.apply(fold(self.verdicts(), self.version + 1))
        except ValueError as error:
            self.snapshots_refused += 1
            log.error("snapshot refused; the last one stays in force", extra={"error": str(error)})

    async def call(self, to: Member, method: str, body: msgspec.Struct, timeout: float = 3.0) -> Any:
        """Make a control call and decode its answer by ``METHODS``. Raises ``CallFailed``; a bad answer counts as one."""
        data = await self.raw_call(to, method, encode(body), timeout)
        try:
            return decode(data, METHODS[method][1])
        except ValueError as error:
            raise CallFailed(0, f"{to.name} answered {method} with nonsense: {error}") from error

    async def raw_call(self, to: Member, method: str, body: bytes, timeout: float = 3.0) -> bytes:
        """Make a control call; body and answer as bytes. Raises ``CallFailed``."""
        return await self.engine.call(to.name, to.ring_id, to.address, method, body, timeout)

    def checks(self) -> tuple[Check, ...]:
        """What every process with an engine must be, to be fit to work."""
        return health.snapshot(self.version), health.staying(self._leaving)

    def numbers(self) -> dict[str, Number]:
        """What every process with an engine tells in ``/metrics``."""
        links = [link["up"] for link in self.engine.status()["links"]]
        return {
            **self.engine.counters(),
            **self.engine.histograms(),
            "snapshot_version": self.version,
            "snapshots_refused": self.snapshots_refused,
            **(self.traces.numbers() if self.traces else {}),
            "links": {"up": links.count(True), "down": links.count(False)},
        }

    # Reload, upgrade, end

    def configure(self, settings: Any) -> None:
        """Put other settings in force, of which only those in ``LIVE`` differ."""
        if self.traces is not None:
            self.traces.configure(settings.traces)

    def descriptors(self) -> list[tuple[str, int]]:
        """Listening sockets, by address or path; they stay ours."""
        admin = [(str(self.admin.path), self.admin.descriptor)] if self.admin else []
        return [*self.engine.listeners, *admin, *(self.metrics.descriptors() if self.metrics else [])]

    def memory(self) -> dict[str, bytes]:
        """What the rooms know and a restart would lose, by name of the room."""
        return {}

    def release(self) -> None:
        """The next process decides from here on; this one only lets its streams end. What was decided before is still applied."""
        if self._pending is not None:
            self.apply()
        self._released = True
        self.tasks.retire()

    async def part(self) -> None:
        """Say goodbye to the others, so that they send nobody here any more."""

    async def clear(self) -> None:
        """Take away what this process made, after its last stream."""

    async def close(self, deadline: float = 5.0) -> int:
        """Say goodbye, take nothing new, let streams end for ``deadline`` seconds, stop. Returns how many tunnels were cut."""
        self._leaving = True
        if self.admin is not None:
            await self.admin.close(remove=not self._released)
        if not self._released:
            await self.part()
        elif self.metrics is not None:
            await self.metrics.close()
        await self._let_end(deadline)
        self._closing = True
        await self.tasks.close()
        if self.traces is not None:
            await self.traces.close()
        if self._pending is not None:
            self._pending.cancel()
        cut = await self.engine.stop(0)
        await self.clear()
        if self.metrics is not None and not self._released:
            await self.metrics.close()
        return cut

    def hurry(self) -> None:
        """End ``close`` now."""
        self._hurry.set()

    async def _let_end(self, deadline: float) -> None:
        self.engine.drain()
        until, idle = monotonic() + deadline, 0
        # Two looks: between a handshake and its first stream a connection may be seen by neither count.
        while (idle := idle + 1 if self.engine.status()["work"] == 0 else 0) < 2 and monotonic() < until:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), _LOOK)
                return

    async def _sample(self) -> None:
        await self.measure()
        self.history.add(wall(), self.sample())
        await asyncio.sleep(1)

    def _history(self, arguments: dict[str, Any]) -> dict[str, Any]:
        names = [name for name in str(arguments.get("names", "")).split(",") if name]
        return self.history.read(wall(), float(arguments.get("seconds", 600)), names)

    def _on_event(self, event: Event) -> None:
        match event:
            case Call():
                self._on_call(event)
            case Link():
                self.on_link(event)
            case DialOutChange():
                self.on_dial_out(event)
            case SpreadWanted():
                self.on_spread_wanted(event)
            case SpreadSession():
                self.on_spread_session(event)
            case Refusal():
                refusals.warning(event.why, extra={"what": event.what, "who": event.who, "source": event.source})
            case Log():
                native.log(logging.getLevelNamesMapping().get(event.level.upper(), logging.INFO), event.text)
            case Span():
                if self.traces is not None:
                    self.traces.take(event)
            case Lost():
                log.warning("events were dropped: the control plane is too slow", extra={"count": event.count})

    def _on_call(self, call: Call) -> None:
        caller = Caller(Kind(call.kind), call.name, call.ring_id)
        handler = self.handlers.get(call.method)
        if handler is None:
            self.engine.reply(call.id, 404, f"no method {call.method!r} here".encode())
            return
        try:
            answer = handler(caller, call.source, call.body)
        except Exception as error:
            self._refuse(call, error)
            return
        if isinstance(answer, bytes):
            self.engine.reply(call.id, 200, answer)
        else:
            self.tasks.once(f"call {call.method}", self._answer_later(call, answer))

    async def _answer_later(self, call: Call, answer: Awaitable[bytes]) -> None:
        try:
            self.engine.reply(call.id, 200, await answer)
        except Exception as error:
            self._refuse(call, error)

    def _refuse(self, call: Call, error: Exception) -> None:
        extras = {"what": call.method, "who": f"{call.kind}/{call.name}", "source": call.source}
        if isinstance(error, ValueError):
            error = Refused(Verdict.MALFORMED, str(error))
        if isinstance(error, Refused):
            if error.verdict is not Verdict.BUSY:
                # Whom a retry may help came in good faith, at a moment too early or late: its name would tell its role.
                who = {"what": call.method} if error.retry else extras
                refusals.warning(str(error), extra=who | {"verdict": str(error.verdict)})
            self.engine.reply(call.id, status_of(error), str(error).encode())
        else:
            log.error("a call's handler failed", extra=extras, exc_info=error)
            self.engine.reply(call.id, 500, b"internal error; a retry may help")


def typed(handler: Callable[[Caller, str, Any], msgspec.Struct | Awaitable[msgspec.Struct]], method: str) -> Handler:
    """A handler over structs: decodes the body and encodes the answer by ``METHODS``."""
    body_type = METHODS[method][0]

    async def later(answer: Awaitable[msgspec.Struct]) -> bytes:
        return encode(await answer)

    def handle(caller: Caller, source: str, body: bytes) -> bytes | Awaitable[bytes]:
        answer = handler(caller, source, decode(body, body_type))
        return encode(answer) if isinstance(answer, msgspec.Struct) else later(answer)

    return handle
