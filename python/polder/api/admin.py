"""The administrator's socket: a few read-mostly calls over a Unix socket that only its owner may open.

HTTP on a socket of mode 0600, in a directory of mode 0700, and the kernel says who is at the other end. Answers are JSON.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import ClientConnectorError, ClientSession, ClientTimeout, UnixConnector, web

from polder.api.guard import owner_guard

Route = Callable[[dict[str, Any]], dict[str, Any] | Awaitable[dict[str, Any]]]
"""Arguments → answer; raises ``ValueError`` for bad arguments."""


class AdminServer:
    """Serves ``routes`` (``GET /v1/NAME`` and ``POST /v1/NAME``) on a Unix socket."""

    def __init__(self, path: Path, routes: Mapping[str, Route]) -> None:
        self.path = path
        self._socket: socket.socket | None = None
        app = web.Application(client_max_size=65536, middlewares=[owner_guard])
        for name, route in routes.items():
            app.router.add_route("*", f"/v1/{name}", _handler(route))
        self._runner = web.AppRunner(app, access_log=None)

    @property
    def descriptor(self) -> int:
        """The listening socket, for the process that takes over."""
        return self._socket.fileno() if self._socket else -1

    async def start(self, inherited: socket.socket | None = None) -> None:
        """Bind, or go on with the socket that the process before this one bound; one left by a dead process is replaced."""
        self._socket = inherited or self._bind()
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket).start()

    def _bind(self) -> socket.socket:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        old = os.umask(0o177)
        try:
            sock.bind(str(self.path))
        except BaseException:
            sock.close()
            raise
        finally:
            os.umask(old)
        return sock

    async def close(self, *, remove: bool = True) -> None:
        """Stop, and ``remove`` the socket unless another process goes on with it."""
        await self._runner.cleanup()
        if remove:
            self.path.unlink(missing_ok=True)


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


async def ask(path: Path, name: str, arguments: dict[str, Any] | None = None, timeout: float = 10.0) -> dict[str, Any]:
    """Call a route of the process behind ``path``; ``timeout`` in seconds.

    Raises ``OSError`` (nobody there) or ``ValueError`` (its refusal).
    """
    async with ClientSession(connector=UnixConnector(str(path)), timeout=ClientTimeout(total=timeout)) as session:
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
