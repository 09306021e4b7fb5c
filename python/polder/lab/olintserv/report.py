"""What a run comes to: rows, what must hold of them, and the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polder.lab.olintserv.isps import LINE_DELAY_MS, LINE_MBIT, QUEUE_MS, SITE_NODES, USER_NODES
from polder.lab.olintserv.playing import LAG_S, SEEN_S
from polder.lab.olintserv.run import (
    COMBINATIONS,
    DOWN_MBIT,
    SITE_DOWN_MBIT,
    SITE_UP_MBIT,
    SLICE_S,
    STREAM_MBIT,
    UP_MBIT,
    Run,
)
from polder.lab.plots import DIKE, FLOOD, INK, MIST
from polder.lab.results import Claim, Measure, Result, Row

NAME, TITLE = "olintserv", "A live stream across two filled last hops while relays die (BandExSOS)"
BOOKS = "settlement"
_CHECKS = 6
"""Checks of one showing with reservations: on each side one towards the customer and one from him to each of two nodes."""


def result(run: Run) -> Result:
    """Of a finished run; a row of the books comes last."""
    parameters = {
        "stream_mbit": STREAM_MBIT, "lag_s": LAG_S, "stall_s": SEEN_S, "line_mbit": LINE_MBIT, "line_delay_ms": LINE_DELAY_MS,
        "line_queue_ms": QUEUE_MS, "reserved_mbit": {"to_user": DOWN_MBIT, "from_user": UP_MBIT, "from_site": SITE_UP_MBIT,
        "to_site": SITE_DOWN_MBIT}, "near_user": USER_NODES, "near_site": SITE_NODES, "seconds": run.times.end,
        "rounds": run.rounds, "slice_s": SLICE_S, "topology": "olintserv",
    }  # fmt: skip
    return Result(NAME, parameters, [*run.rows, books(run)], claims(), TITLE)


def books(run: Run) -> dict[str, Any]:
    """The settlement as a row. ``paid_share``: checks that were paid, of those that were written."""
    deposited = run.books["deposited"].values()
    paid = sum(each["paid"] for each in deposited)
    written = _CHECKS * sum(row["reserved"] for row in run.rows)
    return {
        "combination": BOOKS,
        "written": written,
        "paid": paid,
        "paid_share": paid / written,
        "refused": sum(each["refused"] for each in deposited),
        "wrong": run.books["wrong"],
        "left": run.books["left"],
        **{f"earned_{seller}": amount for seller, amount in run.books["earned"].items()},
    }


def claims() -> list[Claim]:
    """Only the union has no stall; and that it was put to the test."""

    def of(field: str, name: str, fold: str) -> Measure:
        return Measure(field, {"combination": name}, fold)

    titles = {one.name: one.title for one in COMBINATIONS}
    without = [name for name in titles if name != "both"]
    return [
        Claim("olintserv.both", "stalls with reservation and spread", "== 0", of("stalls", "both", "sum")),
        Claim("olintserv.both-lost", "part of its frames that is lost", "== 0", of("lost", "both", "max")),
        *(
            Claim(f"olintserv.{name}", f"stalls with {titles[name]}, in each round", ">= 1", of("stalls", name, "min"))
            for name in without
        ),
        Claim("olintserv.hop", "reservation only: stalls before relays die", "== 0", of("stalls_cross", "reserved", "sum")),
        Claim("olintserv.cross", "Mbit/s of cross traffic into each last hop of 10", ">= 15", Measure("cross_mbit", {}, "min")),
        Claim("olintserv.dead", "part of the nodes that died", ">= 0.3", Measure("dead_share", {}, "min")),
        Claim("olintserv.paid", "checks paid, of those written", "== 1", of("paid_share", BOOKS, "only")),
        Claim("olintserv.books", "movements that do not add up", "== 0", of("wrong", BOOKS, "only")),
        Claim("olintserv.even", "micro-units left open after settlement", "== 0", of("left", BOOKS, "only")),
    ]


def draw(drawn: Any, rows: Sequence[Row]) -> None:
    """For each combination the worst delay over time, and when frames were lost."""
    drawn.set_size_inches(9.0, 7.0)
    panels = drawn.subplots(len(COMBINATIONS), 1, sharex=True, sharey=True)
    for axis, one in zip(panels, COMBINATIONS, strict=True):
        mine = [row for row in rows if row["combination"] == one.name]
        for row in mine:
            _showing(axis, row)
        axis.set_yscale("log")
        axis.set_ylim(20, 4000)
        axis.set_yticks([30, 100, 300, 1000], ["30", "100", "300", "1000"])
        axis.minorticks_off()
        axis.set_ylabel("delay, ms")
        stalls, frozen = sum(row["stalls"] for row in mine), sum(row["frozen_s"] for row in mine)
        told = "no stall" if not stalls else f"{stalls} stall{'s' * (stalls > 1)}, {frozen:.1f} s in all"
        told += f", in {len(mine)} rounds" if len(mine) > 1 else ""
        axis.set_title(f"{one.title.capitalize()}: {told}", color=FLOOD if stalls else DIKE)
    shown = next(row for row in rows if "cross_at" in row)
    for at, text in ((shown["cross_at"], "cross traffic"), (shown["dead_at"], "30 % of the nodes die")):
        panels[0].annotate(text, (at, 2600), xytext=(4, 0), textcoords="offset points", va="top", fontsize=8, color=INK)
    panels[-1].set(xlabel="seconds (line: the latest frame of each half second; red: frames that never came)")
    panels[-1].set_xlim(0, shown["seconds"])


def _showing(axis: Any, row: Row) -> None:
    times = [(index + 0.5) * SLICE_S for index in range(len(row["worst_ms"]))]
    axis.plot(times, [value if value is not None else float("nan") for value in row["worst_ms"]], color=DIKE, linewidth=1.4)
    for time, share in zip(times, row["lost_share"], strict=True):
        if share > 0:
            axis.axvspan(time - SLICE_S / 2, time + SLICE_S / 2, color=FLOOD, alpha=0.28 * share, linewidth=0)
    for at in (row["cross_at"], row["dead_at"]):
        axis.axvline(at, color=MIST, linewidth=1, linestyle="--")
