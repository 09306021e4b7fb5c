"""The run on a terminal: a live table of the four showings, then the money; plain lines where there is no terminal."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from polder.bandex import format_amount
from polder.lab.olintserv.isps import LINE_MBIT
from polder.lab.olintserv.market import CURRENCY
from polder.lab.olintserv.playing import LAG_S
from polder.lab.olintserv.run import COMBINATIONS, Combination, Run, Showing

_BARS = "▁▂▃▄▅▆▇█"
_FRESH_S = 0.2


class Story:
    """A context manager around a run."""

    def __init__(self, run: Run, console: Console) -> None:
        self._run, self._console = run, console
        self._showings: dict[str, Showing] = {}
        self._said = ""
        self._drawn, self._began = 0.0, time.monotonic()
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        run.say, run.watch = self._say, self._watch

    def __enter__(self) -> Story:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._said = "done"
            self._refresh()
            self._live.stop()
        elif self._showings:
            self._console.print(self._table())

    def _say(self, line: str) -> None:
        self._said = line
        if self._live:
            self._refresh()
        else:
            self._console.print(f"{time.monotonic() - self._began:6.1f} s  {line}", highlight=False)

    def _watch(self, showing: Showing) -> None:
        self._showings[showing.combination.name] = showing
        if self._live and time.monotonic() - self._drawn > _FRESH_S:
            self._refresh()

    def _refresh(self) -> None:
        self._drawn = time.monotonic()
        if self._live:
            self._live.update(self._picture(), refresh=True)

    def _picture(self) -> RenderableType:
        return Group(self._table(), Text(f"{time.monotonic() - self._began:5.0f} s  {self._said} …", style="dim"))

    def _table(self) -> Table:
        times = self._run.times
        table = Table(title="A live stream across two filled last hops while relays die", title_justify="left")
        for name in ("the user has", "time", "now", "stalls", "stood still", "delay", "99 %", "lost"):
            table.add_column(name, justify="left" if name in {"the user has", "now"} else "right")
        table.add_column(f"quiet to {times.cross:g} s, filled to {times.dead:g} s, then nodes die")
        for one in COMBINATIONS:
            table.add_row(*_cells(one, self._showings.get(one.name)))
        return table


def _cells(one: Combination, showing: Showing | None) -> list[str | Text]:
    if showing is None or not showing.began:
        return [Text(one.title, style="dim"), *([""] * 8)]
    seen, elapsed = showing.view(), showing.elapsed()
    stalls = len(seen.stalls)
    frames = max(1, len(seen.lost) + len(seen.delays_ms))
    return [
        one.title,
        f"{elapsed:.0f} s",
        _now(showing, elapsed),
        Text(str(stalls), style="red" if stalls else "green"),
        f"{seen.frozen_s:.1f} s",
        _ms(seen.delay_ms(0.5)),
        _ms(seen.delay_ms(0.99)),
        f"{len(seen.lost) / frames:.1%}",
        strip(showing),
    ]


def _now(showing: Showing, elapsed: float) -> str:
    if elapsed >= showing.times.end:
        return "over"
    if showing.dead:
        return f"{', '.join(showing.dead)} dead"
    return f"{2 * LINE_MBIT:g} Mbit/s into each {LINE_MBIT:g}" if elapsed > showing.times.cross else "quiet"


def strip(showing: Showing) -> Text:
    """One character for each slice of time that is over: how late the latest frame came, a cross where most never did."""
    out = Text()
    slices = showing.slices(showing.view())
    over = int(max(0.0, showing.elapsed() - LAG_S) / showing.times.end * len(slices["worst_ms"]))
    for worst, lost in list(zip(slices["worst_ms"], slices["lost_share"], strict=True))[:over]:
        if worst is None or (lost or 0.0) > 0.5:
            out.append("×", style="red")
        else:
            level = min(len(_BARS) - 1, int(worst / 1000 / LAG_S * len(_BARS)))
            out.append(_BARS[level], style="green" if worst < LAG_S * 1000 else "yellow")
    return out


def money(books: dict[str, Any]) -> Table:
    """Who got what, and who pays."""
    table = Table(title="Settlement", title_justify="left")
    for name in ("ISP", "checks paid", "earned", "paid by"):
        table.add_column(name, justify="left" if name in {"ISP", "paid by"} else "right")
    payers = {due["to"]: due["from"] for due in books["payments"]}
    for seller, deposited in books["deposited"].items():
        earned = format_amount(books["earned"][seller], CURRENCY)
        table.add_row(seller, str(deposited["paid"]), earned, payers.get(seller, "nobody"))
    return table


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} ms"
