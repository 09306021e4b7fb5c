"""``polder lab``: the experiments that the claims rest on."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import click
from rich.console import Console
from rich.table import Table

from polder.cli.answer import answer
from polder.lab import enclosure, experiment, report, results
from polder.lab.experiment import Run
from polder.lab.links import LinkError
from polder.lab.phases import dump
from polder.lab.processes import ProcessError
from polder.lab.story import Story
from polder.lab.switch import SwitchError
from polder.model import Refused

_FAILURES = (ProcessError, LinkError, SwitchError, OSError, TimeoutError, Refused)
FINDINGS = 3


class Going(Protocol):
    """What ``go`` runs; its logs lie in ``directory``."""

    directory: Path

    def go(self) -> Coroutine[Any, Any, None]:
        """All of it."""


@click.group()
def lab() -> None:
    """Experiments on one machine: list, run, and check what they claim."""


@lab.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def list_experiments(as_json: bool) -> None:
    """The experiments that come with Polder."""
    known = [experiment.read(name) for name in experiment.names()]
    facts = {"experiments": [{"name": one.name, "title": one.title, "claims": len(one.claims)} for one in known]}
    text = "\n".join(f"{one.name:18} {one.title}" for one in known)
    answer(facts, text, "polder lab run NAME", as_json=as_json)


@lab.command()
@click.argument("name")
@click.option("--seconds", type=click.FloatRange(3, 600), help="Length of each phase, if not as the file says.")
@click.option("--record", is_flag=True, help="Write the result into bench/results.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line instead of text.")
def run(name: str, seconds: float | None, record: bool, as_json: bool) -> int:
    """Run an experiment: a shipped one by NAME, or a file."""
    try:
        chosen = experiment.read(name).paced(seconds)
    except experiment.BadExperimentError as error:
        click.echo(f"polder: {error}", err=True)
        return 2
    return enclosed(lambda: _experiment(chosen, record, as_json))


def _experiment(chosen: experiment.Experiment, record: bool, as_json: bool) -> int:
    console = Console(stderr=as_json)
    run = Run(chosen, experiment.new_directory(chosen.name).resolve())
    if (status := go(run, Story(run, console))) != 0:
        return status
    result = run.result()
    judged = result.record()
    (run.directory / "seen.json").write_text(dump(run.outcomes))
    page = report.write(judged, run.outcomes, run.directory / "report", run.directory)
    written = None
    if record:
        written = results.write(result, lambda drawn, _: report.draw(drawn, run.outcomes))
    if as_json:
        facts = {"rows": judged["rows"], "claims": judged["claims"], "report": str(page), "record": str(written or "")}
        click.echo(json.dumps(facts))
    else:
        judge(console, judged)
        console.print(f"Report: {page.as_uri()}", highlight=False)
    return 0 if all(claim["holds"] for claim in judged["claims"]) else FINDINGS


def go(run: Going, story: AbstractContextManager[object]) -> int:
    """Run it with its story; 0, or the exit status of what went wrong (said on stderr)."""
    try:
        with story:
            asyncio.run(run.go())
    except _FAILURES as error:
        click.echo(f"polder: {error}\nLogs: {run.directory}", err=True)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def judge(console: Console, record: dict[str, Any]) -> None:
    table = Table(title="What must hold", title_justify="left")
    for name in ("claim", "target", "measured", ""):
        table.add_column(name)
    for claim in record["claims"]:
        verdict = "[green]holds[/]" if claim["holds"] else "[red]fails[/]"
        table.add_row(claim["text"], claim["target"], results.shown(claim["measured"]), verdict)
    console.print(table)


@lab.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def claims(as_json: bool) -> int:
    """Every claim of every recorded result, computed again; exit status 3 while one does not hold."""
    try:
        known = results.read_all()
    except results.BadResult as error:
        click.echo(f"polder: {error}", err=True)
        return FINDINGS
    rows = [{"result": one["name"], "commit": one["commit"]} | claim for one in known for claim in one["claims"]]
    held = all(row["holds"] for row in rows)
    if as_json:
        click.echo(json.dumps({"claims": rows, "hold": held}))
        return 0 if held else FINDINGS
    table = Table(title=f"{len(rows)} claims of {len(known)} results", title_justify="left")
    for name in ("result", "claim", "target", "measured", "holds"):
        table.add_column(name)
    for row in rows:
        verdict = "[green]yes[/]" if row["holds"] else "[red]NO[/]"
        table.add_row(row["result"], row["text"], row["target"], results.shown(row["measured"]), verdict)
    Console().print(table)
    return 0 if held else FINDINGS


def enclosed(main: Callable[[], int]) -> int:
    """Run ``main`` in namespaces of its own, or say why that is not possible here."""
    try:
        return enclosure.run(main) if tools() else 2
    except enclosure.NoNamespacesError as error:
        click.echo(f"polder: {error}", err=True)
        return 2


def tools() -> bool:
    """Whether the system's programs are here; says what is missing."""
    missing = [tool for tool in ("ip", "tc", "nft", "nsenter", "sysctl") if not shutil.which(tool)]
    if missing:
        packages = "iproute2, nftables, util-linux, procps"
        click.echo(f"polder: the laboratory needs {', '.join(missing)} (Debian packages {packages})", err=True)
    return not missing
