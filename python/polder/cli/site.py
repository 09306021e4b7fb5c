"""``polder site``: run a protected site's agent, change its servlets, its settings or its program."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import click

from polder.api.admin import ask
from polder.cli import running
from polder.cli.running import LEVELS
from polder.settings.load import load
from polder.settings.site import SiteSettings
from polder.settings.state import StateDir
from polder.shell.process import Closeable
from polder.shell.process import run as live
from polder.site.shell import Site, start
from polder.site.telling import TellingKeys

_STATE = click.option("--state", help="State directory (default: POLDER_STATE, /var/lib/polder, or ~/.local/state/polder).")
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object.")


@click.group()
def site() -> None:
    """Run a protected site's agent, change its servlets."""


@site.command()
@click.argument("name", required=False)
@_STATE
@click.option("--log-level", type=LEVELS, help="Instead of log_level in site.toml.")
@_JSON
def run(name: str | None, state: str | None, log_level: str | None, as_json: bool) -> int:
    """Run the agent of site NAME (default: the only one enrolled here) until it is told to stop."""
    path = _directory(state, name)
    given = running.log_level(log_level)

    def ready(shell: Closeable) -> None:
        if isinstance(shell, Site):
            facts = shell.facts()
            text = f"The agent of {facts['site']} runs ({facts['transport']}). Next: polder status"
            click.echo(json.dumps(facts) if as_json else text)

    return live(lambda: load(SiteSettings, path / "site.toml", os.environ, given), lambda life: start(path, life), ready)


@site.command()
@click.argument("name", required=False)
@_STATE
@_JSON
def reload(name: str | None, state: str | None, as_json: bool) -> int:
    """Have the running agent read site.toml and conf.d/ again; nothing is interrupted.

    A file with a mistake is refused (exit status 2) and the old settings stay. Exit status 3: something that changed waits for
    `polder site upgrade`.
    """
    return running.reload(_directory(state, name) / "admin.sock", "site", as_json=as_json)


@site.command()
@click.argument("name", required=False)
@_STATE
@_JSON
def upgrade(name: str | None, state: str | None, as_json: bool) -> None:
    """Have the program that is installed now take over from the running agent; nothing is interrupted.

    The new process goes on with the same servlets; the old one lets its open streams end (upgrade_drain).
    """
    running.upgrade(_directory(state, name) / "admin.sock", as_json=as_json)


@site.command()
@click.argument("name", required=False)
@_STATE
@_JSON
def status(name: str | None, state: str | None, as_json: bool) -> None:
    """Servlets of the site, streams open on them, and how many nodes have ever learnt the way in."""
    told = _ask(_directory(state, name), "status", {})
    if as_json:
        click.echo(json.dumps(told))
        return
    exposure = told["exposure"]
    bound = f" of at most {exposure['max']}" if exposure["max"] else ", without a bound"
    click.echo(
        f"{told['site']}: {told['serving']} servlets serve ({told['transport']}, {told['mode']}), {told['streams']} streams"
    )
    for servlet, stage in sorted(told["servlets"].items()):
        click.echo(f"  {servlet}: {stage}")
    click.echo(f"Exposure: {exposure['nodes']} nodes{bound} know {exposure['secret']}; the pool has {exposure['of']}.")
    if exposure["max"] and exposure["nodes"] >= exposure["max"]:
        click.echo(f"Next: rotation goes on among those. To begin anew, move {exposure['secret']}.")


@site.command()
@click.argument("name", required=False)
@_STATE
@_JSON
def key(name: str | None, state: str | None, as_json: bool) -> None:
    """The public key of site NAME, as a JSON web key set: with it the origin checks Polder-Assertion (tell = "header").

    The assertion is a JWS (ES256): iss is the site, sub the user, aud the host, with groups, iat and exp.
    """
    directory = _directory(state, name)
    keys = json.dumps({"keys": [TellingKeys.load(directory).jwk()]}, indent=None if as_json else 2)
    click.echo(keys)
    if not as_json:
        click.echo('Next: give it to the origin, set tell = "header" in site.toml, restart the agent.', err=True)


@site.command()
@click.argument("name", required=False)
@_STATE
@_JSON
def moved(name: str | None, state: str | None, as_json: bool) -> None:
    """Say that site NAME now dials out from another address: exposure is counted anew.

    With transport gre change `edge` in site.toml instead, and restart the agent: keys and inner addresses are then new too.
    """
    told = _ask(_directory(state, name), "moved", {})
    click.echo(json.dumps(told) if as_json else f"{told['nodes']} nodes know the new address. Next: polder site status")


@site.command()
@click.argument("name", required=False)
@_STATE
@_JSON
def rotate(name: str | None, state: str | None, as_json: bool) -> None:
    """Draw fresh servlets now; the old ones go when the new ones serve."""
    answer = _ask(_directory(state, name), "rotate", {})
    click.echo(json.dumps(answer) if as_json else f"Rotating: epoch {answer['epoch']}. Next: polder status")


@site.command()
@click.argument("name")
@click.argument("servlet")
@_STATE
@_JSON
def burn(name: str, servlet: str, state: str | None, as_json: bool) -> None:
    """Take SERVLET out of the filter of site NAME at once, for good."""
    answer = _ask(_directory(state, name), "burn", {"servlet": servlet})
    told = "out of filter and beacons" if answer["carried"] else "it did not carry, and will not"
    click.echo(json.dumps(answer) if as_json else f"Burned {servlet}: {told}.")


def _directory(state: str | None, name: str | None) -> Path:
    return StateDir.find(state, os.environ, os.getuid()).only("site", name)


def _ask(path: Path, what: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return asyncio.run(ask(path / "admin.sock", what, arguments))
