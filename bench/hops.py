"""``make bench-hops``: WebSOS's Tables I and II. Writes ``bench/results/hops.json`` and ``hops.svg``.

Time to completion of HTTPS GETs of 1, 10 and 100 KB over a new connection and over the open one: directly, and through the
user's forwarder and 1, 4, 7 and 10 nodes in path mode ``ring``, where every node relays; engines with hand-made snapshots, each
in a process of its own, all warm. Table I is on loopback. Table II is in the laboratory's wide area with a measured latency
matrix (``POLDER_DATA``; without it a synthetic geography), many random placements, with the modes ``beacon`` and ``direct``.
All paths are measured in turn in one run, and ratios are to ``direct`` of the same run (and the same placement).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path as FilePath
from typing import Any

import msgspec

from bench.fetch import Path, Task
from polder.lab import enclosure, origin, results, topology
from polder.lab.engines import Pki, Remote, launch
from polder.lab.latency import NoMatrixError, load
from polder.lab.plots import CYCLE, MIST
from polder.lab.processes import Processes
from polder.lab.results import Claim, Measure, Result
from polder.lab.switch import PathSpec
from polder.lab.world import World
from polder.model import Kind
from polder.snapshot.schema import BeaconEntry, EngineConfig, Forwarder, Limits, Peer, RingRoute, ServletEntry, Site, Snapshot

DOMAIN = "bench.test"
SIZES = (1, 10, 100)
CHAINS = (1, 4, 7, 10)
NODES = max(CHAINS)
SERVER = "www.bench.test"
LIMITS = Limits(
    handshake_rate_per_source=100_000,
    tunnel_rate_per_identity=100_000,
    frame_rate_per_identity=100_000_000,
    connections_per_identity=100_000,
    handshake_rate_per_identity=100_000,
    open_timeout_ms=20_000,
)
"""One client makes all the connections: budgets per source and user are not what is measured; ten far hops take seconds."""
Sample = tuple[str, str, int, float]


class Bed:
    """Ten nodes and a forwarder. A site per path leads over as many of the nodes as the path has; all enter at the first."""

    def __init__(self, processes: Processes, server: tuple[str, int]) -> None:
        self._processes = processes
        self._server = server
        self._pki = Pki(DOMAIN, time.time(), 1)  # noqa: TID251 - the shell of a program
        self.nodes: list[Remote] = []
        self.forwarder: Remote | None = None

    async def start(self, hosts: Sequence[str | None], addresses: Sequence[str], user: str | None) -> None:
        """Start every engine: node n on ``hosts[n]`` at ``addresses[n]``, the forwarder on host ``user``."""
        for number, (host, address) in enumerate(zip(hosts, addresses, strict=True)):
            member = self._pki.member(Kind.NODE, f"n{number + 1}", number + 1)
            config = EngineConfig(role="node", listen=(f"{address}:0",))
            base = Snapshot(0, DOMAIN, (self._pki.root,), member, limits=LIMITS)
            self.nodes.append(await launch(self._processes, host, f"n{number + 1}", config, base))
        member = self._pki.member(Kind.USER, "ann", groups=("staff",))
        base = Snapshot(0, DOMAIN, (self._pki.root,), member, limits=LIMITS)
        config = EngineConfig(role="forwarder", listen=("127.0.0.1:0",))
        self.forwarder = await launch(self._processes, user, "forwarder", config, base)
        peers = [node.peer(number + 1, warm=True) for number, node in enumerate(self.nodes)]
        sites = _sites()
        for number, node in enumerate(self.nodes):
            await node.apply(**self._roles(number, peers, sites))
        hosts_of_sites = tuple(host for site in sites for host in site.hosts)
        forward = Forwarder((peers[0].name,), hosts_of_sites, "")
        await self.forwarder.apply(peers=(peers[0],), forwarder=forward)

    def paths(self) -> tuple[Path, ...]:
        """What the client measures."""
        assert self.forwarder is not None
        proxy = self.forwarder.address
        direct = Path("direct", f"{self._server[0]}:{self._server[1]}")
        return (direct, *(Path(site.name, proxy, f"{site.hosts[0]}:443") for site in _sites()))

    def _roles(self, number: int, peers: list[Peer], sites: list[Site]) -> dict[str, object]:
        """What node ``number`` (0 …) knows."""
        name = peers[number].name
        known, beacons, servlets = [], [], []
        delivery = {"tcp": {"address": self._server[0], "bind": None, "ports": [(443, self._server[1])]}}
        for site in sites:
            length = _length(site.name)
            if site.name.startswith("ring") and number < length - 1:
                known.append(msgspec.structs.replace(site, ring=(RingRoute(0, peers[number + 1].name),)))
            else:
                known.append(msgspec.structs.replace(site, ring=(RingRoute(0, None),)))
            if number == length - 1:
                servlets.append(ServletEntry(site.name, delivery))
            if site.mode == "beacon" and number == 1:
                beacons.append(BeaconEntry(site.name, (peers[2].name,)))
        others = tuple(peer for peer in peers if peer.name != name)
        return {"peers": others, "sites": tuple(known), "beacons": tuple(beacons), "servlets": tuple(servlets)}


def _sites() -> list[Site]:
    allow = ({"group": "staff"},)
    rings = [Site(f"ring-{n}", (f"ring-{n}.test",), (443,), allow, (), "ring") for n in CHAINS]
    beacon = Site("beacon-3", ("beacon-3.test",), (443,), allow, (), "beacon", beacons=("n2",))
    direct = Site("shortcut-2", ("shortcut-2.test",), (443,), allow, (), "direct", beacons=("n2",), servlets=("n2",))
    return [*rings, beacon, direct]


def _length(name: str) -> int:
    return int(name.rpartition("-")[2])


async def table_one(folder: FilePath, rounds: int) -> list[Sample]:
    """Loopback: no delay but the processes' own."""
    async with Processes(folder) as processes:
        listen = [("127.0.0.1", 8443, True)]
        site = await origin.start(processes, None, folder / "nginx", [SERVER], listen)
        bed = Bed(processes, ("127.0.0.1", 8443))
        await bed.start([None] * NODES, ["127.0.0.1"] * NODES, None)
        task = Task(bed.paths(), SIZES, rounds, str(site.ca), SERVER, warm=max(2, rounds // 10))
        return await _client(processes, None, task, 600)


async def table_two(folder: FilePath, source: str, placements: int) -> tuple[list[list[Sample]], str]:
    """The wide area: for every placement the pairs' delays are set anew, on the same running engines."""
    world = World(topology.load("hops"), folder)
    hosts = [*(f"node{n + 1}" for n in range(NODES)), "user", "origin"]
    every = load(source, 60, random.Random(5))
    rng = random.Random(6)
    try:
        async with Processes(folder) as processes:
            site = await origin.start(processes, "origin", folder / "nginx", [SERVER], [("0.0.0.0", 443, True)])
            bed = Bed(processes, (world.hosts["origin"].ipv4, 443))
            await bed.start(hosts[:NODES], [world.hosts[name].ipv4 for name in hosts[:NODES]], "user")
            tables = []
            for number in range(placements):
                _place(world, hosts, rng.sample(range(len(every.names)), len(hosts)), every.rtt_ms)
                task = Task(bed.paths(), SIZES, 1, str(site.ca), SERVER, together=True, warm=1)
                tables.append(await _client(processes, "user", task, 300))
                print(f"  placement {number + 1} of {placements}", flush=True)
            return tables, every.source
    finally:
        world.close()


def _place(world: World, hosts: list[str], places: list[int], rtt_ms: Sequence[Sequence[float]]) -> None:
    for a, here in zip(hosts, places, strict=True):
        for b, there in zip(hosts, places, strict=True):
            source, target = world.hosts[a].port, world.hosts[b].port
            if a != b and source is not None and target is not None:
                world.switch.path(source, target, PathSpec(int(rtt_ms[here][there] * 500)))


async def _client(processes: Processes, host: str | None, task: Task, timeout: float) -> list[Sample]:
    argv = [sys.executable, "-m", "bench.fetch"]
    output = await processes.run(host, "client", argv, timeout, msgspec.json.encode(task))
    return msgspec.json.decode(output, type=list[Sample])


def rows_of(table: str, runs: Iterable[list[Sample]]) -> list[dict[str, Any]]:
    """Rows: medians over everything, and the median over runs of the ratio to direct in the same run."""
    times: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    ratios: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for run in runs:
        grouped: dict[tuple[str, str, int], list[float]] = defaultdict(list)
        for label, kind, size, ms in run:
            grouped[label, kind, size].append(ms)
        for key, values in grouped.items():
            times[key] += values
            direct = statistics.median(grouped["direct", key[1], key[2]])
            ratios[key].append(statistics.median(values) / direct)
    return [
        {
            "table": table,
            "path": label.rpartition("-")[0] or label,
            "nodes": _length(label) if "-" in label else 0,
            "connection": kind,
            "size_kb": size,
            "median_ms": round(statistics.median(values), 3),
            "p90_ms": round(sorted(values)[int(len(values) * 0.9)], 3),
            "ratio_to_direct": round(statistics.median(ratios[label, kind, size]), 3),
            "samples": len(values),
        }
        for (label, kind, size), values in times.items()
    ]


def _claims() -> list[Claim]:
    def ratio(table: str, path: str, nodes: int, connection: str, size: int) -> Measure:
        where = {"table": table, "path": path, "nodes": nodes, "connection": connection, "size_kb": size}
        return Measure("ratio_to_direct", where)

    return [
        Claim(
            "hops.lan-10",
            "loopback: through ten nodes a GET of 1 KB on a new connection takes less than the best peer chain's 10 × direct",
            "<= 10",
            ratio("I", "ring", 10, "new", 1),
        ),
        Claim(
            "hops.wan-ring",
            "wide area, ring of ten: a GET of 1 KB on a new connection costs less than the paper's mean factor, 7.51",
            "<= 7.51",
            ratio("II", "ring", 10, "new", 1),
        ),
        Claim(
            "hops.wan-beacon",
            "wide area, mode beacon (three nodes): less than the paper's mean factor for four nodes, 2.64",
            "<= 2.64",
            ratio("II", "beacon", 3, "new", 1),
        ),
        Claim(
            "hops.wan-direct",
            "wide area, mode direct: at most the journal paper's factor of 2 with the shortcut",
            "<= 2",
            ratio("II", "shortcut", 2, "new", 1),
        ),
    ]


def draw(drawn: Any, rows: Sequence[Any]) -> None:
    """Two panels, ratio to direct against the number of nodes."""
    titles = {"I": "Table I: loopback, no delay", "II": "Table II: wide-area delays"}
    for axes, (table, title) in zip(drawn.subplots(1, 2), titles.items(), strict=True):
        for colour, (connection, size) in zip(CYCLE, [(c, s) for c in ("new", "open") for s in (1, 100)], strict=False):
            chosen = [r for r in rows if (r["table"], r["connection"], r["size_kb"]) == (table, connection, size)]
            ring = sorted((r["nodes"], r["ratio_to_direct"]) for r in chosen if r["path"] == "ring")
            style = "-" if connection == "new" else "--"
            label = f"{size} KB, {connection} connection"
            axes.plot(*zip(*ring, strict=True), style, marker="o", markersize=4, color=colour, label=label)
            for path, marker in (("beacon", "^"), ("shortcut", "s")):
                points = [(r["nodes"], r["ratio_to_direct"]) for r in chosen if r["path"] == path]
                name = f"mode {'direct' if path == 'shortcut' else path}" if (connection, size) == ("new", 1) else None
                axes.scatter(*zip(*points, strict=True), marker=marker, s=42, color=colour, label=name, zorder=3)
        axes.axhline(1, color=MIST, linewidth=1)
        axes.set(title=title, xlabel="nodes on the path", xticks=(1, 2, 3, 4, 7, 10))
        axes.set_ylim(bottom=0)
    drawn.axes[0].set_ylabel("time to completion, ratio to direct")
    drawn.axes[0].legend(fontsize=8.5)


def main() -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.hops", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and placements")
    parser.add_argument("--no-record", action="store_true", help="print only")
    arguments = parser.parse_args()
    rounds, placements = (10, 2) if arguments.quick else (60, 6)
    source = "planetlab:1" if _has_planetlab() else "synthetic"
    return enclosure.run(lambda: asyncio.run(_measure(rounds, placements, source, record=not arguments.no_record)))


def _has_planetlab() -> bool:
    try:
        load("planetlab:1", 2, random.Random(0))
    except NoMatrixError:
        return False
    return True


async def _measure(rounds: int, placements: int, source: str, *, record: bool) -> int:
    folder = FilePath("build/lab") / f"hops-{os.getpid()}-{time.strftime('%H%M%S')}"
    folder = folder.resolve()
    print("Table I, loopback", flush=True)
    one = await table_one(folder / "one", rounds)
    print(f"Table II, {source}", flush=True)
    two, matrix = await table_two(folder / "two", source, placements)
    rows = [*rows_of("I", [one]), *rows_of("II", two)]
    parameters = {"rounds": rounds, "placements": placements, "matrix": matrix, "sizes_kb": SIZES, "seed": 6}
    result = Result("hops", parameters, rows, _claims(), "Time to completion through 1 … 10 nodes (WebSOS, Tables I and II)")
    _show(rows, print)
    for claim in result.record()["claims"]:
        print(f"{'holds' if claim['holds'] else 'FAILS'}  {claim['text']}: {claim['measured']:.2f} ({claim['target']})")
    if record:
        print(f"wrote {results.write(result, draw)}")
    return 0


def _show(rows: list[dict[str, Any]], say: Callable[[str], None]) -> None:
    for row in rows:
        name = f"{row['table']:>2} {row['path']:>8} {row['nodes']:>2}  {row['connection']:>4} {row['size_kb']:>3} KB"
        say(f"{name}  {row['median_ms']:9.2f} ms  × {row['ratio_to_direct']:.2f}")


if __name__ == "__main__":
    sys.exit(main())
