"""``polder pdp``: the policy decision point of a provider's routers."""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from pathlib import Path

import click

from polder.clearing.files import open_desk
from polder.cli.answer import answer
from polder.cli.rsvp import until_told
from polder.cli.running import LEVELS, log_level
from polder.keynote import Checker, KeyNoteError, split_assertions
from polder.pdp.deciders import KeyNoteDecider
from polder.pdp.server import Pdp, tls_context
from polder.pdp.values import Decider
from polder.settings.base import ConfigError
from polder.settings.load import load
from polder.settings.money import IspSettings
from polder.settings.rsvp import PdpSettings
from polder.shell.clock import wall
from polder.shell.logs import setup
from polder.shell.notify import notify

_CONFIG = "/etc/polder/pdp.toml"


@click.command("pdp")
@click.option("--config", "path", default=_CONFIG, show_default=True, help="Its settings.")
@click.option("--log-level", "level", type=LEVELS, help="Instead of log_level in the settings.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object when it is ready.")
def pdp(path: str, level: str | None, as_json: bool) -> int:
    """Judge reservations for several routers until told to stop.

    Decides by KeyNote: a provider's policies are believed as they stand, a request's credentials only with good signatures. With isp,
    every reservation must be paid by a check, which is written down before the answer leaves (`polder settle` deposits it).
    """
    settings = load(PdpSettings, Path(path), os.environ, log_level(level))
    setup(settings.log_level)
    decider = _decider(settings, path)
    tls = tls_context(settings.certificate, settings.key, settings.roots, server=True) if settings.listen else None
    return asyncio.run(_run(settings, decider, tls, as_json))


def _decider(settings: PdpSettings, path: str) -> Decider:
    """By policies alone, or by checks of a provider that sells."""
    checker = Checker(settings.keynote.limits())
    if settings.isp is not None:
        file = Path(settings.isp)
        return open_desk(load(IspSettings, file, os.environ), file.parent, checker)[0]
    if settings.policy is None:
        raise ConfigError(path, "policy", "name a file of KeyNote policies, or isp: without one of them nobody may reserve")
    try:
        text = Path(settings.policy).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(settings.policy, "policy", f"cannot be read: {error}") from error
    try:
        return KeyNoteDecider(split_assertions(text), settings.again, checker)
    except KeyNoteError as error:
        raise ConfigError(settings.policy, "policy", f"holds a policy that is none: {error}") from error


async def _run(settings: PdpSettings, decider: Decider, tls: ssl.SSLContext | None, as_json: bool) -> int:
    point = Pdp(decider, wall, batch=settings.batch, routers=settings.routers, pending=settings.pending)
    address = None
    if settings.listen:
        host, _, port = settings.listen.rpartition(":")
        address = (host.strip("[]"), int(port))
    where = await point.start(Path(settings.socket) if settings.socket else None, address, tls)
    answer(
        {"endpoints": where},
        f"Judging at {', '.join(where)}.",
        f"set pdp = {where[0]!r} in rsvp.toml of the routers",
        as_json=as_json,
    )
    sys.stdout.flush()
    notify("READY=1")
    try:
        await until_told()
    finally:
        await point.close()
    return 0
