"""``MetricsServer``: ``/livez``, ``/readyz`` and ``/metrics`` of a process, on a small listener of its own."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from aiohttp import web

from polder.api.door import Door
from polder.api.guard import owner_guard, page_guard
from polder.api.limits import SourceRates
from polder.settings.watching import Watched
from polder.shell import logs, memory, usage
from polder.shell.health import Check, report
from polder.shell.lag import LoopLag
from polder.shell.metrics import Exposition, Numbers
from polder.shell.sockets import Inherited
from polder.shell.tasks import Tasks

log = logging.getLogger("polder.metrics")

_RETRY = 2.0
_RATE = 20.0
_SOURCES = 64
_CONNECTIONS = 16


class MetricsServer:
    """Serves what ``checks`` and ``numbers`` say, each asked anew for every request. ``close`` it last: until then it says that
    the process is leaving.

    ``part``: node, site, forwarder or authority. ``secret_roles``: leave out, where others than the owner may read, what tells
    that this node is a servlet.
    """

    def __init__(
        self,
        settings: Watched,
        directory: Path,
        part: str,
        checks: Callable[[], Iterable[Check]],
        numbers: Callable[[], Numbers],
        *,
        secret_roles: bool = False,
    ) -> None:
        self.where = ""
        """Where it listens: ``ip:port``, a path, or nothing."""
        self._settings = settings
        self._path = _socket_path(settings.metrics_listen, directory)
        self._checks = checks
        self._numbers = numbers
        self._memory_limit = memory.limit()
        self._lag = LoopLag()
        self._exposition = Exposition(
            part, self._all_numbers, not secret_roles or self._path is not None or settings.metrics_roles
        )
        guard = owner_guard if self._path is not None else page_guard(frozenset(settings.metrics_hosts))
        app = web.Application(client_max_size=0, middlewares=[guard])
        app.router.add_get("/livez", self._live)
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=75.0)
        self._door: Door | None = None
        self._inode = 0
        self._sockets: Inherited | None = None
        self._server: asyncio.Server | None = None

    async def start(self, tasks: Tasks, sockets: Inherited | None = None) -> None:
        """Listen as the settings say, as soon as that is possible; on one of ``sockets`` if it listens there already."""
        self._sockets = sockets
        tasks.forever("event loop's lag", self._lag.forever)
        await self._runner.setup()
        assert self._runner.server is not None  # setup made it
        rates = SourceRates(_RATE, _SOURCES)
        self._door = Door(self._runner.server, None, rates, connections=_CONNECTIONS, per_source=_CONNECTIONS)
        await self._listen(self._door, tasks)

    async def _listen(self, door: Door, tasks: Tasks, pause: float = 0.0) -> None:
        """Listen, or say why not and try again later: a process must not fall because nobody can watch it."""
        await asyncio.sleep(pause)
        try:
            self.where = await self._bind(door)
        except OSError as error:
            log.error("no metrics: the listener cannot be opened; it is tried again", extra={"error": str(error)})
            tasks.once("metrics listener", self._listen(door, tasks, _RETRY))

    async def _bind(self, door: Door) -> str:
        address = self._settings.metrics_address()
        if self._path is not None:
            self._server = await listen_unix(door, self._path)
            self._inode = self._path.stat().st_ino
            return str(self._path)
        if address is None:
            return ""
        inherited = self._sockets.listener(self._settings.metrics_listen) if self._sockets else None
        loop = asyncio.get_running_loop()
        if inherited is not None:
            self._server = await loop.create_server(door, sock=inherited)
        else:
            self._server = await loop.create_server(door, *address, reuse_address=True)
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def descriptors(self) -> list[tuple[str, int]]:
        """The TCP listener, for the process that takes over; a Unix socket is made anew."""
        if self._server is None or self._settings.metrics_address() is None:
            return []
        return [(self._settings.metrics_listen, sock.fileno()) for sock in self._server.sockets]

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()
        # After an upgrade the path is the next process's.
        if self._path is not None and self._path.exists() and self._path.stat().st_ino == self._inode:
            self._path.unlink()

    def health(self) -> tuple[bool, dict[str, object]]:
        """As ``/readyz`` tells it."""
        return report((*self._checks(), memory.check(usage.rss_bytes(), self._memory_limit)))

    def _all_numbers(self) -> Numbers:
        limit = {} if self._memory_limit is None else {"memory_limit_bytes": self._memory_limit}
        return {
            **self._numbers(),
            **limit,
            "ready": self.health()[0],
            "event_loop_lag_seconds": self._lag.worst,
            "memory_resident_bytes": usage.rss_bytes(),
            "log_lines": logs.SIEVE.by_level,
            "log_lines_suppressed": logs.SIEVE.suppressed,
            "metrics_turned_away": self._door.turned_away if self._door else 0,
        }

    async def _live(self, _request: web.Request) -> web.Response:
        return _json({"alive": True}, 200)

    async def _ready(self, _request: web.Request) -> web.Response:
        ready, body = self.health()
        return _json(body, 200 if ready else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = self._exposition.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})


async def listen_unix(factory: Callable[[], asyncio.Protocol], path: Path) -> asyncio.Server:
    """A Unix socket that only its owner may open; one that a dead process left is replaced."""
    _make_room(path)
    old = os.umask(0o177)
    try:
        return await asyncio.get_running_loop().create_unix_server(factory, str(path))
    finally:
        os.umask(old)


def _make_room(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)


def _json(body: dict[str, object], status: int) -> web.Response:
    return web.json_response(body, status=status, headers={"Cache-Control": "no-store"})


def _socket_path(where: str, directory: Path) -> Path | None:
    if where == "unix":
        return directory / "metrics.sock"
    return Path(where.removeprefix("unix:")) if where.startswith("unix:") else None
