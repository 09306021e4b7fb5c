"""Who may talk to a listener that is for this machine's people: checks of Host, Origin, method and the Unix socket's peer.

A browser on this machine carries pages of strangers, which can make it send requests here. It cannot make it lie in ``Host`` (DNS
rebinding), ``Origin`` or ``Sec-Fetch-Site``.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

_SAFE = frozenset({"GET", "HEAD"})


def problem(status: int, title: str, detail: str) -> web.Response:
    """problem+json (RFC 9457)."""
    body = json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail})
    return web.Response(text=body, status=status, content_type="application/problem+json", headers={"Cache-Control": "no-store"})


def page_guard(hosts: frozenset[str] = frozenset(), *, writes: bool = False) -> Middleware:
    """A middleware that lets programs and our own pages in, and no other page.

    ``hosts``: names beside ``localhost`` and IP addresses. ``writes``: POST of JSON is allowed too.
    """

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not _names_us(request.host, hosts):
            return problem(421, "Misdirected", "ask by IP address or localhost: a name could be anybody's (DNS rebinding)")
        if _foreign(request):
            return problem(403, "Refused", "pages of other origins may not ask here")
        if request.method not in _SAFE and not (writes and request.method == "POST"):
            return problem(405, "Not allowed", "this listener answers GET and HEAD" + (" and POST" if writes else ""))
        if request.method == "POST" and request.content_type != "application/json":
            return problem(
                415, "Unsupported", "send application/json: a form cannot, so no page can make a browser do it unasked"
            )
        response = await handler(request)
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    return guard


@web.middleware
async def owner_guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Lets in whom the kernel says to be this process's user or root (``SO_PEERCRED``), beside the socket file's mode."""
    peer = request.transport.get_extra_info("socket") if request.transport else None
    uid = peer_uid(peer) if peer is not None else None
    if uid not in {0, os.geteuid()}:
        return problem(403, "Refused", f"user {uid} is neither root nor the user of this process: use sudo -u, or sudo")
    return await handler(request)


def peer_uid(peer: socket.socket) -> int | None:
    """The user at the other end of a Unix socket; ``None`` for any other socket."""
    if peer.family != socket.AF_UNIX:
        return None
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(uid)


def _names_us(host: str, hosts: frozenset[str]) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost" or name in hosts:
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _foreign(request: web.Request) -> bool:
    if request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
        return True
    origin = request.headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc != request.host
