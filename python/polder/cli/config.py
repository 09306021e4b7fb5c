"""``polder config``: check configuration files and print their schema."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from polder.cli.answer import answer, common, find_state
from polder.settings.check import check as look_over
from polder.settings.load import SECTIONS, json_schema, load


@click.group()
def config() -> None:
    """Check configuration files, print their JSON Schema."""


@config.command()
@click.argument("path", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--kind", type=click.Choice(sorted(SECTIONS)), help="What PATH configures; default: the file's name.")
@common
def check(path: Path | None, kind: str | None, state: str | None, as_json: bool) -> int:
    """Check one file, or without PATH everything in the state directory and whether it fits together.

    Drop-ins (conf.d/*.toml) and POLDER_… variables are taken in. Exit status 2: a process would refuse to start, and the file, the
    line and the key are named. 3: it would start, and not do what was meant. With --json and PATH: the settings in force.
    """
    if path is None:
        return _everything(state, as_json)
    section = kind or path.stem
    if section not in SECTIONS:
        raise click.UsageError(f"{path.name} does not say what it configures: add --kind {'|'.join(sorted(SECTIONS))}")
    settings = load(SECTIONS[section], path, os.environ)
    if as_json:
        click.echo(settings.model_dump_json(indent=2))
    else:
        click.echo(f"{path}: good. What is in force: polder config check {path} --json")
    return 0


def _everything(state: str | None, as_json: bool) -> int:
    place = find_state(state)
    parts, findings = look_over(place, os.environ)
    status = 2 if any(one.error for one in findings) else 3 if findings else 0
    facts = {"files": [str(part.file) for part in parts], "findings": [one.facts() for one in findings]}
    if status == 2:
        click.echo(json.dumps(facts) if as_json else "\n".join(str(one) for one in findings), err=True)
        return status
    lines = [f"{part.file}: good" for part in parts if not any(one.file == str(part.file) for one in findings)]
    text = "\n".join([*lines, *(str(one) for one in findings)]) or f"Nothing is configured in {place.root}."
    following = (
        "polder config check once more" if findings else "polder node reload, polder site reload, …" if parts else "polder init"
    )
    answer(facts, text, following, as_json=as_json)
    return status


@config.command()
@click.argument("kind", type=click.Choice(sorted(SECTIONS)))
def schema(kind: str) -> None:
    """Print the JSON Schema of one kind of file: every knob with its default, reason and cost."""
    click.echo(json_schema(kind))
