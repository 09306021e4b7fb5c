"""``Node``: an overlay node. It runs ring, directory and roles, and folds what they say into the data plane's snapshot."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509

from polder.api.client import fetch_members, fetch_relays, fetch_revocations
from polder.api.keeper import Keeper
from polder.api.metrics import MetricsServer
from polder.engine import CallFailed
from polder.model import Kind, Member, Refused, Signed, decode, encode
from polder.model.overlay_messages import METHODS, Caller, Heeded, SecretsQuery, status_of
from polder.node.belief import Belief
from polder.node.calls import Calls
from polder.node.deliveries import Deliveries
from polder.node.drill import Drills
from polder.node.memory import MAX_MEMBERS, Memory
from polder.node.ring_driver import RingDriver
from polder.node.roles import Roles
from polder.node.spread import Spreading
from polder.ring import Chord, ChordConfig, Router
from polder.ring.onehop import OneHop, OneHopConfig
from polder.settings.identity import IdentityDir
from polder.settings.node import NodeSettings
from polder.shell.clock import chance, wall
from polder.shell.handover import recall
from polder.shell.health import Check
from polder.shell.linked import Linked
from polder.shell.memory import limits
from polder.shell.metrics import Number
from polder.shell.process import Life
from polder.shell.role_driver import RoleDriver
from polder.shell.traces import Traces
from polder.snapshot.fold import Verdicts
from polder.snapshot.schema import DialOutChange, EngineConfig, IdentityMaterial, Link
from polder.trust import AUTHORITY, is_retired, read_identity

log = logging.getLogger("polder.node")

_AUTHORITY_EVERY = 10.0
"""Seconds between looks at the authority's revocation list; nodes pass news on at once, so one that hears is enough."""
_PEERS_EVERY = 20.0
_FOUND_AFTER = 3.0


class Node(Linked):
    """A running node."""

    LIVE = frozenset({"limits", "listen", "revocation_max_age", "shortcuts", "traces"})

    def __init__(self, path: Path, settings: NodeSettings, life: Life[NodeSettings] | None = None) -> None:
        self._path = path
        self._settings = settings
        self._identity = IdentityDir.load(path)
        self._memory_file = path / "memory.mp"
        self._memory = Memory.load(self._memory_file)
        self._save_due: asyncio.TimerHandle | None = None
        self._authority_seen: float | None = None
        self._belief = Belief(settings.revocation_max_age)
        self._keeper = Keeper(path, self._identity, self._on_renewed)
        super().__init__(
            EngineConfig(
                role="node",
                listen=settings.listen,
                workers=settings.workers,
                event_queue=settings.event_queue,
                call_timeout_ms=int(settings.call_timeout * 1000),
                spread_listen=settings.spread.listen,
                spread_buffer=settings.spread.buffer,
            ),
            life,
        )
        leaf = read_identity(x509.load_der_x509_certificate(self._identity.chain[0]))
        self.me = Member(leaf.id.name, leaf.ring_id or b"", self._address())
        self.roles = Roles(self.me, self._identity, settings, chance())
        timeout = min(settings.call_timeout, max(0.3, 2 * settings.stabilise))
        self.ring = RingDriver(self._router(timeout), self.raw_call, self.tasks, timeout, self._on_ring)
        self.roles.attach(self.ring.router)
        self._driver = RoleDriver(self.role_call, self.ring.lookup, self.tasks, self._on_roles)
        self.roles.drive(self._driver)
        self.spreading = Spreading(self, path, settings.spread)
        self._driver.add_caller(self.spreading.role)
        helper = Path(settings.host_helper) if settings.host_helper else None
        self.deliveries = Deliveries(helper, self.me.address.rpartition(":")[0].strip("[]"), self._on_ready)
        self.drills = Drills(self, path, allowed=settings.drills, most=settings.drill_max)
        self.handlers |= Calls(self).handlers() | self.spreading.handlers()
        socket = Path(settings.admin_socket) if settings.admin_socket else path / "admin.sock"
        routes = {"status": self._status, "counters": self._counters, "links": self._links}
        self.serve_admin(socket, routes)
        self.traces = Traces(settings.traces, "node", self.me.name)
        self.metrics = MetricsServer(settings, path, "node", self.checks, self.numbers, secret_roles=True)

    # Life

    async def start(self) -> None:
        """Serve, join the ring, begin the background work."""
        mine = (self._identity.revocations,) if self._identity.revocations else ()
        self.roles.remember((*mine, *self._memory.records), wall())
        self.spreading.recall(wall())
        member = self._resume()
        self.apply()
        await self.start_admin()
        await self.start_metrics()
        self.tasks.forever("renewal", self._keeper.forever)
        self.keep_history()
        self.tasks.forever("deliveries", self.deliveries.forever)
        if not member:
            contacts = await self._contacts()
            if contacts:
                self.ring.join(contacts)
            else:
                self.ring.found()
        self.tasks.forever("authority", self._ask_authority)
        self.tasks.forever("secrets", self._ask_secrets)
        if self.spreading.on:
            self.tasks.forever("epochs", self._turn_epochs)
        self._driver.pump()

    def _resume(self) -> bool:
        """Go on with what the process before this one knew, before the first snapshot; whether it was in the ring."""
        if self.life is None or not self.life.memory:
            return False
        memory = self.life.memory
        self.roles.resume(memory, wall())
        self.deliveries.resume(self.life.sockets, memory)
        self._authority_seen = recall(memory, "authority_seen", float | None)
        return self.ring.resume(memory)

    def configure(self, settings: NodeSettings) -> None:
        """Put other limits, listeners and the like in force; connections stay, also those of a listener that closes."""
        self.engine.listen(settings.listen)
        self._settings = settings
        super().configure(settings)
        self.apply()

    def descriptors(self) -> list[tuple[str, int]]:
        """With the tunnel device."""
        return [*super().descriptors(), *self.deliveries.descriptors()]

    def memory(self) -> dict[str, bytes]:
        """Ring, roles, deliveries: peers, sites and users shall not notice that another process goes on."""
        seen = {"authority_seen": msgspec.msgpack.encode(self._authority_seen)}
        return seen | self.ring.memory() | self.roles.memory() | self.deliveries.memory()

    def release(self) -> None:
        """The next process is the node."""
        super().release()
        self.ring.stop()
        self._stop_deciding()
        self.deliveries.release()

    async def part(self) -> None:
        """Off the beacons, out of the ring."""
        self.roles.servlet.leave()
        self._driver.pump()
        await self.ring.leave()
        self._stop_deciding()
        self._save()

    async def clear(self) -> None:
        """Take the tunnels away, if they are still ours."""
        await self.deliveries.close()

    def _stop_deciding(self) -> None:
        self._driver.close()
        if self._save_due is not None:
            self._save_due.cancel()
            self._save_due = None

    def pump(self) -> None:
        """After a call changed a role."""
        self._driver.pump()

    # What the data plane is told

    def verdicts(self) -> Verdicts:
        """What ring and roles say now."""
        now = wall()
        router = self.ring.router
        listed = self.roles.directory.revocations()
        sites = self.roles.views(router, now)
        beacon_for = self.roles.beacons.entries(now)
        near = {member.name for member in router.warm()}
        led_to = {member.name for view in sites for member in (*view.beacons, *view.servlets)}
        served = {member.name for servlets in beacon_for.values() for member in servlets}
        return Verdicts(
            trust_domain=self._identity.id.trust_domain,
            roots=self._identity.roots,
            identity=IdentityMaterial(self._identity.chain, self._identity.key),
            revocations=self.drills.revocations(listed, self._identity.id.trust_domain),
            fresh_until=self._belief.fresh_until(listed),
            members=tuple(member for member in router.members() if member.name != self.me.name),
            warm=frozenset((near | led_to | served) - {self.me.name}),
            sites=sites,
            beacon_for=beacon_for,
            servlet_for=self.roles.ways(),
            limits=limits(self._settings.limits),
            tracing=self.traces.tracing() if self.traces else None,
            shortcuts=self._settings.shortcuts,
            spread=self.spreading.verdict(now),
        )

    # What happens

    def on_link(self, link: Link) -> None:
        """A link failed: look again for what lay behind it."""
        if not link.up:
            log.info("a link went down", extra={"peer": link.name, "reason": link.reason})
            self.roles.access.unreachable(link.name, wall())
            self.roles.servlet.unreachable(link.name, wall())
            self._driver.pump()

    def on_dial_out(self, change: DialOutChange) -> None:
        """A site's agent dialled in, or left."""
        self.deliveries.dialled_in(change.site, change.up)

    def _on_ready(self, site: str, ready: bool) -> None:
        self.roles.servlet.set_ready(site, ready, wall())
        self._driver.pump()

    def _on_ring(self) -> None:
        now = wall()
        self.roles.access.ring_changed(now)
        self.roles.directory.set_peers(self.ring.router.members())
        self.dirty()
        self._save_later()
        self._driver.pump()

    def _on_roles(self) -> None:
        """After every step of a role: whatever changed goes into the next snapshot."""
        changes = self.roles.take_changes(wall())
        if changes.revocations:
            self._heed()
        if changes.any or self.spreading.role.take_change() or self._belief.is_due(self.roles.directory.revocations()):
            self.dirty()
        if changes.directory:
            self._save_later()
        if changes.deliveries:
            self.tasks.once("deliveries", self.deliveries.set(self.roles.servlet.standing()))

    def _heed(self) -> None:
        """Who was revoked is cut now, and stays revoked over a restart: the authority is told that both are so."""
        listed = self.roles.directory.revocations()
        assert listed is not None  # its epoch has changed
        before = self.engine.counters()
        self.apply()
        self._belief.put_in_force(listed, before, self.engine.counters())
        self._save()
        if is_retired(self._identity.chain, listed):
            self._keeper.wake()

    def heed(self, signed: Signed, caller: Caller) -> Heeded:
        """Put a revocation list in force; raises ``Refused`` when the authority did not sign it."""
        self.roles.directory.offer(signed, wall())
        if caller.kind is Kind.ADMIN and caller.name == AUTHORITY:
            self._authority_seen = wall()
        self._driver.pump()
        return self._belief.heeded(self.roles.directory.revocations())

    def _on_renewed(self, identity: IdentityDir, revocations: Signed) -> None:
        self._identity = identity
        self.roles.renewed(identity, revocations, wall())
        self._authority_seen = wall()
        self._driver.pump()
        self.dirty()

    # Calls that the roles ask for

    async def role_call(self, to: Member, method: str, body: Any) -> Any:
        """A role of this node calls one of another, or of its own. Raises ``CallFailed``."""
        if to.ring_id == self.me.ring_id:
            return await self._call_myself(method, body)
        return await self.call(to, method, body, self._settings.call_timeout)

    async def _call_myself(self, method: str, body: msgspec.Struct) -> Any:
        """One role of this node calls another: the same handlers, without a wire."""
        caller = Caller(Kind.NODE, self.me.name, self.me.ring_id)
        try:
            answer = self.handlers[method](caller, "here", encode(body))
            data = answer if isinstance(answer, bytes) else await answer
        except Refused as refused:
            raise CallFailed(status_of(refused), str(refused)) from refused
        return decode(data, METHODS[method][1])

    # Background

    async def _contacts(self) -> tuple[Member, ...]:
        """Everybody through whom one may join: from the authority if it answers, the identity, the memory of an earlier run."""
        known = {member.ring_id: member for member in (*self._memory.members, *self._identity.members)}
        try:
            async with asyncio.timeout(3):
                news = await fetch_members(self._identity, self._path)
            known |= {member.ring_id: member for member in news.members}
        except (Refused, OSError, TimeoutError) as error:
            log.info("the authority did not name members; those known are tried", extra={"error": str(error)})
        known.pop(self.me.ring_id, None)
        return tuple(known.values())

    async def _ask_authority(self) -> None:
        try:
            signed = await fetch_revocations(self._identity, self._path)
            self.roles.offer(signed, wall())
            self._authority_seen = wall()
            self._driver.pump()
        except (Refused, OSError) as error:
            log.debug("the authority's revocation list cannot be had", extra={"error": str(error)})
        if self.spreading.on:
            await self._ask_relays()
        await asyncio.sleep(_AUTHORITY_EVERY * chance().uniform(0.75, 1.25))

    async def _ask_relays(self) -> None:
        try:
            self.spreading.learn(await fetch_relays(self._identity, self._path), wall())
        except (Refused, OSError) as error:
            log.debug("the authority did not name the relays; those known stay", extra={"error": str(error)})
        self._driver.pump()

    async def _turn_epochs(self) -> None:
        """Keys of an epoch begin and end by the clock."""
        self.dirty()
        await asyncio.sleep(max(1.0, self.spreading.next_change(wall()) - wall()))

    async def _ask_secrets(self) -> None:
        """Secrets of beacon keys that a peer has and we have not."""
        members = self.ring.router.members()
        if members:
            body = SecretsQuery(self.roles.secrets.newest)
            try:
                answer = await self.call(chance().choice(members), "secrets", body)
                if self.roles.secrets.learn(answer.secrets):
                    self._driver.pump()
                    self.dirty()
            except CallFailed as error:
                log.debug("a member did not answer", extra={"error": str(error)})
        await asyncio.sleep(_PEERS_EVERY * chance().uniform(0.75, 1.25))

    def _save_later(self) -> None:
        if self._save_due is None and not self._released:
            self._save_due = asyncio.get_running_loop().call_later(1.0, self._save)

    def _save(self) -> None:
        if self._save_due is not None:
            self._save_due.cancel()
            self._save_due = None
        members = self.ring.router.members()[:MAX_MEMBERS] or self._memory.members
        memory = Memory(members, self.roles.directory.signed())
        if memory != self._memory:
            memory.save(self._memory_file)
            self._memory = memory

    # Inside

    def _router(self, timeout: float) -> Router:
        if self._settings.router == "onehop":
            return OneHop(self.me, OneHopConfig(), chance())
        config = ChordConfig(
            successors=self._settings.successors,
            stabilise_every=self._settings.stabilise,
            hold=timeout / 4,  # who waits here longer than its own deadline would take us for dead
            found_after=_FOUND_AFTER,
        )
        return Chord(self.me, config, chance())

    def _address(self) -> str:
        """Where others dial: as configured, as enrolled, or where the engine listens (port 0)."""
        address = self._settings.advertised or self._identity.address or self.engine.addresses[0]
        return address if not address.endswith(":0") else self.engine.addresses[0]

    # For the operator's instruments: no names, and nothing that tells roles but what ``MetricsServer`` keeps for the owner.

    def checks(self) -> tuple[Check, ...]:
        """Whether this node is fit to work."""
        lags = self._belief.lags(self.roles.directory.revocations(), wall())
        return (
            *super().checks(),
            self._keeper.check(),
            Check("ring", self.ring.router.joined, "not in the ring yet; if this lasts, no member that it knows can be reached"),
            Check(
                "revocations",
                not lags,
                "the revocation list is older than revocation_max_age: neither the authority nor a node that heard it can be "
                "reached; new work is refused",
            ),
        )

    def numbers(self) -> dict[str, Number]:
        """What ``/metrics`` tells."""
        router, listed, seen = self.ring.router, self.roles.directory.revocations(), self._authority_seen
        heard: dict[str, Number] = {} if seen is None else {"authority_contact_timestamp_seconds": seen}
        if listed is not None:
            confirmed = max(listed.issued_at, seen or 0)
            heard |= {"revocation_epoch": listed.epoch, "revocation_list_age_seconds": max(0.0, wall() - confirmed)}
        return {
            **super().numbers(),
            **self._keeper.numbers(),
            **self.deliveries.numbers(),
            **heard,
            "ring_joined": router.joined,
            "ring_members": len(router.members()) + 1,
            "ring_successors": len(router.successors()),
            "sites": len(self.roles.directory.sites()),
        }

    # For the administrator; never for outsiders: it tells roles.

    def _status(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        return {
            "name": self.me.name,
            "address": self.me.address,
            "joined": self.ring.router.joined,
            "members": len(self.ring.router.members()) + 1,
            "successors": [member.name for member in self.ring.router.successors()],
            "sites": self.roles.describe(wall()),
            "beacon_for": {site: len(servlets) for site, servlets in self.roles.beacons.entries(wall()).items()},
            "servlet_for": sorted(self.roles.servlet.ready()),
            "snapshot": self.version,
            "revocation_epoch": self.roles.verifier.revoked.epoch,
            "revocation_age_s": self.revocation_age(),
            "uptime_s": round(self.uptime),
            "certificate_valid_for_s": self.certificate_left(wall()),
            "renewals": self._keeper.renewals,
            "refuses_new_work": self._belief.lags(self.roles.directory.revocations(), wall()),
        }

    def _counters(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        return dict(self.sample())

    def certificate_left(self, now: float) -> int:
        """Seconds for which the certificate is still valid; negative afterwards."""
        return round(self._keeper.not_after - now)

    def revocation_age(self) -> int:
        """Seconds since the authority issued the revocation list in force; -1 before the first."""
        listed = self.roles.directory.revocations()
        return -1 if listed is None else max(0, round(wall() - listed.issued_at))

    def sample(self) -> dict[str, float]:
        """With the tunnels', the ring's and the identity's numbers."""
        links = self.engine.status()["links"]
        mine = {
            "members": len(self.ring.router.members()) + 1,
            "links_up": sum(link["up"] for link in links),
            "certificate_valid_for_s": self.certificate_left(wall()),
            "revocation_age_s": self.revocation_age(),
            "snapshot": self.version,
        }
        return super().sample() | self.deliveries.counters() | mine

    def _links(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        return self.engine.status()


async def start(path: Path, life: Life[NodeSettings]) -> Node:
    """A started node for the identity in ``path``."""
    node = Node(path, life.settings, life)
    await node.start()
    return node
