"""``make bench`` part ``scan``: what does an outsider find? Writes ``bench/results/scan.json``.

A bot somewhere in the laboratory's wide area scans every host of a running overlay, then asks everything that is open to carry it
to places that no site registered: in plain HTTP, in TLS without a certificate, and (the worst case) with the certificate of an
enrolled user. The site itself must not answer at all.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import socket
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from polder.lab import attacks, enclosure, experiment, results, topology
from polder.lab.overlay import Overlay
from polder.lab.plots import DIKE, FLOOD
from polder.lab.processes import Processes
from polder.lab.results import Claim, Measure, Result
from polder.lab.world import World

PORTS = (
    21,
    22,
    25,
    53,
    80,
    110,
    143,
    443,
    587,
    1080,
    3128,
    5000,
    5432,
    6379,
    7400,
    7443,
    7480,
    8000,
    8080,
    8118,
    8443,
    8888,
    9050,
    9090,
)
TARGETS = (
    "127.0.0.1:22",
    "localhost:7443",
    "[::1]:80",
    "0.0.0.0:80",
    "10.0.0.1:80",
    "192.168.1.1:80",
    "169.254.169.254:80",
    "[fd00::1]:443",
    "[::ffff:127.0.0.1]:80",
    "2130706433:80",
    "127.0.0.1.nip.io:80",
    "site.lab:80",
    "198.19.2.10:443",
    "example.com:443",
    "www.polder.test:22",
    "www.polder.test.example.com:443",
)
_NODES = 4
_AT_ONCE = 8
_PATIENCE_S = 3.0


def ask(address: str, port: int, wrap: ssl.SSLContext | None, request: bytes) -> str:
    """What came of one request: ``carried`` (2xx), another HTTP status, ``closed`` or ``silent``."""
    try:
        with socket.create_connection((address, port), timeout=_PATIENCE_S) as sock:
            stream = wrap.wrap_socket(sock, server_hostname="x") if wrap else sock
            stream.sendall(request)
            head = stream.recv(4096).split(b"\r\n", 1)[0].split(b" ")
    except TimeoutError:
        return "silent"
    except OSError:
        return "closed"
    if len(head) < 2 or not head[0].startswith(b"HTTP/"):
        return "closed"
    return "carried" if head[1].startswith(b"2") else head[1].decode("ascii", "replace")


def relay_attempts(doors: list[tuple[str, int]], identity: Path) -> list[dict[str, Any]]:
    """Every open door, every way of asking, every target. Runs on the bot."""
    bare, enrolled = _context(), _context()
    enrolled.load_cert_chain(identity / "chain.pem", identity / "key.pem")
    ways = (("plain", None), ("TLS without a certificate", bare), ("TLS as an enrolled user", enrolled))
    wishes = list(itertools.product(doors, ways, ("CONNECT", "GET"), TARGETS))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda wish: _attempt(*wish), wishes))


def _attempt(door: tuple[str, int], way: tuple[str, ssl.SSLContext | None], form: str, target: str) -> dict[str, Any]:
    place = target if form == "CONNECT" else f"http://{target}/"
    request = f"{form} {place} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()
    return {"way": way[0], "form": form, "target": target, "outcome": ask(*door, way[1], request)}


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


async def measure(folder: Path) -> list[dict[str, Any]]:
    """Rows: open ports by kind of host, outcomes of attempts by way of asking."""
    described = topology.load("demo").resized({"node": _NODES, "user": 1, "bot": 1})
    world = World(described, folder)
    try:
        async with Processes(folder) as processes:
            await experiment.start_origin(processes, world, folder)
            protection = {"transport": "gre", "mode": "beacon", "servlets": 2}
            overlay = Overlay(processes, world, folder, protection, print)
            await overlay.build(experiment.SITE_NAME)
            print("scanning")
            rows = await _ports(processes, world)
            doors = [(host["address"], port) for host in rows for port in host["open"]]
            identity = folder / "state" / "user" / "user" / "user"
            argv = [sys.executable, "-m", "bench.scan", "--as-bot", str(identity)]
            output = await processes.run("bot", "relays", argv, 600, json.dumps(doors).encode())
            overlay.check()
    finally:
        world.close()
    return [*_by_kind(rows), *_by_way(json.loads(output))]


async def _ports(processes: Processes, world: World) -> list[dict[str, Any]]:
    rows = []
    for host in world.hosts.values():
        if host.name == "bot":
            continue
        found = set()
        for address in (host.ipv4, host.ipv6):
            config = msgspec.msgpack.encode(attacks.scan([(address, port) for port in PORTS]))
            output = await processes.run("bot", "scan", [*attacks.TOOL, "strangers"], 60, config)
            found |= {int(place.rpartition(":")[2]) for place in json.loads(output)["found"]}
        rows.append({"host": host.name, "address": host.ipv4, "open": sorted(found)})
    return rows


def _by_kind(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kinds: dict[str, dict[str, Any]] = {}
    for row in rows:
        kind = row["host"].rstrip("0123456789")
        known = kinds.setdefault(kind, {"scan": kind, "hosts": 0, "ports_tried": 0, "open_ports": 0, "open": []})
        known["hosts"] += 1
        known["ports_tried"] += 2 * len(PORTS)
        known["open_ports"] += len(row["open"])
        known["open"] = sorted({*known["open"], *row["open"]})
    return list(kinds.values())


def _by_way(attempts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for way in dict.fromkeys(one["way"] for one in attempts):
        outcomes = [one["outcome"] for one in attempts if one["way"] == way]
        counts = {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}
        rows.append({"way": way, "attempts": len(outcomes), "carried": counts.pop("carried", 0), "outcomes": counts})
    return rows


def claims() -> list[Claim]:
    """What must hold."""
    hidden = [
        Claim(f"scan.{kind}", f"nothing of the {text} answers an outsider", "== 0", Measure("open_ports", {"scan": kind}))
        for kind, text in (("site", "site"), ("gateway", "site's gateway"), ("user", "users' forwarders"))
    ]
    nodes = Measure("open_ports", {"scan": "node"}, over=Measure("hosts", {"scan": "node"}))
    return [
        Claim(
            "scan.relay",
            "no request to an unregistered place is carried, not even for an enrolled user",
            "== 0",
            Measure("carried", fold="sum"),
        ),
        Claim("scan.node", "every node shows one port, whatever its roles", "== 1", nodes),
        *hidden,
    ]


def draw(drawn: Any, rows: Any) -> None:
    """Attempts by way of asking."""
    axes = drawn.subplots()
    ways = [row for row in rows if "way" in row]
    names = [row["way"] for row in ways]
    axes.barh(names, [row["attempts"] - row["carried"] for row in ways], color=DIKE, label="refused")
    axes.barh(names, [row["carried"] for row in ways], color=FLOOD, label="carried")
    axes.set(title="Requests to be carried to unregistered places", xlabel="requests")
    axes.legend()


def main() -> int:
    """Scan, write, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.scan", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="it is quick")
    parser.add_argument("--as-bot", type=Path, metavar="IDENTITY", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_bot:
        print(json.dumps(relay_attempts([tuple(door) for door in json.load(sys.stdin)], arguments.as_bot)))
        return 0
    folder = experiment.new_directory("scan").resolve()
    return enclosure.run(lambda: _record(asyncio.run(measure(folder))))


def _record(rows: list[dict[str, Any]]) -> int:
    result = Result("scan", {"ports": PORTS, "targets": TARGETS, "nodes": _NODES}, rows, claims(), "What an outside scan finds")
    for row in rows:
        print(row)
    print(f"wrote {results.write(result, draw)}")
    return 0 if all(claim["holds"] for claim in result.record()["claims"]) else 3


if __name__ == "__main__":
    sys.exit(main())
