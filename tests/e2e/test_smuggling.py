"""Known ways of smuggling requests, said to a live access point with a real nginx behind it (``smuggling/corpus.json``).

Every case is refused, or carried so that nginx sees as many requests as were sent. ``seen`` is how many it may see at most of
what is refused (a body that turns out wrong had a head that was right), and exactly of what is carried. In every case the path
of a request that is only part of a body, or of a lie, never reaches its log.
"""

from __future__ import annotations

import asyncio
import json
import select
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bench.punishment import frames as h2

from polder.engine.facade import Engine
from polder.snapshot.schema import EngineConfig, Limits, RingRoute, ServletEntry, Site, Snapshot
from tests.engine.pki import DOMAIN, Authority
from tests.support.overlay import free_port, until

CORPUS: dict[str, list[dict[str, Any]]] = json.loads((Path(__file__).parent / "smuggling" / "corpus.json").read_text())
PATIENCE_S = 30.0
QUIET_S = 0.2
"""Nothing more is expected from a connection that has said nothing for so long and has answered; nothing fails for it."""
GOAWAY, RST_STREAM = 7, 3

CONF = """
daemon off; worker_processes 1; pid {root}/pid; error_log {root}/error.log;
events {{ worker_connections 512; }}
http {{
  log_format seen '$request_method $request_uri'; access_log {root}/seen.log seen;
  client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;
  server {{ listen 127.0.0.1:{port}; location / {{ return 200 "here"; }} }}
}}
"""


@dataclass
class Front:
    """A node that is access point and servlet, and the nginx behind it."""

    engine: Engine
    context: ssl.SSLContext
    root: Path
    origin: int

    def dial(self, alpn: str) -> ssl.SSLSocket:
        """A user's connection."""
        host, _, port = self.engine.addresses[0].rpartition(":")
        self.context.set_alpn_protocols([alpn])
        raw = socket.create_connection((host, int(port)), PATIENCE_S)
        return self.context.wrap_socket(raw, server_hostname=f"ap.node.{DOMAIN}")

    def seen(self) -> list[str]:
        """What nginx has logged once all tunnels have ended, up to a mark of our own."""
        until(
            lambda: self.engine.counters()["front_tunnels_open"] == 0 and self.engine.counters()["connections_open"] == 0,
            "the end",
        )
        mark = f"/mark-{time.monotonic_ns()}"
        with socket.create_connection(("127.0.0.1", self.origin), PATIENCE_S) as sock:
            sock.sendall(f"GET {mark} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            while sock.recv(4096):
                pass
        log = self.root / "seen.log"
        until(lambda: mark in log.read_text(), "nginx's log")
        lines = log.read_text().splitlines()
        log.write_text("")
        return [line for line in lines if "/mark-" not in line]


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    root, port = tmp_path_factory.mktemp("smuggling"), free_port()
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    assert binary, "nginx is not installed: scripts/system-packages"
    (root / "nginx.conf").write_text(CONF.format(root=root, port=port))
    nginx = subprocess.Popen([binary, "-p", str(root), "-c", str(root / "nginx.conf")])
    authority, loop = Authority(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> Engine:
        return Engine(EngineConfig(role="node", listen=("127.0.0.1:0",)), lambda _: None)

    engine = asyncio.run_coroutine_threadsafe(start(), loop).result(PATIENCE_S)
    try:
        site = Site("wiki", ("wiki.test",), (80,), ("anyone",), (), "ring", ring=(RingRoute(0, None),))
        delivery = {"tcp": {"address": "127.0.0.1", "bind": None, "ports": [(80, port)]}}
        limits = Limits(handshake_rate_per_source=10_000, connections_per_identity=10_000)
        material = authority.leaf("node", "ap", ring_id=1)
        servlets = (ServletEntry("wiki", delivery),)
        engine.apply(Snapshot(1, DOMAIN, (authority.root_der,), material, sites=(site,), servlets=servlets, limits=limits))
        context = authority.context(authority.leaf("user", "ann"), root)
        until(lambda: (root / "pid").exists(), "nginx")
        yield Front(engine, context, root, port)
    finally:
        asyncio.run_coroutine_threadsafe(engine.stop(0), loop).result(PATIENCE_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_S)
        nginx.terminate()
        nginx.wait(PATIENCE_S)


def hear(tls: ssl.SSLSocket, enough: int) -> bytes:
    """All that comes until the connection ends, or until it has been quiet and ``enough`` answers have come."""
    heard = b""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if not tls.pending() and not select.select([tls], [], [], QUIET_S)[0]:
            if heard.count(b"HTTP/1.1 ") >= enough:
                return heard
            continue
        try:
            piece = tls.recv(65536)
        except OSError:
            return heard
        if not piece:
            return heard
        heard += piece
    pytest.fail(f"no end: {heard!r}")


def judge(front: Front, case: dict[str, Any]) -> None:
    """What nginx saw is what was sent."""
    seen = front.seen()
    assert not [line for line in seen if "smuggled" in line], seen
    assert len(seen) == case["seen"] or (case["refused"] and len(seen) < case["seen"]), seen


@pytest.mark.parametrize("case", CORPUS["h1"], ids=lambda case: case["name"])
def test_in_http1(front: Front, case: dict[str, Any]) -> None:
    with front.dial("http/1.1") as tls:
        tls.sendall(case["data"].encode("latin-1"))
        heard = hear(tls, max(1, case["seen"]))
    answers = [int(part[:3]) for part in heard.split(b"HTTP/1.1 ")[1:]]
    finals = [status for status in answers if status >= 200]
    if case["refused"]:
        assert not finals or finals[-1] >= 400 or case["seen"], heard
    else:
        assert finals == [200] * case["seen"], heard
    judge(front, case)


@pytest.mark.parametrize("case", CORPUS["h2"], ids=lambda case: case["name"])
def test_in_http2(front: Front, case: dict[str, Any]) -> None:
    block = b"".join(h2.field(name.encode("latin-1"), value.encode("latin-1")) for name, value in case["headers"])
    body = case["body"].encode("latin-1")
    head = h2.frame(h2.HEADERS, h2.END_HEADERS | (0 if body else h2.END_STREAM), 1, block)
    data = h2.frame(h2.DATA, h2.END_STREAM, 1, body) if body else b""
    status, reset = 0, False
    with front.dial("h2") as tls:
        tls.sendall(h2.PREFACE + h2.settings() + head + data)
        for kind, stream, payload in frames(tls):
            if kind == h2.HEADERS and stream == 1:
                status = 200 if payload[:1] == b"\x88" else 400
            reset |= kind == GOAWAY or (kind == RST_STREAM and stream == 1)
            if status or reset:
                break
    assert (status, reset) == (200, False) if not case["refused"] else (reset or status == 400 or case["seen"]), (status, reset)
    judge(front, case)


def frames(tls: ssl.SSLSocket) -> Iterator[tuple[int, int, bytes]]:
    """Frames as they come."""
    heard = b""
    while True:
        try:
            piece = tls.recv(65536)
        except OSError:
            return
        if not piece:
            return
        heard += piece
        while len(heard) >= 9 and len(heard) >= 9 + (length := int.from_bytes(heard[:3], "big")):
            yield heard[3], int.from_bytes(heard[5:9], "big"), heard[9 : 9 + length]
            heard = heard[9 + length :]
