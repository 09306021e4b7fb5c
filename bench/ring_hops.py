"""Lookup hops for 10^2 … 10^5 nodes, and the ring's five properties while nodes come and go.

*Hops*: rings that stand, built from the real tables (successor list, fingers); requests are routed by the code that nodes route
with (path mode ``ring``), and counted from node to node. Chord's mean is ½·log2 N (Stoica et al. 2001, §5).

*Churn*: real machines over a lossy wide-area network on a virtual clock, births and deaths; after each change of any node's
neighbours the five properties are checked, and lookups go on all the while.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from polder.lab.latency import load
from polder.lab.results import Claim, Measure, Result, write
from polder.model import RING_SIZE, Member
from polder.ring import ChordConfig
from polder.ring.simulator import Latency, SimConfig, Simulator, churn
from polder.ring.table import Table, standing

SIZES = (100, 1_000, 10_000, 100_000)
CHURN = ((100, 600.0), (1_000, 200.0), (10_000, 20.0), (100_000, 4.0))
"""Nodes, seconds of virtual time."""
R = 4
CLOSE = 0.75
"""Hops by which a mean may differ from ½·log2 N: that is the way to the node before the key; then comes the owner itself, and the
successor list saves some of it."""


def hops(size: int, requests: int, rng: Random) -> dict[str, Any]:
    """Route ``requests`` random keys from random nodes of a standing ring."""
    began = time.perf_counter()
    members = sorted((Member.of(f"n{i}", rng.randrange(RING_SIZE), "") for i in range(size)), key=lambda m: m.ring_id)
    tables: dict[bytes, Table] = {table.me.ring_id: table for table in standing(members, R)}
    built = time.perf_counter() - began
    counts = []
    for _ in range(requests):
        key, here, count = rng.randrange(RING_SIZE), rng.choice(members), 0
        while (hop := tables[here.ring_id].next_hops(key).next) is not None:
            here, count = hop, count + 1
        if not tables[here.ring_id].owns(key):
            raise AssertionError("a request ended at a node that does not own its key")
        counts.append(count)
    fingers = statistics.fmean(len(set(table.fingers.values())) for table in tables.values())
    return {
        "kind": "hops",
        "nodes": size,
        "requests": requests,
        "hops_mean": round(statistics.fmean(counts), 3),
        "hops_p50": statistics.median(counts),
        "hops_p99": statistics.quantiles(counts, n=100)[98],
        "hops_max": max(counts),
        "half_log2_nodes": round(math.log2(size) / 2, 3),
        "difference": round(abs(statistics.fmean(counts) - math.log2(size) / 2), 3),
        "fingers_mean": round(fingers, 2),
        "build_s": round(built, 2),
    }


def under_churn(size: int, seconds: float, latency: Latency, seed: int) -> dict[str, Any]:
    """A standing ring in which, each second, 1 node in 1,000 (at least 0.2) dies and as many come."""
    began = time.perf_counter()
    config = SimConfig(
        seed, ChordConfig(successors=R, found_after=math.inf), latency, loss=0.01, check_fully=size <= 1000, flow=100
    )
    sim = Simulator(config)
    sim.standing(size)
    rate = max(0.2, size / 1000)
    happened = {"join": 0, "kill": 0}
    while sim.now < seconds:
        for _ in range(max(1, min(20, size // 100))):
            node = sim.any_live()
            if node.machine.joined:
                sim.lookup(node, sim.rng.randrange(RING_SIZE))
        for what in churn(sim, joins_per_s=rate, deaths_per_s=rate, until=min(seconds, sim.now + 1), least=size // 2):
            happened[what] += 1
    sim.run(seconds + 6)  # the lookups on their way come to their end
    counts = sim.counts
    asked = counts["lookups"] + counts["lookups_failed"]
    return {
        "kind": "churn",
        "nodes": size,
        "virtual_s": seconds,
        "joins": happened["join"],
        "deaths": happened["kill"],
        "messages": counts["messages"],
        "changes_checked": counts["changes"],
        "violations": len(sim.violated),
        "lookups": asked,
        "lookups_answered_ratio": round(counts["lookups"] / asked, 4),
        "lookups_right_ratio": round(counts["lookups_right"] / max(1, counts["lookups"]), 4),
        "lookup_hops_mean": round(counts["lookup_hops"] / max(1, counts["lookups"]), 3),
        "wall_s": round(time.perf_counter() - began, 1),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def wide_area(rng: Random) -> tuple[Latency, str]:
    """One-way delays from a measured matrix where ``POLDER_DATA`` has one, else from a synthetic geography; ± 10 % jitter."""
    data = os.environ.get("POLDER_DATA")
    measured = Path(data or "") / "latency" / "PlanetLabData_1.gz"
    source = str(measured) if data and measured.exists() else "synthetic"
    matrix = load(source, 64, rng)
    rows = matrix.rtt_ms
    size = len(rows)

    def latency(a: int, b: int, chance: Random) -> float:
        return rows[a % size][b % size] / 2000 * chance.uniform(0.9, 1.1) + 0.0005

    return latency, "PlanetLab matrix" if source != "synthetic" else "synthetic geography"


def claims(rows: Sequence[dict[str, Any]], changes: int = 1000) -> list[Claim]:
    """What the rows must show; ``changes``: the least number of checks that make the run worth something."""
    sizes = [row["nodes"] for row in rows if row["kind"] == "hops"]
    found = [
        Claim(f"ring-hops-{size}", f"mean hops at {size} nodes differ from ½·log2 N by", f"<= {CLOSE}",
              Measure("difference", {"kind": "hops", "nodes": size}))
        for size in sizes
    ]  # fmt: skip
    churned = {"kind": "churn"}
    return [
        *found,
        Claim("ring-properties", "violations of the five properties, at all changes of all runs", "== 0",
              Measure("violations", churned, "sum")),
        Claim("ring-checked", "changes at which they were checked", f">= {changes}", Measure("changes_checked", churned, "sum")),
        Claim("ring-owners", "least part of their answers that name the living owner first, or after dead ones only", ">= 0.97",
              Measure("lookups_right_ratio", churned, "min")),
        Claim("ring-lookups", "least part of lookups answered while nodes come and go", ">= 0.99",
              Measure("lookups_answered_ratio", churned, "min")),
    ]  # fmt: skip


def draw(figure: Any, rows: Sequence[Any]) -> None:
    """Mean and spread of hops over the size of the ring."""
    static = [row for row in rows if row["kind"] == "hops"]
    moving = [row for row in rows if row["kind"] == "churn"]
    axes = figure.subplots()
    sizes = [row["nodes"] for row in static]
    axes.fill_between(sizes, 0, [row["hops_p99"] for row in static], alpha=0.12, label="99 of 100 requests")
    axes.plot(sizes, [row["hops_mean"] for row in static], marker="o", label="mean, ring at rest")
    axes.plot(sizes, [row["half_log2_nodes"] for row in static], linestyle="--", label="½·log2 N")
    axes.plot([r["nodes"] for r in moving], [r["lookup_hops_mean"] for r in moving], marker="s", linestyle="none",
              label="mean of nodes asked by lookups under churn")  # fmt: skip
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("nodes")
    axes.set_ylabel("hops")
    axes.set_title("Hops to the owner of a key")
    axes.legend(loc="upper left")


def main() -> int:
    """Run it; exit status 3 when a claim does not hold."""
    parser = argparse.ArgumentParser(prog="python -m bench.ring_hops", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="up to 10,000 nodes at rest and 1,000 under churn; nothing recorded")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng = Random(arguments.seed)
    latency, source = wide_area(rng)
    requests = 5_000 if arguments.quick else 20_000
    rows = []
    for size in SIZES[:3] if arguments.quick else SIZES:
        rows.append(hops(size, requests, rng))
        print(json.dumps(rows[-1]), flush=True)
    for size, seconds in CHURN[:2] if arguments.quick else CHURN:
        rows.append(under_churn(size, seconds / (5 if arguments.quick else 1), latency, arguments.seed))
        print(json.dumps(rows[-1]), flush=True)
    result = Result("ring", {"seed": arguments.seed, "successors": R, "latency": source, "loss": 0.01, "close": CLOSE}, rows,
                    claims(rows, 400 if arguments.quick else 1000), "Lookup hops and the ring under churn")  # fmt: skip
    if not arguments.quick:
        write(result, draw)
    judged = [claim.judge(rows) for claim in result.claims]
    for claim in judged:
        print(f"{'holds' if claim['holds'] else 'FAILS'}  {claim['text']}: {claim['measured']} (target {claim['target']})")
    return 0 if all(claim["holds"] for claim in judged) else 3


if __name__ == "__main__":
    sys.exit(main())
