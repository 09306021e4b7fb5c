"""``polder config``: check configuration files and print their schema."""

from __future__ import annotations

import os
from pathlib import Path

import click

from polder.settings.load import SECTIONS, json_schema, load


@click.group()
def config() -> None:
    """Check configuration files, print their JSON Schema."""


@config.command()
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--kind", type=click.Choice(sorted(SECTIONS)), help="What it configures; default: the file's name.")
@click.option("--json", "as_json", is_flag=True, help="Print the settings in force as JSON.")
def check(path: Path, kind: str | None, as_json: bool) -> None:
    """Parse PATH with its drop-ins (conf.d/*.toml) and POLDER_… variables; exit 2 and name the key if it is wrong."""
    section = kind or path.stem
    if section not in SECTIONS:
        raise click.UsageError(f"{path.name} does not say what it configures: add --kind {'|'.join(sorted(SECTIONS))}")
    settings = load(SECTIONS[section], path, os.environ)
    if as_json:
        click.echo(settings.model_dump_json(indent=2))
    else:
        click.echo(f"{path}: good. What is in force: polder config check {path} --json")


@config.command()
@click.argument("kind", type=click.Choice(sorted(SECTIONS)))
def schema(kind: str) -> None:
    """Print the JSON Schema of one kind of file: every knob with its default, reason and cost."""
    click.echo(json_schema(kind))
