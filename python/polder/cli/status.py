"""``polder status``: what runs from this state directory, how it is, and the missing step."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from polder.api.asking import ask_now
from polder.dashboard import signs, words
from polder.dashboard.operator import Operator
from polder.dashboard.owner import Owner
from polder.dashboard.steps import line, next_step
from polder.dashboard.values import Level, Round, Sample, Sign
from polder.settings.state import StateDir
from polder.shell.clock import wall


@click.command()
@click.option("--state", help="State directory (default: POLDER_STATE, /var/lib/polder, or ~/.local/state/polder).")
@click.option("--overlay/--here", default=None, help="Ask all nodes too, or not. Default: if an operator is enrolled here.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def status(state: str | None, overlay: bool | None, as_json: bool) -> int:
    """Show what is set up and how it is, and say the next step. Exit status 3 when something needs attention.

    Where an operator is enrolled (`polder invite admin NAME`), all nodes of the overlay are asked.
    """
    place = StateDir.find(state, os.environ, os.getuid())
    found = _look(place, bool(place.enrolled("admin")) if overlay is None else overlay)
    if as_json:
        click.echo(json.dumps(found))
    else:
        _print(found)
    wrong = any(sign["level"] in (Level.WARN, Level.BAD) for sign in found["findings"])
    return 3 if wrong or any(part["running"] is False for part in found["parts"]) else 0


def _look(state: StateDir, everywhere: bool) -> dict[str, Any]:
    now = wall()
    parts = [_part(directory) for directory in _directories(state)]
    look = Round(now, {_shown(part): _sample(part, now) for part in parts if part["running"] is not None})
    overlay = None
    if everywhere:
        look = _everywhere(state)
        overlay = _overlay(look)
    root = any(state.offline.glob("*key*")) if state.offline.is_dir() else False
    findings = _findings(look, root)
    step = next_step(parts, admin=bool(state.enrolled("admin")), root_here=root)
    told = [{"level": str(sign.level), "text": sign.text, "advice": sign.advice} for sign in findings]
    return {"state": str(state.root), "parts": parts, "overlay": overlay, "findings": told, "next": step}


def _directories(state: StateDir) -> list[Path]:
    singles = [directory for directory in (state.authority, state.node) if directory.is_dir()]
    return singles + [directory for kind in ("site", "user") for directory in state.enrolled(kind)]


def _part(directory: Path) -> dict[str, Any]:
    kind = directory.parent.name
    name = f"{kind}/{directory.name}" if kind in ("site", "user") else directory.name
    part: dict[str, Any] = {"part": name}
    try:
        return part | {"running": True} | ask_now(directory / "admin.sock", "status")
    except (OSError, ValueError) as error:
        if kind == "site" and not (directory / "site.toml").exists():
            return part | {
                "running": None,
                "why": f"put the site behind the overlay: `polder protect URL --name {directory.name}`",
            }
        return part | {"running": False, "why": str(error)}


def _shown(part: dict[str, Any]) -> str:
    return f"node/{part['name']}" if part["part"] == "node" and "name" in part else str(part["part"])


def _sample(part: dict[str, Any], now: float) -> Sample | str:
    return Sample(now, part, {}) if part["running"] else str(part["why"])


def _everywhere(state: StateDir) -> Round:
    """With the reports of all nodes, asked by the operator enrolled here. Imports the engine, hence only then."""
    import asyncio

    from polder.dashboard.source import Source

    async def ask() -> Round:
        source = Source(state)
        try:
            return await source.look()
        finally:
            await source.close()

    return asyncio.run(ask())


def _overlay(look: Round) -> dict[str, Any]:
    """The whole overlay in numbers."""
    nodes = {part: sample for part, sample in look.parts.items() if part.startswith("node/")}
    alive = [sample.facts for sample in nodes.values() if isinstance(sample, Sample)]
    epochs = [int(facts.get("revocation_epoch", 0)) for facts in alive]
    return {
        "nodes": len(nodes),
        "alive": len(alive),
        "silent": sorted(part.partition("/")[2] for part, sample in nodes.items() if not isinstance(sample, Sample)),
        "certificate_valid_for_s": min((int(facts["certificate_valid_for_s"]) for facts in alive), default=None),
        "revocation_epoch": max(epochs, default=0),
        "behind": sum(epoch < max(epochs) for epoch in epochs),
        "revocation_age_s": max((int(facts.get("revocation_age_s", -1)) for facts in alive), default=None),
    }


def _findings(look: Round, root: bool) -> list[Sign]:
    """Signs of all views over what is here; that a part is stopped stands in the table already."""
    found: list[Sign] = []
    nodes = {part: sample for part, sample in look.parts.items() if part.startswith("node/") or part == "authority"}
    if nodes:
        operator = Operator()
        operator.take(Round(look.at, nodes))
        alone = sum(part.startswith("node/") for part in nodes) == 1
        found += [sign for sign in operator.view().signs if not (alone and "ring is not whole" in sign.text)]
    for part, sample in look.parts.items():
        kind, _, name = part.partition("/")
        if kind == "site" and isinstance(sample, Sample):
            owner = Owner(name)
            owner.take(look)
            found += owner.view().signs
        elif kind == "user" and isinstance(sample, Sample):
            ending = signs.certificate(f"user {name}", float(sample.facts["certificate_valid_for_s"]), life=2_592_000.0)
            found += [ending] if ending else []
    if root:
        text = "The root key is still on this machine: who takes it over could found the overlay anew"
        found.append(
            Sign(Level.NOTE, text, "`polder authority offline --copy-to DIR --remove`, DIR on a medium that you lock away.")
        )
    return found


def _print(found: dict[str, Any]) -> None:
    click.echo(f"Polder in {found['state']}")
    for part in found["parts"]:
        mark = {True: "●", False: "✖", None: "○"}[part["running"]]
        kind = str(part["part"])
        what = line(kind, part) if part["running"] else "does not run" if part["running"] is False else "not protected yet"
        click.echo(f"  {mark} {kind:16} {what}")
    if (overlay := found["overlay"]) is not None:
        silent = f" (silent: {', '.join(overlay['silent'])})" if overlay["silent"] else ""
        ages = f"revocation list {overlay['revocation_epoch']}, {words.plural(overlay['behind'], 'node')} behind"
        text = f"{overlay['alive']} of {overlay['nodes']} nodes answer{silent}, {ages}"
        click.echo(f"  ● {'overlay':16} {text}")
    for sign in found["findings"]:
        click.echo(f"  {sign['level']}: {sign['text']}. {sign['advice']}")
    click.echo(f"Next: {found['next']}")
