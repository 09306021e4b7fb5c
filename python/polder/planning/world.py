"""The real roles of a whole overlay on a virtual clock: who is placed where, who is struck, and whether a user still gets through.

Every decision is the roles' own: ``SiteRole`` draws and replaces servlets, ``ServletRole`` advertises, ``BeaconTable`` believes or
refuses, ``AccessPointRole`` looks beacons up, ``EpochSecrets`` computes keys, ``Table`` says who owns a key and which hop is next.
Made up is what lies between them: the ring is known to be right (dead nodes leave it ``ring_repair`` seconds after their death),
calls to the living arrive at once, those to the dead fail after ``call_timeout``, and a link to the dead is found out after
``silence``. Signatures are not computed: who signed is read from the record (what forgeries do is tested elsewhere).

A node is made when something concerns it first, so an overlay of a million costs its ring ids and the score of nodes that one
site and its users have to do with. The site draws from ``POOL`` nodes drawn evenly, which is an even draw from all.
"""

from __future__ import annotations

import heapq
import itertools
import statistics
from bisect import bisect_left
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, overload

import msgspec

from polder.model import Appointment, Kind, Member, PathMode, Refused, Signed, SiteRecord, SpiffeId, encode
from polder.model.overlay_messages import Caller, Delivery, EpochSecret, Transport, Withdrawal
from polder.overlay import (
    AccessPointRole,
    BeaconTable,
    CallOut,
    EpochSecrets,
    FindOwner,
    ServletRole,
    SiteConfig,
    SiteRole,
)
from polder.planning.chances import Shape
from polder.ring.table import Table, stand

SITE = "site"
POOL = 256
SUCCESSORS = 4
"""Length of a node's successor list; as nodes have it by default. More where a beacon has more heirs."""
_DOMAIN = "plan.test"
_BEGIN = 1_000_000.0
_STEP = 0.25
_SETTLED = 60.0
_RECORD = msgspec.msgpack.Decoder(Appointment | Withdrawal)


def believe(signed: Signed, now: float) -> SpiffeId:
    """Who a record says that it is from; a ``Verifier``."""
    return SpiffeId(_DOMAIN, Kind.SITE, _RECORD.decode(signed.payload).site)


def vouch(record: msgspec.Struct) -> Signed:
    """A record that ``believe`` believes; a site's ``Signer``."""
    return Signed(encode(record), b"", ())


class Field(Sequence[Member]):
    """The members of an overlay of ``nodes`` in ring order, each made when asked for. ``ids``: their places, sorted."""

    def __init__(self, nodes: int, rng: Random) -> None:
        ids: set[int] = set()
        while len(ids) < nodes:
            ids.add(rng.getrandbits(128))
        self.ids = sorted(ids)
        self._made: dict[int, Member] = {}
        self._tables: dict[tuple[int, int], Table] = {}

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Member: ...

    @overload
    def __getitem__(self, index: slice) -> list[Member]: ...

    def __getitem__(self, index: int | slice) -> Member | list[Member]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        member = self._made.get(index)
        if member is None:
            place = index % len(self)
            member = self._made[index] = Member.of(f"n{place}", self.ids[place], "192.0.2.1:7443")
        return member

    def table(self, at: int, r: int) -> Table:
        """The right table of the node at an index, with ``r`` successors."""
        if (at, r) not in self._tables:
            self._tables[at, r] = stand(self, self.ids, at, r)
        return self._tables[at, r]

    def owner(self, key: int) -> int:
        """The index of the node that owns ``key`` while everybody lives."""
        return bisect_left(self.ids, key) % len(self.ids)

    @staticmethod
    def position(member: Member) -> int:
        """Where a member of this field stands."""
        return int(member.name[1:])


@dataclass(frozen=True)
class Pace:
    """Seconds: how soon what died is found out, and how often servlets advertise."""

    ring_repair: float = 2.5
    silence: float = 1.5
    call_timeout: float = 5.0
    advertise: float = 10.0


@dataclass
class Place:
    """One node with the roles that concern the site."""

    member: Member
    beacons: BeaconTable
    servlet: ServletRole
    access: AccessPointRole


@dataclass(order=True)
class _Due:
    at: float
    order: int
    act: Callable[[], None] = field(compare=False)


class World:
    """One site in ``field``, and users who enter by the nodes in ``entries`` (indices). ``now``: virtual Unix seconds."""

    def __init__(
        self,
        members: Field,
        shape: Shape,
        entries: Sequence[int],
        rng: Random,
        pace: Pace | None = None,
        config: SiteConfig | None = None,
    ) -> None:
        self.field, self.shape, self.rng = members, shape, rng
        self.pace = pace or Pace()
        self.now = _BEGIN
        self.down: set[int] = set()
        self.left: set[int] = set()
        """Nodes that the ring has given up."""
        self.places: dict[int, Place] = {}
        self._due: list[_Due] = []
        self._order = itertools.count()
        self._r = max(SUCCESSORS, shape.heirs)
        self._secrets = (EpochSecret(1, int(_BEGIN) - 1000, rng.randbytes(32)),)
        self._record = SiteRecord(SITE, 1, ("site.test",), (443,), (), (), shape.mode, int(_BEGIN) + 10**9)
        config = config or SiteConfig(servlets=shape.servlets, rotate_every=None)
        self.site = SiteRole(SITE, config, vouch, self._deliver, rng)
        pool = range(len(members)) if len(members) <= POOL else rng.sample(range(len(members)), POOL)
        self.site.set_pool([members[at] for at in pool], self.now)
        self.entries = tuple(entries)
        for at in self.entries:
            self.place(at).access.set_sites([self._record], self.now)

    def place(self, at: int) -> Place:
        """The node at an index of the field, made if nothing concerned it before."""
        if at not in self.places:
            member, rng = self.field[at], self.rng
            secrets = EpochSecrets(self._secrets, count=self.shape.beacons)
            self.places[at] = Place(
                member,
                BeaconTable(
                    believe,
                    secrets,
                    lambda key: self.owners(key)[:1] == [at],
                    rng,
                    heirs=lambda: tuple(self.field[i] for i in self._behind(at)[: self.shape.heirs]),
                    period=self.pace.advertise,
                ),
                ServletRole(member, believe, secrets, rng, period=self.pace.advertise),
                AccessPointRole(secrets, rng, refresh=min(30.0, 3 * self.pace.advertise), heirs=self.shape.heirs),
            )
        return self.places[at]

    # The ring

    def owners(self, key: int) -> list[int]:
        """Whom a lookup names: the owner of ``key`` and those behind it, by the ring as it stands."""
        return list(itertools.islice(self._members(self.field.owner(key)), self._r))

    def _behind(self, at: int) -> list[int]:
        return list(itertools.islice(self._members(at + 1), min(self._r, len(self.field) - 1)))

    def _members(self, start: int) -> Iterator[int]:
        size = len(self.field)
        return (i for i in ((start + step) % size for step in range(size)) if i not in self.left)

    # Strikes

    def strike(self, at: int) -> None:
        """A node falls silent; its links are found dead, and the ring does without it, in their time."""
        self.down.add(at)
        name = self.field[at].name
        self._later(self.pace.silence, lambda: self._lost(name, at))
        self._later(self.pace.ring_repair, lambda: self._leave(at))

    def recover(self, at: int) -> None:
        """A node is back, with what it knew."""
        self.down.discard(at)
        self.left.discard(at)
        self._near(at)

    def _lost(self, name: str, at: int) -> None:
        if at in self.down:
            self.site.unreachable(name, self.now)
            for other, place in self.places.items():
                if other not in self.down:
                    place.access.unreachable(name, self.now)
                    place.servlet.unreachable(name, self.now)

    def _leave(self, at: int) -> None:
        if at in self.down:
            self.left.add(at)
            self._near(at)

    def _near(self, at: int) -> None:
        """The neighbourhood hears that it changed."""
        for step in range(-self._r, self._r + 1):
            place = self.places.get((at + step) % len(self.field))
            if place is not None:
                place.access.ring_changed(self.now)

    # Time

    def settle(self) -> None:
        """Run until the site's servlets serve and the access points know what they are to know, and a little on, for spare keys.

        Raises ``TimeoutError`` if that never comes.
        """
        end = self.now + _SETTLED
        while self.site.serving() < self.shape.servlets or not all(self._ready(at) for at in self.entries):
            if self.now >= end:
                raise TimeoutError(f"the roles did not settle: {self.site.stages()}")
            self.run(self.now + _STEP)
        self.run(self.now + 8 * _STEP)

    def _ready(self, entry: int) -> bool:
        known = self.places[entry].access.ways(self.now)[SITE]
        return self.ways(entry) and (self.shape.mode is not PathMode.DIRECT or len(known.servlets) == self.shape.servlets)

    def run(self, until: float) -> None:
        """Let time pass."""
        while self.now < until:
            self.now = min(until, self.now + _STEP)
            while self._due and self._due[0].at <= self.now:
                heapq.heappop(self._due).act()
            self._step()

    def _step(self) -> None:
        now = self.now
        due = self.site.poll_timeout()
        if due is not None and due <= now:
            self.site.handle_timeout(now)
        self.site.filter_applied(self.site.filter_version, now)
        while self.site.poll_event() is not None:
            pass
        self._carry_out(self.site, Caller(Kind.SITE, SITE))
        for at, place in tuple(self.places.items()):
            if at in self.down:
                continue
            for site in place.servlet.deliveries():
                place.servlet.set_ready(site, True, now)
            for machine in (place.beacons, place.servlet, place.access):
                due = machine.poll_timeout()
                if due is not None and due <= now:
                    machine.handle_timeout(now)
            caller = Caller(Kind.NODE, place.member.name, place.member.ring_id)
            self._carry_out(place.servlet, caller)
            self._carry_out(place.access, caller)

    def _carry_out(self, role: Any, caller: Caller) -> None:
        while (call := role.poll_call()) is not None:
            if isinstance(call, FindOwner):
                role.found(call.request_id, tuple(self.field[i] for i in self.owners(call.ring_key)), self.now)
            else:
                self._call(role, call, caller)

    def _call(self, role: Any, call: CallOut, caller: Caller) -> None:
        at = self.field.position(call.to) if call.to else self.owners(call.ring_key or 0)[0]
        if at in self.down:
            self._later(self.pace.call_timeout, lambda: role.failed(call.request_id, 0, "no answer", self.now))
            return
        place = self.place(at)
        handlers: dict[str, Callable[[Any, Caller, float], msgspec.Struct]] = {
            "appoint": place.servlet.appoint,
            "dismiss": place.servlet.dismiss,
            "servlets": place.beacons.query,
            "advertise": place.beacons.advertise,
            "withdraw": place.beacons.withdraw,
        }
        try:
            answer = handlers[call.method](call.body, caller, self.now)
        except Refused as refused:
            role.failed(call.request_id, 403, str(refused), self.now)
        else:
            role.answered(call.request_id, place.member, answer, self.now)

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, _Due(self.now + seconds, next(self._order), act))

    @staticmethod
    def _deliver(_member: Member, key: int, slot: int) -> Delivery:
        return Delivery(Transport.GRE, "198.51.100.7", key, f"fd00::{slot + 2:x}", "fd00::1", 1400, ((443, 443),))

    # Whether a user gets through

    def ways(self, entry: int, down: Container[int] | None = None) -> bool:
        """Whether a request that enters at node ``entry`` reaches the site while ``down`` (default: those struck) are silent."""
        dead = self.down if down is None else down
        if entry in dead:
            return False
        known = self.places[entry].access.ways(self.now)[SITE]
        carrying = self._carrying(dead)
        if any(servlet.name in carrying for servlet in known.servlets):
            return True
        if self.shape.mode is PathMode.RING:
            return self._along_the_ring(entry, dead, carrying)
        return any(at not in dead and self._leads(at, carrying) for at in (entry, *self._told(entry)))

    def living(self) -> tuple[int, float]:
        """How many servlets carry, and how many living nodes that know servlets an access point would ask, in the mean."""
        knowing = {at for at, place in self.places.items() if at not in self.down and SITE in place.beacons.entries(self.now)}
        asked = [len(knowing.intersection(self._told(entry))) for entry in self.entries if entry not in self.down]
        return len(self._carrying(self.down)), statistics.fmean(asked) if asked else float(len(knowing))

    def _told(self, entry: int) -> list[int]:
        known = self.places[entry].access.ways(self.now)[SITE]
        return [self.field.position(member) for member in (*known.beacons, *known.heirs)]

    def _carrying(self, dead: Container[int]) -> set[str]:
        serving = (self.field.position(admitted.member) for admitted in self.site.admitted())
        live = (at for at in serving if at not in dead and at in self.places)
        return {self.field[at].name for at in live if SITE in self.places[at].servlet.ready()}

    def _leads(self, at: int, carrying: set[str]) -> bool:
        place = self.places.get(at)
        return place is not None and any(m.name in carrying for m in place.beacons.entries(self.now).get(SITE, ()))

    def _along_the_ring(self, entry: int, dead: Container[int], carrying: set[str]) -> bool:
        """Hop by hop as nodes offer them (``next_hops``), back where a way ends, as openers of tunnels do; for each key in turn."""
        for key in EpochSecrets(self._secrets, count=self.shape.beacons).keys(SITE, self.now):
            seen, stack = {entry}, [entry]
            while stack:
                at = stack.pop()
                if self._leads(at, carrying):
                    return True
                hops = self.field.table(at, self._r).next_hops(int.from_bytes(key, "big"))
                for member in reversed(tuple(m for m in (hops.next, *hops.alternatives) if m is not None)):
                    index = self.field.position(member)
                    if index not in dead and index not in seen:
                        seen.add(index)
                        stack.append(index)
        return False
