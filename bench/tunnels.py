"""``python -m bench.tunnels``: what one hop costs. Writes ``bench/results/tunnels.json``.

Chains of 1 and 4 nodes in path mode ``ring`` behind a user's forwarder, all on loopback, every engine in a process of its own.
CPU seconds (user and system) and resident memory are those of the nodes' processes, so that other work on the machine disturbs
less than it disturbs times: per GiB of a download, per new tunnel with one HTTPS GET, per idle tunnel.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import ssl
import statistics
import sys
import time
from pathlib import Path as FilePath
from typing import Any

from bench import cpu, report
from bench.fetch import Path, connect, get, open_stream
from bench.fronts import LIMITS
from polder.engine.facade import BUILD
from polder.lab import enclosure, origin
from polder.lab.engines import Pki, Remote, launch
from polder.lab.processes import Processes
from polder.lab.results import Claim, Measure, Result
from polder.model import Kind
from polder.snapshot.schema import EngineConfig, Forwarder, RingRoute, ServletEntry, Site, Snapshot

DOMAIN = "bench.test"
SERVER = "www.bench.test"
CHAINS = (1, 4)
GIB = 1 << 30


class Chain:
    """Nodes in a row and a forwarder in front; the last node delivers to the origin."""

    def __init__(self, nodes: list[Remote], forwarder: Remote) -> None:
        self.nodes = nodes
        self.forwarder = forwarder

    def path(self, port: int) -> Path:
        """To the site's ``port`` (443: TLS, 80: plain)."""
        return Path(f"{len(self.nodes)} nodes", self.forwarder.address, f"wiki.test:{port}")

    def cpu_s(self) -> list[float]:
        """CPU seconds of every node so far."""
        return [cpu.spent_s([node.process.process.pid]) for node in self.nodes]

    def resident(self) -> list[int]:
        """Resident bytes of every node."""
        return [int(_stat(node)[21]) * resource.getpagesize() for node in self.nodes]


def _stat(node: Remote) -> list[str]:
    text = FilePath(f"/proc/{node.process.process.pid}/stat").read_text()
    return text.rpartition(") ")[2].split()


async def build(processes: Processes, length: int, tls: int, plain: int) -> Chain:
    """Start a chain of ``length`` nodes towards the origin's two ports on this machine."""
    pki = Pki(DOMAIN, time.time(), 1)  # noqa: TID251 - the shell of a program
    nodes = []
    for number in range(length):
        name = f"c{length}n{number}"
        base = Snapshot(0, DOMAIN, (pki.root,), pki.member(Kind.NODE, name, number + 1), limits=LIMITS)
        nodes.append(await launch(processes, None, name, EngineConfig(role="node", listen=("127.0.0.1:0",)), base))
    peers = [node.peer(number + 1, warm=True) for number, node in enumerate(nodes)]
    ports = [(443, tls), (80, plain)]
    servlet = ServletEntry("wiki", {"tcp": {"address": "127.0.0.1", "bind": None, "ports": ports}})
    for number, node in enumerate(nodes):
        following = peers[number + 1].name if number + 1 < length else None
        site = Site("wiki", ("wiki.test",), (443, 80), ("anyone",), (), "ring", ring=(RingRoute(0, following),))
        others = tuple(peer for peer in peers if peer.name != node.name)
        await node.apply(peers=others, sites=(site,), servlets=() if following else (servlet,))
    base = Snapshot(0, DOMAIN, (pki.root,), pki.member(Kind.USER, "ann"), limits=LIMITS)
    config = EngineConfig(role="forwarder", listen=("127.0.0.1:0",))
    forwarder = await launch(processes, None, f"c{length}forwarder", config, base)
    await forwarder.apply(peers=(peers[0],), forwarder=Forwarder((peers[0].name,), ("wiki.test",), ""))
    return Chain(nodes, forwarder)


def download(sock: socket.socket, size: int) -> None:
    """GET of a file of ``size`` bytes, thrown away."""
    sock.sendall(f"GET /big.bin HTTP/1.1\r\nHost: {SERVER}\r\nConnection: close\r\n\r\n".encode())
    buffer, taken = bytearray(1 << 20), 0
    while count := sock.recv_into(buffer):
        taken += count
    if taken < size:
        raise RuntimeError(f"{taken} of {size} bytes came")


def bulk(chain: Chain, size: int) -> dict[str, Any]:
    """CPU per GiB and hop, and the rate, of one download over plain HTTP: the tunnel's own TLS is what costs."""
    sock = connect(chain.path(80))
    before, began = chain.cpu_s(), time.perf_counter()
    download(sock, size)
    took, after = time.perf_counter() - began, chain.cpu_s()
    sock.close()
    spent = [(b - a) * GIB / size for a, b in zip(before, after, strict=True)]
    return {"cpu_s_per_gib": round(statistics.fmean(spent), 3), "mib_per_s": round(size / took / (1 << 20), 1)}


def tunnels(chain: Chain, count: int, ca: FilePath) -> dict[str, Any]:
    """CPU per hop of a new tunnel with a TLS handshake and a GET of 1 KB through it."""
    tls = ssl.create_default_context(cafile=ca)
    path = chain.path(443)
    open_stream(path, SERVER, tls).close()
    before, began = chain.cpu_s(), time.perf_counter()
    for _ in range(count):
        with open_stream(path, SERVER, tls) as stream:
            get(stream, SERVER, 1)
    took, after = time.perf_counter() - began, chain.cpu_s()
    spent = [(b - a) * 1000 / count for a, b in zip(before, after, strict=True)]
    return {"cpu_ms_per_tunnel": round(statistics.fmean(spent), 3), "tunnels_per_s": round(count / took, 1)}


def idle(chain: Chain, count: int) -> dict[str, Any]:
    """Resident memory per open tunnel that has carried something and is silent now."""
    connect(chain.path(80)).close()
    before = chain.resident()
    open_ones = [connect(chain.path(80)) for _ in range(count)]
    for sock in open_ones:
        sock.sendall(f"GET /1k.bin HTTP/1.1\r\nHost: {SERVER}\r\n\r\n".encode())
    for sock in open_ones:
        left = 1000
        while left > 0:  # the head makes it more
            left -= len(sock.recv(4096)) or left
    after = chain.resident()
    for sock in open_ones:
        sock.close()
    return {"kib_per_idle_tunnel": round(max(b - a for a, b in zip(before, after, strict=True)) / count / 1024, 2)}


CLAIMS = [
    Claim("tunnels.idle", "KiB of a node's memory per idle tunnel", "<= 12", Measure("kib_per_idle_tunnel", {}, "max")),
    Claim(
        "tunnels.new",
        "CPU ms per new tunnel and hop, four nodes; HAProxy with CONNECT over HTTP/2 spends 0.82",
        "<= 0.82",
        Measure("cpu_ms_per_tunnel", {"nodes": 4}),
    ),
    Claim(
        "tunnels.bulk",
        "CPU seconds per GiB and hop, one node; HAProxy with HTTP/2 spends 1.33",
        "<= 1.33",
        Measure("cpu_s_per_gib", {"nodes": 1}),
    ),
]


async def measure(size: int, new: int, silent: int, *, record: bool) -> int:
    """Everything, in turn."""
    folder = (FilePath("build/lab") / f"tunnels-{os.getpid()}").resolve()
    rows = []
    async with Processes(folder) as processes:
        listen = [("127.0.0.1", 8453, True), ("127.0.0.1", 8090, False)]
        site = await origin.start(processes, None, folder / "nginx", [SERVER], listen)
        with (folder / "nginx" / "www" / "big.bin").open("wb") as file:
            file.truncate(size)
        for length in CHAINS:
            chain = await build(processes, length, 8453, 8090)
            row: dict[str, Any] = {"nodes": length}
            row |= await asyncio.to_thread(tunnels, chain, new, site.ca)
            row |= await asyncio.to_thread(bulk, chain, size)
            row |= await asyncio.to_thread(idle, chain, silent)
            rows.append(row)
            print(" ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    parameters = {"bytes": size, "new_tunnels": new, "idle_tunnels": silent, "build": BUILD}
    result = Result("tunnels", parameters, rows, CLAIMS, "What one hop costs")
    return report.finish(result, record=record, rows=False)


def main() -> int:
    """Measure, write, print."""
    arguments = report.arguments("tunnels", __doc__).parse_args()
    size, new, silent = (GIB // 4, 100, 500) if arguments.quick else (GIB, 500, 2000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (16_384, max(16_384, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    record = not arguments.no_record
    return enclosure.run(lambda: asyncio.run(measure(size, new, silent, record=record)))


if __name__ == "__main__":
    sys.exit(main())
