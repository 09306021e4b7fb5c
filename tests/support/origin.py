"""A real origin: pages, an upload sink, long downloads, a WebSocket echo; on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from aiohttp import WSMsgType, web

PIECE = bytes(range(256)) * 256
"""64 KiB that a broken relay would not reproduce by chance."""


class Origin:
    """``address`` is ``ip:port``; ``requests`` holds (method, path, headers) of what arrived."""

    def __init__(self, root: Path | None = None) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.address = ""
        self._root = root
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> Origin:
        """Listen on a free port of loopback."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(20)
        return self

    def stop(self) -> None:
        """End."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)

    async def _serve(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get("/", self._page)
        app.router.add_get("/bytes/{count}", self._bytes)
        app.router.add_post("/upload", self._upload)
        app.router.add_get("/echo", self._echo)
        if self._root is not None:
            app.router.add_static("/files/", self._root)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.address = f"{host}:{port}"

    def _note(self, request: web.Request) -> None:
        self.requests.append((request.method, request.path, {key.lower(): value for key, value in request.headers.items()}))

    async def _page(self, request: web.Request) -> web.Response:
        self._note(request)
        return web.Response(text="<!doctype html><title>Wiki</title><h1>The wiki is up</h1>", content_type="text/html")

    async def _bytes(self, request: web.Request) -> web.StreamResponse:
        self._note(request)
        left = int(request.match_info["count"])
        response = web.StreamResponse(headers={"Content-Length": str(left)})
        await response.prepare(request)
        while left:
            piece = PIECE[:left]
            await response.write(piece)
            left -= len(piece)
        return response

    async def _upload(self, request: web.Request) -> web.Response:
        self._note(request)
        body = await request.read()
        return web.json_response({"length": len(body), "sum": sum(body) % 65521})

    async def _echo(self, request: web.Request) -> web.WebSocketResponse:
        self._note(request)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(f"echo {message.data}")
        return socket
