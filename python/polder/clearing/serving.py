"""``MutualServer``: a small HTTPS interface for those who show a certificate: JSON, problem+json, OpenAPI 3.1 made from its own routes.

Connections pass the same door as the authority's (rate and number per source before the handshake); calls run on one worker thread, so that
the event loop never waits for a disk, and the books have one writer here.
"""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from polder import __version__
from polder.api.door import Door
from polder.api.limits import SourceRates, source_of
from polder.api.messages import Problem
from polder.clearing.tls import Membership
from polder.model import Refused, Verdict
from polder.model.overlay_messages import status_of
from polder.shell.clock import monotonic

log = logging.getLogger("polder.clearing")
refusals = logging.getLogger("polder.refused")

MAX_BODY = 2 << 20
"""Bytes of a request: 64 deposits with their bundles."""

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Call = Callable[[str, Any, Mapping[str, str]], Any]
"""(who asks, decoded body or ``None``, query parameters) → answer. Blocking; raises ``Refused``."""


@dataclass(frozen=True)
class Route:
    """One operation. ``parameters``: names and descriptions of query parameters."""

    method: str
    path: str
    summary: str
    body: type | None
    answer: type
    parameters: Mapping[str, str]
    call: Call

    def operation(self) -> dict[str, Any]:
        """As OpenAPI says it."""
        described: dict[str, Any] = {
            "operationId": f"{self.method}-{self.path.rpartition('/')[2]}",
            "summary": self.summary,
            "responses": {
                "200": {"description": "Done.", "content": _content("application/json", self.answer)},
                "default": {"description": "Refused.", "content": _content("application/problem+json", Problem)},
            },
        }
        if self.parameters:
            described["parameters"] = [
                {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}
                for name, text in self.parameters.items()
            ]
        if self.body is not None:
            described["requestBody"] = {"required": True, "content": _content("application/json", self.body)}
        return described


def openapi(title: str, routes: tuple[Route, ...]) -> bytes:
    """The description of an interface, made from the structs that it decodes and encodes."""
    structs = [route.body for route in routes if route.body] + [route.answer for route in routes] + [Problem]
    _, components = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method] = route.operation()
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": title, "version": __version__, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
            "paths": paths,
            "security": [{"member": []}],
            "components": {
                "schemas": components,
                "securitySchemes": {"member": {"type": "mutualTLS", "description": "A certificate that the house knows."}},
            },
        }
    )


class MutualServer:
    """Serves ``routes`` to whom ``members`` believes. ``counters``: requests by how they ended."""

    def __init__(self, title: str, routes: tuple[Route, ...], members: Membership, rate: float, sources: int) -> None:
        self.counters: Counter[str] = Counter()
        self.members = members
        self.tls: ssl.SSLContext = members.server()
        self._routes = routes
        self._document = openapi(title, routes)
        self._worker = ThreadPoolExecutor(1, "books")
        self._rates = SourceRates(rate, sources)
        self._door_rates = SourceRates(rate, sources)
        self._runner = web.AppRunner(self._app(), access_log=None, keepalive_timeout=15.0)
        self._server: asyncio.Server | None = None
        self.door: Door | None = None

    async def start(self, host: str, port: int, inherited: Any = None) -> str:
        """Listen; returns the address in use. Raises ``OSError``."""
        await self._runner.setup()
        assert self._runner.server is not None  # setup made it
        loop = asyncio.get_running_loop()
        self.door = Door(self._runner.server, self.tls, self._door_rates)
        if inherited is None:
            self._server = await loop.create_server(self.door, host, port, reuse_address=True)
        else:
            self._server = await loop.create_server(self.door, sock=inherited)
        bound = self._server.sockets[0].getsockname()[:2]
        return f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"

    @property
    def descriptor(self) -> int:
        """The listening socket, for the process that takes over."""
        return self._server.sockets[0].fileno() if self._server and self._server.sockets else -1

    def numbers(self) -> dict[str, Any]:
        """Counters for ``/metrics``."""
        door = self.door
        outcomes = {name: self.counters[name] for name in ("answered", "refused", "limited", "failed")}
        return {
            "clearing_requests": outcomes,
            "clearing_connections_open": len(door) if door else 0,
            "clearing_connections_refused": door.turned_away if door else 0,
            "clearing_handshakes_failed": door.failed if door else 0,
        }

    async def work(self, call: Callable[[], T]) -> T:
        """Run what blocks on the one worker thread."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, call)

    async def close(self) -> None:
        """Stop accepting, finish what runs, close."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()
        self._worker.shutdown()

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY, middlewares=[self._guard])
        for route in self._routes:
            app.router.add_route(route.method.upper(), route.path, self._handler(route))
        app.router.add_get("/v1/openapi.json", self._openapi)
        return app

    def _handler(self, route: Route) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            who = self._identify(request)
            unknown = request.query.keys() - route.parameters.keys()
            if unknown:
                raise Refused(Verdict.MALFORMED, f"unknown parameter {sorted(unknown)[0][:40]!r}; see /v1/openapi.json")
            body: Any = await _body(request, route.body) if route.body is not None else None
            answer: Any = await self.work(lambda: route.call(who, body, dict(request.query)))
            self.counters["answered"] += 1
            return web.Response(
                body=msgspec.json.encode(answer), content_type="application/json", headers={"Cache-Control": "no-store"}
            )

        return handle

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Rate first, then the handler; every refusal becomes a problem, and is logged."""
        source = request.remote or ""
        wait = self._rates.admit(source_of(source), monotonic())
        if wait > 0:
            self.counters["limited"] += 1
            return _problem(Refused(Verdict.BUSY, "too many requests from your address; wait", retry=True), 429, wait)
        try:
            return await handler(request)
        except Refused as refused:
            self.counters["refused"] += 1
            refusals.warning(refused.why, extra={"what": request.rel_url.raw_path, "verdict": str(refused.verdict)})
            return _problem(refused, 503 if refused.verdict is Verdict.BUSY else status_of(refused))
        except web.HTTPException as error:
            self.counters["refused"] += 1
            why = f"{request.method} {request.rel_url.raw_path[:100]}: {error.reason}"
            return _problem(Refused(Verdict.MALFORMED, why), error.status)
        except Exception:
            self.counters["failed"] += 1
            log.exception("a request failed", extra={"what": request.rel_url.raw_path})
            why = "the clearing house failed; it is not your fault, and nothing was done by halves: send it again"
            return _problem(Refused(Verdict.BUSY, why, retry=True), 500)

    async def _openapi(self, request: web.Request) -> web.Response:
        self._identify(request)
        return web.Response(body=self._document, content_type="application/json")

    def _identify(self, request: web.Request) -> str:
        tls = request.transport.get_extra_info("ssl_object") if request.transport else None
        leaf = tls.getpeercert(binary_form=True) if tls else None
        if leaf is None:
            raise Refused(Verdict.DENIED, "show your certificate in the TLS handshake")
        return self.members.identify(leaf)


async def _body(request: web.Request, kind: type[T]) -> T:
    """The JSON body as ``kind``; raises ``Refused``."""
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        why = str(error) if isinstance(error, msgspec.ValidationError) else "it is not JSON"
        raise Refused(Verdict.MALFORMED, f"the body is not {kind.__name__}: {why}; see /v1/openapi.json") from None


def _content(media: str, kind: type) -> dict[str, Any]:
    return {media: {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}


def _problem(refused: Refused, status: int, wait: float = 1.0) -> web.Response:
    titles = {400: "Bad request", 403: "Refused", 404: "Not found", 409: "Conflict", 429: "Too many requests", 503: "Busy"}
    kind = f"urn:polder:refused:{refused.verdict}"
    problem = Problem(kind, titles.get(status, "Error"), status, refused.why, str(refused.verdict), refused.retry)
    headers = {"Retry-After": str(math.ceil(wait))} if status in {429, 503} else {}
    return web.Response(
        body=msgspec.json.encode(problem), status=status, content_type="application/problem+json", headers=headers
    )
