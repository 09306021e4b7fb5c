"""``polder check``: whether a reservation's credentials pay for it, and which one does not."""

from __future__ import annotations

import os
import re
from calendar import timegm
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import click

from polder.bandex import MOST, Trust
from polder.bandex.explaining import Given, examine
from polder.bandex.writing import from_file
from polder.clearing.files import read_public
from polder.cli.amounts import RATE, describe
from polder.cli.answer import answer, common, find_state
from polder.keynote import split_assertions
from polder.settings import ConfigError, load
from polder.settings.money import IspSettings
from polder.shell.clock import wall


@click.group()
def check() -> None:
    """Checks: what a user signs to pay for one reservation."""


@check.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--session", help="The reservation's session, such as 'udp 198.18.1.1 port 5004'; default: the check's.")
@click.option("--sender", "senders", multiple=True, help="A sender of the reservation; default: the check's.")
@click.option("--flowspec", help="SHA-256 of the reservation's FLOWSPEC, in hex; default: the check's.")
@click.option("--rate", type=RATE, help="The reservation's rate, such as 20Mbit; without it the price is not looked at.")
@click.option(
    "--trust",
    multiple=True,
    metavar="KEY",
    help="Who is trusted to pay, a key or a file; default: isp.toml, else who answers last.",
)
@click.option("--at", metavar="YYYYMMDDHHMMSS", help="When, UTC; default: now.")
@common
def explain(
    file: Path,
    session: str | None,
    senders: tuple[str, ...],
    flowspec: str | None,
    rate: int | None,
    trust: tuple[str, ...],
    at: str | None,
    state: str | None,
    as_json: bool,
) -> int:
    """Say of the credentials in FILE (check, credit, guarantees, offer) which count, and why the others do not.

    Every question that an ISP asks is answered, also after the first refusal. Exit status 3: the reservation would be refused.
    """
    now = wall() if at is None else _moment(at)
    texts = _texts(file)
    given = Given(session, senders or None, flowspec, rate)
    found = examine(texts, given, now, _trust(trust, state))
    facts = {
        "good": found.good,
        "steps": [asdict(step) for step in found.steps],
        "assertions": [asdict(note) for note in found.notes],
        "graph": found.graph,
        "who": found.who,
    }
    lines = [f"{'yes' if step.good else 'NO ':3} {step.question}{': ' + step.why if step.why else ''}" for step in found.steps]
    if found.graph:
        lines += ["", *(f"{name} is {part}" for name, part in found.who.items())]
        lines += ["", "Who trusts whom, from the ISP's policy to its route:", *found.graph, ""]
    for kind, note in zip(found.kinds, found.notes, strict=True):
        lines.append(f"{note.number}. {kind} {'counts' if note.counted else 'does not count'}: {note.why}")
    step = (
        "polder reserve SESSION --credentials FILE"
        if found.good
        else "mend what says NO; polder credit fetch and a new check help most"
    )
    answer(facts, "\n".join(lines), step, as_json=as_json)
    return 0 if found.good else 3


@check.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@common
def show(file: Path, state: str | None, as_json: bool) -> None:
    """Print what the credentials in FILE say, without looking at signatures."""
    del state
    found = [terms for _, terms in from_file(file.read_text(encoding="ascii"))]
    lines = [line for terms in found for line in describe(terms)]
    answer({"credentials": [terms.facts() for terms in found]}, "\n".join(lines), f"polder check explain {file}", as_json=as_json)


def _texts(file: Path) -> list[str]:
    try:
        found = split_assertions(file.read_text(encoding="ascii"))
    except UnicodeDecodeError as error:
        raise ConfigError(str(file), "", f"KeyNote is ASCII: {error}") from error
    if not found:
        raise ConfigError(str(file), "", "holds no credentials")
    return found


def _trust(keys: tuple[str, ...], state: str | None) -> Trust | None:
    if keys:
        return Trust({read_public(key): MOST for key in keys})
    file = find_state(state).isp / "isp.toml"
    return Trust(load(IspSettings, file, os.environ).trusted) if file.exists() else None


def _moment(text: str) -> float:
    try:
        if not re.match(r"[0-9]{14}\Z", text):
            raise ValueError("it has fourteen digits")
        return float(timegm(datetime.strptime(text, "%Y%m%d%H%M%S").timetuple()))
    except ValueError as error:
        raise ConfigError("command line", "at", f"{text!r} is no moment such as 20261121130000: {error}") from error
