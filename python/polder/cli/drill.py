"""``polder drill``: rehearse a failure in the running overlay."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import click
import msgspec
from rich.console import Console as Screen
from rich.table import Table

from polder.cli.answer import DURATION, answer, common, find_state
from polder.dashboard.source import Source
from polder.drill.here import rehearse
from polder.drill.plan import Outcome, What
from polder.drill.run import Order
from polder.settings import StateDir

_COMMON = (
    click.option(
        "--for", "seconds", default=30.0, type=DURATION, show_default="30s", help="How long; drill_max of the nodes bounds it."
    ),
    click.option("--slowest", default=3.0, type=DURATION, show_default="3s", help="A page that takes longer counts as noticed."),
    click.option("--url", help="The page that is read meanwhile. Default: the first site of the user here."),
)
_FRACTION = click.option("--fraction", default=0.2, show_default=True, type=click.FloatRange(0, 0.5, min_open=True))


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_COMMON):
        function = option(function)
    return common(function)


@click.group()
def drill() -> None:
    """Rehearse a failure: some nodes fail abruptly, come back by themselves, and a table tells what users saw.

    Needs an enrolled admin here (`polder invite admin NAME`, `polder enroll`). With a running forwarder of an enrolled user
    (`polder connect`) pages are read meanwhile; without one the nodes' own counters must do. Never more than half of the nodes,
    never two drills at once; a node with `drills = false` takes no part. Exit status 3 when users noticed.
    """


@drill.command("node-kill")
@_FRACTION
@_options
def node_kill(fraction: float, **options: Any) -> int:
    """Nodes drawn at random die as by SIGKILL, and start again after the time."""
    return _drill(What.NODE_KILL, fraction, **options)


@drill.command("link-cut")
@_FRACTION
@_options
def link_cut(fraction: float, **options: Any) -> int:
    """That fraction of the nodes lose their links with that fraction of the others."""
    return _drill(What.LINK_CUT, fraction, **options)


@drill.command("access-point")
@_options
def access_point(**options: Any) -> int:
    """The access point that the user enrolled here goes through dies as by SIGKILL."""
    return _drill(What.ACCESS_POINT, 0.5, **options)


def _drill(what: What, fraction: float, seconds: float, slowest: float, url: str | None, state: str | None, as_json: bool) -> int:
    logging.getLogger("polder").setLevel(logging.CRITICAL)
    order = Order(what, fraction, seconds, slowest=slowest)
    outcome = asyncio.run(_run(find_state(state), order, url, as_json))
    facts = msgspec.to_builtins(outcome)
    if not as_json:
        Screen().print(_table(outcome), highlight=False)
    text = "\n".join(f"NOTICED: {each}" for each in outcome.findings) or "Users noticed nothing."
    answer(
        facts,
        text,
        "polder watch" if outcome.findings else "rehearse it with a larger --fraction, or at another hour",
        as_json=as_json,
    )
    return 3 if outcome.findings else 0


async def _run(state: StateDir, order: Order, url: str | None, as_json: bool) -> Outcome:
    def say(text: str) -> None:
        if not as_json:
            click.echo(f"{text} …", err=True)

    source = Source(state)
    try:
        return await rehearse(source, order, say, url)
    finally:
        await source.close()


def _table(outcome: Outcome) -> Table:
    table = Table(title=f"{outcome.what}: {', '.join(outcome.nodes)} for {outcome.seconds:g} s", title_justify="left")
    for column in ("", "pages", "failed", "median", "slowest"):
        table.add_column(column, justify="right" if column else "left")
    for each in outcome.phases:
        table.add_row(each.name, str(each.loads), str(each.failed), f"{each.median_ms:.0f} ms", f"{each.slowest_ms:.0f} ms")
    table.add_section()
    if outcome.what != What.LINK_CUT:
        table.add_row("ring whole again", "no" if outcome.ring_s is None else f"{outcome.ring_s:g} s")
    table.add_row("all nodes back", "no" if outcome.back_s is None else f"{outcome.back_s:g} s")
    table.add_row("paths replaced", str(outcome.masked))
    return table
