"""``AccessPointRole``: which beacons lead to each site, looked up before anybody asks; in mode ``direct``, which servlets.

A tunnel must not wait for a lookup, so the answers are there beforehand, refreshed with jitter, and the last good one stays in
force while a refresh fails. Around a change of the key epoch the coming epoch's owners are looked up in time (``EpochSecrets``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from random import Random

import msgspec

from polder.model import Member, PathMode, SiteRecord
from polder.model.overlay_messages import ServletsAnswer, ServletsQuery
from polder.overlay.beacon import HEIRS
from polder.overlay.calls import CallOut, FindOwner
from polder.overlay.secrets import EpochSecrets, enough

REFRESH = 30.0
RETRY = 1.0
IN_FLIGHT = 64
"""Lookups at once: a node with thousands of sites spreads them over the refresh period."""

_Slot = tuple[str, int, int]
"""Site, epoch of the beacon keys, index of the key."""


@dataclass(frozen=True)
class Ways:
    """What the data plane is told of one site.

    ``beacons``: one for each key whose owner is known, in this node's order; ``servlets``: learnt, in mode ``direct``; ``heirs``:
    the nodes behind the beacons, which know what those know and are asked when all of them are dead.
    """

    beacons: tuple[Member, ...]
    servlets: tuple[Member, ...]
    heirs: tuple[Member, ...] = ()


@dataclass(slots=True)
class _Lookup:
    key: bytes
    due: float
    owner: Member | None = None
    heirs: tuple[Member, ...] = ()
    running: bool = False


@dataclass(slots=True)
class _Direct:
    due: float
    servlets: tuple[Member, ...] = ()
    expires: float = 0.0
    running: bool = False
    failed: bool = False


@dataclass(slots=True)
class _Site:
    mode: PathMode
    first: int
    lookups: dict[tuple[int, int], _Lookup] = field(default_factory=dict)
    direct: _Direct | None = None


AccessImage = dict[str, _Site]
"""An access point's ways, for the process that takes its place."""


class AccessPointRole:
    """``now`` in Unix seconds."""

    def __init__(self, secrets: EpochSecrets, rng: Random, *, refresh: float = REFRESH, heirs: int = HEIRS) -> None:
        self._heirs = heirs
        self._secrets = secrets
        self._rng = rng
        self._refresh = refresh
        self._sites: dict[str, _Site] = {}
        self._out: deque[FindOwner | CallOut] = deque()
        self._lookups: dict[int, _Slot] = {}
        self._queries: dict[int, str] = {}
        self._next_id = 0
        self._epoch_seen = 0
        self._epoch_at: float | None = None
        self._changed = False

    def set_sites(self, records: Iterable[SiteRecord], now: float) -> None:
        """The sites of the directory, with their modes."""
        wanted = {record.site: record.mode for record in records}
        for gone in set(self._sites) - set(wanted):
            del self._sites[gone]
            self._changed = True
        for name, mode in wanted.items():
            site = self._sites.get(name)
            if site is None:
                # Access points begin with different beacons, so that the load of a site is spread over all of them.
                site = self._sites[name] = _Site(mode, self._rng.randrange(self._secrets.count))
            site.mode = mode
            if mode is not PathMode.DIRECT:
                site.direct = None
            elif site.direct is None:
                site.direct = _Direct(now)
            self._prepare(name, site, now)

    def ways(self, now: float) -> Mapping[str, Ways]:
        """Site → beacons in order of preference, and servlets where the mode is ``direct``."""
        epoch = self._epoch(now)
        return {name: self._ways(site, epoch, now) for name, site in self._sites.items()}

    def ring_changed(self, now: float) -> None:
        """The neighbourhood changed: what was found may be wrong; look again soon, spread over a second."""
        for site in self._sites.values():
            for lookup in site.lookups.values():
                lookup.due = min(lookup.due, now + self._rng.random())

    def unreachable(self, name: str, now: float) -> None:
        """A link to a node failed: look again for what it owned; servlets there are forgotten at once."""
        for site in self._sites.values():
            for lookup in site.lookups.values():
                if lookup.owner is not None and lookup.owner.name == name:
                    lookup.due = min(lookup.due, now + RETRY * self._rng.random())
            if site.direct is not None and any(servlet.name == name for servlet in site.direct.servlets):
                site.direct.servlets = tuple(s for s in site.direct.servlets if s.name != name)
                site.direct.due = now
                self._changed = True

    def image(self) -> AccessImage:
        """What the process that takes this one's place goes on with."""
        return self._sites

    def resume(self, image: AccessImage) -> None:
        """Go on with an ``image``; lookups that were under way are begun anew."""
        self._sites = image
        for site in image.values():
            waiting: list[_Lookup | _Direct] = [*site.lookups.values(), *([site.direct] if site.direct else [])]
            for one in waiting:
                one.running = False
        self._changed = True

    def take_change(self) -> bool:
        """Whether ``ways`` changed since the last call."""
        changed, self._changed = self._changed, False
        return changed

    # Time and outcomes

    def handle_timeout(self, now: float) -> None:
        """Begin the lookups and queries that are due; forget servlets that were known for long enough (trap 2)."""
        self._changed = self._changed or self._epoch_seen != self._epoch(now)
        self._epoch_seen, self._epoch_at = self._epoch(now), self._secrets.next_change(now)
        for name, site in self._sites.items():
            self._prepare(name, site, now)
            for (epoch, index), lookup in site.lookups.items():
                if lookup.due <= now and not lookup.running and len(self._lookups) < IN_FLIGHT:
                    lookup.running = True
                    request = self._number()
                    self._lookups[request] = (name, epoch, index)
                    self._out.append(FindOwner(request, int.from_bytes(lookup.key, "big")))
            if site.direct is not None:
                self._direct(name, site, site.direct, now)

    def poll_timeout(self) -> float | None:
        """When to call ``handle_timeout``."""
        full = len(self._lookups) >= IN_FLIGHT
        times = [] if self._epoch_at is None else [self._epoch_at]
        for site in self._sites.values():
            times += [lookup.due for lookup in site.lookups.values() if not lookup.running and not full]
            if site.direct is not None:
                times += [site.direct.expires] if site.direct.servlets else []
                times += [] if site.direct.running else [site.direct.due]
        return min(times, default=None)

    def poll_call(self) -> FindOwner | CallOut | None:
        """The next lookup or call to make, until ``None``."""
        return self._out.popleft() if self._out else None

    def found(self, request_id: int, members: tuple[Member, ...], now: float) -> None:
        """A lookup's outcome; ``members[0]`` is the owner."""
        name, *_ = self._lookups.get(request_id, ("",))
        lookup = self._lookup(request_id)
        if lookup is not None and members:
            lookup.due = now + self._refresh * (0.75 + self._rng.random() / 2)
            heirs = members[1 : 1 + self._heirs]
            if (lookup.owner, lookup.heirs) != (members[0], heirs):
                lookup.owner, lookup.heirs = members[0], heirs
                self._changed = True
                self._prepare(name, self._sites[name], now)

    def answered(self, request_id: int, by: Member, answer: msgspec.Struct, now: float) -> None:
        """A beacon told its servlets."""
        site = self._sites.get(self._queries.pop(request_id, ""))
        if site is None or site.direct is None or not isinstance(answer, ServletsAnswer):
            return
        direct = site.direct
        direct.running = direct.failed = False
        direct.expires = now + answer.ttl
        direct.due = now + answer.ttl * (0.5 + self._rng.random() / 4)
        if direct.servlets != answer.servlets:
            direct.servlets = answer.servlets
            self._changed = True

    def failed(self, request_id: int, status: int, why: str, now: float) -> None:
        """No outcome: what was known stays, and soon again."""
        lookup = self._lookup(request_id)
        if lookup is not None:
            lookup.due = now + RETRY * (0.5 + self._rng.random())
        site = self._sites.get(self._queries.pop(request_id, ""))
        if site is not None and site.direct is not None:
            # The first failure may be a beacon that has just died: another is asked at once.
            soon = RETRY * (0.5 + self._rng.random()) if site.direct.failed else 0.0
            site.direct.running, site.direct.failed, site.direct.due = False, True, now + soon

    # Inside

    def _epoch(self, now: float) -> int:
        current = self._secrets.current(now)
        return current.epoch if current else 0

    def _ways(self, site: _Site, epoch: int, now: float) -> Ways:
        count = self._secrets.count
        owners = [lookup.owner for (of, _), lookup in sorted(site.lookups.items()) if of == epoch]
        beacons = [owner for owner in owners[site.first : count] + owners[: site.first] + owners[count:] if owner]
        servlets = site.direct.servlets if site.direct and site.direct.expires > now else ()
        behind = [heir for (of, _), lookup in sorted(site.lookups.items()) if of == epoch for heir in lookup.heirs]
        return Ways(tuple(beacons), servlets, tuple(dict.fromkeys(heir for heir in behind if heir not in beacons)))

    def _prepare(self, name: str, site: _Site, now: float) -> None:
        """One lookup for each beacon key that counts now or soon."""
        keys: dict[tuple[int, int], bytes] = {}
        for secret in self._secrets.in_force(now):
            known = self._secrets.all_keys(secret, name)
            found = [site.lookups.get((secret.epoch, index)) for index in range(len(known))]
            owners = [lookup.owner.ring_id if lookup and lookup.owner else None for lookup in found]
            used = enough(owners, self._secrets.count)
            keys |= {(secret.epoch, index): known[index] for index in range(used)}
        if keys.keys() != site.lookups.keys():
            site.lookups = {slot: site.lookups.get(slot) or _Lookup(key, now) for slot, key in keys.items()}
            self._changed = True

    def _direct(self, name: str, site: _Site, direct: _Direct, now: float) -> None:
        if direct.servlets and direct.expires <= now:
            direct.servlets = ()
            self._changed = True
        ways = self._ways(site, self._epoch(now), now)
        beacons = ways.beacons
        if direct.failed:  # all beacons may have died together
            beacons += ways.heirs
        if direct.due <= now and not direct.running and beacons:
            direct.running = True
            request = self._number()
            self._queries[request] = name
            self._out.append(CallOut(request, self._rng.choice(beacons), None, "servlets", ServletsQuery(name)))
        elif direct.due <= now and not direct.running:
            direct.due = now + RETRY

    def _lookup(self, request_id: int) -> _Lookup | None:
        name, epoch, index = self._lookups.pop(request_id, ("", 0, 0))
        site = self._sites.get(name)
        lookup = site.lookups.get((epoch, index)) if site else None
        if lookup is not None:
            lookup.running = False
        return lookup

    def _number(self) -> int:
        self._next_id += 1
        return self._next_id
