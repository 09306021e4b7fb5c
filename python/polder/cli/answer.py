"""What commands have in common: where the state is, and how an answer looks to a person and to a program."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from polder.settings import ConfigError, StateDir
from polder.settings.quantities import parse_duration

F = TypeVar("F", bound=Callable[..., Any])

_PLACE = "State directory (default: POLDER_STATE, /var/lib/polder for root, else ~/.local/state/polder)."


def common(function: F) -> F:
    """Add ``--state`` and ``--json`` (``as_json``) to a command."""
    with_state = click.option("--state", metavar="DIR", help=_PLACE)(function)
    return click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")(with_state)


def find_state(given: str | None) -> StateDir:
    """The state directory of this command."""
    return StateDir.find(given, os.environ, os.geteuid())


def answer(facts: dict[str, Any], text: str, next_step: str, *, as_json: bool) -> None:
    """Print ``text`` and the next step for a person, or ``facts`` with ``next`` for a program."""
    if as_json:
        click.echo(json.dumps(facts | {"next": next_step}))
        return
    click.echo(text)
    if next_step:
        click.echo(f"Next: {next_step}")


def read_secret(source: str, what: str) -> str:
    """The first line of a file, or of standard input for ``-``; secrets never come as arguments, which others can see."""
    if source == "-":
        if sys.stdin.isatty():
            click.echo(f"Paste the {what} and press Enter:", err=True)
        text = sys.stdin.readline()
    else:
        try:
            text = Path(source).read_text(encoding="utf-8").partition("\n")[0]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(source, "", f"the {what} cannot be read: {error}") from error
    if not text.strip():
        raise ConfigError("standard input" if source == "-" else source, "", f"no {what} there")
    return text.strip()


class DurationType(click.ParamType[float]):
    """``30m``, ``24h``: seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds of ``value``."""
        try:
            return parse_duration(float(value) if isinstance(value, str) and value.isdigit() else value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = DurationType()
