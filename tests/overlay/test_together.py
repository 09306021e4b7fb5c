"""All roles of a small overlay on a virtual clock, with real signatures: a site is reachable at every moment, whatever moves.

A way is a beacon that the access point knows, a servlet that this beacon lists, a servlet that can carry, and a filter that admits
it. Rotations, the change of the key epoch, deaths and lost calls may shorten the list of ways, never empty it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from random import Random

import msgspec
import pytest

from polder.model import Kind, Member, PathMode, Refused, SiteRecord
from polder.model.overlay_messages import Caller, Delivery, EpochSecret, Transport
from polder.overlay import (
    AccessPointRole,
    BeaconTable,
    CallOut,
    EpochSecrets,
    FindOwner,
    ServletRole,
    SiteConfig,
    SiteRole,
    beacon_keys,
)
from tests.overlay.support import NOW, SECRET, pki, signed_by, site_caller

NAMES = [f"n{i}" for i in range(8)]


def node(name: str) -> Member:
    """A node at a place of its own."""
    return Member(name, hashlib.sha256(name.encode()).digest()[:16], f"192.0.2.{NAMES.index(name) + 1}:7443")


def caller(name: str) -> Caller:
    """That node, calling."""
    return Caller(Kind.NODE, name, node(name).ring_id)


@dataclass
class Place:
    """One node with all its roles."""

    member: Member
    beacons: BeaconTable
    servlet: ServletRole
    access: AccessPointRole
    alive: bool = True


@dataclass
class World:
    """Eight nodes, one site; ``loss``: of each call."""

    config: SiteConfig
    secrets: tuple[EpochSecret, ...] = (SECRET,)
    loss: float = 0.0
    mode: PathMode = PathMode.BEACON
    rng: Random = field(default_factory=lambda: Random(3))
    now: float = NOW

    def __post_init__(self) -> None:
        self.verifier = pki().verifier()
        self.nodes = {name: self._place(name) for name in NAMES}
        self.site = SiteRole("wiki", self.config, lambda r: signed_by(r, "site", "wiki"), self._deliver, self.rng)
        self.site.set_pool([place.member for place in self.nodes.values()], self.now)
        self.filter: set[str] = set()
        record = SiteRecord("wiki", 1, ("wiki.test",), (80,), (), (), self.mode, int(NOW) + 10**6)
        for place in self.nodes.values():
            place.access.set_sites([record], self.now)

    def _place(self, name: str) -> Place:
        secrets, rng = EpochSecrets(self.secrets), Random(self.rng.random())
        beacons = BeaconTable(self.verifier, secrets, lambda key: self.owners(key)[0].name == name, rng)
        servlet = ServletRole(node(name), self.verifier, secrets, rng)
        return Place(node(name), beacons, servlet, AccessPointRole(secrets, rng))

    @staticmethod
    def _deliver(member: Member, key: int, slot: int) -> Delivery:
        return Delivery(Transport.GRE, "198.51.100.7", key, f"fd00::{slot + 2}", "fd00::1", 1400, ((80, 80),))

    def owners(self, key: int) -> list[Member]:
        """The ring, perfectly known: living nodes from the owner of ``key`` on."""
        order = sorted((p.member for p in self.nodes.values() if p.alive), key=lambda m: m.id)
        at = next((i for i, member in enumerate(order) if member.id >= key), 0)
        return order[at:] + order[:at]

    def run(self, until: float, *, watch: bool = True) -> None:
        """Step by step; after each step the way is there."""
        while self.now < until:
            self.now += 0.5
            self.site.handle_timeout(self.now)
            self.filter = {a.member.name for a in self.site.admitted()}
            self.site.filter_applied(self.site.filter_version, self.now)
            self._deliver_calls(self.site, site_caller("wiki"))
            for place in [p for p in self.nodes.values() if p.alive]:
                for machine in (place.beacons, place.servlet, place.access):
                    machine.handle_timeout(self.now)
                for name in place.servlet.deliveries():
                    place.servlet.set_ready(name, True, self.now)
                self._deliver_calls(place.servlet, caller(place.member.name))
                self._deliver_calls(place.access, caller(place.member.name))
            if watch:
                for place in self.nodes.values():
                    assert not place.alive or self.ways(place), f"no way from {place.member.name} at {self.now - NOW}"

    def ways(self, place: Place) -> list[tuple[str, str]]:
        """(beacon or "", servlet) pairs over which a request from ``place`` would arrive."""
        known = place.access.ways(self.now)["wiki"]
        ways = [("", servlet.name) for servlet in known.servlets if self._carries(servlet)]
        for beacon in known.beacons:
            if self.nodes[beacon.name].alive:
                listed = self.nodes[beacon.name].beacons.entries(self.now).get("wiki", ())
                ways += [(beacon.name, servlet.name) for servlet in listed if self._carries(servlet)]
        return ways

    def listed(self) -> set[str]:
        """Servlets that any living beacon lists."""
        alive = [place for place in self.nodes.values() if place.alive]
        return {m.name for place in alive for m in place.beacons.entries(self.now).get("wiki", ())}

    def _carries(self, servlet: Member) -> bool:
        place = self.nodes[servlet.name]
        return place.alive and "wiki" in place.servlet.ready() and servlet.name in self.filter

    def _deliver_calls(self, role: SiteRole | ServletRole | AccessPointRole, who: Caller) -> None:
        while (call := role.poll_call()) is not None:
            if isinstance(call, FindOwner):
                assert isinstance(role, AccessPointRole)
                role.found(call.request_id, tuple(self.owners(call.ring_key)[:3]), self.now)
                continue
            assert isinstance(call, CallOut)
            to = call.to or self.owners(call.ring_key or 0)[0]
            try:
                if self.rng.random() < self.loss or not self.nodes[to.name].alive:
                    raise TimeoutError
                answer = self._handle(self.nodes[to.name], call, who)
            except TimeoutError:
                role.failed(call.request_id, 0, "no answer", self.now)
            except Refused as refused:
                role.failed(call.request_id, 403, str(refused), self.now)
            else:
                role.answered(call.request_id, to, answer, self.now)

    def _handle(self, place: Place, call: CallOut, who: Caller) -> msgspec.Struct:
        role = {"appoint": place.servlet, "dismiss": place.servlet}.get(call.method, place.beacons)
        method = {"servlets": "query"}.get(call.method, call.method)
        answer: msgspec.Struct = getattr(role, method)(call.body, who, self.now)
        return answer


FAST = SiteConfig(servlets=2, rotate_every=5.0, overlap=15.0, drain=30.0)


@pytest.mark.parametrize("mode", [PathMode.BEACON, PathMode.DIRECT])
@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_rotation_every_five_seconds_never_cuts_the_way(mode: PathMode, loss: float) -> None:
    world = World(FAST, loss=loss, mode=mode)
    world.run(NOW + 30, watch=False)
    world.run(NOW + 150)
    assert len(world.site.exposed) == len(NAMES), "it did rotate"


def test_a_change_of_the_key_epoch_never_cuts_the_way() -> None:
    world = World(SiteConfig(rotate_every=None), secrets=(SECRET, EpochSecret(2, int(NOW) + 60, b"t" * 32)))
    world.run(NOW + 10, watch=False)
    before = world.nodes["n0"].access.ways(world.now)["wiki"].beacons
    world.run(NOW + 200)
    assert world.nodes["n0"].access.ways(world.now)["wiki"].beacons != before


def test_a_dead_servlet_is_replaced_and_forgotten_by_the_beacons() -> None:
    world = World(SiteConfig(servlets=2, rotate_every=None))
    world.run(NOW + 20, watch=False)
    victim = world.site.admitted()[0].member.name
    world.nodes[victim].alive = False
    world.run(NOW + 100)
    assert world.site.serving() == 2 and victim not in world.site.stages()
    # It comes back with its old appointment: the new epoch keeps it out.
    world.nodes[victim].alive = True
    world.run(NOW + 150)
    assert victim not in world.listed()


def test_a_dead_beacons_successor_is_told_within_a_period() -> None:
    world = World(SiteConfig(rotate_every=None))
    world.run(NOW + 20, watch=False)
    victim = world.owners(int.from_bytes(EpochSecrets([SECRET]).keys("wiki", NOW)[0], "big"))[0].name
    if victim in world.site.stages():
        world.site.burn(victim, world.now)
    world.nodes[victim].alive = False
    for place in world.nodes.values():
        place.access.ring_changed(world.now)
    world.run(NOW + 60)
    keys = EpochSecrets([SECRET]).keys("wiki", NOW)
    for key in keys:
        heir = world.owners(int.from_bytes(key, "big"))[0].name
        assert world.nodes[heir].beacons.entries(world.now)["wiki"]


def test_a_burned_servlet_is_off_every_beacon_within_a_period_and_stays_off() -> None:
    world = World(SiteConfig(servlets=2, rotate_every=None))
    world.run(NOW + 20, watch=False)
    victim = world.site.admitted()[0].member.name
    world.site.burn(victim, world.now)
    assert victim not in {a.member.name for a in world.site.admitted()}
    world.run(NOW + 40)
    assert victim not in world.listed()
    world.run(NOW + 300)
    assert victim not in world.listed() and world.site.serving() == 2


def test_only_beacons_learn_servlets_in_mode_beacon() -> None:
    """Trap 2: what the access points were told, they may know; nobody told them."""
    world = World(SiteConfig(rotate_every=None))
    world.run(NOW + 100, watch=False)
    assert all(place.access.ways(world.now)["wiki"].servlets == () for place in world.nodes.values())
    owners = [world.owners(int.from_bytes(key, "big"))[0].name for key in beacon_keys(SECRET.secret, "wiki", 9)]
    assert {p.member.name for p in world.nodes.values() if p.beacons.entries(world.now)} == set(list(dict.fromkeys(owners))[:3])


@pytest.mark.parametrize("number", range(12))
def test_every_site_has_three_beacons_that_all_know_its_servlets(number: int) -> None:
    """However the keys fall: with 8 nodes, a site in 15 would have one beacon only, were there no spare keys."""
    world = World(SiteConfig(rotate_every=None), secrets=(EpochSecret(1, int(NOW) - 1000, bytes([number]) * 32),))
    world.run(NOW + 30, watch=False)
    for place in world.nodes.values():
        beacons = {member.name for member in place.access.ways(world.now)["wiki"].beacons}
        assert len(beacons) == 3 and {way[0] for way in world.ways(place)} == beacons
    dead: set[str] = set()
    for victim in sorted(beacons)[:2]:
        world.nodes[victim].alive = False
        dead.add(victim)
        for place in [p for p in world.nodes.values() if p.alive]:
            assert world.ways(place) or set(world.site.stages()) <= dead, "a way is left while a servlet is left"
