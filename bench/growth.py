"""``python -m bench.growth``: how latency, CPU and memory grow with connections and with nodes. Writes ``growth.json`` and ``.svg``.

Connections: one access point asked at a steady rate over 1 … 10,000 TLS connections, beside nginx and HAProxy in its place; those send
all requests over few connections to the origin, Polder never lets two users share one. Nodes: one overlay of real processes with default
settings that grows from 4 to 32 nodes; a tunnel and a word through it, in modes ``beacon`` and ``ring``, and what a node needs at rest.
More would measure the queue for two cores.
How all grows with hops is in ``chains.json``.
"""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.support.overlay import Overlay, free_port, until

from bench import cpu, fronts, report
from bench.chains import peers
from bench.fetch import Path as Way
from bench.idle import others
from polder.engine.facade import BUILD
from polder.lab import origin
from polder.lab.plots import CYCLE
from polder.lab.processes import Processes, wait_until_listening
from polder.lab.results import Claim, Measure, Result

ORIGIN, FIRST_PORT = 8095, 26_001
CONNECTIONS = (1, 10, 100, 1000, 10_000)
RATE = 1000
NODES = (4, 8, 16, 32)
SITES = {"wiki": "beacon", "blog": "ring"}
REST_S = 5.0
PACE_S = 0.03


def crowd(most: int) -> list[int]:
    """Numbers of connections, the last as many as file descriptors allow: Polder has one to the origin for each."""
    room = (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500) // 2
    return sorted({min(count, room) for count in CONNECTIONS if count <= most})


async def connections(most: int, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Rows of the fronts."""
    folder = (Path("build/lab") / f"growth-{os.getpid()}-{time.strftime('%H%M%S')}").resolve()
    rows = []
    async with Processes(folder) as processes:
        listen = [("127.0.0.1", ORIGIN, False)]
        site = await origin.start(processes, None, folder / "nginx", [fronts.SITE], listen, connections=19_000)
        everything = [f for f in await fronts.start(processes, ORIGIN, FIRST_PORT) if f.label != "squid"]
        fronts.pin(fronts.session(site.process.process.pid), 1)
        for front in everything:
            fronts.pin(front.pids(), 0)
        for count in crowd(most):
            # Every connection asks at least twice: once before the window that counts, once in it.
            pause = 1.2 * count / RATE
            load = fronts.Load(connections=count, rate=RATE, warm_s=max(1.0, pause), seconds=max(seconds, pause))
            runs: dict[str, list[dict[str, Any]]] = {front.label: [] for front in everything}
            for _ in range(rounds if count <= 100 else 1):
                for front in everything:
                    runs[front.label].append(await fronts.drive(processes, front, load, core=1))
            for front in everything:
                numbers = {
                    key: round(statistics.median(run[key] for run in runs[front.label]), 3) for key in runs[front.label][0]
                }
                rows.append({"what": "connections", "system": front.label, "peer": front.peer, "connections": count} | numbers)
                report.show(rows[-1:])
    return rows


async def overlay_rows(folder: Path, sizes: Sequence[int], probes: int) -> list[dict[str, Any]]:
    """Rows of one overlay that grows."""
    overlay, port = Overlay(folder / "overlay"), free_port()
    async with Processes(folder / "echo") as processes:
        echo = await processes.start(None, "echo", [sys.executable, "-m", "bench.echo", str(port)])
        await wait_until_listening("this host", port, echo)
        try:
            return await asyncio.to_thread(grow, overlay, sizes, probes, port)
        finally:
            await asyncio.to_thread(overlay.close)


def grow(overlay: Overlay, sizes: Sequence[int], probes: int, port: int) -> list[dict[str, Any]]:
    """Add nodes, wait until all is known, measure; again and again."""
    rows: list[dict[str, Any]] = []
    overlay.found()
    proxy = ""
    for size in sizes:
        names = [f"n{number}" for number in range(len(overlay.nodes) + 1, size + 1)]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda name: overlay.enrol_node(name, plain=True), names))
            list(pool.map(overlay.run_node, names))
        until(lambda size=size: settled(overlay, size), f"a ring of {size}", 180)  # type: ignore[misc]
        if not proxy:
            proxy = populate(overlay, port)
        for site in SITES:
            overlay.wait_site(site)
        every = [process.pid for process in overlay.nodes.values()]
        before = cpu.spent_s(every)
        time.sleep(REST_S)  # nothing is waited for: this is the time over which a node at rest is watched
        rest = (cpu.spent_s(every) - before) / REST_S / size * 1000
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in every)
        node = {"rest_cpu_ms_per_s": round(rest, 3), "mib_per_node": round(pages * fronts.PAGE / size / (1 << 20), 2)}
        ways = {"direct": Way("direct", f"127.0.0.1:{port}")}
        ways |= {mode: Way(mode, proxy.removeprefix("http://"), f"{site}.test:80") for site, mode in SITES.items()}
        times, again = asked(ways, probes)
        for mode, taken in times.items():
            row = {"what": "nodes", "nodes": size, "mode": mode, "median_ms": round(statistics.median(taken), 3)}
            rows.append(row | {"again": again[mode]} | node)
            report.show(rows[-1:])
    return rows


def settled(overlay: Overlay, size: int) -> bool:
    """Whether every node is in the ring and knows some others (in a large ring not all)."""
    every = [overlay.node_status(name) for name in overlay.nodes]
    return all(status["joined"] and status["successors"] and status["members"] >= min(size, 5) for status in every)


def populate(overlay: Overlay, port: int) -> str:
    """Put the sites behind the overlay and a user in front; the user's proxy."""
    for site, mode in SITES.items():
        overlay.enrol_site(site, f"{site}.test")
        settings = f'name = "{site}"\norigin = "127.0.0.1:{port}"\norigins = {{ "80" = "127.0.0.1:{port}" }}\n'
        overlay.run_site(site, settings + f'allow = ["anyone"]\nports = [80]\nmode = "{mode}"\n')
    for site in SITES:
        overlay.wait_site(site)
    overlay.enrol_user("ann")
    return str(overlay.connect("ann").hello["proxy"])


def asked(ways: dict[str, Way], probes: int) -> tuple[dict[str, list[float]], Counter[str]]:
    """Milliseconds of a new tunnel and a word, each way in turn; the first tenth only warms up. And how often it was asked again, once
    as a browser does: nodes that have just come still move what others keep."""
    times: dict[str, list[float]] = {mode: [] for mode in ways}
    again = Counter[str]()
    for _ in range(probes + probes // 10):
        time.sleep(PACE_S)  # a user may open 200 tunnels a second (`tunnel_rate_per_identity`)
        for mode, way in ways.items():
            try:
                times[mode] += others(way, 1)
            except (RuntimeError, OSError):
                again[mode] += 1
                times[mode] += others(way, 1)
    return {mode: taken[probes // 10 :] for mode, taken in times.items()}, again


def claims(rows: Sequence[Any]) -> list[Claim]:
    """How far things grow, from the least to the most that was measured."""
    ours = [r["connections"] for r in rows if r["what"] == "connections"]
    sizes = [r["nodes"] for r in rows if r["what"] == "nodes"]

    def connected(field: str, count: int, over: Measure | None = None) -> Measure:
        return Measure(field, {"what": "connections", "system": "polder", "connections": count}, "only", over)

    def latency(mode: str, count: int, over: Measure | None = None) -> Measure:
        return Measure("median_ms", {"what": "nodes", "mode": mode, "nodes": count}, "only", over)

    few, many = min(c for c in ours if c >= 10), max(ours)
    best = Measure("p50_ms", {"what": "connections", "peer": True, "connections": many}, "min")
    least, most = min(sizes), max(sizes)
    crowds = [count for count in sorted(set(ours)) if count >= 1000][-2:]
    connecting = [
        Claim("growth.connecting", f"new TLS connections a second until {crowds[1]} stand, × until {crowds[0]}", ">= 0.5",
              connected("connections_per_s", crowds[1], connected("connections_per_s", crowds[0]))),
    ] if len(crowds) == 2 else []  # fmt: skip
    return [
        *connecting,
        Claim("growth.cpu", f"CPU per request over {many} connections, × that over {few}", "<= 2",
              connected("cpu_us_per_request", many, connected("cpu_us_per_request", few))),
        Claim("growth.latency", f"median latency over {many} connections, × the best peer's", "<= 1.5", connected("p50_ms", many, best)),
        Claim("growth.beacon", f"a tunnel in mode beacon in an overlay of {most}, × one of {least}", "<= 1.5",
              latency("beacon", most, latency("beacon", least))),
        Claim("growth.memory", f"MiB of a node's memory among {most}, × among {least}", "<= 1.5",
              Measure("mib_per_node", {"nodes": most, "mode": "beacon"}, "only",
                      Measure("mib_per_node", {"nodes": least, "mode": "beacon"}))),
    ]  # fmt: skip


def draw(drawn: Any, rows: Sequence[Any]) -> None:
    """CPU, latency and memory by connections; latency and a node's needs by nodes."""
    drawn.set_size_inches(12, 6.6)
    axes = drawn.subplots(2, 3)
    by_connections = [r for r in rows if r["what"] == "connections"]
    systems = list(dict.fromkeys(r["system"] for r in by_connections))
    panels = (
        ("cpu_us_per_request", "CPU per request", "µs"),
        ("p99_ms", "latency: median, p99 dashed", "ms"),
        ("kib_per_connection", "memory per connection", "KiB"),
    )
    for one, (field, title, unit) in zip(axes[0], panels, strict=True):
        for colour, system in zip(CYCLE, systems, strict=False):
            mine = [
                r for r in by_connections if r["system"] == system and (field != "kib_per_connection" or r["connections"] > 10)
            ]
            counts = [r["connections"] for r in mine]
            if field == "p99_ms":
                one.plot(counts, [r["p50_ms"] for r in mine], "o-", markersize=4, color=colour, label=system)
            style = "o--" if field == "p99_ms" else "o-"
            one.plot(
                counts, [r[field] for r in mine], style, markersize=4, color=colour, label=None if field == "p99_ms" else system
            )
        one.set(title=title, xlabel="TLS connections", ylabel=unit, xscale="log")
        one.set_ylim(bottom=0)
    axes[0][0].legend()
    by_nodes = [r for r in rows if r["what"] == "nodes"]
    for colour, mode in zip(CYCLE, ("beacon", "ring", "direct"), strict=False):
        mine = [r for r in by_nodes if r["mode"] == mode]
        axes[1][0].plot([r["nodes"] for r in mine], [r["median_ms"] for r in mine], "o-", markersize=4, color=colour, label=mode)
    axes[1][0].legend()
    mine = [r for r in by_nodes if r["mode"] == "beacon"]
    for one, field in zip(axes[1][1:], ("rest_cpu_ms_per_s", "mib_per_node"), strict=True):
        one.plot([r["nodes"] for r in mine], [r[field] for r in mine], "o-", markersize=4)
    labels = (("a new tunnel and a word", "ms"), ("CPU of a node at rest", "ms/s"), ("memory of a node", "MiB"))
    for one, (title, unit) in zip(axes[1], labels, strict=True):
        one.set(title=title, xlabel="nodes in the overlay", ylabel=unit, xscale="log")
        one.set_xticks(sorted({r["nodes"] for r in by_nodes}), sorted({str(r["nodes"]) for r in by_nodes}, key=int))
        one.minorticks_off()
        one.set_ylim(bottom=0)


def main() -> int:
    """Measure, write, print."""
    chosen = report.arguments("growth", __doc__, "100 connections and 8 nodes at most").parse_args()
    if gone := peers.missing():
        print(f"not installed: {', '.join(gone)}. As root: scripts/bench-packages", file=sys.stderr)
        return 2
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most, rounds, seconds, probes = (100, 1, 1.0, 50) if chosen.quick else (CONNECTIONS[-1], 3, 2.0, 300)
    sizes = NODES[:2] if chosen.quick else NODES

    def inside() -> int:
        rows = asyncio.run(connections(most, rounds, seconds))
        with tempfile.TemporaryDirectory(prefix="polder-growth-") as folder:
            rows += asyncio.run(overlay_rows(Path(folder), sizes, probes))
        parameters = {
            "rate_per_s": RATE, "rounds": rounds, "seconds": seconds, "nodes": sizes, "probes": probes, "rest_s": REST_S,
            "cores": "front: 0; generator and origin: 1", "build": BUILD,
        }  # fmt: skip
        result = Result("growth", parameters, rows, claims(rows), "How latency, CPU and memory grow with connections and nodes")
        return report.finish(result, draw, record=not chosen.no_record, rows=False)

    return report.enclosed(inside)


if __name__ == "__main__":
    sys.exit(main())
