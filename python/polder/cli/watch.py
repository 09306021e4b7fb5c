"""``polder watch``: the dashboard in a terminal."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping

import click
import msgspec

from polder.cli.answer import common, find_state
from polder.dashboard.choice import Model, Watcher, models
from polder.dashboard.source import Source
from polder.dashboard.values import Level, View
from polder.settings import StateDir

_SETTLE_S = 1.2
"""Rates need two samples."""


@click.command()
@click.argument("site", required=False)
@click.option("--once", is_flag=True, help="Look twice, print, end. Implied by --json and where there is no terminal.")
@click.option("--reveal", is_flag=True, help="Tell the names of the site's servlets, which are its secret.")
@click.option("--every", default=1.0, show_default=True, type=click.FloatRange(0.2, 60), help="Seconds between looks.")
@common
def watch(site: str | None, once: bool, reveal: bool, every: float, state: str | None, as_json: bool) -> int:
    """Watch the overlay, a SITE of yours, or your own reading: whatever is set up here. Tab changes between them.

    An operator sees the node on this machine, and with an enrolled admin (`polder invite admin NAME`) every node of the overlay.
    With --once or --json: exit status 3 when something needs attention.
    """
    logging.getLogger("polder").setLevel(logging.CRITICAL)  # what matters is on the screen
    place = find_state(state)
    known = models(Source(place), site, reveal=reveal)
    if once or as_json or not sys.stdout.isatty():
        view = asyncio.run(_once(place, known))
        click.echo(msgspec.json.encode(view).decode() if as_json else _text(view))
        return 3 if view.level in (Level.WARN, Level.BAD) else 0
    asyncio.run(_live(place, known, every))
    return 0


async def _once(state: StateDir, known: Mapping[str, Model]) -> View:
    source = Source(state)
    try:
        watcher = Watcher(source, known)
        await watcher.begin()
        await watcher.look(0)
        await asyncio.sleep(_SETTLE_S)
        return await watcher.look(0)
    finally:
        await source.close()


async def _live(state: StateDir, known: Mapping[str, Model], every: float) -> None:
    from polder.dashboard.terminal import Terminal

    source = Source(state)
    try:
        watcher = Watcher(source, known)
        await watcher.begin()
        await Terminal(watcher.names, watcher.look, every).run_async()
    finally:
        await source.close()


def _text(view: View) -> str:
    lines = [f"{view.title}: {view.headline}"]
    lines += [f"  {tile.label:16} {tile.value:>12}  {tile.note}" for tile in view.tiles]
    for table in view.tables:
        lines.append(f"{table.title}:")
        lines += ["  " + "  ".join(cell.text for cell in row) for row in table.rows] or [f"  {table.empty}"]
    lines += [f"{sign.level}: {sign.text}. {sign.advice}" for sign in view.signs]
    return "\n".join([*lines, f"Next: {view.next}"])
