"""``python -m bench.chains``: chains of 1 to 10 hops, Polder beside its peers. Writes ``bench/results/chains.json`` and ``.svg``.

On loopback, every hop a process of its own, all links mutually authenticated TLS 1.3: Polder in path mode ``ring`` (every node
relays) and in its default mode ``beacon``; HAProxy in TCP mode and with CONNECT over HTTP/2, nginx's stream module, squid, stunnel; and
the laboratory's bare relay, which does nothing that a hop could leave undone.
All of them stand at the same time and are measured in turn, round by round; ratios are between medians of the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import ssl
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path as FilePath
from typing import Any

import msgspec

from bench import report
from bench.chains import peers, work
from bench.fetch import Path, Task
from bench.hops import NODES, SERVER, Bed
from polder.engine.facade import BUILD
from polder.lab import enclosure, origin
from polder.lab.plots import CYCLE, MIST
from polder.lab.processes import Process, Processes
from polder.lab.results import Claim, Measure, Result

LENGTHS = (1, 4, 7, 10)
BULK_LENGTHS = (1, 3, 4, 10)
TUNNEL_LENGTHS = (1, 3, 4, 7, 10)
"""Mode ``beacon`` has three nodes."""
SIZES = (1, 10, 100, 1000, 10_000)
ORIGIN = 8463
FIRST_PORT = 21_000
Rows = list[dict[str, Any]]


class System:
    """One system under measurement: its path and its hops' processes, by number of hops."""

    def __init__(self, name: str, paths: dict[int, Path], hops: dict[int, Sequence[Process]], *, peer: bool) -> None:
        self.name = name
        self.paths = paths
        self.hops = hops
        self.peer = peer

    def row(self, what: str, hops: int, **values: Any) -> dict[str, Any]:
        """A row of the result."""
        numbers = {key: round(value, 4) if isinstance(value, float) else value for key, value in values.items()}
        return {"what": what, "system": self.name, "peer": self.peer, "hops": hops} | numbers


async def systems(processes: Processes, names: Sequence[str]) -> list[System]:
    """Start Polder and the peers called ``names``."""
    direct = System("direct", {0: Path("direct/0", f"127.0.0.1:{ORIGIN}")}, {0: ()}, peer=False)
    return [direct, *await _polder(processes), *[await _peer(processes, n, name) for n, name in enumerate(names)]]


async def _polder(processes: Processes) -> list[System]:
    bed = Bed(processes, ("127.0.0.1", ORIGIN))
    await bed.start([None] * NODES, ["127.0.0.1"] * NODES, None)
    by_label = {path.label: path for path in bed.paths()}
    nodes = [node.process for node in bed.nodes]
    named = {n: msgspec.structs.replace(by_label[f"ring-{n}"], label=f"polder/{n}") for n in LENGTHS}
    beacon = {3: msgspec.structs.replace(by_label["beacon-3"], label="polder-beacon/3")}
    ring = System("polder", named, {n: nodes[:n] for n in LENGTHS}, peer=False)
    return [ring, System("polder-beacon", beacon, {3: nodes[:3]}, peer=False)]


async def _peer(processes: Processes, number: int, label: str) -> System:
    ports = (FIRST_PORT + 1000 * number, ORIGIN)
    chain = await peers.start(processes, label, NODES, LENGTHS, ports, SERVER)
    return System(
        label,
        {n: chain.path(n, SERVER) for n in LENGTHS},
        {n: chain.nodes[NODES - n :] for n in LENGTHS},
        peer=label != peers.BARE,
    )


async def latency(processes: Processes, all_: list[System], ca: FilePath, sizes: tuple[int, ...], rounds: int) -> Rows:
    """Time to completion of a GET over a new connection and over the open one."""
    paths = tuple(path for system in all_ for path in system.paths.values())
    task = Task(paths, sizes, rounds, str(ca), SERVER, warm=2)
    output = await processes.run(None, "client", [sys.executable, "-m", "bench.fetch"], 1500, msgspec.json.encode(task))
    grouped: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for label, kind, size, ms in msgspec.json.decode(output, type=list[tuple[str, str, int, float]]):
        grouped[label, kind, size].append(ms)
    by_name = {system.name: system for system in all_}
    rows = []
    for (label, kind, size), values in grouped.items():
        name, _, hops = label.partition("/")
        direct = statistics.median(grouped["direct/0", kind, size])
        ratio = statistics.median(values) / direct
        numbers = {"median_ms": statistics.median(values), "ratio_to_direct": ratio, "samples": len(values)}
        rows.append(by_name[name].row("latency", int(hops), connection=kind, size_kb=size, **numbers))
    return against_peers(rows)


def against_peers(rows: Rows) -> Rows:
    """Add what each row is to the best peer of the same length, size and kind; where no peer has the length, to the nearest longer."""
    out = []
    for row in rows:
        alike = [r for r in rows if r["peer"] and (r["connection"], r["size_kb"]) == (row["connection"], row["size_kb"])]
        lengths = sorted({r["hops"] for r in alike if r["hops"] >= row["hops"]})
        best = min((r["median_ms"] for r in alike if r["hops"] == lengths[0]), default=None) if lengths and row["hops"] else None
        out.append(row | ({"ratio_to_best_peer": round(row["median_ms"] / best, 4)} if best else {}))
    return out


def repeated(
    all_: list[System], what: str, lengths: Sequence[int], rounds: int, one: Callable[[System, int], dict[str, Any]]
) -> Rows:
    """``one`` of every system and length, ``rounds`` times in turn; medians of each number."""
    grouped: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for _ in range(rounds):
        for length in lengths:
            for system in all_:
                if length in system.paths:
                    grouped[system.name, length].append(one(system, length))
    by_name = {system.name: system for system in all_}
    return [
        by_name[name].row(what, length, **{key: statistics.median(run[key] for run in runs) for key in runs[0]}, runs=len(runs))
        for (name, length), runs in grouped.items()
    ]


def _claims() -> list[Claim]:
    def time_of(system: str, hops: int, connection: str, size: int, field: str = "ratio_to_direct") -> Measure:
        return Measure(field, {"what": "latency", "system": system, "hops": hops, "connection": connection, "size_kb": size})

    def best(what: str, field: str, hops: int, fold: str = "min", **more: Any) -> Measure:
        return Measure(field, {"what": what, "peer": True, "hops": hops} | more, fold)

    def ours(what: str, field: str, hops: int, over: Measure) -> Measure:
        return Measure(field, {"what": what, "system": "polder", "hops": hops}, "only", over)

    open_best = best("latency", "median_ms", 10, connection="open", size_kb=1)
    open_ours = Measure("median_ms", {"what": "latency", "system": "polder", "hops": 10, "connection": "open", "size_kb": 1})
    against = Measure(open_ours.field, open_ours.where, "only", open_best)
    per_tunnel = ours("tunnels", "cpu_ms_per_tunnel", 10, best("tunnels", "cpu_ms_per_tunnel", 10))
    per_gib = ours("bulk", "cpu_s_per_gib", 1, best("bulk", "cpu_s_per_gib", 1))
    rate = ours("bulk", "mib_per_s", 10, best("bulk", "mib_per_s", 10, "max"))
    return [
        Claim(
            "chains.new-10-1k", "ten hops, GET of 1 KB on a new connection, × direct", "<= 2.5", time_of("polder", 10, "new", 1)
        ),
        Claim(
            "chains.new-10-10k",
            "ten hops, GET of 10 KB on a new connection, × direct",
            "<= 2.5",
            time_of("polder", 10, "new", 10),
        ),
        Claim(
            "chains.beacon-1k",
            "mode beacon, GET of 1 KB on a new connection, × direct",
            "<= 1.6",
            time_of("polder-beacon", 3, "new", 1),
        ),
        Claim("chains.beacon-10k", "mode beacon, GET of 10 KB, × direct", "<= 1.6", time_of("polder-beacon", 3, "new", 10)),
        Claim("chains.open-10", "ten hops, second GET on an open connection, × the best peer", "<= 0.8", against),
        Claim("chains.cpu-tunnel", "CPU per new tunnel and hop, ten hops, × the best peer", "<= 0.15", per_tunnel),
        Claim("chains.cpu-gib", "CPU per GiB and hop, one hop, × the best peer", "<= 0.8", per_gib),
        Claim("chains.bulk-10", "100 MB through ten hops, throughput × the best peer", ">= 1.3", rate),
    ]


def draw(drawn: Any, rows: Sequence[Any]) -> None:
    """Times, CPU and throughput against hops; below, times against size through ten hops. One line per system."""
    drawn.set_size_inches(13, 7)
    axes = drawn.subplots(2, 4)
    # The order of the rows is that of the first round: ours first, then by name.
    names = sorted(
        {row["system"] for row in rows if row["system"] != "direct"}, key=lambda name: (not name.startswith("polder"), name)
    )

    def latency(connection: str, size: int) -> Callable[[Any], bool]:
        return lambda r: r["what"] == "latency" and (r["connection"], r["size_kb"]) == (connection, size)

    by_hops = (
        ("1 KB, new connection", "ms", latency("new", 1), "median_ms"),
        ("10 KB, new connection", "ms", latency("new", 10), "median_ms"),
        ("1 KB, second GET", "ms", latency("open", 1), "median_ms"),
        ("10 KB, second GET", "ms", latency("open", 10), "median_ms"),
        ("CPU per tunnel and hop", "ms", lambda r: r["what"] == "tunnels", "cpu_ms_per_tunnel"),
        ("one download", "MiB/s", lambda r: r["what"] == "bulk", "mib_per_s"),
        ("CPU per GiB and hop", "s", lambda r: r["what"] == "bulk" and r["hops"], "cpu_s_per_gib"),
    )
    for one, (title, unit, chosen, field) in zip(axes.flat, by_hops, strict=False):
        for index, name in enumerate(names):
            _line(one, sorted((r["hops"], r[field]) for r in rows if r["system"] == name and chosen(r)), name, index)
        for row in rows:
            if row["system"] == "direct" and chosen(row):
                one.axhline(row[field], color=MIST, linewidth=1)
        one.set(title=title, xlabel="hops (line across: direct)", ylabel=unit, xticks=LENGTHS, yscale="log")
    last = axes[1][3]
    for index, name in enumerate(names):
        mine = (r for r in rows if r["system"] == name and r["what"] == "latency" and r["connection"] == "new")
        _line(last, sorted((r["size_kb"], r["median_ms"]) for r in mine if r["hops"] in (3, 10)), name, index)
    last.set(title="by size, ten hops", xlabel="KB (polder-beacon: three)", ylabel="ms", xscale="log", yscale="log")
    drawn.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names))


def _line(axes: Any, points: list[Any], name: str, index: int) -> None:
    if points:
        ours = name.startswith("polder")
        style = {
            "color": CYCLE[index % len(CYCLE)],
            "linewidth": 2.4 if ours else 1.2,
            "linestyle": "--" if index >= len(CYCLE) else "-",
        }
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name, **style)


def main() -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.chains", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and sizes")
    parser.add_argument("--peer", dest="peers", action="append", choices=[*peers.KINDS], help="only this one; repeat it for more")
    parser.add_argument("--no-record", action="store_true", help="print only")
    arguments = parser.parse_args()
    if gone := peers.missing():
        print(f"not installed: {', '.join(gone)}. As root: scripts/bench-packages", file=sys.stderr)
        return 2
    names = arguments.peers or [*peers.KINDS]
    return enclosure.run(lambda: asyncio.run(_measure(names, quick=arguments.quick, record=not arguments.no_record)))


async def _measure(names: Sequence[str], *, quick: bool, record: bool) -> int:
    folder = (FilePath("build/lab") / f"chains-{os.getpid()}-{time.strftime('%H%M%S')}").resolve()
    rounds, many, count, megabytes = (8, 1, 40, 30) if quick else (60, 3, 100, 100)
    async with Processes(folder) as processes:
        site = await origin.start(processes, None, folder / "nginx", [SERVER], [("127.0.0.1", ORIGIN, True)])
        for kilobytes in (*SIZES[3:], megabytes * 1000):
            with (site.root / "www" / f"{kilobytes}k.bin").open("wb") as file:
                file.truncate(kilobytes * 1000)
        everything = await systems(processes, names)
        tls = ssl.create_default_context(cafile=str(site.ca))
        print(f"{len(everything)} systems stand; latency", flush=True)
        rows = await latency(processes, everything, site.ca, SIZES[:2] if quick else SIZES[:3], rounds)
        if not quick:
            rows += await latency(processes, everything, site.ca, SIZES[3:], 6)

        def new(system: System, length: int) -> dict[str, Any]:
            return work.tunnels(system.paths[length], system.hops[length], tls, SERVER, count)

        def whole(system: System, length: int) -> dict[str, Any]:
            return work.bulk(system.paths[length], system.hops[length], tls, SERVER, megabytes * 1000)

        chains = [system for system in everything if system.name != "direct"]
        print("new tunnels", flush=True)
        rows += await asyncio.to_thread(repeated, chains, "tunnels", TUNNEL_LENGTHS, many, new)
        print("bulk", flush=True)
        rows += await asyncio.to_thread(repeated, everything, "bulk", (0, *BULK_LENGTHS), many, whole)
    parameters = {"rounds": rounds, "repetitions": many, "tunnels": count, "bulk_mb": megabytes, "build": BUILD}
    result = Result("chains", parameters, rows, _claims(), "Chains of 1 … 10 hops beside the peers, on loopback")
    return report.finish(result, draw, record=record)


if __name__ == "__main__":
    sys.exit(main())
