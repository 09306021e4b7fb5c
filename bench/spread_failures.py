"""``python -m bench.spread_failures``: figure 6 of BandExSOS: relays die without notice. Writes ``spread-failures.json``, ``.svg``.

A session over 80 relays (delays of PlanetLab, ``POLDER_DATA``), four readers of the stored site. They read while all is quiet, and go
on reading while 10 to 50 % of the relays, drawn at random, fall silent at one moment: their cables are pulled, so nobody tells. Pages
that were under way at that moment count among those after it. Without feedback, as the paper did it, with 0 to 200 % more packets; with
feedback and 50 %. Times are compared page by page with the quiet run of the same session. A page that has not come whole in 60 s has
failed. More packets: those that both ends sent beyond the datagrams they were given (copies, feedback, trials), by datagram, from two
round trips after the moment on.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import report, spread_lab
from polder.lab.load import Load
from polder.lab.plots import CYCLE, DIKE
from polder.lab.results import Claim, Measure
from polder.lab.spread import Mode, Overlay
from polder.shell.clock import wall

DEAD = (0.5, 0.0, 0.1, 0.2, 0.3, 0.4)
NAIVE_DEAD = (0.1, 0.3, 0.5)
NAIVE_COPIES = (0.0, 0.5, 1.0, 2.0)
OURS = Mode(naive=False, copies=0.5)
PAPER = {"slower at 50 % dead with 200 %": 1.25}


def row(mode: Mode, dead: float, quiet: Sequence[Load], after: Sequence[Load]) -> dict[str, Any]:
    """One point of the figure. Ratios are to the median of the same page in the quiet run; ``p99`` compares the two runs' own."""
    before, later = spread_lab.ratios(quiet, quiet), spread_lab.ratios(after, quiet)
    worst = spread_lab.share(before, 0.99), spread_lab.share(later, 0.99)
    return {
        "mode": mode.name,
        "copies": mode.copies,
        "dead": dead,
        "pages": len(after),
        "failed": sum(not one.good for one in (*quiet, *after)),
        "median_ratio": spread_lab.share(later, 0.5),
        "p99_ratio": round(worst[1] / worst[0], 3) if worst[0] and worst[1] else None,
        "worst_s": round(max((one.seconds for one in after), default=0.0), 2),
    }


def claims() -> list[Claim]:
    """The issue's targets."""
    paper, ours = {"mode": "naive", "copies": 2.0, "dead": 0.5}, {"mode": "feedback", "dead": 0.5}
    return [
        Claim("spread-failures.naive", "as in the paper, 200 % copies: median page with half of the relays dead, × quiet",
              "<= 1.25", Measure("median_ratio", paper, "median")),
        Claim("spread-failures.median", "feedback, 50 % copies, half dead: median page, × quiet", "<= 1.1",
              Measure("median_ratio", ours, "median")),
        Claim("spread-failures.p99", "the same: 99th percentile, × quiet", "<= 1.5", Measure("p99_ratio", ours, "median")),
        Claim("spread-failures.extra", "the same: more packets, after two round trips", "<= 0.6",
              Measure("extra_after", ours, "max")),
        Claim("spread-failures.failed", "pages that failed with feedback, whatever died", "== 0",
              Measure("failed", {"mode": "feedback"}, "sum")),
    ]  # fmt: skip


def draw(drawn: Any, rows: Sequence[Any]) -> None:
    """Median pages against the share of dead relays; the 99th percentile beside it."""
    panels = drawn.subplots(1, 2)
    series = [("naive", copies) for copies in NAIVE_COPIES] + [(OURS.name, OURS.copies)]
    for (mode, copies), colour in zip(series, CYCLE, strict=False):
        mine = sorted((r for r in rows if (r["mode"], r["copies"]) == (mode, copies)), key=lambda r: r["dead"])
        label = f"{'no feedback' if mode == 'naive' else mode}, {copies:.0%} more"
        for axis, field in zip(panels, ("median_ratio", "p99_ratio"), strict=True):
            points = [(r["dead"] * 100, r[field]) for r in mine if r[field]]
            axis.plot([x for x, _ in points], [y for _, y in points], marker="o", color=colour, label=label)
    for axis, title in zip(panels, ("Median page", "99th percentile"), strict=True):
        axis.axhline(1, color=DIKE, linewidth=1)
        axis.set(title=title, xlabel="relays that died without notice, %", ylabel="× quiet", yscale="log")
        axis.set_yticks([1, 1.25, 1.5, 2, 4, 8], ["1", "1.25", "1.5", "2", "4", "8"])
        axis.minorticks_off()
    panels[0].legend(fontsize=8)


async def point(
    stage: spread_lab.Stage, overlay: Overlay, mode: Mode, dead: float, seconds: float, rng: random.Random
) -> dict[str, Any]:
    """A session of its own: quiet, then so many relays dead."""
    relays = [member.host for member in overlay.members[:-1]]
    struck = rng.sample(relays, round(dead * len(relays)))
    session = await overlay.session("user", stage.target, mode)
    moment: list[tuple[float, float]] = []

    async def strike() -> None:
        await asyncio.sleep(spread_lab.BEGIN_S + spread_lab.LEARN_S + seconds)
        stage.plug(struck, plugged=False)
        moment.append((time.monotonic(), wall()))

    try:
        loads, _ = await asyncio.gather(stage.read(spread_lab.LEARN_S + 2 * seconds, direct=False), strike())
        (then, at), rtt = moment[0], session.rtt_ms()
        quiet = [one for one in spread_lab.learned(loads) if one.start + one.seconds <= then]
        after = [one for one in loads if one.start + one.seconds > then]
        counts = session.counts(at + 2 * rtt / 1000, at + seconds), session.counts(at - seconds, at)
        extras = [round(one["extra"], 3) if "extra" in one else None for one in counts]
        made = row(mode, dead, quiet, after) | {"pages_quiet": len(quiet), "rtt_ms": round(rtt, 1)}
        return made | {"extra_after": extras[0], "extra_before": extras[1], "suspect": session.last("suspect")}
    finally:
        session.stop()
        stage.plug(struck, plugged=True)


async def measure(folder: Path, quick: bool) -> list[dict[str, Any]]:
    """All points, over one placement."""
    naive = [Mode(naive=True, copies=copies) for copies in ((2.0,) if quick else NAIVE_COPIES)]
    seconds, rng, rows = 6.0 if quick else 9.0, random.Random(7), []
    async with spread_lab.stage(folder) as stage:
        spread_lab.put(stage.world, spread_lab.first())
        with stage.overlay(spread_lab.RELAYS, 1) as overlay:
            for dead in DEAD[:1] if quick else DEAD:
                for mode in (OURS, *(naive if dead in NAIVE_DEAD else ())):
                    rows.append(await point(stage, overlay, mode, dead, seconds, rng))
                    report.show(rows[-1:])
    return rows


def parameters() -> dict[str, Any]:
    """Beyond those that all figures share."""
    own = {"readers": spread_lab.READERS, "think_s": spread_lab.THINK_S, "relays": spread_lab.RELAYS, "paper": PAPER}
    return own | spread_lab.first().row(spread_lab.RELAYS)


FIGURE = spread_lab.Figure(
    "spread-failures", "Pages while relays die without notice", "half of the relays, the two modes of the claims",
    parameters, measure, claims, draw,
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(FIGURE.main(__doc__))
