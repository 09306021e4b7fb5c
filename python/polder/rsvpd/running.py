"""The reservation daemon as a service: its sockets, its metrics, a reload that loses no reservation."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from polder.api.admin import AdminServer
from polder.api.metrics import MetricsServer
from polder.host.client import Host
from polder.pdp.client import PdpClient
from polder.pdp.server import tls_context
from polder.rsvpd import links
from polder.rsvpd.daemon import Daemon
from polder.rsvpd.door import Door
from polder.rsvpd.enforcing import UNORDERED
from polder.settings.rsvp import RsvpSettings
from polder.shell.health import Check
from polder.shell.metrics import Number
from polder.shell.process import Life
from polder.shell.tasks import Tasks

log = logging.getLogger("polder.rsvpd")

_REFUSALS = {
    "over-capacity": "capacity",
    "over-reservations": "reservations",
    "over-paths": "senders",
    "refused-by-policy": "policy",
    "not-enforced": "traffic-control",
    "refused": "integrity",
    "stale": "stale",
    "unfounded": "unfounded",
    "looped": "loop",
    "rsvperror": "malformed",
    "malformed": "malformed",
    "unacceptable": "unacceptable",
    "no-packet": "malformed",
    "over-waiting": "waiting",
    "too-large": "size",
}
"""Why something was refused, by the machine's counter."""
_PEER = frozenset({"pdp", "pdp_certificate", "pdp_key", "pdp_roots", "pdp_wait"})


class RsvpShell:
    """See the module."""

    LIVE = frozenset(RsvpSettings.model_fields) - {
        "name",
        "socket",
        "host_helper",
        "bundle_cache",
        "metrics_listen",
        "metrics_beyond_loopback",
        "metrics_hosts",
        "metrics_roles",
    }

    def __init__(self, settings: RsvpSettings, connect: Callable[[], Host], life: Life[RsvpSettings] | None) -> None:
        """Raises ``ConfigError``."""
        self._settings = settings
        self._pdp = PdpClient()
        self._aim(settings, _tls(settings))
        self.daemon = Daemon(settings, connect, self._pdp)
        self.door = Door(self.daemon, settings.applications)
        directory = Path(settings.socket).parent
        self._life = life
        self._ready = False
        self._admin = AdminServer(directory / "admin.sock", life.routes() if life else {})
        self._metrics = MetricsServer(settings, directory, "rsvp", self.checks, self.numbers)
        self._tasks = Tasks()

    @classmethod
    async def start(
        cls, settings: RsvpSettings, connect: Callable[[], Host], life: Life[RsvpSettings] | None = None
    ) -> RsvpShell:
        """Order the links and speak; raises ``ConfigError``, ``HostError``, ``OSError``."""
        shell = cls(settings, connect, life)
        try:
            await shell.daemon.start()
            await shell.door.start(Path(settings.socket))
            await shell._admin.start()
        except BaseException:
            await shell._end()
            raise
        await shell._metrics.start(shell._tasks, life.sockets if life else None)
        shell._ready = True
        log.info("speaking RSVP", extra={"links": len(settings.links), "versions": shell.daemon.speaks})
        return shell

    def configure(self, settings: RsvpSettings) -> None:
        """Other links, rates, keys, periods, another policy decision point; reservations stand, where they still may. Keys and
        certificates are read again, whether their files' names changed or not. Raises ``ConfigError``: nothing changed.
        """
        tls = _tls(settings)
        self.daemon.configure(settings)
        self.door.most = settings.applications
        before = self._settings
        self._settings = settings
        if tls is not None or any(getattr(before, name) != getattr(settings, name) for name in _PEER):
            self._aim(settings, tls)

    def descriptors(self) -> list[tuple[str, int]]:
        """The metrics listener, for systemd to keep over a crash."""
        return self._metrics.descriptors()

    def hurry(self) -> None:
        """Nothing: it ends at once."""

    async def close(self, deadline: float) -> int:
        """End what applications asked for, and give the links back."""
        del deadline
        await self._end()
        await self._tasks.close()
        await self._metrics.close()
        return 0

    def checks(self) -> tuple[Check, ...]:
        """Whether it is fit to work."""
        return (
            Check("listener", self._ready, "it does not speak yet"),
            Check("enforcement", not self._unenforced(), "reservations are not enforced: its log and the host helper's say why"),
        )

    def numbers(self) -> dict[str, Number]:
        """What ``/metrics`` tells. No label names a link, a session or a neighbour."""
        node, counts = self.daemon.node, self.daemon.node.counts
        refusals: Counter[str] = Counter()
        for name, reason in _REFUSALS.items():
            refusals[reason] += counts[name]
        granted = sum(state.granted is not None for state in node.reservations)
        offered = [links.reservable(link) or 0.0 for link in self._settings.links]
        held = [node.held(self.daemon.interface(link.device)) for link in self._settings.links]
        return {
            "rsvp_messages": {way: counts[way] for way in ("received", "sent", "retries", "summaries", "nacks")},
            "rsvp_messages_lost": {why: counts[why] for why in ("unacknowledged", "not-sent", "no-address", "ttl-ended")},
            "rsvp_refusals": refusals,
            "rsvp_expired": {"senders": counts["paths-expired"], "reservations": counts["reservations-expired"]},
            "rsvp_repairs": counts["repaired"],
            "rsvp_senders": len(node.paths),
            "rsvp_reservations": {"granted": granted, "waiting": len(node.reservations) - granted},
            "rsvp_rate_bytes": {"reservable": sum(offered), "reserved": sum(held)},
            "rsvp_unenforced": self._unenforced(),
            "rsvp_helper_returns": counts["helper-back"],
            "rsvp_decisions": {word: self.daemon.decisions[word] for word in ("accepted", "refused", "undecided")},
            "rsvp_applications_open": self.door.open,
            "rsvp_applications_refused": self.door.turned_away,
        }

    def _unenforced(self) -> int:
        return sum(why not in {"", UNORDERED} for _, why in self.daemon.enforcer.flows.values())

    def _aim(self, settings: RsvpSettings, tls: ssl.SSLContext | None) -> None:
        if settings.pdp is not None:
            self._pdp.aim(settings.pdp, settings.pdp_wait, tls)

    async def _end(self) -> None:
        await self._admin.close()
        await self.door.close()
        await asyncio.sleep(0)  # what applications asked for is taken back, and neighbours are told, before the sockets go
        await self.daemon.close()


def _tls(settings: RsvpSettings) -> ssl.SSLContext | None:
    if settings.pdp is None or not settings.pdp.startswith("tls:"):
        return None
    return tls_context(settings.pdp_certificate, settings.pdp_key, settings.pdp_roots, server=False)
