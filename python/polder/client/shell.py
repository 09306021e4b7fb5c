"""``Client``: the user's forwarder. Its engine listens on loopback and carries to access points; this shell keeps it informed."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from pathlib import Path
from typing import Any

from polder.api.client import fetch_members, fetch_revocations
from polder.api.keeper import Keeper
from polder.api.metrics import MetricsServer
from polder.client.pac import pac_file
from polder.client.spread import Sessions
from polder.model import Member, Refused, Signed
from polder.settings.client import ClientSettings
from polder.settings.identity import IdentityDir
from polder.settings.quantities import parse_redundancy
from polder.shell.clock import wall
from polder.shell.health import Check
from polder.shell.linked import Linked
from polder.shell.memory import limits
from polder.shell.metrics import Number
from polder.shell.process import Life
from polder.shell.revoked import RevokedList
from polder.shell.traces import Traces
from polder.snapshot.fold import Verdicts
from polder.snapshot.schema import EngineConfig, Forwarder, IdentityMaterial, Link, SpreadSession, SpreadWanted

log = logging.getLogger("polder.client")

_REFRESH = 60.0
"""Seconds between looks at the authority's lists (sites, access points, revocations); a forwarder works without an answer."""


class Client(Linked):
    """A running forwarder."""

    LIVE = frozenset({"listen", "access_points", "warm", "hosts", "early_answer", "plane", "redundancy", "limits", "traces"})

    def __init__(self, path: Path, settings: ClientSettings, life: Life[ClientSettings] | None = None) -> None:
        self._path = path
        self._settings = settings
        self._identity = IdentityDir.load(path)
        self._revoked = RevokedList(self._identity, wall())
        self._down: frozenset[str] = frozenset()
        self._proxy = ""
        self._keeper = Keeper(path, self._identity, self._on_renewed)
        super().__init__(EngineConfig(role="forwarder", listen=(settings.listen,)), life)
        self.sessions = Sessions(lambda: self.engine, self.tasks, self._nearest, self.raw_call, self._revoked.open_relays)
        self.sessions.configure(settings.plane, parse_redundancy(settings.redundancy))
        routes = {"paths": self._paths, "status": self._status, "counters": self._counters, "links": self._links}
        self.serve_admin(path / "admin.sock", routes)
        self.traces = Traces(settings.traces, "forwarder", self._identity.id.name)
        self.metrics = MetricsServer(settings, path, "forwarder", self.checks, self.numbers)

    @property
    def proxy(self) -> str:
        """Where browsers find the proxy, ``ip:port``; where they found it, once this process takes nothing new."""
        self._proxy = next(iter(self.engine.addresses), self._proxy)
        return self._proxy

    @property
    def pac_url(self) -> str:
        """What to give a browser as automatic proxy configuration."""
        return f"http://{self.proxy}/proxy.pac"

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names that go through the overlay."""
        return self._settings.hosts or self._identity.hosts

    async def start(self) -> None:
        """Apply the first snapshot and begin the background work."""
        self.apply()
        self.tasks.forever("renewal", self._keeper.forever)
        self.tasks.forever("refresh", self._refresh)
        self.tasks.forever("sessions", self.sessions.forever)
        await self.start_admin()
        self.keep_history()
        await self.start_metrics()

    def configure(self, settings: ClientSettings) -> None:
        """Put another choice of access points, hosts or listener in force; connections stay."""
        self.engine.listen((settings.listen,))
        self._settings = settings
        self.sessions.configure(settings.plane, parse_redundancy(settings.redundancy))
        super().configure(settings)
        self.apply()

    def verdicts(self) -> Verdicts:
        """Identity, access points and hosts."""
        points = self._access_points()
        # As many as wanted that are well; those that are down are kept too, so that they are noticed when they come back.
        well = [point.name for point in points if point.name not in self._down]
        warm = {*well[: self._settings.warm], *(point.name for point in points[: self._settings.warm])}
        return Verdicts(
            trust_domain=self._identity.id.trust_domain,
            roots=self._identity.roots,
            identity=IdentityMaterial(self._identity.chain, self._identity.key),
            revocations=self._revoked.listed,
            members=points,
            warm=frozenset(warm),
            limits=limits(self._settings.limits),
            tracing=self.traces.tracing() if self.traces else None,
            forwarder=Forwarder(
                access_points=tuple(point.name for point in points),
                hosts=self.hosts,
                pac=pac_file(self.hosts, (f"PROXY {self.proxy}",)),
                early_answer=self._settings.early_answer,
                plane=self._settings.plane,
            ),
        )

    def on_link(self, link: Link) -> None:
        """An access point came or went: another is kept connected in its place."""
        down = self._down - {link.name} if link.up else self._down | {link.name}
        if down != self._down:
            self._down = down
            self.dirty()

    def on_spread_wanted(self, wanted: SpreadWanted) -> None:
        """Tunnels go to a target for which there is no session."""
        self.sessions.wanted(wanted.host, wanted.port)

    def on_spread_session(self, session: SpreadSession) -> None:
        """A session of the spread plane came up, or is over."""
        self.sessions.session(session.site, session.up, session.reason)

    def _nearest(self) -> tuple[Member, ...]:
        """Access points, those that are up and near first."""
        rtt = {link["name"]: link["rtt_us"] for link in self.engine.status()["links"] if link["up"]}
        return tuple(sorted(self._access_points(), key=lambda point: rtt.get(point.name) or float("inf")))

    def _paths(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        return {"plane": self._settings.plane, "redundancy": self._settings.redundancy, "sessions": self.sessions.describe()}

    def _access_points(self) -> tuple[Member, ...]:
        """The wished ones in the wished order, or all; none that is revoked."""
        known = {member.name: member for member in self._identity.members if not self._revoked.is_revoked(member)}
        wished = self._settings.access_points or tuple(known)
        for name in wished:
            if name not in known:
                log.warning("an access point in the configuration is unknown", extra={"access_point": name})
        return tuple(known[name] for name in wished if name in known)

    async def _refresh(self) -> None:
        try:
            self._heed(await fetch_revocations(self._identity, self._path))
            news = await fetch_members(self._identity, self._path)
        except (Refused, OSError) as error:
            log.debug("the authority did not answer; what is known stays in force", extra={"error": str(error)})
        else:
            self._learn(news.members, news.hosts)
        await asyncio.sleep(_REFRESH)

    def _learn(self, members: tuple[Member, ...], hosts: tuple[str, ...]) -> None:
        fresh = dataclasses.replace(self._identity, members=members or self._identity.members, hosts=hosts)
        if fresh != self._identity:
            self._identity = self._keeper.identity = fresh
            fresh.save_renewed(self._path)
            self.dirty()

    def _heed(self, signed: Signed) -> None:
        if self._revoked.offer(signed, wall()):
            self.dirty()
            if self._revoked.has_retired(self._identity):
                self._keeper.wake()

    def _on_renewed(self, identity: IdentityDir, revocations: Signed) -> None:
        self._identity = identity
        self._heed(revocations)
        self.dirty()

    def checks(self) -> tuple[Check, ...]:
        """Whether this forwarder is fit to work."""
        why = "no access point answers: check this machine's network, then ask the overlay's operator"
        return *super().checks(), self._keeper.check(), Check("access_points", self._points_up() > 0, why)

    def numbers(self) -> dict[str, Number]:
        """What ``/metrics`` tells."""
        up = self._points_up()
        points = {"up": up, "down": max(0, len(self._access_points()) - up)}
        return {**super().numbers(), **self._keeper.numbers(), "access_points": points}

    def _points_up(self) -> int:
        return len({link["name"] for link in self.engine.status()["links"] if link["up"]})

    def _status(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        return {
            "user": self._identity.id.name,
            "proxy": self.proxy,
            "pac": self.pac_url,
            "sites": list(self.hosts),
            "uptime_s": round(self.uptime),
            "access_points": [point.name for point in self._access_points()],
            "certificate_valid_for_s": round(self._keeper.not_after - wall()),
            "renewals": self._keeper.renewals,
        }

    def _counters(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        return dict(self.sample())

    def _links(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        return self.engine.status()


async def start(path: Path, life: Life[ClientSettings]) -> Client:
    """A started forwarder for the identity in ``path``."""
    client = Client(path, life.settings, life)
    await client.start()
    return client
