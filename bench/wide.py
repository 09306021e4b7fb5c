"""``python -m bench.wide``: pages over a quiet overlay in the wide area, against the direct way. Writes ``wide.json`` and ``.svg``.

Real processes with default settings in the laboratory: authority, 12 nodes, 8 readers with forwarders, a site in the default mode
``beacon`` that dials out. Delays between all of them are round-trip times measured between PlanetLab hosts (``POLDER_DATA``). Hosts are
drawn at random; readers among those with a node near them, as an overlay would place its nodes. A page is HTML and ten pictures (141 KB)
over TLS on at most six connections, all of them new, as a browser opens it. Each placement is read directly first, all of them, then
through the overlay, whose filter shuts the direct way; with servlets drawn anew, for how far those are from the site decides most.
Ratios are of one reader's medians in one placement. Each placement is a draw of its own: its median stands in a row of its own.

A site that has reached nodes before prefers near ones a little (``overlay.candidates``). The placements here are new to it, so what that is
worth is asked of the real drawing over placements of the same matrix, without running them (rows ``drawn``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench import report
from polder.engine.facade import BUILD
from polder.lab import experiment, latency, load, topology
from polder.lab.attacks import group_hosts
from polder.lab.overlay import Overlay
from polder.lab.plots import DIKE, FLOOD, SAND, SEA
from polder.lab.processes import Processes
from polder.lab.results import Claim, Measure, Result
from polder.lab.switch import PathSpec
from polder.lab.world import World
from polder.model import Member
from polder.overlay.candidates import Candidates

MATRIX = "planetlab:1"
POOL = 150
"""Hosts of the matrix that are drawn from: so many of them have all measured each other."""
NEAR_MS = 20.0
THINK_S = 0.4
SETTLE_S = 35.0
"""Nodes remember for 30 s how long paths took to open; the last placement's times must be forgotten."""
IMAGINED, REDRAWN = 100, 20
"""Placements of which only distances are looked at, and draws in each."""
PROTECTION: dict[str, Any] = {"transport": "dialout", "mode": "beacon", "servlets": 2}
Loads = dict[str, list[load.Load]]


@dataclass(frozen=True)
class Placement:
    """Where everybody is: rows of the matrix by host, the site's under ``isp``."""

    matrix: latency.Matrix
    places: dict[str, int]

    def rtt_ms(self, a: str, b: str) -> float:
        """Between two hosts."""
        return self.matrix.rtt_ms[self.places[a]][self.places[b]]

    def nearest(self, user: str) -> str:
        """The nearest node."""
        return min((host for host in self.places if host.startswith("node")), key=lambda host: self.rtt_ms(user, host))


def draw_placement(matrix: latency.Matrix, hosts: Sequence[str], rng: random.Random) -> Placement:
    """Everybody somewhere else, and every user within ``NEAR_MS`` of a node. Draws again until there is one."""
    users = [host for host in hosts if host.startswith("user")]
    others = [host for host in hosts if host not in users]
    for _ in range(1000):
        order = rng.sample(range(len(matrix.names)), len(matrix.names))
        places = dict(zip(others, order, strict=False))
        nodes = [place for host, place in places.items() if host.startswith("node")]
        near = [place for place in order[len(others) :] if min(matrix.rtt_ms[place][node] for node in nodes) <= NEAR_MS]
        if len(near) >= len(users):
            return Placement(matrix, places | dict(zip(users, near, strict=False)))
    raise latency.NoMatrixError(f"no {len(users)} hosts of the matrix are within {NEAR_MS:g} ms of {len(others)} others")


def put(world: World, placement: Placement) -> None:
    """Give every pair its delay, half of the round trip each way."""
    for a in placement.places:
        for b in placement.places:
            source, target = world.hosts[a].port, world.hosts[b].port
            if a != b and source is not None and target is not None:
                world.switch.path(source, target, PathSpec(int(placement.rtt_ms(a, b) * 500)))


async def read(processes: Processes, world: World, ca: Path, overlay: Overlay | None, phase: str, seconds: float) -> Loads:
    """All users load pages for a while; what each saw. Raises ``ProcessError``."""
    begin = time.monotonic() + 3.0

    async def one(number: int, user: str) -> list[load.Load]:
        reader = load.Reader(
            url=f"https://{experiment.SITE_NAME}/",
            start=begin,
            duration=seconds,
            seed=number,
            think=THINK_S,
            limit=30.0,
            proxy=overlay.proxies[user] if overlay else None,
            resolve={experiment.SITE_NAME: world.hosts["site"].ipv4},
            ca=str(ca),
        )
        argv = [sys.executable, "-m", "polder.lab.load"]
        output = await processes.run(user, f"reader-{phase}-{user}", argv, seconds + 60, msgspec.json.encode(reader))
        return [msgspec.json.decode(line, type=load.Load) for line in output.splitlines()]

    users = group_hosts(world, "user")
    return dict(zip(users, await asyncio.gather(*(one(n, user) for n, user in enumerate(users))), strict=True))


def rows_of(number: int, placement: Placement, direct: Loads, through: Loads, servlets: frozenset[str]) -> list[dict[str, Any]]:
    """One row for each reader. The first page does not count: it finds cold caches in either way.

    ``nearest_serves``: the reader's nearest node is one of the site's ``servlets``, so it would pass over itself.
    """
    rows = []
    for user, quiet in direct.items():
        ours = through[user]
        medians = [_median_ms(loads[1:]) for loads in (quiet, ours)]
        rows.append(
            {
                "placement": number,
                "user": user,
                "rtt_site_ms": round(placement.rtt_ms(user, "isp"), 1),
                "rtt_node_ms": round(placement.rtt_ms(user, placement.nearest(user)), 1),
                "nearest_serves": int(placement.nearest(user) in servlets),
                "direct_ms": medians[0],
                "beacon_ms": medians[1],
                "ratio_to_direct": round(medians[1] / medians[0], 3) if medians[0] and medians[1] else None,
                "pages": len(quiet) + len(ours),
                "failed": sum(not one.good for one in [*quiet, *ours]),
            }
        )
    return rows


def draw_row(number: int, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The row of one draw: the median of its readers."""
    ratios = [row["ratio_to_direct"] for row in rows if row["ratio_to_direct"]]
    return {"placement": number, "draw_median": round(statistics.median(ratios), 3) if ratios else None, "readers": len(ratios)}


def drawn(placements: Sequence[Placement], rng: random.Random) -> list[dict[str, Any]]:
    """How far servlets are from the site that nobody has reached before, and that were all reached: milliseconds, medians."""
    rows = []
    for known in (0, 1):
        far = []
        for placement in placements:
            candidates = Candidates(rng, ())
            nodes = [host for host in placement.places if host.startswith("node")]
            candidates.pool = {name: Member(name, bytes(16), "192.0.2.1:1") for name in nodes}
            for name in nodes if known else ():
                candidates.reached(name, int(placement.rtt_ms(name, "isp") * 1000))
            for _ in range(REDRAWN):
                far += [placement.rtt_ms(one.name, "isp") for one in candidates.draw(PROTECTION["servlets"], 0.0, 0, ())]
        rows.append({"what": "drawn", "known": known, "rtt_ms": round(statistics.median(far), 1), "servlets": len(far)})
    return rows


def _median_ms(loads: Sequence[load.Load]) -> float | None:
    """``None``: no page came whole."""
    good = [one.seconds * 1000 for one in loads if one.good]
    return round(statistics.median(good), 1) if good else None


def claims() -> list[Claim]:
    """The issue's target, and the papers' factors."""
    return [
        Claim("wide.median", "page over mode beacon when quiet, median over readers, × direct", "<= 1.25",
              Measure("ratio_to_direct", {}, "median")),
        Claim("wide.draws", "the same, median over draws of servlets, of each draw's median", "<= 1.25",
              Measure("draw_median", {}, "median")),
        Claim("wide.near", "round trip between a site and servlets drawn when all nodes were reached before, × drawn by chance", "<= 0.85",
              Measure("rtt_ms", {"known": 1}, "only", Measure("rtt_ms", {"known": 0}))),
        Claim("wide.worst", "the reader who pays most, against the papers' largest factor", "<= 10",
              Measure("ratio_to_direct", {}, "max")),
        Claim("wide.failed", "pages that failed", "== 0", Measure("failed", {}, "sum")),
    ]  # fmt: skip


def draw(drawn: Any, rows: Sequence[Any]) -> None:
    """Every reader's two times, and the ratios in order."""
    left, right = drawn.subplots(1, 2)
    rows = [row for row in rows if row.get("ratio_to_direct")]
    left.scatter([r["direct_ms"] for r in rows], [r["beacon_ms"] for r in rows], s=22, color=SEA)
    most = max(max(r["direct_ms"], r["beacon_ms"]) for r in rows) * 1.05
    left.plot([0, most], [0, most], color=DIKE, linewidth=1, label="as fast")
    left.plot([0, most], [0, 1.25 * most], color=SAND, linewidth=1, label="1.25 ×")
    left.set(
        title="A page, each reader's median", xlabel="directly, ms", ylabel="over the overlay, ms", xlim=(0, most), ylim=(0, most)
    )
    left.legend(loc="lower right")
    ratios = sorted(r["ratio_to_direct"] for r in rows)
    right.step([*ratios, ratios[-1]], [n / len(ratios) for n in range(len(ratios) + 1)], where="post", color=SEA)
    right.axvline(1.25, color=SAND, linewidth=1)
    right.axvspan(2, 10, color=FLOOD, alpha=0.12)
    right.text(2.1, 0.03, "the papers' 2 … 10", color=FLOOD)
    right.set(title="Ratio to direct: share of readers below", xlabel="×", xscale="log")
    right.set_xticks([0.5, 1, 1.25, 2, 5, 10], ["0.5", "1", "1.25", "2", "5", "10"])
    right.minorticks_off()


async def measure(folder: Path, count: int, seconds: float) -> list[dict[str, Any]]:
    """All placements directly, then all through one overlay."""
    matrix = latency.load(MATRIX, POOL, random.Random(5))
    world = World(topology.load("wide"), folder)
    wide = [host.name for host in world.hosts.values() if host.port is not None]
    rng = random.Random(6)
    placements = [draw_placement(matrix, wide, rng) for _ in range(count)]
    rows: list[dict[str, Any]] = []
    try:
        async with Processes(folder) as processes:
            site = await experiment.start_origin(processes, world, folder)
            direct = []
            for number, placement in enumerate(placements):
                put(world, placement)
                direct.append(await read(processes, world, site.ca, None, f"direct{number}", seconds))
            overlay = Overlay(processes, world, folder, PROTECTION, lambda text: print(f"  {text}", flush=True))
            await overlay.build(experiment.SITE_NAME)
            for number, placement in enumerate(placements):
                put(world, placement)
                if number:
                    with contextlib.suppress(ValueError):  # nobody else to draw: those before stay
                        await overlay.redraw()
                # Readers read on while paths are measured anew; these pages do not count.
                await read(processes, world, site.ca, overlay, f"settle{number}", SETTLE_S if number else seconds)
                through = await read(processes, world, site.ca, overlay, f"beacon{number}", seconds)
                stages = (await overlay.site_status())["servlets"]
                servlets = frozenset(name for name, stage in stages.items() if stage == "serving")
                readers = rows_of(number, placement, direct[number], through, servlets)
                rows += [*readers, draw_row(number, readers)]
                report.show(rows[-len(through) - 1 :])
                overlay.check()
    finally:
        world.close()
    return rows + drawn([draw_placement(matrix, wide, rng) for _ in range(IMAGINED)], rng)


def main() -> int:
    """Measure, write, print. Exit status 0 without a matrix: there is nothing to measure then, and that is said."""
    chosen = report.arguments("wide", __doc__, "one placement").parse_args()
    try:
        latency.load(MATRIX, 2, random.Random(0))
    except latency.NoMatrixError as error:
        print(f"skipped: {error}; NetLatency-Data has it, under latency/PlanetLabData_1.gz below POLDER_DATA")
        return 0
    count, seconds = (1, 8.0) if chosen.quick else (8, 10.0)
    folder = (Path("build/lab") / f"wide-{os.getpid()}-{time.strftime('%H%M%S')}").resolve()

    def inside() -> int:
        rows = asyncio.run(measure(folder, count, seconds))
        parameters = {
            "matrix": MATRIX, "placements": count, "seconds": seconds, "think_s": THINK_S, "settle_s": SETTLE_S, "near_ms": NEAR_MS,
            "topology": "wide", "protection": PROTECTION, "settings": "defaults", "seed": 6, "build": BUILD,
            "imagined": IMAGINED, "redrawn": REDRAWN,
        }  # fmt: skip
        result = Result("wide", parameters, rows, claims(), "Pages over a quiet overlay with measured delays, against direct")
        return report.finish(result, draw, record=not chosen.no_record, rows=False)

    return report.enclosed(inside)


if __name__ == "__main__":
    sys.exit(main())
