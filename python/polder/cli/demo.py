"""``polder demo``: the story on one machine."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from polder.cli.lab import FINDINGS, go, judge, tools
from polder.cli.olintserv import olintserv
from polder.lab import enclosure, experiment, report
from polder.lab.experiment import Run
from polder.lab.loopback import LEFT_OUT
from polder.lab.overlay import PROXY_PORT, Overlay
from polder.lab.phases import dump
from polder.lab.story import Story

_DOOR = [sys.executable, "-m", "polder.lab.door"]


@click.group(invoke_without_command=True)
@click.option("--seconds", type=click.FloatRange(3, 600), help="Length of each phase.  [default: 20]")
@click.option("--keep", is_flag=True, help="Leave the overlay running afterwards, until Ctrl-C.")
@click.option("--out", default="build/demo", show_default=True, metavar="DIR", help="Where the report goes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line instead of text.")
@click.pass_context
def demo(context: click.Context, seconds: float | None, keep: bool, out: str, as_json: bool) -> int:
    """Found an overlay in namespaces, hide a web server, flood it, and show what readers saw.

    Takes about two minutes. Touches nothing outside the namespaces; Ctrl-C leaves nothing behind. `polder demo olintserv` is another
    story: reservations, the spread plane, and who pays.
    """
    if context.invoked_subcommand is not None:
        return 0
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
    status = go(run, Story(run, console))
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
        judge(console, record)
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
            self.close()
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


demo.add_command(olintserv)
