"""``polder status``: what runs from this state directory, and the missing step."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from polder.api.admin import ask
from polder.settings.state import StateDir


@click.command()
@click.option("--state", help="State directory (default: POLDER_STATE, /var/lib/polder, or ~/.local/state/polder).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def status(state: str | None, as_json: bool) -> int:
    """Show what is set up and what runs here. Exit status 3 when something that is set up does not answer."""
    found = asyncio.run(_gather(StateDir.find(state, os.environ, os.getuid())))
    if as_json:
        click.echo(json.dumps(found))
    else:
        _print(found)
    return 3 if any(part["running"] is False for part in found["parts"]) else 0


async def _gather(state: StateDir) -> dict[str, Any]:
    parts = [await _part(directory) for directory in _directories(state)]
    return {"state": str(state.root), "parts": parts, "next": _next_step(state, parts)}


def _directories(state: StateDir) -> list[Path]:
    singles = [directory for directory in (state.authority, state.node) if directory.is_dir()]
    named = [child for kind in ("site", "user") for child in sorted((state.root / kind).glob("*")) if child.is_dir()]
    return singles + named


async def _part(directory: Path) -> dict[str, Any]:
    part: dict[str, Any] = {
        "part": "/".join(directory.parts[-2:]) if directory.parent.name in ("site", "user") else directory.name
    }
    try:
        return part | {"running": True} | await ask(directory / "admin.sock", "status")
    except (OSError, ValueError) as error:
        return part | {"running": False if directory.name != "authority" else None, "why": str(error)}


def _next_step(state: StateDir, parts: list[dict[str, Any]]) -> str:
    stopped = [part["part"] for part in parts if part["running"] is False]
    if not parts:
        return "found an overlay with `polder init --trust-domain NAME`, or enrol here with `polder join` or `polder enroll`"
    if "node" in stopped:
        return "start the node: `polder node run`"
    for part in stopped:
        kind, _, name = part.partition("/")
        return f"start the site's agent: `polder site run {name}`" if kind == "site" else "start the forwarder: `polder connect`"
    node = next((part for part in parts if part["part"] == "node"), None)
    if node and node.get("members", 0) < 3:
        return "a ring of three or more survives a death: `polder invite node`, then `polder join` on another machine"
    if node and not node.get("sites"):
        return "protect a site: `polder invite site NAME --host HOST`, then `polder protect` on the site's machine"
    return "nothing is missing"


def _print(found: dict[str, Any]) -> None:
    console = Console()
    table = Table(title=f"Polder in {found['state']}")
    for column in ("part", "running", "what"):
        table.add_column(column)
    for part in found["parts"]:
        what = ", ".join(f"{key} {value}" for key, value in part.items() if key not in ("part", "running"))
        table.add_row(part["part"], {True: "yes", False: "no", None: "–"}[part["running"]], what)
    console.print(table)
    console.print(f"Next: {found['next']}")
