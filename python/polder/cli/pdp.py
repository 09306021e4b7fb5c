"""``polder pdp``: the policy decision point of a provider's routers."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from polder.bandex import Desk, Trust
from polder.clearing.files import isp_of, open_desk, read_private
from polder.clearing.till import Till
from polder.cli.answer import answer
from polder.cli.running import LEVELS, log_level
from polder.keynote import Checker, KeyNoteError, split_assertions
from polder.keynote.signing import identifier
from polder.pdp.deciders import KeyNoteDecider
from polder.pdp.running import PdpShell
from polder.pdp.values import Decider
from polder.settings.base import ConfigError
from polder.settings.load import load
from polder.settings.money import IspSettings
from polder.settings.rsvp import PdpSettings
from polder.shell.metrics import Number
from polder.shell.process import Life, Service, run

_CONFIG = "/etc/polder/pdp.toml"


@click.command("pdp")
@click.option("--config", "path", default=_CONFIG, show_default=True, help="Its settings.")
@click.option("--log-level", "level", type=LEVELS, help="Instead of log_level in the settings.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object when it is ready.")
def pdp(path: str, level: str | None, as_json: bool) -> int:
    """Judge reservations for several routers until told to stop.

    Decides by KeyNote: a provider's policies are believed as they stand, a request's credentials only with good signatures. With isp,
    every reservation must be paid by a check, which is written down before the answer leaves (`polder settle` deposits it). SIGHUP reads
    settings, policies and prices again.
    """
    bench = Bench(path)

    def settings() -> PdpSettings:
        return load(PdpSettings, Path(path), os.environ, log_level(level))

    async def start(life: Life[PdpSettings]) -> Service:
        return await PdpShell.start(life.settings, bench, life)

    def ready(shell: PdpShell) -> None:
        where = shell.endpoints
        step = f"set pdp = {where[0]!r} in rsvp.toml of the routers"
        answer({"endpoints": where}, f"Judging at {', '.join(where)}.", step, as_json=as_json)
        sys.stdout.flush()

    return run(settings, start, ready)


class Bench:
    """Deciders by policies alone, or by checks of a provider that sells; they share one cache of proven signatures and one till."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._checker: Checker | None = None
        self._desk: Desk | None = None
        self._till: Till | None = None

    def seat(self, settings: PdpSettings) -> Decider:
        """See ``polder.pdp.running.Bench``."""
        checker = self._checker = self._checker or Checker(settings.keynote.limits())
        if settings.isp is not None:
            return self._sell(Path(settings.isp), checker)
        if settings.policy is None:
            raise ConfigError(
                self._path, "policy", "name a file of KeyNote policies, or isp: without one of them nobody may reserve"
            )
        try:
            text = Path(settings.policy).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(settings.policy, "policy", f"cannot be read: {error}") from error
        try:
            return KeyNoteDecider(split_assertions(text), settings.again, checker)
        except KeyNoteError as error:
            raise ConfigError(settings.policy, "policy", f"holds a policy that is none: {error}") from error

    def _sell(self, file: Path, checker: Checker) -> Decider:
        settings = load(IspSettings, file, os.environ)
        if self._till is None:
            self._desk, self._till = open_desk(settings, file.parent, checker)
            return self._desk
        key = identifier(read_private(file.parent / settings.key_file))
        anew = Desk(isp_of(settings, key), Trust(settings.trusted), self._till, checker)
        if self._desk is not None:
            anew.counters = self._desk.counters
        self._desk = anew
        return anew

    def numbers(self) -> Mapping[str, Number]:
        """See ``polder.pdp.running.Bench``."""
        if self._desk is not None:
            return self._desk.numbers()
        return self._checker.numbers() if self._checker is not None else {}

    def close(self) -> None:
        """Let another process take checks."""
        if self._till is not None:
            self._till.close()
