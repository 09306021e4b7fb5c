"""The administrator's socket: a few read-mostly calls over a Unix socket that only its owner may open.

HTTP on a socket of mode 0600, in a directory of mode 0700, and the kernel says who is at the other end. Answers are JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import ClientConnectorError, ClientSession, ClientTimeout, UnixConnector, web

from polder.api.guard import owner_guard

Route = Callable[[dict[str, Any]], dict[str, Any] | Awaitable[dict[str, Any]]]
"""Arguments → answer; raises ``ValueError`` for bad arguments."""

_TIMEOUT = ClientTimeout(total=10)


class AdminServer:
    """Serves ``routes`` (``GET /v1/NAME`` and ``POST /v1/NAME``) on a Unix socket."""

    def __init__(self, path: Path, routes: Mapping[str, Route]) -> None:
        self._path = path
        app = web.Application(client_max_size=65536, middlewares=[owner_guard])
        for name, route in routes.items():
            app.router.add_route("*", f"/v1/{name}", _handler(route))
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self) -> None:
        """Bind; a socket left by a dead process is replaced."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        await self._runner.setup()
        old = os.umask(0o177)
        try:
            await web.UnixSite(self._runner, str(self._path)).start()
        finally:
            os.umask(old)

    async def close(self) -> None:
        """Stop and remove the socket."""
        await self._runner.cleanup()
        self._path.unlink(missing_ok=True)


def _handler(route: Route) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        try:
            arguments = await request.json() if request.method == "POST" else dict(request.query)
            answer = route(arguments)
            body = answer if isinstance(answer, dict) else await answer
            return web.json_response(body)
        except (ValueError, KeyError) as error:
            problem = {"title": "Bad arguments", "status": 400, "detail": str(error)}
            return web.json_response(problem, status=400, content_type="application/problem+json")

    return handle


async def ask(path: Path, name: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
    """Call a route of the process behind ``path``. Raises ``OSError`` (nobody there) or ``ValueError`` (its refusal)."""
    async with ClientSession(connector=UnixConnector(str(path)), timeout=_TIMEOUT) as session:
        request = session.request("GET" if arguments is None else "POST", f"http://polder/v1/{name}", json=arguments)
        try:
            async with request as response:
                status, text = response.status, await response.text()
        except ClientConnectorError as error:
            raise FileNotFoundError(f"nothing answers at {path}: start it first") from error
    body: dict[str, Any] = json.loads(text)
    if status != 200:
        raise ValueError(str(body.get("detail", body)))
    return body
