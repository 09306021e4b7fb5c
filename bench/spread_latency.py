"""``python -m bench.spread_latency``: figure 5 of BandExSOS: latency over the spread plane against the direct way.

Writes ``spread-latency.json`` and ``.svg``. Four readers behind one session load a stored site (an index page and a collection, sizes
as of real sites) over 8 to 80 relays with 0 to 200 % more packets; without feedback as the paper did it, and with. Delays are
PlanetLab's (``POLDER_DATA``). The user is far from the site in all placements but ``near``, which is the paper's: user and site in one
place, so that every detour leads around half the world and the ratio says how far away relays are, not how well the overlay works.
Ratios are page by page, a page over the overlay to the median of the same page loaded directly; a row has their median and mean.
"""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import report, spread_lab
from bench.spread_lab import LEARN_S
from polder.lab.load import Load
from polder.lab.plots import CYCLE, DIKE, FLOOD, SAND
from polder.lab.results import Claim, Measure
from polder.lab.spread import Mode, Overlay
from polder.shell.clock import wall

WHOLE = "far 1"
"""The placement that all points are measured in."""
SIZES = (8, 20, 40, 80)
COPIES = (0.0, 0.5, 1.0, 2.0)
PAPER = {"worst": 2.5, "worst with 50 %": 1.5}
"""BandExSOS §IV."""


def row(placement: spread_lab.Placement, count: int, mode: Mode, loads: Sequence[Load], base: Sequence[Load]) -> dict[str, Any]:
    """One point of the figure."""
    found = spread_lab.ratios(loads, base)
    index = spread_lab.ratios([one for one in loads if one.page.endswith("/index/")], base)
    bounds, median = placement.row(count), spread_lab.share(found, 0.5)
    return bounds | {
        "far": int(placement.name != "near"),
        "relays": count,
        "mode": mode.name,
        "copies": mode.copies,
        "pages": len(loads),
        "failed": sum(not one.good for one in loads),
        "ratio": median,
        "mean_ratio": round(statistics.fmean(found), 3) if found else None,
        "index_ratio": spread_lab.share(index, 0.5),
        "better_detour": int(bounds["bound"] < 1),
        "over_bound": round(median / max(1.0, bounds["bound_blind" if mode.naive else "bound"]), 3) if median else None,
    }


def claims() -> list[Claim]:
    """The issue's targets; the paper's two numbers on our naive mode. Where no relay is near enough, a target is measured from what the
    matrix allows: ``over_bound`` is the ratio over the nearest relay's, without feedback over the median relay's."""
    ours = {"mode": "feedback", "copies": 0.5}
    return [
        Claim("spread-latency.feedback", "worst median page with feedback and 50 % copies, × direct, all placements and sizes",
              "<= 1.15", Measure("ratio", ours, "max")),
        Claim("spread-latency.bound", "the same, × what the nearest relay's round trip allows", "<= 1.15",
              Measure("over_bound", ours, "max")),
        Claim("spread-latency.eighty", "the same over 80 relays, × direct", "<= 1.15", Measure("ratio", ours | {"relays": 80}, "max")),
        Claim("spread-latency.detours", "the same over 80 relays, where one of them is on a quicker way than the direct one",
              "< 1", Measure("ratio", ours | {"relays": 80, "better_detour": 1}, "max")),
        Claim("spread-latency.near", "user and site in one place, as the paper had them: the worst, with feedback and 50 % copies",
              "<= 1.15", Measure("ratio", ours | {"far": 0}, "max")),
        Claim("spread-latency.naive", "without feedback, the whole figure: the worst (paper: 2.5)", "<= 2.5",
              Measure("ratio", {"mode": "naive", "placement": WHOLE}, "max")),
        Claim("spread-latency.naive-half", "without feedback, the whole figure, 50 % copies: the worst (paper: 1.5)", "<= 1.5",
              Measure("ratio", {"mode": "naive", "copies": 0.5, "placement": WHOLE}, "max")),
        Claim("spread-latency.naive-bound", "without feedback, everywhere: the worst, × what the median relay's round trip allows",
              "<= 2.5", Measure("over_bound", {"mode": "naive"}, "max")),
        Claim("spread-latency.failed", "pages that failed", "== 0", Measure("failed", {}, "sum")),
    ]  # fmt: skip


def draw(drawn: Any, rows: Sequence[Any]) -> None:
    """Ratio against copies, a line for each size of the overlay: medians over the placements far away."""
    panels = drawn.subplots(1, 2, sharey=True)
    for axis, mode in zip(panels, ("naive", "feedback"), strict=True):
        for size, colour in zip(SIZES, CYCLE, strict=False):
            points = []
            for copies in COPIES:
                wanted = {"mode": mode, "relays": size, "copies": copies, "far": 1}
                some = [r["ratio"] for r in rows if r["ratio"] and all(r[key] == value for key, value in wanted.items())]
                if some:
                    points.append((copies * 100, statistics.median(some)))
            axis.plot([x for x, _ in points], [y for _, y in points], marker="o", color=colour, label=f"{size} relays")
        axis.axhline(1, color=DIKE, linewidth=1)
        axis.set(title="No feedback, as in the paper" if mode == "naive" else "With feedback", xlabel="more packets, %")
    panels[0].axhline(PAPER["worst"], color=FLOOD, linewidth=1, linestyle=":", label="paper's worst")
    panels[1].axhline(1.15, color=SAND, linewidth=1, label="1.15 ×")
    panels[0].set(ylabel="median page over the overlay / directly")
    for axis in panels:
        axis.legend(fontsize=8)


def points(name: str, *, quick: bool) -> list[tuple[int, list[Mode]]]:
    """Sizes and modes: the whole figure for one placement, its corners for the others."""
    if quick:
        return [(8, [Mode(naive, 0.5) for naive in (True, False)])]
    if name == WHOLE:
        return [(size, [Mode(naive, copies) for naive in (True, False) for copies in COPIES]) for size in SIZES]
    return [(size, [Mode(naive, 0.5) for naive in (True, False)]) for size in (SIZES[0], SIZES[-1])]


async def point(
    stage: spread_lab.Stage,
    overlay: Overlay,
    placement: spread_lab.Placement,
    mode: Mode,
    seconds: float,
    base: Sequence[Load],
) -> dict[str, Any]:
    """A session of its own; what was loaded while it learned its paths does not count."""
    session = await overlay.session("user", stage.target, mode)
    try:
        loads = await stage.read(LEARN_S + seconds, direct=False)
        loads = spread_lab.learned(loads) or loads  # the first page may have taken all the time
        made = row(placement, len(overlay.members) - 1, mode, loads, base)
        extra = session.counts(0, wall()).get("extra", 0.0)
        return made | {"rtt_ms": round(session.rtt_ms(), 1), "extra": round(extra, 3), "used": session.last("used")}
    finally:
        session.stop()


async def measure(folder: Path, quick: bool) -> list[dict[str, Any]]:
    """All placements: directly, then every point."""
    matrix, rng = spread_lab.load_matrix(), random.Random(spread_lab.SEED)
    names = [WHOLE] if quick else [WHOLE, "far 2", "far 3", "near"]
    placements = [spread_lab.draw(matrix, rng, name, near=name == "near") for name in names]
    seconds = 4.0 if quick else 6.0
    rows: list[dict[str, Any]] = []
    async with spread_lab.stage(folder) as stage:
        for number, placement in enumerate(placements):
            spread_lab.put(stage.world, placement)
            base = await stage.read(2 * seconds, direct=True)
            for count, modes in points(placement.name, quick=quick):
                with stage.overlay(count, 100 * number + count) as overlay:
                    for mode in modes:
                        rows.append(await point(stage, overlay, placement, mode, seconds, base))
                        report.show(rows[-1:])
    return rows


def parameters() -> dict[str, Any]:
    """Beyond those that all figures share."""
    return {
        "readers": spread_lab.READERS, "think_s": spread_lab.THINK_S, "learn_s": LEARN_S, "beside_ms": spread_lab.BESIDE_MS,
        "near_ms": spread_lab.NEAR_MS, "paper": PAPER,
    }  # fmt: skip


FIGURE = spread_lab.Figure(
    "spread-latency", "Pages over many paths at once, against the direct way", "one placement, one point each",
    parameters, measure, claims, draw,
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(FIGURE.main(__doc__))
