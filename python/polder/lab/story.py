"""The demo's story on a terminal: what is being built, then a live table of the phases."""

from __future__ import annotations

import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from polder.lab.experiment import Run
from polder.lab.phases import Outcome

_BARS = " ▁▂▃▄▅▆▇█"


class Story:
    """A live picture of a run; plain lines where there is no terminal. A context manager."""

    def __init__(self, run: Run, console: Console) -> None:
        self._run = run
        self._console = console
        self._said: list[str] = []
        self._current: Outcome | None = None
        self._live = Live(console=console, auto_refresh=False, transient=False) if console.is_terminal else None
        self._drawn = 0.0
        self._began = time.monotonic()
        run.say = self._say
        run.watch = self._watch
        run.done = self.finish

    def __enter__(self) -> Story:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def finish(self) -> None:
        """Draw the last picture and leave it standing."""
        self._current = None
        if self._live:
            self._said.append("done")
            self._refresh()
            self._live.stop()
            self._live = None

    def _say(self, line: str) -> None:
        self._said.append(line)
        if self._live:
            self._refresh()
        else:
            self._console.print(f"{time.monotonic() - self._began:6.1f} s  {line}", highlight=False)

    def _watch(self, outcome: Outcome) -> None:
        self._current = outcome
        if self._live and time.monotonic() - self._drawn > 0.1:
            self._refresh()

    def _refresh(self) -> None:
        self._drawn = time.monotonic()
        if self._live:
            self._live.update(self._picture(), refresh=True)

    def _picture(self) -> RenderableType:
        waiting = [phase.name for phase in self._run.experiment.phases]
        outcomes = {one.plan.name: one for one in self._run.outcomes}
        if self._current:
            outcomes.setdefault(self._current.plan.name, self._current)
        table = Table(title=self._run.experiment.title, title_justify="left", expand=False)
        for name, right in (("phase", False), ("time", True), ("pages", True), ("good", True), ("median", True), ("flood", True)):
            table.add_column(name, justify="right" if right else "left")
        table.add_column("goodput, Mbit/s")
        for phase in self._run.experiment.phases:
            table.add_row(*_cells(phase.title, outcomes.get(phase.name), phase.seconds))
        doing = Text(f"{time.monotonic() - self._began:5.0f} s  {self._said[-1] if self._said else ''} …", style="dim")
        return Group(table, doing) if waiting else doing


def _cells(title: str, outcome: Outcome | None, seconds: float) -> list[str | Text]:
    if outcome is None:
        return [Text(title, style="dim"), "", "", "", "", "", ""]
    row = outcome.row()
    elapsed = min(seconds, max(0.0, time.monotonic() - outcome.start))
    success = row["success"]
    style = "green" if success > 0.99 else "red" if success < 0.5 else "yellow"
    good = Text(f"{100 * success:.1f} %" if row["pages"] else "–", style=style if row["pages"] else "dim")
    median = f"{row['median_ms']:.0f} ms" if row["median_ms"] else "–"
    flood = f"{row['flood_mbit_s']:.0f} Mbit/s" if row["flood_mbit_s"] else "–"
    return [title, f"{elapsed:.0f} s", str(row["pages"]), good, median, flood, spark(outcome, seconds)]


def spark(outcome: Outcome, seconds: float, width: int = 20) -> str:
    """Goodput over the phase, one character for each slice of it; the top is 10 Mbit/s."""
    sums = goodput_series(outcome, seconds, width)
    return "".join(_BARS[min(len(_BARS) - 1, round(value / 10 * (len(_BARS) - 1)))] for value in sums)


def goodput_series(outcome: Outcome, seconds: float, slices: int) -> list[float]:
    """Mbit/s of good page loads by the slice in which each ended; loads that end later count for the last slice."""
    width = seconds / slices
    sums = [0.0] * slices
    for one in outcome.loads:
        if one.good:
            at = one.start + one.seconds - outcome.start
            sums[max(0, min(slices - 1, int(at / width)))] += one.bytes * 8 / 1e6 / width
    return sums
