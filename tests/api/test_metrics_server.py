"""The listener of /livez, /readyz and /metrics: what it tells, and to whom."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError
from pydantic import ValidationError

from polder.api.metrics import MetricsServer
from polder.engine import Distribution
from polder.settings import NodeSettings
from polder.shell.health import Check
from polder.shell.tasks import Tasks
from tests.support.metrics import families, fetch
from tests.support.overlay import free_port

NUMBERS: dict[str, Any] = {
    "tunnels": 7,
    "dialouts_open": 2,
    "links": {"up": 3, "down": 1},
    "link_rtt_seconds": Distribution((0.001, 0.002), (4, 1, 2), 0.5),
}


@asynccontextmanager
async def listening(folder: Path, checks: list[Check] | None = None, **settings: Any) -> AsyncIterator[MetricsServer]:
    tasks = Tasks()
    server = MetricsServer(
        NodeSettings(**settings), folder, "node", lambda: checks or [Check("ring", True)], lambda: NUMBERS, secret_roles=True
    )
    await server.start(tasks)
    try:
        yield server
    finally:
        await tasks.close()
        await server.close()


async def test_a_process_that_is_not_fit_says_why_and_stays_alive(tmp_path: Path) -> None:
    async with listening(tmp_path, [Check("ring", False, "not joined")]):
        sock = tmp_path / "metrics.sock"
        assert (await fetch("http://polder/livez", sock))[0] == 200
        status, _, body = await fetch("http://polder/readyz", sock)
        assert (status, json.loads(body)["reasons"]) == (503, [{"check": "ring", "why": "not joined"}])
        told = families((await fetch("http://polder/metrics", sock))[2])
        assert told["polder_ready"].samples[0].value == 0


async def test_numbers_keep_their_type(tmp_path: Path) -> None:
    async with listening(tmp_path):
        told = families((await fetch("http://polder/metrics", tmp_path / "metrics.sock"))[2])
    assert (told["polder_tunnels"].type, told["polder_tunnels"].samples[0].value) == ("counter", 7)
    assert {s.labels["state"]: s.value for s in told["polder_links"].samples} == {"up": 3, "down": 1}
    rtt = {(s.name, s.labels.get("le")): s.value for s in told["polder_link_rtt_seconds"].samples}
    assert rtt["polder_link_rtt_seconds_bucket", "0.002"] == 5
    assert (rtt["polder_link_rtt_seconds_count", None], rtt["polder_link_rtt_seconds_sum", None]) == (7, 0.5)


async def test_a_number_without_a_meaning_fails_loudly(tmp_path: Path) -> None:
    async with listening(tmp_path) as server:
        NUMBERS["made_up"] = 1
        try:
            with pytest.raises(KeyError, match="made_up"):
                server._exposition.render()
        finally:
            del NUMBERS["made_up"]


async def test_what_tells_a_role_is_on_the_owners_socket_only(tmp_path: Path) -> None:
    async with listening(tmp_path):
        assert "polder_dialouts_open" in families((await fetch("http://polder/metrics", tmp_path / "metrics.sock"))[2])
    async with listening(tmp_path, metrics_listen="127.0.0.1:0") as server:
        assert "polder_dialouts_open" not in families((await fetch(f"http://{server.where}/metrics"))[2])
    async with listening(tmp_path, metrics_listen="127.0.0.1:0", metrics_roles=True) as server:
        assert "polder_dialouts_open" in families((await fetch(f"http://{server.where}/metrics"))[2])


async def test_the_socket_is_the_owners(tmp_path: Path) -> None:
    async with listening(tmp_path):
        assert (tmp_path / "metrics.sock").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "metrics.sock").exists()


AS_NOBODY = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
s.sendall(b"GET %s HTTP/1.1\\r\\nHost: polder\\r\\n\\r\\n" % sys.argv[2].encode())
print(s.recv(4096).decode())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
async def test_the_kernel_says_who_is_there_even_where_the_file_lets_in(tmp_path: Path) -> None:
    for parent in [*tmp_path.parents][:3]:
        parent.chmod(parent.stat().st_mode | 0o111)
    tmp_path.chmod(0o755)
    async with listening(tmp_path):
        sock = tmp_path / "metrics.sock"
        sock.chmod(0o666)
        command = [sys.executable, "-c", AS_NOBODY, str(sock), "/metrics"]
        said = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    assert said.stdout.startswith("HTTP/1.1 403 ")
    assert "polder_" not in said.stdout


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:9743"}, 200),
        ({"Host": "[::1]"}, 200),
        ({"Host": "metrics.example:80"}, 200),
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "localhost.evil.example"}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost", "Origin": "http://localhost"}, 200),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
    ],
)
async def test_pages_of_others_read_nothing(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    async with listening(tmp_path, metrics_listen="127.0.0.1:0", metrics_hosts=("metrics.example",)) as server:
        got, _, body = await fetch(f"http://{server.where}/metrics", **headers)
    assert got == status
    assert ("polder_" in body) == (status == 200)


async def test_nothing_can_be_written(tmp_path: Path) -> None:
    async with listening(tmp_path, metrics_listen="127.0.0.1:0") as server:
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert (await fetch(f"http://{server.where}/metrics", method=method))[0] == 405


async def test_a_taken_address_does_not_stop_the_process_and_is_taken_when_free(tmp_path: Path) -> None:
    port = free_port()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        tasks = Tasks()
        server = MetricsServer(NodeSettings(metrics_listen=f"127.0.0.1:{port}"), tmp_path, "node", list, dict)
        await server.start(tasks)
        assert server.where == ""
    async with asyncio.timeout(30):
        while server.where == "":
            await asyncio.sleep(0.05)
    assert (await fetch(f"http://127.0.0.1:{port}/livez"))[0] == 200
    await tasks.close()
    await server.close()


async def test_connections_beyond_the_bound_are_turned_away_and_counted(tmp_path: Path) -> None:
    async with listening(tmp_path, metrics_listen="127.0.0.1:0") as server:
        host, _, port = server.where.rpartition(":")
        held = [socket.create_connection((host, int(port))) for _ in range(16)]
        # Each answers once, so that all of them are counted before the next comes.
        for sock in held:
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
        for sock in held:
            await loop.sock_sendall(sock, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await loop.sock_recv(sock, 100)).startswith(b"HTTP/1.1 200")
        with pytest.raises(ClientError):
            await fetch(f"http://{server.where}/livez")
        held.pop().close()
        for sock in held:
            sock.close()


@pytest.mark.parametrize("where", ["0.0.0.0:1", "[::]:1", "192.0.2.1:9743", "unix:relative", "nonsense", "host.example:1"])
def test_places_that_others_reach_or_nobody_understands_are_refused(where: str) -> None:
    with pytest.raises(ValidationError, match="metrics_listen"):
        NodeSettings(metrics_listen=where)


def test_beyond_loopback_only_when_it_is_said() -> None:
    assert NodeSettings(metrics_listen="0.0.0.0:1", metrics_beyond_loopback=True).metrics_address() == ("0.0.0.0", 1)
    assert NodeSettings(metrics_listen="[::1]:1").metrics_address() == ("::1", 1)
    assert NodeSettings(metrics_listen="off").metrics_address() is None
