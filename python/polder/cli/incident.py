"""``polder incident``: keep what happened, and look at it later."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from polder import __version__
from polder.cli.answer import answer, common, find_state
from polder.dashboard.source import Source
from polder.doctor.checks import examine
from polder.incident import archive
from polder.incident.gather import collect, names
from polder.incident.redact import Redactor
from polder.settings import StateDir, write_atomic
from polder.shell.clock import wall


@click.group()
def incident() -> None:
    """Keep what happened during an attack in one file, and look at such a file."""


@incident.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--reveal", is_flag=True, help="Keep names of users and nodes, and addresses. Secrets are left out all the same.")
@click.option(
    "--names", "names_file", type=click.Path(dir_okay=False, path_type=Path), help="Write who is who here, for yourself."
)
@common
def export(file: Path, reveal: bool, names_file: Path | None, state: str | None, as_json: bool) -> None:
    """Write FILE (.tar.gz): status, counters of the last six hours, logs, filter plans, settings, and a page to read.

    Users, nodes and addresses appear under pseudonyms, so that it can be shown to others; keys, tokens and GRE keys are never in
    it. Run it on every machine that is concerned, during the attack or within hours of it.
    """
    logging.getLogger("polder").setLevel(logging.CRITICAL)
    if file.exists() or not file.parent.is_dir():
        raise ValueError(f"{file} {'exists already' if file.exists() else 'is in no directory that exists'}: choose another name")
    facts, known = asyncio.run(_export(find_state(state), file, reveal))
    if names_file is not None:
        write_atomic(names_file, json.dumps(known, indent=1).encode(), 0o600)
    text = f"Wrote {file}: {facts['files']} files about {facts['parts']} parts, {file.stat().st_size // 1024} KiB."
    answer(facts | {"file": str(file)}, text, f"polder incident show {file}", as_json=as_json)


@incident.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--extract", type=click.Path(file_okay=False, path_type=Path), help="Also unpack it into this directory.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def show(file: Path, extract: Path | None, as_json: bool) -> None:
    """Check FILE against its manifest and tell what is in it. Exit status 2 when it was changed."""
    manifest, files = archive.read(file)
    wrong = [each for each in json.loads(files["doctor.json"]) if each["good"] is False]
    facts: dict[str, Any] = {key: manifest[key] for key in ("made", "version", "revealed", "parts")}
    facts |= {"files": {name: len(data) for name, data in files.items()}, "wrong": wrong}
    if extract is not None:
        _extract(files, extract)
    lines = [f"{name:60} {len(data):>9}" for name, data in sorted(files.items())]
    lines += [f"WRONG {each['check']}: {each['what']}" for each in wrong]
    where = f"open {extract}/report.html" if extract else f"polder incident show {file} --extract DIR, then open DIR/report.html"
    answer(facts, "\n".join(["The file is as it was made.", *lines]), where, as_json=as_json)


async def _export(state: StateDir, file: Path, reveal: bool) -> tuple[dict[str, Any], dict[str, str]]:
    source = Source(state)
    try:
        nodes, people = await names(source)
        redactor = Redactor(secrets.token_bytes(32), nodes, people, reveal=reveal)
        now = wall()
        files = await collect(source, redactor, [asdict(each) for each in await examine(state)], now)
    finally:
        await source.close()
    parts = len({name.rsplit("/", 1)[0] for name in files if name.endswith("/status.json")})
    archive.write(file, files, {"version": __version__, "revealed": reveal, "parts": parts}, now)
    return {"files": len(files), "parts": parts, "revealed": reveal}, redactor.pseudonyms


def _extract(files: dict[str, bytes], into: Path) -> None:
    """Names from a file that somebody sent: none may lead out of ``into``."""
    into.mkdir(parents=True, mode=0o700)
    for name, data in files.items():
        target = (into / name).resolve()
        if not target.is_relative_to(into.resolve()):
            raise archive.BadArchive(f"{name} leads out of {into}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
