"""Writes the command reference and the configuration reference into build/docs, from the code itself."""

from __future__ import annotations

import json
from pathlib import Path

import click

from polder.cli.main import COMMANDS, polder
from polder.settings.load import SECTIONS, json_schema

OUT = Path("build/docs")


def command_reference() -> str:
    """Help of every command and subcommand, as Markdown."""
    parts = ["# Commands\n"]
    root = click.Context(polder, info_name="polder")
    for name in COMMANDS:
        command = polder.get_command(root, name)
        if command is not None:
            _describe(command, click.Context(command, info_name=name, parent=root), parts)
    return "\n".join(parts)


def _describe(command: click.Command, context: click.Context, parts: list[str]) -> None:
    parts.append(f"## {context.command_path}\n\n```\n{command.get_help(context)}\n```\n")
    if isinstance(command, click.Group):
        for name, child in sorted(command.commands.items()):
            _describe(child, click.Context(child, info_name=name, parent=context), parts)


def configuration_reference() -> str:
    """Every knob with type, default and reason, as Markdown."""
    parts = ["# Configuration\n"]
    for section in SECTIONS:
        schema = json.loads(json_schema(section))
        parts.append(f"## {section}.toml\n\n{schema.get('description', '')}\n")
        for name, knob in schema["properties"].items():
            default = json.dumps(knob["default"]) if "default" in knob else "needed"
            parts.append(f"- `{name}` ({default}): {knob.get('description', '')}")
        parts.append("")
    return "\n".join(parts)


def main() -> None:
    """Write all pages."""
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "commands.md").write_text(command_reference())
    (OUT / "configuration.md").write_text(configuration_reference())
    for section in SECTIONS:
        (OUT / f"{section}.schema.json").write_text(json_schema(section))
    click.echo(f"wrote {OUT}/commands.md, configuration.md and the schemas")


if __name__ == "__main__":
    main()
