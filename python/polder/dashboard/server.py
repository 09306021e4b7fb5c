"""``Server``: the dashboard for a browser on this machine.

Whoever shares the machine, or makes a browser on it fetch what he likes, reaches a loopback port. So: the page itself says
nothing; what is said needs the session's token in a header, which no foreign page can send; the Host must be ours (DNS
rebinding), the Origin too; actions are POST. Answers to anybody else are the same for every path, and tell nothing.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Awaitable, Callable
from importlib import resources
from ipaddress import ip_address
from typing import Any

import msgspec
from aiohttp import web

from polder.dashboard.choice import Watcher
from polder.dashboard.values import View

Act = Callable[[View, str, str], Awaitable[str]]
"""View, action's id, choice → what happened. Raises ``ValueError`` or ``OSError`` with the reason."""

_ASSETS = {"": "index.html", "app.js": "app.js", "plot.js": "plot.js", "style.css": "style.css"}
_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
_STREAMS = 16
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "polder",
}


class NotLoopback(ValueError):
    """The dashboard would be reachable from elsewhere."""


class Server:
    """``every``: seconds between looks, made only while somebody watches."""

    def __init__(self, watcher: Watcher, act: Act, every: float = 1.0) -> None:
        self.token = secrets.token_urlsafe(32)
        self.address = ""
        self._watcher = watcher
        self._act = act
        self._every = every
        self._views: list[View] = []
        self._fresh = asyncio.Condition()
        self._streams = 0
        self._looking: asyncio.Task[None] | None = None
        app = web.Application(client_max_size=4096, middlewares=[self._guard])
        for path in _ASSETS:
            app.router.add_get(f"/{path}", self._asset)
        app.router.add_get("/api/stream", self._stream)
        app.router.add_post("/api/act", self._post)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)

    @property
    def url(self) -> str:
        """What to open; the token stands in the fragment, which browsers do not send."""
        return f"http://{self.address}/#{self.token}"

    async def start(self, listen: str) -> None:
        """Listen at ``ip:port`` (loopback only). Raises ``NotLoopback`` and ``OSError``."""
        host, _, port = listen.rpartition(":")
        if not ip_address(host.strip("[]")).is_loopback:
            raise NotLoopback(f"{listen} is not a loopback address: reach the dashboard by `ssh -L 7488:127.0.0.1:7488 HOST`")
        await self._runner.setup()
        site = web.TCPSite(self._runner, host.strip("[]"), int(port))
        await site.start()
        bound = self._runner.addresses[0]
        self.address = f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"

    async def close(self) -> None:
        """Stop looking and listening."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self._runner.cleanup()

    # Checks, cheapest first

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        refused = self._refusal(request)
        try:
            response = refused if refused is not None else await handler(request)
        except web.HTTPException as error:
            response = web.Response(status=error.status, text=f"{error.reason}\n")
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    def _refusal(self, request: web.Request) -> web.Response | None:
        port = self.address.rpartition(":")[2]
        ours = {f"{host}:{port}" for host in ("127.0.0.1", "localhost", "[::1]")} | {self.address}
        if request.headers.get("Host") not in ours:
            return web.Response(status=421, text="This is not the host that was asked for.\n")
        origin = request.headers.get("Origin")
        foreign = origin is not None and origin.removeprefix("http://") not in ours
        if foreign or request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
            return web.Response(status=403, text="Other pages may not ask here.\n")
        if request.method == "POST" and origin is None:
            return web.Response(status=403, text="Actions come from the page itself only.\n")
        if request.path.removeprefix("/") in _ASSETS:
            return None
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            return web.Response(status=401, text="Open the address that `polder dashboard` printed.\n")
        return None

    # What is served

    async def _asset(self, request: web.Request) -> web.Response:
        name = _ASSETS[request.path.removeprefix("/")]
        data = resources.files("polder.dashboard").joinpath("web", name).read_bytes()
        return web.Response(body=data, content_type=_TYPES[name.rpartition(".")[2]], charset="utf-8")

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events (HTML standard §9.2): first ``names``, then a ``view`` after each look."""
        number = int(request.query.get("view", "0"))
        if not 0 <= number < len(self._watcher.names):
            raise web.HTTPNotFound
        if self._streams >= _STREAMS:
            return web.Response(status=503, text="Too many windows watch already: close some.\n", headers={"Retry-After": "10"})
        self._streams += 1
        response = web.StreamResponse(headers={**_HEADERS, "Content-Type": "text/event-stream"})
        try:
            await response.prepare(request)
            await response.write(_event("names", self._watcher.names))
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look())
            while True:
                if self._views:
                    await response.write(_event("view", self._views[number]))
                async with self._fresh:
                    await self._fresh.wait()
        except ConnectionResetError:
            return response
        finally:
            self._streams -= 1

    async def _look(self) -> None:
        while self._streams:
            self._views = await self._watcher.every_view()
            async with self._fresh:
                self._fresh.notify_all()
            await asyncio.sleep(self._every)
        self._views = []

    async def _post(self, request: web.Request) -> web.Response:
        try:
            asked = msgspec.json.decode(await request.read(), type=_Asked)
            views = self._views or await self._watcher.every_view()
            view = views[asked.view] if 0 <= asked.view < len(views) else None
            action = next((each for each in view.actions if each.id == asked.action), None) if view else None
            if view is None or action is None or (asked.choice not in action.choices if action.choices else asked.choice):
                raise ValueError("there is no such action")
            said = await self._act(view, asked.action, asked.choice)
        except (ValueError, OSError) as error:
            return web.json_response({"done": False, "said": str(error)}, status=400)
        return web.json_response({"done": True, "said": said})


class _Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An action of view number ``view``."""

    view: int
    action: str
    choice: str = ""


def _event(name: str, value: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(value) + b"\n\n"
