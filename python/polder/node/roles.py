"""``Roles``: the role machines of one node, and what they say together."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from random import Random
from typing import Any, NamedTuple

import msgspec

from polder.model import Kind, Member, PathMode, Refused, Signed, SpiffeId
from polder.model.overlay_messages import EpochSecret
from polder.node.deliveries import way_of
from polder.overlay.access import AccessImage, AccessPointRole
from polder.overlay.beacon import BeaconImage, BeaconTable
from polder.overlay.directory import Directory
from polder.overlay.secrets import EpochSecrets
from polder.overlay.servlet import ServletImage, ServletRole
from polder.ring import Router
from polder.settings.identity import IdentityDir
from polder.settings.node import NodeSettings
from polder.shell.handover import recall
from polder.shell.role_driver import RoleDriver
from polder.snapshot.fold import Delivery, SiteView
from polder.trust import AUTHORITY, ChainVerifier, Revoked

log = logging.getLogger("polder.roles")


class Changes(NamedTuple):
    """What changed since the last look."""

    directory: bool
    revocations: bool
    deliveries: bool
    any: bool


class Roles:
    """Built from the identity; ``router`` is asked for ownership when it exists (``attach``)."""

    def __init__(self, me: Member, identity: IdentityDir, settings: NodeSettings, rng: Random) -> None:
        domain = identity.id.trust_domain
        self.verifier = ChainVerifier(identity.roots, domain)
        self.secrets = EpochSecrets(identity.secrets, count=settings.beacons)
        authority = frozenset({SpiffeId(domain, Kind.ADMIN, AUTHORITY)})
        every = settings.advertise_every
        self.directory = Directory(self.verifier, self._hosts_of, authority, rng, sync_every=every)
        self._heirs = settings.heirs
        self.beacons = BeaconTable(self.verifier, self.secrets, self._owns, rng, heirs=self._behind, period=every)
        self.servlet = ServletRole(me, self.verifier, self.secrets, rng, period=every, local_origins=settings.local_origins)
        self.access = AccessPointRole(self.secrets, rng, refresh=min(30.0, 3 * every), heirs=settings.heirs)
        self._router: Router | None = None

    def attach(self, router: Router) -> None:
        """Whom to ask which keys this node owns."""
        self._router = router

    def drive(self, driver: RoleDriver) -> None:
        """Give the machines to their driver."""
        driver.add(self.beacons)
        driver.add_caller(self.directory)
        driver.add_caller(self.servlet)
        driver.add_finder(self.access)

    # Inputs

    def offer(self, signed: Signed, now: float) -> None:
        """Take a signed record from anywhere; one that is refused is logged."""
        try:
            self.directory.offer(signed, now)
        except Refused as refused:
            log.warning("a record was refused", extra={"why": str(refused), "verdict": str(refused.verdict)})

    def remember(self, records: Iterable[Signed], now: float) -> None:
        """Records from an earlier run; what has expired since is left out."""
        for signed in records:
            try:
                self.directory.offer(signed, now, push=False)
            except Refused as refused:
                log.info("a remembered record is no longer good", extra={"why": str(refused)})
        self.take_changes(now)

    def memory(self) -> dict[str, bytes]:
        """What the roles know and a restart would lose, by name of the room."""
        parts = {
            "records": self.directory.signed(),
            "secrets": self.secrets.newer_than(0),
            "beacons": self.beacons.image(),
            "servlet": self.servlet.image(),
            "access": self.access.image(),
        }
        return {name: msgspec.msgpack.encode(part) for name, part in parts.items()}

    def resume(self, memory: Mapping[str, bytes], now: float) -> None:
        """Go on with what the roles of the process before this one knew, as far as this program understands it."""
        self.secrets.learn(recall(memory, "secrets", tuple[EpochSecret, ...]) or ())
        self.remember(recall(memory, "records", tuple[Signed, ...]) or (), now)
        for role, name, kind in (
            (self.beacons, "beacons", BeaconImage),
            (self.servlet, "servlet", ServletImage),
            (self.access, "access", AccessImage),
        ):
            image = recall(memory, name, kind)
            if image is not None:
                role.resume(image)

    def renewed(self, identity: IdentityDir, revocations: Signed, now: float) -> None:
        """The authority spoke: roots, secrets, revocations."""
        self.verifier.roots = identity.roots
        self.secrets.learn(identity.secrets)
        self.offer(revocations, now)

    # What they say

    def take_changes(self, now: float) -> Changes:
        """Look what changed, and pass it from role to role."""
        directory = self.directory.take_change()
        revocations = directory and self._revocations(now)
        if directory:
            self.access.set_sites(self.directory.sites().values(), now)
        deliveries = self.servlet.take_change()
        changed = [directory, deliveries, self.beacons.take_change(), self.access.take_change()]
        return Changes(directory, revocations, deliveries, any(changed))

    def views(self, router: Router, now: float) -> tuple[SiteView, ...]:
        """Every site with the ways to it."""
        ways = self.access.ways(now)
        views = []
        for name, record in self.directory.sites().items():
            known = ways.get(name)
            ring: list[tuple[int, Member | None, tuple[Member, ...]]] = []
            if record.mode is PathMode.RING and router.joined:
                for index, key in enumerate(self.secrets.keys(name, now)):
                    hops = router.next_hops(int.from_bytes(key, "big"))
                    ring.append((index, hops.next, hops.alternatives))
            beacons, servlets = ((*known.beacons, *known.heirs), known.servlets) if known else ((), ())
            views.append(SiteView(record, beacons, servlets, tuple(ring)))
        return tuple(views)

    def ways(self) -> dict[str, Delivery]:
        """Deliveries for the data plane."""
        return {site: way_of(delivery) for site, delivery in self.servlet.deliveries().items()}

    def describe(self, now: float) -> dict[str, Any]:
        """For the administrator."""
        ways = self.access.ways(now)
        return {
            name: {
                "mode": str(record.mode),
                "hosts": list(record.hosts),
                "epoch": record.epoch,
                "beacons": len(ways[name].beacons),
            }
            for name, record in self.directory.sites().items()
            if name in ways
        }

    # Inside

    def _owns(self, key: int) -> bool:
        return self._router is not None and self._router.owns(key)

    def _behind(self) -> tuple[Member, ...]:
        return self._router.successors()[: self._heirs] if self._router is not None else ()

    def _hosts_of(self, signed: Signed, now: float) -> Iterable[str]:
        return self.verifier.identity(signed.chain, now).hosts

    def _revocations(self, now: float) -> bool:
        """Believe the list's newest epoch; whether it is another one than before."""
        listed = self.directory.revocations()
        if listed is None or listed.epoch == self.verifier.revoked.epoch:
            return False
        self.verifier.revoked = Revoked.of(listed)
        self.directory.recheck(now)
        return True
