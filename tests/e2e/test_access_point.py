"""An access point as a TLS proxy with a client certificate: what curl and a browser may ask of it, and what it answers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from polder.api.admin import ask
from tests.e2e.conftest import World
from tests.e2e.test_no_open_relay import user_context
from tests.support.origin import IMAGES, picture


def curl(world: World, *arguments: str, user: str = "ann") -> subprocess.CompletedProcess[bytes]:
    """Run curl with node n1 as its HTTPS proxy, as ``user``."""
    directory = world.overlay.state(f"user-{user}") / "user" / user
    identity = ["--proxy-cert", directory / "chain.pem", "--proxy-key", directory / "key.pem"]
    proxy = ["--proxy", f"https://{world.overlay.nodes['n1'].hello['address']}", "--proxy-cacert", directory / "roots.pem"]
    command = ["curl", "-sS", "-m", "60", *map(str, [*proxy, *identity]), *arguments]
    return subprocess.run(command, capture_output=True, check=False)


def counters(world: World) -> dict[str, int]:
    """Counters of node n1."""
    return dict(asyncio.run(ask(world.overlay.state("n1") / "node" / "admin.sock", "counters")))


@pytest.mark.parametrize("tunnel", [[], ["--proxytunnel"]], ids=["absolute form", "CONNECT"])
def test_pages_and_uploads_pass(world: World, tunnel: list[str], tmp_path: Path) -> None:
    images = [f"http://wiki.test/image/{n}" for n in range(IMAGES)]
    outputs = [part for n in range(IMAGES) for part in ("-o", str(tmp_path / str(n)))]
    done = curl(world, *tunnel, *outputs, *images)
    assert done.returncode == 0, done.stderr
    assert all((tmp_path / str(n)).read_bytes() == picture(n) for n in range(IMAGES))
    body = tmp_path / "body"
    body.write_bytes(os.urandom(3_000_000))
    for framing in (["-H", "Transfer-Encoding: chunked"], [], ["-H", "Expect: 100-continue"]):
        done = curl(world, *tunnel, *framing, "--data-binary", f"@{body}", "http://wiki.test/upload")
        assert json.loads(done.stdout) == {"length": 3_000_000, "sum": sum(body.read_bytes()) % 65521}, done.stderr


def test_several_requests_share_a_connection(world: World) -> None:
    before = counters(world)
    done = curl(world, "-v", *["http://wiki.test/"] * 5)
    after = counters(world)
    assert done.stdout.count(b"The wiki is up") == 5
    assert done.stderr.count(b"SSL connection using") == 1
    gained = {name: after[name] - before[name] for name in ("front_exchanges", "front_reused", "front_tunnels")}
    assert gained == {"front_exchanges": 5, "front_reused": 4, "front_tunnels": 1}


def test_a_refusal_explains_itself_to_programs(world: World) -> None:
    done = curl(world, "-i", "http://nowhere.test/")
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    assert b"403 Forbidden" in head
    assert b"application/problem+json" in head
    problem = json.loads(body)
    assert problem["error"] == "destination_ip_prohibited"
    assert problem["retry"] is False
    done = curl(world, "-i", "http://wiki.test/", user="eve")
    assert json.loads(done.stdout.partition(b"\r\n\r\n")[2])["error"] == "http_request_denied"


def test_a_websocket_in_absolute_form(world: World) -> None:
    """RFC 6455 by hand, over the proxy connection itself; browsers tunnel with CONNECT instead."""
    host, _, port = world.overlay.nodes["n1"].hello["address"].rpartition(":")
    key = base64.b64encode(os.urandom(16)).decode()
    request = (
        "GET http://wiki.test/echo HTTP/1.1\r\nHost: wiki.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    )
    context = user_context(world.overlay.state("user-ann"), "ann")
    with socket.create_connection((host, int(port)), timeout=30) as raw, context.wrap_socket(raw) as tls:
        tls.sendall(request.encode())
        stream = tls.makefile("rb")
        head = b"".join(iter(stream.readline, b"\r\n")).decode().lower()
        accept = base64.b64encode(hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()).decode()
        assert head.startswith("http/1.1 101 ")
        assert f"sec-websocket-accept: {accept.lower()}" in head
        mask = os.urandom(4)
        text = b"by hand"
        tls.sendall(b"\x81" + bytes([0x80 | len(text)]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(text)))
        assert stream.read(2) == b"\x81\x0c"
        assert stream.read(12) == b"echo by hand"


def test_a_node_shows_no_pages(world: World) -> None:
    host, _, port = world.overlay.nodes["n1"].hello["address"].rpartition(":")
    context = user_context(world.overlay.state("user-ann"), "ann")
    for path, status in (("/", b"421"), ("/metrics", b"421"), ("/.well-known/polder", b"404")):
        with socket.create_connection((host, int(port)), timeout=30) as raw, context.wrap_socket(raw) as tls:
            tls.sendall(f"GET {path} HTTP/1.1\r\nHost: n1.node.overlay.test\r\nConnection: close\r\n\r\n".encode())
            answer = tls.makefile("rb").read()
        assert answer.split(b" ")[1] == status
        assert b"n1" not in answer


def test_https_stays_between_client_and_site(world: World, tmp_path: Path) -> None:
    """The tunnel carries TLS that ends at the site: its certificate is checked, and nothing on the way can read along."""
    file = tmp_path / "origin.pem"
    file.write_bytes(world.origin.certificate)
    done = curl(world, "--cacert", str(file), "https://wiki.test/image/3")
    assert done.stdout == picture(3), done.stderr
    # Without that root curl itself breaks off (with status 35 or 60: TLS in TLS confuses its report).
    done = curl(world, "-v", "https://wiki.test/")
    assert done.returncode != 0
    assert b"unknown CA" in done.stderr
    assert not done.stdout
