"""``polder node``: run an overlay node."""

from __future__ import annotations

import json
import os

import click

from polder.node.drill import wait_silent
from polder.node.shell import Node, start
from polder.settings.load import load
from polder.settings.node import NodeSettings
from polder.settings.state import StateDir
from polder.shell.process import Closeable
from polder.shell.process import run as live


@click.group()
def node() -> None:
    """Run an overlay node."""


@node.command()
@click.option("--state", help="State directory (default: POLDER_STATE, /var/lib/polder, or ~/.local/state/polder).")
@click.option("--log-level", default="info", type=click.Choice(["debug", "info", "warning", "error"]), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Say where it listens as one JSON line.")
def run(state: str | None, log_level: str, as_json: bool) -> int:
    """Run the node that was enrolled here until it is told to stop."""
    path = StateDir.find(state, os.environ, os.getuid()).only("node", None)
    settings = load(NodeSettings, path / "node.toml", os.environ)

    wait_silent(path, settings.drill_max)

    def ready(shell: Closeable) -> None:
        if isinstance(shell, Node):
            facts = {"node": shell.me.name, "address": shell.me.address, "listen": shell.engine.addresses}
            text = f"Node {shell.me.name} listens at {', '.join(shell.engine.addresses)}. Next: polder status"
            click.echo(json.dumps(facts) if as_json else text)

    return live(lambda: start(path, settings), log_level, ready)
