"""What can be asked of a process that runs: read its configuration again, be replaced by the program on disk."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import Any

import click

from polder.api.admin import ask
from polder.cli.answer import answer

LEVELS = click.Choice(["debug", "info", "warning", "error"])
_UPGRADE_S = 3700.0
"""Longer than any ``upgrade_wait``."""


def log_level(level: str | None) -> dict[str, Any]:
    """What ``--log-level`` overrides in the configuration."""
    return {"log_level": level} if level else {}


def reload(socket: Path, what: str | None, *, as_json: bool, after: str = "polder status") -> int:
    """Have the process behind ``socket`` read its configuration again. Exit status 3 when some of it waits for an upgrade by
    `polder WHAT upgrade`, or for a restart where there is none.
    """
    told = asyncio.run(ask(socket, "reload", {}))
    changed, waiting = told["changed"], told["needs_upgrade"]
    until, cure = ("an upgrade", f"polder {what} upgrade") if what else ("a restart", "systemctl restart, when it suits")
    lines = [f"In force: {', '.join(changed)}." if changed else "No setting that can change while it runs has changed."]
    if waiting:
        lines.append(f"Waits for {until}: {', '.join(waiting)}.")
    answer(told, "\n".join(lines), cure if waiting else after, as_json=as_json)
    return 3 if waiting else 0


def upgrade(socket: Path, *, as_json: bool) -> None:
    """Have the program on disk take over from the process behind ``socket``."""
    try:
        told = asyncio.run(ask(socket, "upgrade", {}, _UPGRADE_S))
    except TimeoutError as error:
        raise OSError(errno.ETIMEDOUT, f"{socket}: the process does not answer; `polder status` says whether it runs") from error
    drain = f"{told['drain_s']:g} s" if told["drain_s"] else "as long as they like"
    text = f"Process {told['pid']} has taken over from {told['before']}, whose open streams have {drain} to end."
    answer(told, text, "polder status", as_json=as_json)
