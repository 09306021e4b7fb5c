"""``polder node``: run an overlay node, change its settings or its program while it runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from polder.cli import running
from polder.cli.answer import common, find_state
from polder.cli.running import LEVELS
from polder.node.drill import wait_silent
from polder.node.shell import Node, start
from polder.settings.base import ConfigError
from polder.settings.load import load
from polder.settings.node import NodeSettings
from polder.settings.state import StateDir
from polder.shell.process import Closeable
from polder.shell.process import run as live


@click.group()
def node() -> None:
    """Run an overlay node; reload its settings, upgrade its program."""


@node.command()
@click.option("--state", help="State directory (default: POLDER_STATE, /var/lib/polder, or ~/.local/state/polder).")
@click.option("--log-level", type=LEVELS, help="Instead of log_level in node.toml.")
@click.option("--json", "as_json", is_flag=True, help="Say where it listens as one JSON line.")
def run(state: str | None, log_level: str | None, as_json: bool) -> int:
    """Run the node that was enrolled here until it is told to stop."""
    path = StateDir.find(state, os.environ, os.getuid()).only("node", None)

    def settings() -> NodeSettings:
        return load(NodeSettings, path / "node.toml", os.environ, running.log_level(log_level))

    wait_silent(path, settings().drill_max)

    def ready(shell: Closeable) -> None:
        if isinstance(shell, Node):
            facts = {"node": shell.me.name, "address": shell.me.address, "listen": shell.engine.addresses}
            text = f"Node {shell.me.name} listens at {', '.join(shell.engine.addresses)}. Next: polder status"
            click.echo(json.dumps(facts) if as_json else text)

    return live(settings, lambda life: start(path, life), ready)


@node.command()
@common
def reload(state: str | None, as_json: bool) -> int:
    """Have the running node read node.toml and conf.d/ again; nothing is interrupted.

    A file with a mistake is refused (exit status 2) and the old settings stay. Exit status 3: something that changed waits for
    `polder node upgrade`. `systemctl reload` and SIGHUP do the same.
    """
    return running.reload(_socket(state), "node", as_json=as_json)


@node.command()
@common
def upgrade(state: str | None, as_json: bool) -> None:
    """Have the program that is installed now take over from the running node; nothing is interrupted.

    The new process gets the listening sockets and what the node knows; the old one lets its open streams end (upgrade_drain). If
    the new one does not become ready, the old one goes on. SIGUSR2 does the same.
    """
    running.upgrade(_socket(state), as_json=as_json)


def _socket(state: str | None) -> Path:
    """Where the running node answers its administrator; a configuration that cannot be read must not hide it."""
    path = find_state(state).only("node", None)
    try:
        given = load(NodeSettings, path / "node.toml", os.environ).admin_socket
    except ConfigError:
        given = None
    return Path(given) if given else path / "admin.sock"
