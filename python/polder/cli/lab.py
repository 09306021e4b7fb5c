"""``polder demo`` and ``polder lab``: the story on one machine, and the experiments that the claims rest on."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from polder.cli.answer import answer
from polder.lab import enclosure, experiment, report, results
from polder.lab.experiment import Run
from polder.lab.links import LinkError
from polder.lab.loopback import LEFT_OUT
from polder.lab.overlay import PROXY_PORT, Overlay
from polder.lab.phases import dump
from polder.lab.processes import ProcessError
from polder.lab.story import Story
from polder.lab.switch import SwitchError

_FAILURES = (ProcessError, LinkError, SwitchError, OSError, TimeoutError)
FINDINGS = 3
_DOOR = [sys.executable, "-m", "polder.lab.door"]


@click.command()
@click.option("--seconds", type=click.FloatRange(3, 600), help="Length of each phase.  [default: 20]")
@click.option("--keep", is_flag=True, help="Leave the overlay running afterwards, until Ctrl-C.")
@click.option("--out", default="build/demo", show_default=True, metavar="DIR", help="Where the report goes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line instead of text.")
def demo(seconds: float | None, keep: bool, out: str, as_json: bool) -> int:
    """Found an overlay in namespaces, hide a web server, flood it, and show what readers saw.

    Takes about two minutes. Touches nothing outside the namespaces; Ctrl-C leaves nothing behind.
    """
    chosen = experiment.read("demo").paced(seconds)
    door = _Door() if keep else None
    try:
        return enclosure.run(lambda: _demo(chosen, Path(out), door, as_json)) if tools() else 2
    except enclosure.NoNamespacesError as error:
        return _demo_on_loopback(chosen, Path(out), as_json, str(error))
    finally:
        if door is not None:
            door.close()


def _demo(chosen: experiment.Experiment, out: Path, door: _Door | None, as_json: bool, namespaces: bool = True) -> int:
    console = Console(stderr=as_json)
    run = Run(chosen, experiment.new_directory("demo").resolve(), namespaces)
    told: list[int] = []

    async def then(overlay: Overlay) -> None:
        told.append(_tell(run, console, out, as_json))
        if door is not None and namespaces:
            await door.hold(overlay, run)

    run.then = then
    status = _go(run, console)
    return told[0] if told and status in (0, 130) else status


def _demo_on_loopback(chosen: experiment.Experiment, out: Path, as_json: bool, why: str) -> int:
    """The part of the story that needs no namespaces."""
    click.echo(f"polder: {why}\nOn loopback instead: {LEFT_OUT}.", err=True)
    return _demo(chosen.on_loopback(), out, None, as_json, namespaces=False)


def _tell(run: Run, console: Console, out: Path, as_json: bool) -> int:
    """Write the report, say what was seen; 0, or 3 when a claim does not hold."""
    record = run.result().record()
    notes = "" if run.namespaces else f"On loopback: {LEFT_OUT}."
    page = report.write(record, run.outcomes, out, run.directory, notes)
    (run.directory / "seen.json").write_text(dump(run.outcomes))
    (out / "demo.json").write_text(json.dumps(record, indent=1))
    facts = _facts(record, run, page)
    held = all(claim["holds"] for claim in record["claims"])
    if as_json:
        click.echo(json.dumps(facts))
    else:
        _judge(console, record)
        console.print(f"Report: {page.resolve().as_uri()}", highlight=False)
    return 0 if held else FINDINGS


def _facts(record: dict[str, Any], run: Run, page: Path) -> dict[str, Any]:
    rows: dict[str, dict[str, Any]] = {row["phase"]: row for row in record["rows"]}
    measured = {claim["id"]: claim["measured"] for claim in record["claims"]}
    nodes = sum(1 for one in (run.directory / "state").glob("node*"))
    return {
        "nodes": nodes,
        "flood_mbit_s": rows.get("protected", {}).get("flood_mbit_s"),
        "unprotected_success": rows.get("unprotected", {}).get("success"),
        "protected_success": rows.get("protected", rows.get("quiet", {})).get("success"),
        "goodput_ratio": measured.get("demo.goodput"),
        "page_time_ratio": measured.get("demo.page-time"),
        "report": str(page.resolve()),
        "claims_hold": all(claim["holds"] for claim in record["claims"]),
    }


class _Door:
    """A port on this machine's loopback that leads to the first user's forwarder. Made before the namespaces are entered."""

    def __init__(self) -> None:
        folder = tempfile.mkdtemp(prefix="polder-door-")
        self.socket = f"{folder}/door"
        self._process = subprocess.Popen(
            [*_DOOR, "outside", str(PROXY_PORT), self.socket], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "open\n":
            raise click.ClickException(f"port {PROXY_PORT} of 127.0.0.1 is in use: end what listens there, or leave out --keep")

    async def hold(self, overlay: Overlay, run: Run) -> None:
        """Open the inner half, tell how to look, and wait for Ctrl-C."""
        await overlay.open_door([*_DOOR, "inside", str(PROXY_PORT), self.socket], Path(self.socket))
        for line in (
            f"The overlay stays up. In a browser on this machine set the proxy to http://127.0.0.1:{PROXY_PORT}",
            f"(or the automatic configuration to http://127.0.0.1:{PROXY_PORT}/proxy.pac) and open",
            f"  http://{experiment.SITE_NAME}/      or:  curl -x http://127.0.0.1:{PROXY_PORT} http://{experiment.SITE_NAME}/",
            f"Logs: {run.directory}. Ctrl-C ends everything.",
        ):
            click.echo(line)
        await asyncio.Event().wait()

    def close(self) -> None:
        """Shut it; leave nothing."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        shutil.rmtree(Path(self.socket).parent, ignore_errors=True)


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
    return _enclosed(lambda: _experiment(chosen, record, as_json))


def _experiment(chosen: experiment.Experiment, record: bool, as_json: bool) -> int:
    console = Console(stderr=as_json)
    run = Run(chosen, experiment.new_directory(chosen.name).resolve())
    if (status := _go(run, console)) != 0:
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
        _judge(console, judged)
        console.print(f"Report: {page.as_uri()}", highlight=False)
    return 0 if all(claim["holds"] for claim in judged["claims"]) else FINDINGS


def _go(run: Run, console: Console) -> int:
    """Run it with its story; 0, or the exit status of what went wrong (said on stderr)."""
    try:
        with Story(run, console):
            asyncio.run(run.go())
    except _FAILURES as error:
        click.echo(f"polder: {error}\nLogs: {run.directory}", err=True)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _judge(console: Console, record: dict[str, Any]) -> None:
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


def _enclosed(main: Callable[[], int]) -> int:
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
