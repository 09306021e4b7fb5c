"""``python -m bench.requests``: requests per second through one access point, beside proxies in its place. Writes ``requests.json``.

TLS 1.3 with a client's certificate in, keep-alive; plain HTTP to one nginx. The front has one core, the load generator and the
origin have the other; every number is the median of alternating runs. Polder and squid are asked in absolute form (they are
proxies to the client), nginx and HAProxy as reverse proxies. CPU per request is the front's alone, and steadier than the rate,
which the other core may bound.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import fronts, report
from bench.chains import peers
from polder.engine.facade import BUILD
from polder.lab import origin
from polder.lab.plots import CYCLE
from polder.lab.processes import Processes
from polder.lab.results import Claim, Measure, Result

ORIGIN, FIRST_PORT = 8093, 24_001
LOADS = {
    "HTTP/1.1": {"version": 1, "connections": 32},
    "HTTP/2": {"version": 2, "connections": 4, "streams": 8},
}
"""The same number of requests at once in both versions."""
SIZES = (1, 10)


def row(front: fronts.Front, version: str, size: int, runs: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Medians over the runs."""
    numbers = {key: round(statistics.median(run[key] for run in runs), 2) for key in runs[0] if key not in _NOT_HERE}
    return {"system": front.label, "peer": front.peer, "version": version, "size_kb": size, **numbers, "runs": len(runs)}


_NOT_HERE = ("kib_per_connection", "connections_per_s")


def claims() -> list[Claim]:
    """Against the best peer, which is a reverse proxy and so does less."""

    def against(field: str, fold: str, version: str) -> Measure:
        where = {"version": version, "size_kb": 1}
        return Measure(field, where | {"system": "polder"}, "only", Measure(field, where | {"peer": True}, fold))

    def squid(version: str) -> Measure:
        where = {"size_kb": 1, "system": "squid", "version": "HTTP/1.1"}
        ours = {"size_kb": 1, "system": "polder", "version": version}
        return Measure("cpu_us_per_request", ours, "only", Measure("cpu_us_per_request", where))

    return [
        Claim(
            "requests.cpu-h1",
            "CPU per request of 1 KB, HTTP/1.1, × squid, the forward proxy among them",
            "<= 0.8",
            squid("HTTP/1.1"),
        ),
        Claim(
            "requests.cpu-h2",
            "CPU per request of 1 KB, HTTP/2, × squid over HTTP/1.1 (it has no HTTP/2)",
            "<= 0.8",
            squid("HTTP/2"),
        ),
        Claim(
            "requests.best-h1",
            "CPU per request of 1 KB, HTTP/1.1, × the best reverse proxy, which shares connections to the origin between clients",
            "<= 1.5",
            against("cpu_us_per_request", "min", "HTTP/1.1"),
        ),
        Claim(
            "requests.best-h2",
            "CPU per request of 1 KB, HTTP/2, × the best reverse proxy",
            "<= 1.5",
            against("cpu_us_per_request", "min", "HTTP/2"),
        ),
    ]


def draw(drawn: Any, rows: Sequence[Any]) -> None:
    """CPU per request and requests per second, a group of bars for each way of asking."""
    groups = [(version, size) for version in LOADS for size in SIZES]
    systems = list(dict.fromkeys(row["system"] for row in rows))
    fields = (("cpu_us_per_request", "CPU of the front per request", "µs"), ("requests_per_s", "requests per second", "1/s"))
    width = 0.8 / len(systems)
    for axes, (field, title, unit) in zip(drawn.subplots(1, 2), fields, strict=True):
        for index, system in enumerate(systems):
            bars = [(groups.index((r["version"], r["size_kb"])), r[field]) for r in rows if r["system"] == system]
            places = [at + (index - (len(systems) - 1) / 2) * width for at, _ in bars]
            axes.bar(places, [value for _, value in bars], width * 0.92, color=CYCLE[index], label=system)
        axes.set_xticks(range(len(groups)), [f"{version}\n{size} KB" for version, size in groups])
        axes.set(title=title, ylabel=unit)
    drawn.axes[0].legend()


async def measure(seconds: float, rounds: int) -> list[dict[str, Any]]:
    """All fronts in turn, ``rounds`` times each way of asking."""
    folder = (Path("build/lab") / f"requests-{os.getpid()}-{time.strftime('%H%M%S')}").resolve()
    runs: dict[tuple[str, str, int], list[dict[str, float]]] = defaultdict(list)
    async with Processes(folder) as processes:
        site = await origin.start(processes, None, folder / "nginx", [fronts.SITE], [("127.0.0.1", ORIGIN, False)])
        everything = await fronts.start(processes, ORIGIN, FIRST_PORT)
        fronts.pin(fronts.session(site.process.process.pid), 1)
        for front in everything:
            fronts.pin(front.pids(), 0)
        for _ in range(rounds):
            for version, how in LOADS.items():
                for size in SIZES:
                    for front in everything:
                        load = fronts.Load(**how, kilobytes=size, seconds=seconds)
                        if load.version in front.versions:
                            runs[front.label, version, size].append(await fronts.drive(processes, front, load, core=1))
            print(".", end="", flush=True)
        print()
    by_label = {front.label: front for front in everything}
    return [row(by_label[label], version, size, done) for (label, version, size), done in runs.items()]


def main() -> int:
    """Measure, write, print."""
    chosen = report.arguments("requests", __doc__).parse_args()
    if gone := peers.missing():
        print(f"not installed: {', '.join(gone)}. As root: scripts/bench-packages", file=sys.stderr)
        return 2
    seconds, rounds = (1.0, 1) if chosen.quick else (3.0, 3)

    def inside() -> int:
        rows = asyncio.run(measure(seconds, rounds))
        parameters = {
            "seconds": seconds,
            "rounds": rounds,
            "loads": LOADS,
            "cores": "front: 0; generator and origin: 1",
            "build": BUILD,
        }
        result = Result(
            "requests", parameters, rows, claims(), "Requests through one access point, and through proxies in its place"
        )
        return report.finish(result, draw, record=not chosen.no_record)

    return report.enclosed(inside)


if __name__ == "__main__":
    sys.exit(main())
