"""The policy decision point as a service: sockets, metrics, a reload that loses no connection and no decision."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from polder.api.admin import AdminServer
from polder.api.metrics import MetricsServer
from polder.pdp.server import Pdp, present, tls_context
from polder.pdp.values import Decider
from polder.settings.rsvp import PDP_SOCKET, PdpSettings
from polder.shell.clock import wall
from polder.shell.health import Check
from polder.shell.metrics import Number
from polder.shell.process import Life
from polder.shell.tasks import Tasks

log = logging.getLogger("polder.pdp")


class Bench(Protocol):
    """Where deciders come from, so that this room need not know what they judge by."""

    def seat(self, settings: PdpSettings) -> Decider:
        """One that judges as the settings and the files that they name say now; what was taken and verified before is kept. Raises
        ``ConfigError`` or ``OSError``, and then the one before is as good as it was.
        """

    def numbers(self) -> Mapping[str, Number]:
        """What ``/metrics`` tells of how it judges."""

    def close(self) -> None:
        """Give up what is held."""


class PdpShell:
    """See the module. ``endpoints``: where routers find it."""

    LIVE = frozenset({"policy", "again", "certificate", "key", "batch", "routers", "pending"})

    def __init__(self, settings: PdpSettings, bench: Bench, life: Life[PdpSettings] | None) -> None:
        """Raises ``ConfigError``, ``OSError``."""
        self.endpoints: list[str] = []
        self._settings = settings
        self._bench = bench
        self._life = life
        self.point = Pdp(bench.seat(settings), wall, batch=settings.batch, routers=settings.routers, pending=settings.pending)
        self._tls: ssl.SSLContext | None = None
        if settings.listen:
            self._tls = tls_context(settings.certificate, settings.key, settings.roots, server=True)
        directory = Path(settings.socket or PDP_SOCKET).parent
        self._admin = AdminServer(directory / "admin.sock", life.routes() if life else {})
        self._metrics = MetricsServer(settings, directory, "pdp", self.checks, self.numbers)
        self._tasks = Tasks()

    @classmethod
    async def start(cls, settings: PdpSettings, bench: Bench, life: Life[PdpSettings] | None = None) -> PdpShell:
        """Listen and judge; raises ``ConfigError``, ``OSError``."""
        shell = cls(settings, bench, life)
        address = None
        if settings.listen:
            host, _, port = settings.listen.rpartition(":")
            address = (host.strip("[]"), int(port))
        path = Path(settings.socket) if settings.socket else None
        shell.endpoints = await shell.point.start(path, address, shell._tls)
        await shell._admin.start()
        await shell._metrics.start(shell._tasks, life.sockets if life else None)
        log.info("judging", extra={"endpoints": shell.endpoints})
        return shell

    def configure(self, settings: PdpSettings) -> None:
        """Policies, prices, certificate and limits are read again, whether their files' names changed or not. Raises ``ConfigError``,
        ``OSError``: nothing changed.
        """
        decider = self._bench.seat(settings)
        if self._tls is not None:
            present(self._tls, settings.certificate, settings.key)
        self._settings = settings
        self.point.decider = decider
        self.point.batch, self.point.routers, self.point.pending = settings.batch, settings.routers, settings.pending

    def descriptors(self) -> list[tuple[str, int]]:
        """The metrics listener, for systemd to keep over a crash."""
        return self._metrics.descriptors()

    def hurry(self) -> None:
        """Nothing: decisions take milliseconds."""

    async def close(self, deadline: float) -> int:
        """End; routers ask again when the next process listens."""
        del deadline
        await self._admin.close()
        await self.point.close()
        await self._tasks.close()
        await self._metrics.close()
        self._bench.close()
        return 0

    def checks(self) -> tuple[Check, ...]:
        """Whether it is fit to work."""
        return (Check("listener", bool(self.endpoints), "it does not listen yet"),)

    def numbers(self) -> dict[str, Number]:
        """What ``/metrics`` tells."""
        counts = self.point.counts
        judged: dict[str, Any] = {"accepted": counts.accepted, "failed": counts.failed}
        return {
            "pdp_decisions": judged | {f"refused-{word}": count for word, count in counts.reasons.items()},
            "pdp_batches": counts.batches,
            "pdp_ended": counts.ended,
            "pdp_connections_open": self.point.open,
            "pdp_connections_refused": counts.turned_away,
            "pdp_connections_unread": counts.unread,
            **self._bench.numbers(),
        }
