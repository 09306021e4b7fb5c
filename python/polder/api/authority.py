"""The authority's HTTPS interface: TLS 1.3, JSON, problem+json (RFC 9457). Its clients pin the root.

``/v1/root``, ``/v1/nonce``, ``/v1/enrol`` and ``/v1/renew`` are for anybody who has a token or a key; lists are for members, who
show their certificate. Decisions and database run on one worker thread; the event loop never waits for a disk.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import ssl
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from polder.api import openapi
from polder.api.door import Door
from polder.api.limits import SourceRates, source_of
from polder.api.messages import EnrolRequest, Message, Nonce, Problem, RenewRequest
from polder.api.service import AuthorityService
from polder.model import Refused, Verdict
from polder.model.overlay_messages import status_of
from polder.shell.clock import monotonic
from polder.shell.metrics import Number
from polder.trust.keys import certificates_to_pem

log = logging.getLogger("polder.authority")
refusals = logging.getLogger("polder.refused")

MAX_BODY = 32_768
"""Bytes of a request: a token, a PKCS #10 request of 400 bytes, an address."""

_TITLES = {400: "Bad request", 403: "Refused", 404: "Not found", 409: "Conflict", 421: "Misdirected", 429: "Too many requests"}

T = TypeVar("T")
M = TypeVar("M", bound=Message)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AuthorityServer:
    """Serves ``service``. ``tls`` must demand TLS 1.3 and ask for client certificates (``polder.api.server_tls``)."""

    def __init__(self, service: AuthorityService, tls: ssl.SSLContext) -> None:
        self._service = service
        self._tls = tls
        self._worker = ThreadPoolExecutor(1, "authority")
        self._rates = SourceRates(service.settings.rate_per_source, service.settings.sources)
        self.counters: dict[str, int] = {"requests": 0, "refused": 0, "enrolled": 0, "renewed": 0, "limited": 0}
        self._runner = web.AppRunner(self._app(), access_log=None, keepalive_timeout=15.0)
        self._server: asyncio.Server | None = None
        self._door: Door | None = None

    async def start(self, host: str, port: int, inherited: socket.socket | None = None) -> tuple[str, int]:
        """Listen, or go on with a socket that listens already; returns the address in use (``port`` 0 lets the kernel choose).

        Raises ``OSError``.
        """
        await self._runner.setup()
        assert self._runner.server is not None  # setup made it
        loop = asyncio.get_running_loop()
        settings = self._service.settings
        self._door = Door(self._runner.server, self._tls, SourceRates(settings.rate_per_source, settings.sources))
        if inherited is None:
            self._server = await loop.create_server(self._door, host, port, reuse_address=True)
        else:
            self._server = await loop.create_server(self._door, sock=inherited)
        bound: tuple[str, int] = self._server.sockets[0].getsockname()[:2]
        return bound

    @property
    def descriptor(self) -> int:
        """The listening socket, for the process that takes over."""
        return self._server.sockets[0].fileno() if self._server and self._server.sockets else -1

    def status(self) -> dict[str, int]:
        """Counters, and connections at this moment."""
        door = self._door
        if door is None:
            return dict(self.counters)
        return self.counters | {"connections": len(door), "turned_away": door.turned_away, "handshakes_failed": door.failed}

    def numbers(self) -> dict[str, Number]:
        """For ``/metrics``."""
        door = self._door
        outcomes = {name: self.counters[name] for name in ("enrolled", "renewed", "refused", "limited")}
        outcomes["answered"] = self.counters["requests"] - sum(outcomes.values())
        return {
            "authority_requests": outcomes,
            "authority_connections_open": len(door) if door else 0,
            "authority_connections_refused": door.turned_away if door else 0,
            "authority_handshakes_failed": door.failed if door else 0,
        }

    async def close(self) -> None:
        """Stop accepting, finish what runs, close."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()
        self._worker.shutdown()

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY, middlewares=[self._guard])
        app.router.add_get("/v1/root", self._root)
        app.router.add_get("/v1/nonce", self._nonce)
        app.router.add_post("/v1/enrol", self._enrol)
        app.router.add_post("/v1/renew", self._renew)
        app.router.add_get("/v1/members", self._members)
        app.router.add_get("/v1/relays", self._relays)
        app.router.add_get("/v1/revocations", self._revocations)
        app.router.add_get("/v1/openapi.json", self._openapi)
        app.router.add_get("/livez", self._alive)
        app.router.add_get("/readyz", self._ready)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Rate first, then the handler; every refusal becomes a problem, and is logged."""
        self.counters["requests"] += 1
        source = request.remote or ""
        wait = self._rates.admit(source_of(source), monotonic())
        if wait > 0:
            self.counters["limited"] += 1
            return _problem(Refused(Verdict.BUSY, "too many requests from your address; wait", retry=True), 429, wait)
        try:
            return await handler(request)
        except Refused as refused:
            self.counters["refused"] += 1
            extra = {"what": request.rel_url.raw_path, "source": source, "verdict": str(refused.verdict)}
            refusals.warning(refused.why, extra=extra)
            return _problem(refused, status_of(refused))
        except web.HTTPException as error:
            return _problem(
                Refused(Verdict.MALFORMED, f"{request.method} {request.rel_url.raw_path[:100]}: {error.reason}"), error.status
            )
        except Exception:
            log.exception("a request failed", extra={"what": request.rel_url.raw_path, "source": source})
            return _problem(Refused(Verdict.BUSY, "the authority failed; it is not your fault", retry=True), 500)

    async def _root(self, _request: web.Request) -> web.Response:
        pem = certificates_to_pem(self._service.roots)
        return web.Response(body=pem, content_type="application/x-pem-file")

    async def _nonce(self, _request: web.Request) -> web.Response:
        return _json(Nonce(self._service.nonce()))

    async def _enrol(self, request: web.Request) -> web.Response:
        body = await _body(request, EnrolRequest)
        enrolled = await self.work(lambda: self._service.enrol(body, request.remote))
        self.counters["enrolled"] += 1
        log.info("enrolled", extra={"who": enrolled.uri, "source": request.remote, "not_after": enrolled.not_after})
        return _json(enrolled)

    async def _renew(self, request: web.Request) -> web.Response:
        body = await _body(request, RenewRequest)
        enrolled = await self.work(lambda: self._service.renew(body, request.remote))
        self.counters["renewed"] += 1
        log.info("renewed", extra={"who": enrolled.uri, "source": request.remote, "not_after": enrolled.not_after})
        return _json(enrolled)

    async def _members(self, request: web.Request) -> web.Response:
        await self._identify(request)
        return _json(await self.work(self._service.members))

    async def _relays(self, request: web.Request) -> web.Response:
        await self._identify(request)
        return _json(await self.work(self._service.relays))

    async def _revocations(self, request: web.Request) -> web.Response:
        await self._identify(request)
        return _json(await self.work(self._service.revocations))

    async def _openapi(self, _request: web.Request) -> web.Response:
        return web.Response(body=openapi.document(), content_type="application/json")

    async def _alive(self, _request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _ready(self, _request: web.Request) -> web.Response:
        await self.work(self._service.revocations)
        return web.Response(text="ready\n")

    async def _identify(self, request: web.Request) -> None:
        """Raise ``Refused`` unless a member's certificate came with the handshake."""
        tls = request.transport.get_extra_info("ssl_object") if request.transport else None
        leaf = tls.getpeercert(binary_form=True) if tls else None
        if leaf is None:
            raise Refused(Verdict.DENIED, "for members only: show your certificate in the TLS handshake")
        await self.work(lambda: self._service.identify(leaf))

    async def work(self, call: Callable[[], T]) -> T:
        """Run what blocks on the one worker thread."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, call)


async def _body(request: web.Request, kind: type[M]) -> M:
    """The JSON body as ``kind``; raises ``Refused`` without echoing it: it may hold a token."""
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        why = str(error) if isinstance(error, msgspec.ValidationError) else "it is not JSON"
        raise Refused(Verdict.MALFORMED, f"the body is not {kind.__name__}: {why}; see /v1/openapi.json") from None


def _json(value: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json", headers={"Cache-Control": "no-store"})


def _problem(refused: Refused, status: int, wait: float = 1.0) -> web.Response:
    title = _TITLES.get(status, "Error")
    kind = f"urn:polder:refused:{refused.verdict}"
    problem = Problem(kind, title, status, refused.why, str(refused.verdict), refused.retry)
    headers = {"Retry-After": str(math.ceil(wait))} if status in {429, 503} else {}
    return web.Response(
        body=msgspec.json.encode(problem), status=status, content_type="application/problem+json", headers=headers
    )
