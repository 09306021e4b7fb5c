"""``polder demo olintserv``: BandExSOS as a whole on one machine."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from polder.cli.lab import FINDINGS, enclosed, go, judge
from polder.lab import experiment


@click.command()
@click.option("--seconds", type=click.FloatRange(10, 600), default=24, show_default=True, help="Length of each of four showings.")
@click.option("--out", default="build/olintserv", show_default=True, metavar="DIR", help="Where the report goes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line instead of text.")
def olintserv(seconds: float, out: str, as_json: bool) -> int:
    """Reserve two narrow last hops, spread a live stream between them, fill the hops, kill relays, settle the checks.

    Four times: with and without reservations, with and without the spread plane. Only both together have no stall. Takes about five
    minutes. Touches nothing outside namespaces of its own; Ctrl-C leaves nothing behind. Exit status 3: a claim does not hold.
    """
    return enclosed(lambda: _run(seconds, Path(out), as_json))


def _run(seconds: float, out: Path, as_json: bool) -> int:
    from polder.lab.olintserv import report, story
    from polder.lab.olintserv.run import Run
    from polder.lab.plots import figure, save

    console = Console(stderr=as_json)
    run = Run(experiment.new_directory("olintserv").resolve(), seconds)
    if (status := go(run, story.Story(run, console))) != 0:
        return status
    result = report.result(run)
    record = result.record()
    out.mkdir(parents=True, exist_ok=True)
    (out / "olintserv.json").write_text(json.dumps(record, indent=1))
    drawn = figure()
    report.draw(drawn, result.rows)
    for suffix in ("png", "svg"):
        save(drawn, out / f"olintserv.{suffix}")
    held = all(claim["holds"] for claim in record["claims"])
    if as_json:
        plot = str((out / "olintserv.png").resolve())
        click.echo(json.dumps({"rows": record["rows"], "claims": record["claims"], "plot": plot, "claims_hold": held}))
    else:
        console.print(story.money(run.books))
        judge(console, record)
        console.print(f"Plot: {(out / 'olintserv.png').resolve().as_uri()}", highlight=False)
        console.print("Next: docs/site/journey-7.md sets up the same between machines", highlight=False)
    return 0 if held else FINDINGS
