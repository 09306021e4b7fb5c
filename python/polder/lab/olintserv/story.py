"""The run on a terminal: a live table of the four showings, then the money; plain lines where there is no terminal."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from polder.bandex import format_amount
from polder.lab.olintserv.crossing import EACH_MBIT
from polder.lab.olintserv.isps import LINE_MBIT
from polder.lab.olintserv.market import CURRENCY
from polder.lab.olintserv.playing import LAG_S
from polder.lab.olintserv.run import COMBINATIONS, Combination, Run, Showing

_BARS = "▁▂▃▄▅▆▇█"
_FRESH_S = 0.2
_REST, _NARROWEST, _WIDEST = 65, 12, 60
"""Columns that the rest of the table takes; least and most of the last one."""


class Story:
    """A context manager around a run."""

    def __init__(self, run: Run, console: Console) -> None:
        self._run, self._console = run, console
        self._showings: dict[str, Showing] = {}
        self._said, self._playing, self._over = "", "", False
        self._drawn, self._began = 0.0, time.monotonic()
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        run.say, run.watch = self._say, self._watch

    def __enter__(self) -> Story:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._over = True
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
        self._playing = showing.combination.name
        self._showings[self._playing] = showing
        if self._live and time.monotonic() - self._drawn > _FRESH_S:
            self._refresh()

    def _refresh(self) -> None:
        self._drawn = time.monotonic()
        if self._live:
            self._live.update(self._picture(), refresh=True)

    def _picture(self) -> RenderableType:
        if self._over:
            return self._table()
        showing = self._showings.get(self._playing)
        now = _now(showing) if showing is not None and showing.began else ""
        return Group(self._table(), Text(f"{time.monotonic() - self._began:5.0f} s  {self._said}{now} …", style="dim"))

    def _table(self) -> Table:
        times = self._run.times
        told = f"quiet until {times.cross:g} s, lines filled until {times.dead:g} s, then nodes dead too; over at {times.end:g} s"
        table = Table(title="A live stream across two filled last hops while relays die", title_justify="left", caption=told)
        for name in ("the user has", "stalls", "frozen", "99 % in", "lost"):
            table.add_column(name, justify="left" if name == "the user has" else "right", no_wrap=True)
        table.add_column("delay over time", no_wrap=True)
        width = min(_WIDEST, max(_NARROWEST, self._console.width - _REST))
        for one in COMBINATIONS:
            table.add_row(*_cells(one, self._showings.get(one.name), width))
        return table


def _cells(one: Combination, showing: Showing | None, width: int) -> list[str | Text]:
    if showing is None or not showing.began:
        return [Text(one.title, style="dim"), *([""] * 5)]
    seen = showing.view()
    stalls = len(seen.stalls)
    frames = max(1, len(seen.lost) + len(seen.delays_ms))
    late = seen.delay_ms(0.99)
    return [
        one.title,
        Text(str(stalls), style="red" if stalls else "green"),
        f"{seen.frozen_s:.1f} s",
        "–" if late is None else f"{late:.0f} ms",
        f"{len(seen.lost) / frames:.1%}",
        strip(showing, width),
    ]


def _now(showing: Showing) -> str:
    if showing.elapsed() >= showing.times.end:
        return ""
    if showing.dead:
        return f"; {', '.join(showing.dead)} dead"
    return f"; {EACH_MBIT:g} Mbit/s into each line of {LINE_MBIT:g}" if showing.elapsed() > showing.times.cross else "; quiet"


def strip(showing: Showing, width: int) -> Text:
    """A character for each of ``width`` parts of the showing that are over: how late the latest frame came; a cross: most never did."""
    slices = showing.slices(showing.view())
    worst, lost = slices["worst_ms"], slices["lost_share"]
    over = int(max(0.0, showing.elapsed() - LAG_S) / showing.times.end * len(worst))
    width = min(width, len(worst))
    out = Text()
    for index in range(width):
        begin, end = index * len(worst) // width, (index + 1) * len(worst) // width
        if end > over:
            break
        came = [value for value in worst[begin:end] if value is not None]
        if not came or max(value or 0.0 for value in lost[begin:end]) > 0.5:
            out.append("×", style="red")
        else:
            level = min(len(_BARS) - 1, int(max(came) / 1000 / LAG_S * len(_BARS)))
            out.append(_BARS[level], style="green" if max(came) < LAG_S * 1000 else "yellow")
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
