"""Clearing house and portal as processes: HTTPS server, metrics, administrator's socket, revocation list, forgetting what is settled."""

from __future__ import annotations

import asyncio
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from polder.api.admin import AdminServer
from polder.api.metrics import MetricsServer
from polder.bandex import CODES, GuaranteeTerms
from polder.clearing.faces import TITLE, ClearingFace
from polder.clearing.files import read_credentials, read_private
from polder.clearing.house import House, HouseRules
from polder.clearing.ledger import open_ledger
from polder.clearing.portal import TITLE as PORTAL
from polder.clearing.portal import Link, Portal
from polder.clearing.serving import MutualServer, Route
from polder.clearing.tls import Membership
from polder.model import Refused
from polder.settings import ConfigError
from polder.settings.money import ClearingSettings, ProviderSettings, Served
from polder.settings.state import make_private
from polder.shell.clock import chance, wall
from polder.shell.health import Check
from polder.shell.metrics import Number
from polder.shell.process import Life
from polder.shell.tasks import Tasks
from polder.store import sqlite_url

log = logging.getLogger("polder.clearing")

_SWEEP_S = 600.0


class ServedShell(ABC):
    """What both share. ``address``: where it listens."""

    LIVE: frozenset[str] = frozenset()

    def __init__(
        self, part: str, title: str, routes: tuple[Route, ...], settings: Served, directory: Path, life: Life[Any] | None
    ) -> None:
        make_private(directory)
        self.address = ""
        self._settings = settings
        self._life = life
        self._released = False
        self._members = Membership.load(settings.tls, directory)
        self._server = MutualServer(title, routes, self._members, settings.rate_per_source, settings.sources)
        self._admin = AdminServer(directory / "admin.sock", {"status": self._status, **(life.routes() if life else {})})
        self._metrics = MetricsServer(settings, directory, part, self.checks, self.numbers)
        self._tasks = Tasks()

    async def open(self, listen: str) -> None:
        """Serve; raises ``OSError`` when the address is taken."""
        host, _, port = listen.rpartition(":")
        inherited = self._life.sockets.listener(listen) if self._life else None
        self.address = await self._server.start(host.strip("[]"), int(port), inherited)
        await self._admin.start(self._life.sockets.listener(str(self._admin.path)) if self._life else None)
        await self._metrics.start(self._tasks, self._life.sockets if self._life else None)
        self._tasks.forever("members", self._keep)
        self._tasks.forever("forget", self._forget)
        log.info("serving", extra={"address": self.address})

    def configure(self, settings: Any) -> None:
        """Put other limits in force."""
        self._settings = settings

    def descriptors(self) -> list[tuple[str, int]]:
        """The listening sockets."""
        listen = str(getattr(self._settings, "listen", ""))
        return [(listen, self._server.descriptor), (str(self._admin.path), self._admin.descriptor), *self._metrics.descriptors()]

    def memory(self) -> dict[str, bytes]:
        """Nothing: all is in the database."""
        return {}

    def release(self) -> None:
        """The next process serves; the database knows many writers."""
        self._released = True
        self._tasks.retire()

    def hurry(self) -> None:  # noqa: B027 - all shells have it
        """Nothing: requests take milliseconds."""

    async def close(self, deadline: float = 5.0) -> int:
        """Finish what runs and stop."""
        del deadline
        await self._tasks.close()
        await self._admin.close(remove=not self._released)
        await self._metrics.close()
        await self._server.close()
        self._end()
        return 0

    def checks(self) -> tuple[Check, ...]:
        """Whether it is fit to work."""
        return (Check("listener", bool(self.address), "it does not listen yet"),)

    def numbers(self) -> dict[str, Number]:
        """What ``/metrics`` tells."""
        return dict(self._server.numbers())

    @abstractmethod
    def _prune(self) -> int:
        """Forget what can matter no more; returns how many rows. Blocking."""

    @abstractmethod
    def _end(self) -> None:
        """Close the database."""

    async def _forget(self) -> None:
        gone = await self._server.work(self._prune)
        if gone:
            log.info("forgot what can matter no more", extra={"rows": gone})
        await asyncio.sleep(_SWEEP_S)

    async def _keep(self) -> None:
        """The certificate that is on the disk, and the revocation list, again and again."""
        await asyncio.sleep(self._settings.tls.revocation_refresh)
        try:
            await self._members.refresh()
            self._members.renew(self._server.tls)
        except (OSError, Refused, ConfigError) as error:
            log.warning("the last revocation list stays in force", extra={"error": str(error)})

    def _status(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        return {"address": self.address, **self._server.counters}


class ClearingShell(ServedShell):
    """The clearing house."""

    LIVE = frozenset({"deposit_delay", "skew", "most_life"})

    def configure(self, settings: Any) -> None:
        """Other rules hold for what is deposited from here on."""
        super().configure(settings)
        self.house.rules = _rules(settings)

    def __init__(
        self,
        settings: ClearingSettings,
        directory: Path,
        life: Life[ClearingSettings] | None = None,
        clock: Callable[[], float] = wall,
    ) -> None:
        make_private(directory)
        self.house = open_house(settings, directory)
        self._clock = clock
        super().__init__("clearing", TITLE, ClearingFace(self.house, settings.name, clock).routes(), settings, directory, life)

    @classmethod
    async def start(
        cls,
        settings: ClearingSettings,
        directory: Path,
        life: Life[ClearingSettings] | None = None,
        clock: Callable[[], float] = wall,
    ) -> ClearingShell:
        """Serve the books in ``directory``; raises ``OSError`` or ``ConfigError``."""
        shell = cls(settings, directory, life, clock)
        await shell.open(settings.listen)
        return shell

    def numbers(self) -> dict[str, Number]:
        """With deposits by outcome, and what KeyNote did for them."""
        outcomes = dict.fromkeys(("paid", "repeated", *map(str, CODES)), 0) | self.house.counters
        more = {"clearing_deposits": outcomes, **self.house.checker.numbers()}
        return {**super().numbers(), **more}

    def _prune(self) -> int:
        return self.house.ledger.prune(self._clock())

    def _end(self) -> None:
        self.house.ledger.close()


class PortalShell(ServedShell):
    """A provider's portal."""

    LIVE = frozenset({"currency", "least", "most", "total", "life", "most_per_user", "most_credits", "period"})

    def configure(self, settings: Any) -> None:
        """Other limits hold for what is given from here on."""
        super().configure(settings)
        self.portal.settings = settings

    def __init__(
        self,
        settings: ProviderSettings,
        directory: Path,
        life: Life[ProviderSettings] | None = None,
        clock: Callable[[], float] = wall,
        rng: random.Random | None = None,
    ) -> None:
        make_private(directory)
        links = [Link(terms, text) for file in settings.guarantees for text, terms in _guarantees(directory / file)]
        key = read_private(directory / settings.key_file)
        url = _database(settings, directory / "grants.sqlite3")
        self.portal = Portal(settings, key, tuple(links), url, clock, rng or chance())
        super().__init__("provider", PORTAL, self.portal.routes(), settings, directory, life)

    @classmethod
    async def start(
        cls,
        settings: ProviderSettings,
        directory: Path,
        life: Life[ProviderSettings] | None = None,
        clock: Callable[[], float] = wall,
    ) -> PortalShell:
        """Serve; raises ``OSError`` or ``ConfigError``."""
        shell = cls(settings, directory, life, clock)
        await shell.open(settings.listen)
        return shell

    def numbers(self) -> dict[str, Number]:
        """With requests for credits by outcome."""
        return {
            **super().numbers(),
            "portal_credits": {"granted": 0, "repeated": 0, "exceeded": 0, "busy": 0} | self.portal.counters,
        }

    def _prune(self) -> int:
        return self.portal.prune()

    def _end(self) -> None:
        self.portal.close()


def open_house(settings: ClearingSettings, directory: Path) -> House:
    """The clearing house over its books; raises ``ValueError`` when a newer Polder wrote them."""
    make_private(directory)
    return House(open_ledger(_database(settings, directory / "books.sqlite3")), _rules(settings))


def _database(settings: Served, default: Path) -> str:
    return settings.database or sqlite_url(default)


def _rules(settings: ClearingSettings) -> HouseRules:
    return HouseRules(settings.deposit_delay, settings.skew, settings.most_life)


def _guarantees(path: Path) -> list[tuple[str, GuaranteeTerms]]:
    found = [(text, terms) for text, terms in read_credentials(path) if isinstance(terms, GuaranteeTerms)]
    if not found:
        raise ConfigError(str(path), "guarantees", "holds no guarantee: ask the bank for one (`polder credit guarantee`)")
    return found
