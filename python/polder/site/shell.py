"""``Site``: a protected site's agent. It publishes the site's record, appoints servlets, and keeps tunnels and filter in step."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import zlib
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from cryptography import x509

from polder.api.admin import Route
from polder.api.keeper import Keeper
from polder.api.metrics import MetricsServer
from polder.engine import CallFailed
from polder.host.commands import HostError
from polder.model import Member, PathMode, Rule, Signed, SiteRecord
from polder.model.overlay_messages import Held, MembersQuery, Sync
from polder.overlay.directory import REVOCATIONS, SITE, rank
from polder.overlay.site import SiteConfig, SiteImage, SiteRole, Stage
from polder.settings.identity import IdentityDir
from polder.settings.site import SiteSettings
from polder.shell.clock import chance, wall
from polder.shell.handover import recall
from polder.shell.health import Check
from polder.shell.linked import Linked
from polder.shell.memory import limits
from polder.shell.metrics import Number
from polder.shell.process import Life
from polder.shell.revoked import RevokedList
from polder.shell.role_driver import RoleDriver
from polder.site.deliveries import Ways
from polder.site.memory import SiteMemory
from polder.site.perimeter import Perimeter
from polder.site.telling import TellingKeys
from polder.snapshot.fold import SiteView, Verdicts
from polder.snapshot.schema import EngineConfig, IdentityMaterial, Link
from polder.trust import read_identity, sign
from polder.trust.keys import key_from_der

log = logging.getLogger("polder.site")

_POOL_EVERY = 10.0
_PUBLISH_EVERY = 30.0
_REVOCATIONS_EVERY = 3.0
_RECORD_LIFE = 86_400
_FILTER_RETRY = 1.0
_DIAL = 3.0
"""Seconds that an agent which takes over gives itself to dial its servlets."""


class Site(Linked):
    """A running agent. Make it with ``start``."""

    LIVE = frozenset({"allow", "deny", "hosts", "mode", "servlets", "rotation", "grace", "appointment_life", "limits"}) | {
        *("servlets_among", "drain_max", "exposure_max", "tell_address", "tell_window"),
    }

    def __init__(
        self, path: Path, settings: SiteSettings, memory: SiteMemory, ways: Ways, life: Life[SiteSettings] | None = None
    ) -> None:
        self._path = path
        self._settings = settings
        self._memory = memory
        self._ways = ways
        self._identity = IdentityDir.load(path)
        self._pool: tuple[Member, ...] = self._identity.members
        self._record: tuple[SiteRecord, Signed] | None = None
        self._telling = TellingKeys.load(path) if settings.tell != "nothing" else None
        self._revoked = RevokedList(self._identity, wall())
        self._keeper = Keeper(path, self._identity, self._on_renewed)
        super().__init__(EngineConfig(role="site", listen=ways.listen(), origins=ways.origins()), life)
        self._role = SiteRole(
            settings.name,
            _role_config(settings),
            self._sign,
            ways.deliver,
            chance(),
            carried=self._carried,
            last_epoch=memory.appointment_epoch,
            exposed=memory.exposed,
        )
        self._perimeter = Perimeter(path / "filter.json", settings, settings.appointment_life)
        self._driver = RoleDriver(self._role_call, self._no_lookup, self.tasks, self._on_role)
        self._driver.add_caller(self._role)
        self._linked = asyncio.Event()
        self._elsewhere: frozenset[str] = frozenset()
        self._elsewhere_until = 0.0
        self._filter_wanted = asyncio.Event()
        self._filter_seen = 0
        self._filter_counts: dict[str, int] = {}
        routes: dict[str, Route] = {"status": self._status, "counters": self._counters, "links": self._links}
        actions: dict[str, Route] = {"rotate": self._rotate, "burn": self._burn, "moved": self._moved}
        self.serve_admin(path / "admin.sock", {**routes, **actions})
        self.metrics = MetricsServer(settings, path, "site", self.checks, self.numbers)

    # Life

    async def start(self) -> None:
        """Publish, appoint, keep going."""
        resumed = self._resume()
        self.apply()
        await self.start_admin()
        await self.start_metrics()
        self.tasks.forever("renewal", self._keeper.forever)
        self.tasks.forever("filter", self._keep_filter)
        self.tasks.forever("pool", self._refresh_pool)
        self.tasks.forever("record", self._publish)
        self.keep_history()
        self.tasks.forever("revocations", self._ask_revocations)
        if resumed:
            self._driver.pump()
            await self._dialled()

    def _resume(self) -> bool:
        """Go on with the servlets that the process before this one chose."""
        memory = self.life.memory if self.life else {}
        image = recall(memory, "site", SiteImage)
        if image is None:
            return False
        self._role.resume(image)
        carried, seconds = recall(memory, "carried", tuple[dict[str, int], float]) or ({}, 0.0)
        self._elsewhere, self._elsewhere_until = frozenset(carried), wall() + (seconds or math.inf)
        self._pool = tuple(sorted(image.pool.values()))
        return True

    async def _dialled(self) -> None:
        """Until every servlet is dialled, or has had its time: the process before this one holds its dial-outs so long."""
        wanted = len(self._role.admitted()) if self._ways.dials_out else 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DIAL):
                while sum(link["up"] for link in self.engine.status()["links"] if link["lane"] == "dialout") < wanted:
                    self._linked.clear()
                    await self._linked.wait()

    def on_link(self, link: Link) -> None:
        """A servlet is dialled, or was lost: that one is asked at once."""
        self._linked.set()
        if link.up:
            self._role.reached(link.name, link.rtt_us)
        else:
            self._role.unreachable(link.name, wall())
            self._driver.pump()

    def configure(self, settings: SiteSettings) -> None:
        """Put other rules, hosts, rotation and the like in force; the record is published anew."""
        self._settings = settings
        self._role.set_pool(self._candidates(), wall())
        self._role.configure(_role_config(settings), wall())
        self._driver.pump()
        self.apply()
        self.tasks.once("publish", self._publish_once())

    def descriptors(self) -> list[tuple[str, int]]:
        """With the tunnel device."""
        return [*super().descriptors(), *self._ways.descriptors()]

    def memory(self) -> dict[str, bytes]:
        """The choice of servlets, and what stands."""
        carried = self.engine.status()["carried"], self._settings.upgrade_drain
        mine = {"site": msgspec.msgpack.encode(self._role.image()), "carried": msgspec.msgpack.encode(carried)}
        return mine | self._ways.memory()

    def release(self) -> None:
        """The next process is the agent."""
        super().release()
        self._driver.close()
        self._ways.release()

    async def part(self) -> None:
        """Appointments end by themselves; the filter stays in force."""
        self._driver.close()

    async def clear(self) -> None:
        """Leave the filter's helper, take the tunnels away if they are still ours."""
        await self._perimeter.close()
        await self._ways.close()

    def verdicts(self) -> Verdicts:
        """Identity, servlets to dial (dial-out), and the own record, for the agent carries to nothing else."""
        admitted = self._role.admitted()
        servlets = tuple(each.member for each in admitted)
        return Verdicts(
            trust_domain=self._identity.id.trust_domain,
            roots=self._identity.roots,
            identity=IdentityMaterial(self._identity.chain, self._identity.key),
            revocations=self._revoked.listed,
            members=servlets,
            warm=frozenset(member.name for member in servlets) if self._ways.dials_out else frozenset(),
            sites=(SiteView(self.record()[0]),),
            limits=limits(self._settings.limits),
            cut=tuple(self._ways.carrier(name) for name in sorted(self._role.cut())),
            told=self._telling.told(self._settings) if self._telling else None,
        )

    # The record

    def record(self) -> tuple[SiteRecord, Signed]:
        """The site's record, signed; anew at half of its life and when something in it changed."""
        now = wall()
        wanted = self._record_now(now)
        if self._record is not None:
            held = self._record[0]
            same = msgspec.structs.replace(wanted, epoch=held.epoch, not_after=held.not_after) == held
            if same and held.not_after - now > _RECORD_LIFE / 2:
                return self._record
        self._record = (wanted, self._sign(wanted))
        self._remember(record_epoch=wanted.epoch)
        return self._record

    def _record_now(self, now: float) -> SiteRecord:
        leaf = read_identity(x509.load_der_x509_certificate(self._identity.chain[0]))
        return SiteRecord(
            site=self._settings.name,
            epoch=max(self._memory.record_epoch + 1, int(now)),
            hosts=self._settings.hosts or leaf.hosts,
            ports=tuple(port for port, _ in self._settings.port_map()),
            allow=tuple(Rule.parse(rule) for rule in self._settings.allow),
            deny=tuple(Rule.parse(rule) for rule in self._settings.deny),
            mode=PathMode(self._settings.mode),
            not_after=int(now) + _RECORD_LIFE,
            tell=self._telling.tell(self._settings) if self._telling else None,
        )

    async def _publish(self) -> None:
        """Bring the record to a few nodes now and then; gossip does the rest."""
        took = await self._publish_once()
        await asyncio.sleep(_PUBLISH_EVERY if took else 1.0)

    async def _publish_again(self) -> None:
        await self._publish_once()

    async def _publish_once(self) -> int:
        pool = list(self._pool)
        body = Sync(None, (self.record()[1],))
        took = 0
        for member in chance().sample(pool, min(3, len(pool))):
            try:
                await self.call(member, "sync", body)
                took += 1
            except CallFailed as error:
                extras = {"node": member.name, "error": str(error)}
                log.log(logging.WARNING if error.status else logging.DEBUG, "a node did not take the site's record", extra=extras)
        return took

    # Servlets

    async def _refresh_pool(self) -> None:
        """Keep up with the nodes."""
        await asyncio.sleep(_POOL_EVERY if await self._ask_pool() else 1.0)

    async def _ask_pool(self) -> bool:
        """Who may be a servlet: whoever the nodes know. ``False``: no node answered."""
        known = {member.ring_id: member for member in (*self._identity.members, *self._pool)}
        asked = chance().sample(list(known.values()), min(3, len(known)))
        answers = await asyncio.gather(*(self._members_of(member) for member in asked))
        heard = {member.ring_id: member for answer in answers for member in answer}
        if heard:
            self._pool = tuple(member for member in sorted(heard.values()) if not self._revoked.is_revoked(member))
            self._role.set_pool(self._candidates(), wall())
            self._driver.pump()
        return bool(heard)

    def _candidates(self) -> tuple[Member, ...]:
        """Who of the nodes may be drawn."""
        among = self._settings.servlets_among
        return tuple(member for member in self._pool if not among or member.name in among)

    async def _ask_revocations(self) -> None:
        """The nodes' revocation list: a servlet that is revoked is burned."""
        listed = self._revoked.listed
        held = [Held(SITE + self._settings.name, 1 << 62)]  # the own record is known here
        if listed is not None:
            held.append(Held(REVOCATIONS, rank(listed)))
        for member in chance().sample(self._pool, min(1, len(self._pool))):
            try:
                answer = await self.call(member, "sync", Sync(tuple(held)))
            except CallFailed as error:
                log.debug("a node did not answer", extra={"node": member.name, "error": str(error)})
            else:
                for signed in answer.records:
                    self._heed(signed)
        await asyncio.sleep(_REVOCATIONS_EVERY * chance().uniform(0.75, 1.25))

    def _heed(self, signed: Signed) -> None:
        if not self._revoked.offer(signed, wall()):
            return
        self._pool = tuple(member for member in self._pool if not self._revoked.is_revoked(member))
        self._role.set_pool(self._candidates(), wall())
        for each in self._role.admitted():
            if self._revoked.is_revoked(each.member):
                self._role.burn(each.member.name, wall())
        if self._revoked.has_retired(self._identity):
            self._keeper.wake()
        self._driver.pump()
        self.dirty()

    async def _members_of(self, member: Member) -> tuple[Member, ...]:
        try:
            answer = await self.call(member, "members", MembersQuery())
        except CallFailed as error:
            log.debug("a node did not answer", extra={"node": member.name, "error": str(error)})
            return ()
        members: tuple[Member, ...] = answer.members
        return members

    async def _keep_filter(self) -> None:
        """Filter and tunnels follow the role; only then may it appoint those that are new."""
        await self._filter_wanted.wait()
        self._filter_wanted.clear()
        version, admitted = self._role.filter_version, self._role.admitted()
        try:
            await self._perimeter.apply(self._perimeter.plan(admitted, self._pool, self._authority(), wall()))
            await self._ways.admit(admitted)
        except (HostError, OSError) as error:
            log.warning("the filter could not be changed; it is tried again", extra={"error": str(error)})
            await asyncio.sleep(_FILTER_RETRY)
            self._filter_wanted.set()
            return
        self.apply()
        self._role.filter_applied(version, wall())
        self._driver.pump()

    async def measure(self) -> None:
        """The filter's counters; one run of nft."""
        self._filter_counts = await self._perimeter.counters()

    def _on_role(self) -> None:
        while (moved := self._role.poll_event()) is not None:
            # The name of a servlet stays out of the log: it is the site's secret.
            log.info("a servlet's place changed", extra={"what": str(moved.what), "serving": self._role.serving()})
            if moved.what == "overexposed":
                log.error("no node that knew the way in was left: one more has learnt it. Move the edge address, then restart")
        exposed = tuple(sorted(self._role.exposed))
        if (self._role.epoch, exposed) != (self._memory.appointment_epoch, self._memory.exposed):
            # Before a call to a new servlet goes out: what it learns must be on record.
            self._remember(appointment_epoch=self._role.epoch, exposed=exposed)
        if self._role.filter_version != self._filter_seen:
            self._filter_seen = self._role.filter_version
            self._filter_wanted.set()

    async def _role_call(self, to: Member, method: str, body: msgspec.Struct) -> Any:
        return await self.call(to, method, body, 5.0)

    @staticmethod
    async def _no_lookup(_key: int) -> tuple[Member, ...]:
        raise CallFailed(0, "a site looks nothing up")

    # Inside

    def _sign(self, record: msgspec.Struct) -> Signed:
        return sign(record, key_from_der(self._identity.key), self._identity.chain)

    def _authority(self) -> str | None:
        """The authority's ``ip:port``, if its URL holds an address: a filter knows no names."""
        url = urlsplit(self._identity.authority_url)
        host = url.hostname or ""
        literal = host.replace(".", "").isdigit() or ":" in host
        return f"[{host}]:{url.port or 443}" if ":" in host else f"{host}:{url.port or 443}" if literal else None

    def _carried(self, servlet: str) -> int:
        carried: dict[str, int] = self.engine.status()["carried"]
        carrier = self._ways.carrier(servlet)
        # What the process before this one carried may still be open there.
        elsewhere = carrier in self._elsewhere and wall() < self._elsewhere_until
        return carried.get(carrier, 0) + elsewhere

    def _remember(self, **changes: int | tuple[str, ...]) -> None:
        self._memory = msgspec.structs.replace(self._memory, **changes)
        self._memory.save(self._path / "agent.mp")

    def _on_renewed(self, identity: IdentityDir, revocations: Signed) -> None:
        self._identity = identity
        self._heed(revocations)
        # A signature is believed as long as the certificate beside it: everything is said again with the new one.
        self._record = None
        self._role.renewed(wall())
        self._driver.pump()
        self.tasks.once("publish", self._publish_again())
        self.dirty()

    # For the owner

    def checks(self) -> tuple[Check, ...]:
        """Whether this agent is fit to work."""
        why = "no servlet carries yet; if this lasts, see whether nodes can be reached, and whether the filter could be changed"
        return *super().checks(), self._keeper.check(), Check("servlets", self._role.serving() > 0, why)

    def numbers(self) -> dict[str, Number]:
        """What ``/metrics`` tells."""
        stages = Counter(str(stage) for stage in self._role.stages().values())
        return {
            **super().numbers(),
            **self._keeper.numbers(),
            **self._ways.counters(),
            "site_servlets": {str(stage): stages[str(stage)] for stage in Stage},
            "site_exposed_nodes": len(self._role.exposed),
            "site_pool_nodes": len(self._pool),
        }

    def facts(self) -> dict[str, Any]:
        """Whose agent this is."""
        return {"site": self._settings.name, "transport": self._settings.transport}

    def _status(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        return {
            "site": self._settings.name,
            "transport": self._settings.transport,
            "mode": str(self._settings.mode),
            "serving": self._role.serving(),
            "servlets": {name: str(stage) for name, stage in self._role.stages().items()},
            "exposed": len(self._role.exposed),
            "rotation_in_s": self._rotation_in(),
            "exposure": self._exposure(),
            "streams": sum(self.engine.status()["carried"].values()),
            "epoch": self._role.epoch,
            "uptime_s": round(self.uptime),
            "pool": len(self._pool),
            "certificate_valid_for_s": round(self._keeper.not_after - wall()),
            "renewals": self._keeper.renewals,
        }

    def _counters(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        return dict(self.sample())

    def _links(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        return self.engine.status()

    def sample(self) -> dict[str, float]:
        """With the tunnels', the filter's and the role's numbers."""
        role = {"serving": self._role.serving(), "exposed": len(self._role.exposed), "pool": len(self._pool)}
        return super().sample() | self._ways.counters() | self._filter_counts | role

    def _rotation_in(self) -> int | None:
        at = self._role.rotate_at
        return None if at is None else max(0, round(at - wall()))

    async def _rotate(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        begun = self._role.rotate(wall())
        if not begun and await self._ask_pool():  # a node may have come back since the nodes were asked last
            begun = self._role.rotate(wall())
        self._driver.pump()
        if not begun:
            raise ValueError("there is no other node to draw: each is a servlet already, was burned, or is beyond exposure_max")
        return {"epoch": self._role.epoch}

    def _exposure(self) -> dict[str, Any]:
        return {
            "nodes": len(self._role.exposed),
            "max": self._settings.exposure_max or None,
            "of": len(self._pool),
            "secret": self._ways.secret_is,
            "since": self._memory.exposed_since,
        }

    def _moved(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        """The owner gave the site another address of egress: who knew the old one knows nothing."""
        if not self._ways.dials_out:
            raise ValueError("the way in moves with `edge` in site.toml: change it there and restart the agent")
        self._role.moved()
        self._remember(exposed=tuple(sorted(self._role.exposed)), exposed_since=int(wall()))
        return self._exposure()

    def _burn(self, arguments: dict[str, Any]) -> dict[str, Any]:
        name = str(arguments["servlet"])
        carried = self._role.burn(name, wall())
        self._driver.pump()
        return {"burned": name, "carried": carried, "epoch": self._role.epoch}


def _role_config(settings: SiteSettings) -> SiteConfig:
    return SiteConfig(
        servlets=settings.servlets,
        life=settings.appointment_life,
        rotate_every=settings.rotation,
        overlap=settings.grace / 2,
        drain=settings.grace,
        drain_max=settings.drain_max,
        exposure_max=settings.exposure_max,
    )


async def start(path: Path, life: Life[SiteSettings]) -> Site:
    """A started agent for the identity in ``path``; its tunnel device stands before its engine listens there."""
    settings = life.settings
    memory = SiteMemory.load(path / "agent.mp").at(settings.edge or settings.transport, wall())
    memory.save(path / "agent.mp")
    ways = Ways(settings, memory.inner_secret, f"plds{zlib.crc32(settings.name.encode()):08x}")
    ways.resume(life.sockets, life.memory)
    await ways.open()
    site = Site(path, settings, memory, ways, life)
    await site.start()
    return site
