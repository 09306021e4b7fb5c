"""Sites that ask who their users are: a real nginx behind PROXY v2, and an origin that checks signed fields."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import threading
import time
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicNumbers
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tests.e2e.conftest import echoes
from tests.support.origin import Origin
from tests.support.overlay import Overlay, free_port, polder, until

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")

_CONF = """
daemon off; pid {root}/nginx.pid; worker_processes 1; error_log {root}/error.log warn;
events {{ worker_connections 64; }}
http {{
  client_body_temp_path {root}/a; proxy_temp_path {root}/b; fastcgi_temp_path {root}/c; uwsgi_temp_path {root}/d; scgi_temp_path {root}/e;
  access_log off;
  server {{ listen 127.0.0.1:{port} proxy_protocol; return 200 "$proxy_protocol_addr $proxy_protocol_server_port\n"; }}
}}
"""

FORGED = {
    "Polder-User": "root",
    "polder_user": "root",
    "Polder-Groups": "admins",
    "Polder-Assertion": "e30.e30.e30",
    "X-Forwarded-User": "root",
}


@dataclass
class Running:
    """``proxies`` by user; ``seen`` is the first PROXY header and the rest of each connection to the site ``raw``."""

    overlay: Overlay
    origin: Origin
    proxies: dict[str, str]
    seen: list[bytes]


class RawOrigin:
    """Keeps what comes in front of the first request, answers 200, closes."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                data = b""
                while b"HTTP/1.1\r\n" not in data or not data.endswith(b"\r\n\r\n"):
                    if not (piece := connection.recv(65536)):
                        break
                    data += piece
                self.seen.append(data)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two nodes; site ``front`` (nginx, PROXY v2), ``raw`` (PROXY v2 with addresses), ``app`` (signed fields); ann and bob."""
    root = tmp_path_factory.mktemp("users")
    port, raw, origin, overlay = free_port(), RawOrigin(), Origin().start(), Overlay(root / "overlay")
    assert NGINX, "nginx-light is in scripts/system-packages"
    (root / "nginx").mkdir()
    (root / "nginx" / "nginx.conf").write_text(_CONF.format(root=root / "nginx", port=port))
    nginx = subprocess.Popen([NGINX, "-p", str(root / "nginx"), "-c", "nginx.conf", "-e", "error.log"])
    try:
        (root / "overlay").mkdir()
        overlay.found()
        for node in ("n1", "n2"):
            overlay.enrol_node(node)
            overlay.run_node(node)
        sites = {
            "front": f'origin = "http://127.0.0.1:{port}"\ntell = "proxy-v2"\n',
            "raw": f'origin = "http://{raw.address}"\ntell = "proxy-v2"\ntell_address = true\n',
            "app": f'origin = "http://{origin.address}"\ntell = "header"\n',
        }
        for name, lines in sites.items():
            overlay.enrol_site(name, f"{name}.test")
            overlay.run_site(name, f'name = "{name}"\nallow = ["anyone"]\n{lines}')
        overlay.enrol_user("ann", "staff", "night")
        overlay.enrol_user("bob")
        overlay.wait_ring(2)
        for name in sites:
            overlay.wait_site(name)
        proxies = {user: overlay.connect(user).hello["proxy"] for user in ("ann", "bob")}
        yield Running(overlay, origin, proxies, raw.seen)
    finally:
        overlay.close()
        nginx.terminate()
        nginx.wait(20)
        raw.close()
        origin.stop()


def get(proxy: str, url: str, *more: str) -> str:
    """A page by curl."""
    done = subprocess.run(
        ["curl", "-sS", "-m", "30", "-x", f"http://{proxy}", *more, url], capture_output=True, text=True, check=False
    )
    return done.stdout


def test_nginx_knows_its_users_apart_without_their_addresses(running: Running) -> None:
    told: dict[str, set[str]] = {}
    for user, proxy in running.proxies.items():
        until(lambda proxy=proxy: get(proxy, "http://front.test/").startswith("fd"), "nginx")  # type: ignore[misc]
        told[user] = {get(proxy, "http://front.test/", *how) for how in ([], ["-p"], ["-H", "X-Forwarded-For: 10.0.0.1"])}
        assert all(page.endswith(" 80\n") for page in told[user])
        assert len(told[user]) == 1, "always the same for one user"
    assert told["ann"].isdisjoint(told["bob"])


def test_the_proxy_header_names_user_groups_host_and_address(running: Running) -> None:
    until(lambda: get(running.proxies["ann"], "http://raw.test/") == "ok\n", "the raw origin")
    running.seen.clear()
    assert get(running.proxies["ann"], "http://raw.test/", "-p", "-H", "PROXY: x") == "ok\n"
    (data,) = running.seen
    header, _, request = data.partition(b"GET / ")
    assert header[:14] == b"\r\n\r\n\0\r\nQUIT\n\x21\x11" and request.startswith(b"HTTP/1.1")
    assert header[16:20] == bytes([127, 0, 0, 1]), "the address of ann's forwarder"
    tlvs, rest = {}, header[28:]
    while rest:
        length = int.from_bytes(rest[1:3], "big")
        tlvs[rest[0]], rest = rest[3 : 3 + length], rest[3 + length :]
    assert tlvs[0x02] == b"raw.test"
    assert tlvs[0xE0] == b"spiffe://overlay.test/user/ann"
    assert sorted(tlvs[0xE1].split(b",")) == [b"night", b"staff"]


def claims(token: str, keys: dict[str, Any]) -> dict[str, Any]:
    """What a valid assertion claims; raises what ``cryptography`` raises when it is not."""
    head, body, signature = (urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split("."))
    header = json.loads(head)
    assert header["alg"] == "ES256"
    (key,) = (key for key in keys["keys"] if key["kid"] == header["kid"])
    x, y = (int.from_bytes(urlsafe_b64decode(key[part] + "="), "big") for part in ("x", "y"))
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    public = EllipticCurvePublicNumbers(x, y, SECP256R1()).public_key()
    public.verify(encode_dss_signature(r, s), token.rpartition(".")[0].encode(), ECDSA(hashes.SHA256()))
    told: dict[str, Any] = json.loads(body)
    return told


def check(running: Running, headers: dict[str, str], user: str, groups: list[str]) -> None:
    """That the origin was told ``user`` and nothing else."""
    keys = polder(running.overlay.state("site-app"), "site", "key", "app")
    assert headers["polder-user"] == user
    assert sorted(headers["polder-groups"].split(",")) == groups or (not groups and headers["polder-groups"] == "")
    assert not {"polder_user", "x-forwarded-user"} & headers.keys()
    told = claims(headers["polder-assertion"], keys)
    assert told["sub"] == f"spiffe://overlay.test/user/{user}" and told["iss"] == "spiffe://overlay.test/site/app"
    assert told["aud"] == "app.test" and sorted(told["groups"]) == groups
    assert told["iat"] <= time.time() + 5 and told["exp"] - told["iat"] == 60 and told["exp"] > time.time() - 5  # noqa: TID251 - wall clock


def test_signed_fields_name_the_user_whatever_he_forges_and_however_he_asks(running: Running) -> None:
    until(lambda: "The wiki is up" in get(running.proxies["ann"], "http://app.test/"), "the app")
    forged = [word for name, value in FORGED.items() for word in ("-H", f"{name}: {value}")]
    for tunnel in ([], ["-p"]):
        running.origin.requests.clear()
        page = get(running.proxies["ann"], "http://app.test/", *tunnel, *forged, "http://app.test/")
        assert page.count("The wiki is up") == 2, "two requests on one connection"
        assert len(running.origin.requests) == 2
        for _, _, headers in running.origin.requests:
            check(running, headers, "ann", ["night", "staff"])
    running.origin.requests.clear()
    assert "The wiki is up" in get(running.proxies["bob"], "http://app.test/", *forged)
    check(running, running.origin.requests[0][2], "bob", [])


async def test_a_websocket_is_told_too_and_works(running: Running) -> None:
    await asyncio.to_thread(until, lambda: "The wiki is up" in get(running.proxies["ann"], "http://app.test/"), "the app")
    running.origin.requests.clear()
    await echoes("ws://app.test/echo", running.proxies["ann"], FORGED)
    await asyncio.to_thread(check, running, running.origin.requests[0][2], "ann", ["night", "staff"])


def test_nothing_of_the_user_is_in_the_logs_of_nodes(running: Running) -> None:
    for process in running.overlay.nodes.values():
        assert not [line for line in process.log_lines() if "user/ann" in json.dumps(line)]


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ('tell = "proxy-v2"\ntransport = "tcp"\nedge = "127.0.0.1"\norigin = "http://127.0.0.1:1"\n', "needs the site's agent"),
        ('tell = "header"\norigin = "https://127.0.0.1:1"\n', "plain HTTP on every port"),
        ('tell = "header"\norigin = "127.0.0.1:1"\n', "plain HTTP on every port"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_way_out(tmp_path: Path, lines: str, why: str) -> None:
    (tmp_path / "site.toml").write_text(f'name = "wiki"\n{lines}')
    done = polder(tmp_path, "config", "check", str(tmp_path / "site.toml"), status=2)
    assert why in json.dumps(done).replace("\\'", "'")
