"""Beacon keys: keyed hashes of a site's name, so that an outsider cannot compute whom to flood (trap 1).

The key is a secret that members share; it changes by epochs. Around a change two epochs count: servlets advertise to the
coming epoch's beacons ``lead`` seconds before it begins, and to the past one's ``grace`` seconds after its end; access points
change over at the very beginning, when entries are already there.

        epoch 7 ────────────────────────────┬──── grace ────┤
                              ├─── lead ────┼──────────────── epoch 8
    advertise to:   7         │    7, 8     │     7, 8      │   8
    access points:  7         │    7        │     8         │   8
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Sequence

from polder.model.overlay_messages import EpochSecret

BEACONS = 3
"""B: beacon keys per site. Replication buys the exponent (notes §1): with half of the nodes flooded, 3 beacons are all down in
1/8 of the cases, 1 beacon in 1/2."""

SPARE = 2
"""Spare keys for each of the B: where a small ring gives several of a site's keys to one node, spare ones are used until B nodes
have been found. Of 8 nodes, all 3 keys meet at one for every 15th site; one death would then cut it off."""

LEAD = 30.0
GRACE = 60.0
_KEEP = 8


def beacon_keys(secret: bytes, site: str, count: int = BEACONS) -> tuple[bytes, ...]:
    """Ring keys (16 bytes each) of the beacons of ``site``: HMAC-SHA256(secret, label ‖ 0 ‖ site ‖ 0 ‖ index), cut."""
    label = b"polder-beacon/1\0" + site.encode() + b"\0"
    return tuple(hmac.digest(secret, label + bytes([index]), hashlib.sha256)[:16] for index in range(count))


def enough(owners: Sequence[object | None], count: int) -> int:
    """How many keys, from the first on, are used, given the ``owners`` of all keys as far as known.

    ``count`` of them; one more for as long as those used are known to lie at fewer than ``count`` different nodes.
    """
    used = count
    while used < len(owners) and None not in owners[:used] and len(set(owners[:used])) < count:
        used += 1
    return used


class EpochSecrets:
    """The secrets that this node knows. ``now`` in Unix seconds everywhere."""

    def __init__(
        self, known: Iterable[EpochSecret] = (), *, count: int = BEACONS, lead: float = LEAD, grace: float = GRACE
    ) -> None:
        self.count = count
        self._lead = lead
        self._grace = grace
        self._known: dict[int, EpochSecret] = {}
        self.learn(known)

    def learn(self, secrets: Iterable[EpochSecret]) -> bool:
        """Take secrets from the authority or a peer; the first word about an epoch stays. Whether one was new."""
        fresh = [s for s in secrets if s.epoch not in self._known and len(s.secret) >= 16]
        for secret in fresh:
            self._known[secret.epoch] = secret
        for epoch in sorted(self._known)[:-_KEEP]:
            del self._known[epoch]
        return bool(fresh)

    def newer_than(self, epoch: int) -> tuple[EpochSecret, ...]:
        """For a peer that knows up to ``epoch``; oldest first."""
        return tuple(self._known[e] for e in sorted(self._known) if e > epoch)

    @property
    def newest(self) -> int:
        """The highest epoch known, begun or not; 0: none."""
        return max(self._known, default=0)

    def current(self, now: float) -> EpochSecret | None:
        """The epoch that access points use: the highest that has begun; before the first, the first."""
        begun = [s for s in self._known.values() if s.not_before <= now]
        return max(begun, key=lambda s: s.epoch) if begun else min(self._known.values(), key=lambda s: s.epoch, default=None)

    def in_force(self, now: float) -> Iterator[EpochSecret]:
        """The epochs to which servlets advertise and of which beacons take advertisements: current, then coming, then past."""
        current = self.current(now)
        if current is None:
            return
        yield current
        coming = (s for s in self._known.values() if s.epoch > current.epoch and s.not_before - self._lead <= now)
        yield from sorted(coming, key=lambda s: s.epoch)
        past = [s for s in self._known.values() if s.epoch < current.epoch]
        if past and now < current.not_before + self._grace:
            yield max(past, key=lambda s: s.epoch)

    def keys(self, site: str, now: float) -> tuple[bytes, ...]:
        """The beacon keys of ``site`` in the current epoch; empty while no secret is known."""
        current = self.current(now)
        return beacon_keys(current.secret, site, self.count) if current else ()

    def all_keys(self, secret: EpochSecret, site: str) -> tuple[bytes, ...]:
        """The beacon keys of ``site`` in one epoch, the spare ones behind."""
        return beacon_keys(secret.secret, site, self.count * (1 + SPARE))

    def next_change(self, now: float) -> float | None:
        """When ``current`` or ``in_force`` will differ next, by what is known now."""
        begins = [s.not_before for s in self._known.values()]
        times = [t for b in begins for t in (b - self._lead, b, b + self._grace) if t > now]
        return min(times, default=None)
