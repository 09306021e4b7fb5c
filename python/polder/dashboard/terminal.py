"""``Terminal``: the view in a terminal. It draws what the view-model says, once a second, and decides nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import ClassVar

from rich.cells import cell_len
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Grid, VerticalScroll
from textual.widgets import Footer, Static

from polder.dashboard import words
from polder.dashboard.charts import rows, spark
from polder.dashboard.values import Level, Plot, Sign, Table, Tile, View

COLOURS = {Level.GOOD: "green", Level.PLAIN: "", Level.NOTE: "cyan", Level.WARN: "yellow", Level.BAD: "bold red"}
MARKS = {Level.GOOD: "●", Level.PLAIN: " ", Level.NOTE: "◆", Level.WARN: "▲", Level.BAD: "✖"}
"""Beside the colour, so that nobody needs to tell colours apart."""
_PLOT_ROWS = 5
_TALL = 40
"""Lines of a terminal from which on plots are shown without being asked for."""

Look = Callable[[int], Awaitable[View]]
"""The view number n, fresh."""


class TileBox(Static):
    """One tile: label, value, note, course."""

    def show(self, tile: Tile) -> None:
        """Draw it in the width there is."""
        width = max(8, self.size.width - 2)
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(f"{tile.label}\n", "dim")
        text.append(f"{MARKS[tile.level]} " if tile.level is not Level.PLAIN else "", COLOURS[tile.level])
        text.append(f"{tile.value}\n", f"bold {COLOURS[tile.level]}".strip())
        text.append(f"{tile.note}\n", "dim")
        text.append(spark(tile.series, width) if tile.series else "", "cyan")
        self.update(text)


class Terminal(App[None]):
    """``look`` fetches view ``n`` of ``names``; ``every``: seconds between looks."""

    CSS = """
    Screen { layout: vertical; }
    #head { height: 1; background: $primary-background; color: $text; padding: 0 1; }
    #headline { height: auto; max-height: 4; padding: 0 1; }
    #tiles { height: auto; grid-size: 4; grid-gutter: 0 1; grid-rows: 4; padding: 0 1; }
    #tiles.wide { grid-size: 8; }
    TileBox { height: 4; text-wrap: nowrap; text-overflow: ellipsis; }
    #body { height: 1fr; padding: 0 1; scrollbar-size-vertical: 1; }
    #signs, #tables, #plots { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c", "quit", "Quit"),
        Binding("tab,right", "next_view(1)", "Next view", key_display="tab", priority=True),
        Binding("shift+tab,left", "next_view(-1)", "Previous", show=False, priority=True),
        Binding("space", "pause", "Pause"),
        Binding("g", "plots", "Graphs"),
        Binding("down,j", "scroll(1)", "Down", show=False, priority=True),
        Binding("up,k", "scroll(-1)", "Up", show=False, priority=True),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, names: Sequence[str], look: Look, every: float = 1.0) -> None:
        super().__init__()
        self.names = tuple(names)
        self.shown: View | None = None
        self.paused = False
        self._number = 0
        self._look = look
        self._every = every
        self._wants_plots: bool | None = None
        self._looking = False

    def compose(self) -> ComposeResult:
        """The parts of the screen, from top to bottom."""
        yield Static(id="head")
        yield Static(id="headline")
        yield Grid(id="tiles")
        with VerticalScroll(id="body"):
            yield Static(id="signs")
            yield Static(id="tables")
            yield Static(id="plots")
        yield Footer()

    async def on_mount(self) -> None:
        """Look at once, then again and again."""
        self.set_interval(self._every, self.refresh_view)
        await self.refresh_view()

    def on_resize(self) -> None:
        """Draw what is known in the new size, without waiting for the next look."""
        self.call_after_refresh(self.draw)

    async def refresh_view(self) -> None:
        """One look; not while one is under way, nor in a pause."""
        if self.paused or self._looking:
            return
        self._looking = True
        try:
            number = self._number
            view = await self._look(number)
        finally:
            self._looking = False
        if number == self._number:
            self.shown = view
            await self._tiles(len(view.tiles))
            self.call_after_refresh(self.draw)

    def draw(self) -> None:
        """Put the view on the screen."""
        view = self.shown
        if view is None:
            return
        self.query_one("#head", Static).update(self._head(view))
        first = Text(f"{MARKS[view.level]} {view.headline}", COLOURS[view.level] or "bold")
        first.append("".join(f"\n  {sign.advice}" for sign in view.signs if sign.text == view.headline), "dim")
        self.query_one("#headline", Static).update(first)
        self.query_one("#tiles").set_class(self.size.width >= 150, "wide")
        for box, tile in zip(self.query(TileBox), view.tiles, strict=False):
            box.show(tile)
        width = max(20, self.size.width - 3)
        tables = [each for table in view.tables for each in drawn(table, width)]
        plots = [each for plot in view.plots for each in curves(plot, width)] if self._show_plots() else []
        for where, lines in (
            ("signs", _signs([sign for sign in view.signs if sign.text != view.headline])),
            ("tables", tables),
            ("plots", plots),
        ):
            part = self.query_one(f"#{where}", Static)
            part.update(_stack(lines))
            part.display = bool(lines)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A single view has no next one."""
        return action != "next_view" or len(self.names) > 1

    async def action_next_view(self, step: int) -> None:
        """The next or previous of the views."""
        self._number = (self._number + step) % len(self.names)
        self._looking = self.paused = False
        await self.refresh_view()

    def action_pause(self) -> None:
        """Hold what is shown, or go on."""
        self.paused = not self.paused
        self.draw()

    def action_plots(self) -> None:
        """Show graphs, or not."""
        self._wants_plots = not self._show_plots()
        self.draw()

    def action_scroll(self, lines: int) -> None:
        """Move what is below the tiles."""
        self.query_one("#body", VerticalScroll).scroll_relative(y=lines, animate=False)

    def _show_plots(self) -> bool:
        return self.size.height >= _TALL if self._wants_plots is None else self._wants_plots

    def _head(self, view: View) -> Text:
        tabs = "  ".join(
            f"[b]{escape(n)}[/b]" if i == self._number else f"[dim]{escape(n)}[/dim]" for i, n in enumerate(self.names)
        )
        stamp = datetime.fromtimestamp(view.at, UTC).strftime("%H:%M:%S UTC")
        left = Text.from_markup(f"[b]Polder[/b] · {escape(view.title)}   {tabs if len(self.names) > 1 else ''}")
        right = Text(f"paused · {stamp}" if self.paused else stamp)
        gap = max(1, self.size.width - 2 - cell_len(left.plain) - cell_len(right.plain))
        return left.append(" " * gap).append(right)

    async def _tiles(self, count: int) -> None:
        grid, boxes = self.query_one("#tiles", Grid), list(self.query(TileBox))
        if len(boxes) < count:
            await grid.mount(*(TileBox() for _ in range(count - len(boxes))))
        for box in boxes[count:]:
            await box.remove()


def drawn(table: Table, width: int) -> list[Text | RichTable]:
    """A table in at most ``width`` columns of characters: the less important columns are left out first."""
    title = Text(f"\n{table.title}", "bold")
    if not table.rows:
        return [title, Text(table.empty, "dim")]
    sizes = [max(cell_len(name), *(2 + cell_len(row[i].text) for row in table.rows)) for i, name in enumerate(table.columns)]
    count = next((n for n in range(len(sizes), 1, -1) if sum(sizes[:n]) + 2 * n <= width), 1)
    grid = RichTable(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False, pad_edge=False)
    for index, name in enumerate(table.columns[:count]):
        grid.add_column(name, justify="right" if index in table.numeric else "left", no_wrap=True, overflow="ellipsis")
    for row in table.rows:
        grid.add_row(*(Text(f"{_mark(cell.level)}{cell.text}", COLOURS[cell.level]) for cell in row[:count]))
    return [title, grid]


def curves(plot: Plot, width: int) -> list[Text]:
    """A plot: each curve under its name, all to the same scale."""
    top = max((value for line in plot.lines for value in line.values if value is not None), default=0.0)
    most = f"{words.data(top)}/s" if plot.unit == "B/s" else f"{words.rate(top)} {plot.unit}"
    lines = [Text(f"\n{plot.title}", "bold").append(f"   to {most}", "dim")]
    for line in plot.lines:
        if any(value for value in line.values):
            lines.append(Text(line.name, "dim"))
            lines += [Text(row, "cyan") for row in rows(line.values, width, _PLOT_ROWS, top)]
        else:
            lines.append(Text(f"{line.name}: none", "dim"))
    return lines


def _mark(level: Level) -> str:
    return f"{MARKS[level]} " if level in (Level.WARN, Level.BAD, Level.NOTE) else ""


def _signs(signs: Sequence[Sign]) -> list[Text | RichTable]:
    return [Text(f"{MARKS[sign.level]} {sign.text}", COLOURS[sign.level]).append(f"  {sign.advice}", "dim") for sign in signs]


def _stack(lines: Sequence[Text | RichTable]) -> RichTable:
    stack = RichTable.grid(expand=True)
    for line in lines:
        stack.add_row(line)
    return stack
