"""``make bench`` part ``sos``: how likely, and for how long, an attack on n of N nodes denies a user (SOS, JSAC 2004, §IV).

*Static*: n nodes, drawn at random, fall silent at one moment; nothing is repaired yet. *Dynamic*: strikes come and struck nodes
recover for good; once with roles that stay where they are, as in the paper, once with roles that the ring and the site's agent move.
Closed forms beside chance over the real role code (``polder.planning``). Writes ``bench/results/sos-static.json``, ``sos-dynamic.json``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from random import Random
from typing import Any

from polder.lab import results
from polder.lab.plots import CYCLE, MIST
from polder.lab.results import Claim, Measure, Result
from polder.model import PathMode
from polder.planning.chances import Shape, denied
from polder.planning.course import Attack, Repair, denied_moving, denied_staying, down_ratio, hazard
from polder.planning.trials import Course, around_mean, course, exact, share_denied, struck_once
from polder.planning.world import Field, Pace

Row = dict[str, Any]

RATIOS = tuple(tenth / 10 for tenth in range(1, 10))
USUAL = (3, 2, 3, 1)
"""Access points, servlets, beacons, heirs: settings' defaults, and a user with three access points."""
STATIC = (
    *((PathMode.BEACON, nodes, USUAL) for nodes in (100, 1_000, 10_000, 100_000, 1_000_000)),
    *((PathMode.BEACON, 1_000, sizes) for sizes in ((1, 1, 1, 0), (5, 3, 3, 1), (10, 6, 6, 1))),
    *((PathMode.DIRECT, nodes, USUAL) for nodes in (100, 1_000)),
    *((PathMode.RING, nodes, USUAL) for nodes in (100, 1_000, 10_000)),
)
STUCK_UP_TO = 0.4
REDRAWN = 1_000
"""Overlays up to so many nodes are drawn anew for each trial; of larger ones one serves all trials of a case."""
TRIALS, QUICK_TRIALS = 3_000, 200
SURE, USUALLY = 3.89, 1.96
"""Standard deviations of a 99.99 % and of a 95 % interval."""

LASTING = 60.0
STAYING = {
    "each node, again and again": lambda nodes: Attack(0.43 / LASTING, LASTING, each=True),
    "one attacker": lambda nodes: Attack(0.4 * nodes / LASTING, LASTING),
    "one attacker, 40 % at once": lambda nodes: Attack(1.2 * nodes / LASTING, LASTING, at_once=round(0.4 * nodes)),
    "one attacker, repaired one by one": lambda nodes: Attack(0.9 / LASTING, LASTING, one_by_one=True),
}
MOVING = ((2, 1, 0), (1, 3, 1), (2, 3, 1), (3, 3, 1), (2, 1, 1))
"""Servlets, beacons, heirs."""
MOST_ENTRIES = 4
COURSE_S = 500.0


def sizes_of(shape: Shape) -> Row:
    """A shape, for a row."""
    return {
        "nodes": shape.nodes,
        "mode": str(shape.mode),
        "access_points": shape.access_points,
        "servlets": shape.servlets,
        "beacons": shape.beacons,
        "heirs": shape.heirs,
    }


def compared(measured: float, sure: tuple[float, float], usual: tuple[float, float], closed: float) -> Row:
    """What was measured beside what was computed."""
    return {
        "measured": round(measured, 6),
        "low": round(sure[0], 6),
        "high": round(sure[1], 6),
        "closed": round(closed, 6),
        "half_width": round((sure[1] - sure[0]) / 2, 6),
        "difference": round(measured - closed, 6),
        "outside": int(not sure[0] <= closed <= sure[1]),
        "below": int(closed > sure[1]),
        "inside_95": int(usual[0] <= closed <= usual[1]),
    }


def static_case(mode: PathMode, nodes: int, sizes: Sequence[int], trials: int) -> list[Row]:
    """A row for each share of nodes struck."""
    access_points, servlets, beacons, heirs = sizes
    shape = Shape(nodes, access_points, servlets, beacons, heirs, mode)
    rng, counts = Random(f"{mode} {nodes} {sizes}"), [round(nodes * ratio) for ratio in RATIOS]
    hits, members, began = [0] * len(counts), Field(nodes, rng), time.perf_counter()
    for _ in range(trials):
        members = Field(nodes, rng) if nodes <= REDRAWN else members
        hits = [total + one for total, one in zip(hits, struck_once(members, shape, counts, rng), strict=True)]
    took = time.perf_counter() - began
    print(f"{mode}, {nodes} nodes, {tuple(sizes)}: {trials} trials in {took:.0f} s", flush=True)
    return [
        sizes_of(shape)
        | {"attacked": count, "ratio": ratio, "trials": trials}
        | compared(hit / trials, exact(hit, trials, 1e-4), exact(hit, trials, 0.05), denied(shape, count))
        for count, ratio, hit in zip(counts, RATIOS, hits, strict=True)
    ]


def static_claims() -> list[Claim]:
    """What must hold."""
    beacon, direct, ring = ({"mode": mode} for mode in ("beacon", "direct", "ring"))
    return [
        Claim(
            "sos-static.beacon",
            "closed forms outside of the 99.99 % interval, mode beacon",
            "== 0",
            Measure("outside", beacon, "sum"),
        ),
        Claim("sos-static.direct", "the same, mode direct", "== 0", Measure("outside", direct, "sum")),
        Claim("sos-static.usual", "share of all within the 95 % interval, mode beacon", ">= 0.85", Measure("inside_95", beacon, "mean")),
        Claim("sos-static.width", "widest interval, to each side", "<= 0.04", Measure("half_width", beacon, "max")),
        Claim("sos-static.nodes", "nodes of the largest overlay", "== 1000000", Measure("nodes", beacon, "max")),
        Claim(
            "sos-static.ring",
            "mode ring: chances below the repaired ring's, which bounds it",
            "== 0",
            Measure("below_bound", ring, "sum"),
        ),
        Claim(
            "sos-static.ring-stuck",
            "mode ring before its repair, up to two fifths of the nodes struck: more chance than with the ring repaired, at most",
            "<= 0.03",
            Measure("stuck", ring, "max"),
        ),
    ]  # fmt: skip


def static(trials: int) -> Result:
    """All static cases."""
    rows = [row for mode, nodes, sizes in STATIC for row in static_case(mode, nodes, sizes, trials)]
    for row in rows:
        if row["mode"] == "ring":
            row["below_bound"] = row["below"]
            if row["ratio"] <= STUCK_UP_TO:
                row["stuck"] = row["difference"]
    parameters = {"trials": trials, "interval": 0.9999, "redrawn_up_to_nodes": REDRAWN}
    return Result("sos-static", parameters, rows, static_claims(), "Nodes struck at one moment: how likely a user is denied")


def staying(kind: str, nodes: int, placements: int) -> Row:
    """One attack on roles that stay."""
    attack, shape = STAYING[kind](nodes), Shape(nodes, *USUAL)
    rng = Random(f"{kind} {nodes}")
    shares = [share_denied(Field(nodes, rng), shape, attack, 100, rng) for _ in range(placements)]
    print(f"{kind}, {nodes} nodes: {placements} placements", flush=True)
    return (
        {"part": "staying", "attack": kind, **sizes_of(shape), "runs": placements, "down_ratio": round(down_ratio(nodes, attack), 4)}
        | compared(
            statistics.fmean(shares), around_mean(shares, SURE), around_mean(shares, USUALLY), denied_staying(shape, attack)
        )
    )  # fmt: skip


def courses(nodes: int, sizes: Sequence[int], runs: int, seed: str) -> list[Course]:
    """Placements whose roles move, under the attack that never tires."""
    servlets, beacons, heirs = sizes
    rng, shape = Random(f"{seed} {nodes} {sizes}"), Shape(nodes, MOST_ENTRIES, servlets, beacons, heirs)
    attack = STAYING["each node, again and again"](nodes)
    made = [course(Field(nodes, rng), shape, attack, COURSE_S, rng, Pace()) for _ in range(runs)]
    print(f"{seed}, {nodes} nodes, {tuple(sizes)}: {runs} courses", flush=True)
    return made


def repair_of(made: Sequence[Course], nodes: int) -> Repair:
    """The mean repair times that explain for how long places were down."""
    strikes = hazard(nodes, STAYING["each node, again and again"](nodes))
    servlets, beacons = (statistics.fmean(getattr(one, name) for one in made) for name in ("servlets_down", "beacons_down"))
    return Repair(servlets / (1 - servlets) / strikes, beacons / (1 - beacons) / strikes)


def moving(nodes: int, sizes: Sequence[int], made: Sequence[Course], repair: Repair) -> list[Row]:
    """A row for each number of access points."""
    servlets, beacons, heirs = sizes
    attack, rows = STAYING["each node, again and again"](nodes), []
    for access_points in range(1, MOST_ENTRIES + 1):
        shape = Shape(nodes, access_points, servlets, beacons, heirs)
        shares = [one.denied[access_points - 1] for one in made]
        row = {"part": "moving", "attack": "each node, again and again", **sizes_of(shape), "runs": len(made)}
        row |= {"down_ratio": round(down_ratio(nodes, attack), 4), "staying": round(denied_staying(shape, attack), 6)}
        closed = denied_moving(shape, attack, repair)
        row |= compared(statistics.fmean(shares), around_mean(shares, SURE), around_mean(shares, USUALLY), closed)
        if beacons * (1 + heirs) == 1:
            # Access points look the one beacon's successor up at moments of their own, and the first that has found it is enough.
            row["above_bound"] = int(closed < row["low"])
            del row["outside"]
        rows.append(row)
    return rows


def dynamic_claims() -> list[Claim]:
    """What must hold."""
    stay, move, repair = ({"part": part} for part in ("staying", "moving", "repair"))
    usual = {"part": "moving", "access_points": MOST_ENTRIES, "servlets": 3}
    gained = "denied time with roles that move, against roles that stay (4 access points, 3 servlets, 3 beacons)"
    return [
        Claim(
            "sos-dynamic.staying",
            "closed forms outside of the 99.99 % interval, roles stay",
            "== 0",
            Measure("outside", stay, "sum"),
        ),
        Claim("sos-dynamic.moving", "the same, roles move", "== 0", Measure("outside", move, "sum")),
        Claim(
            "sos-dynamic.single",
            "one beacon without heir: denied for longer than the closed form, which bounds it",
            "== 0",
            Measure("above_bound", move, "sum"),
        ),
        Claim("sos-dynamic.width", "widest interval, to each side", "<= 0.08", Measure("half_width", fold="max")),
        Claim("sos-dynamic.servlet", "seconds until another servlet serves", "<= 15", Measure("servlet_s", repair, "max")),
        Claim(
            "sos-dynamic.beacon", "seconds until all who should know the servlets do", "<= 25", Measure("beacon_s", repair, "max")
        ),
        Claim("sos-dynamic.gain", gained, "<= 0.5", Measure("measured", usual, over=Measure("staying", usual))),
    ]


def dynamic(placements: int, runs: int) -> Result:
    """All dynamic cases. Repair times are measured in runs of their own, with the usual sizes, and used for all sizes.

    Once for each number of heirs: to tell another heir takes longer than to succeed a dead beacon.
    """
    rows = [staying(kind, nodes, placements) for nodes in (100, 1_000) for kind in STAYING]
    for heirs in (0, 1):
        repair = repair_of(courses(100, (*USUAL[1:3], heirs), runs, "to measure the repair"), 100)
        rows.append(
            {
                "part": "repair",
                "heirs": heirs,
                "servlet_s": round(repair.servlet, 2),
                "beacon_s": round(repair.beacon, 2),
                "runs": runs,
            }
        )
        for sizes in (sizes for sizes in MOVING if sizes[2] == heirs):
            rows += moving(100, sizes, courses(100, sizes, runs, "roles move"), repair)
    pace = Pace()
    parameters = {
        "placements": placements, "runs": runs, "course_s": COURSE_S, "strike_lasts_s": LASTING, "interval_sd": SURE,
        "ring_repair_s": pace.ring_repair, "silence_s": pace.silence, "call_timeout_s": pace.call_timeout, "advertise_s": pace.advertise,
    }  # fmt: skip
    return Result("sos-dynamic", parameters, rows, dynamic_claims(), "Strikes that never end: for how long a user is denied")


def draw_static(drawn: Any, rows: Sequence[Row]) -> None:
    """Closed forms as lines, what was measured as points with intervals."""
    left, right = drawn.subplots(1, 2, sharey=True)
    shown: list[tuple[Any, str, dict[str, Any]]] = [
        *(
            (left, f"{nodes:,} nodes".replace(",", " "), {"mode": "beacon", "nodes": nodes, "access_points": 3})
            for nodes in (100, 10_000, 1_000_000)
        ),
        *(
            (right, f"access points {a}, servlets {s}, beacons {b}", {"mode": "beacon", "nodes": 1_000, "access_points": a})
            for a, s, b, _ in ((1, 1, 1, 0), USUAL, (5, 3, 3, 1), (10, 6, 6, 1))
        ),
        (right, "mode ring, before its repair", {"mode": "ring", "nodes": 1_000}),
    ]  # fmt: skip
    for axis in (left, right):
        axis.set(xlabel="share of nodes struck at one moment", yscale="log", ylim=(3e-4, 1.3), xlim=(0, 1))
    left.set(title="The share counts, not the number", ylabel="chance that the user is denied")
    right.set(title="Sizes buy the exponent")
    for number, (axis, label, where) in enumerate(shown):
        chosen = [row for row in rows if all(row.get(key) == value for key, value in where.items())]
        colour = CYCLE[(number if axis is left else number - 3) % len(CYCLE)]
        seen = [row for row in chosen if row["measured"] > 0]
        axis.errorbar(
            [row["ratio"] for row in seen],
            [row["measured"] for row in seen],
            yerr=[[row["measured"] - row["low"] for row in seen], [row["high"] - row["measured"] for row in seen]],
            fmt="o", markersize=4, color=colour, label=label,
        )  # fmt: skip
        if chosen and chosen[0]["mode"] == "beacon":
            first = chosen[0]
            shape = Shape(first["nodes"], first["access_points"], first["servlets"], first["beacons"], first["heirs"])
            steps = [step / 100 for step in range(1, 100)]
            axis.plot(steps, [denied(shape, round(shape.nodes * step)) or None for step in steps], color=colour, linewidth=1)
        axis.legend(loc="lower right", fontsize=8, title="lines: closed form; points: real roles" if axis is left else None)


def draw_dynamic(drawn: Any, rows: Sequence[Row]) -> None:
    """Roles that stay beside roles that move, by access points."""
    left, right = drawn.subplots(1, 2)
    kinds = [row for row in rows if row["part"] == "staying" and row["nodes"] == 100]
    for axis, chosen, labels in (
        (left, kinds, [row["attack"].replace(", ", ",\n") for row in kinds]),
        (right, [row for row in rows if row["part"] == "moving" and row["access_points"] == MOST_ENTRIES], None),
    ):
        names = labels or [f"servlets {row['servlets']}, beacons {row['beacons']},\nheirs {row['heirs']}" for row in chosen]
        places = range(len(chosen))
        axis.errorbar(
            [row["measured"] for row in chosen], places,
            xerr=[[row["measured"] - row["low"] for row in chosen], [row["high"] - row["measured"] for row in chosen]],
            fmt="o", color=CYCLE[0], label="real roles, 99.99 % interval",
        )  # fmt: skip
        axis.plot([row["closed"] for row in chosen], places, "x", color=CYCLE[3], label="closed form")
        if labels is None:
            axis.plot(
                [row["staying"] for row in chosen],
                places,
                "|",
                markersize=14,
                color=MIST,
                label="closed form, were roles to stay",
            )
        axis.set_yticks(list(places), names)
        axis.set(xlabel="share of time denied", xlim=(0, None), ylim=(-0.5, len(chosen) - 0.5))
    left.set(title="Roles stay, 100 nodes")
    right.set(title=f"Roles move, {MOST_ENTRIES} access points")
    drawn.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)


def main() -> int:
    """Run, print, write; exit status 3 if a claim does not hold."""
    parser = argparse.ArgumentParser(prog="python -m bench.sos", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few trials; nothing is written")
    parser.add_argument("--only", choices=["static", "dynamic"])
    arguments = parser.parse_args()
    parts = []
    if arguments.only != "dynamic":
        parts.append((static(QUICK_TRIALS if arguments.quick else TRIALS), draw_static))
    if arguments.only != "static":
        parts.append((dynamic(40, 4) if arguments.quick else dynamic(800, 60), draw_dynamic))
    good = True
    for result, draw in parts:
        for claim in result.record()["claims"]:
            # The widths say whether there were trials enough: few are not.
            good = good and (claim["holds"] or (arguments.quick and ".width" in claim["id"]))
            print(f"{claim['id']}: {claim['measured']} ({claim['target']}): {'holds' if claim['holds'] else 'DOES NOT HOLD'}")
        if not arguments.quick:
            print(f"wrote {results.write(result, draw)}")
    return 0 if good else 3


if __name__ == "__main__":
    sys.exit(main())
