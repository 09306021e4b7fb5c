"""``Belief``: how far a node may trust the revocation list that it holds, and what was cut when it came into force.

A list says when it was issued; the authority signs it anew every few seconds, and nodes pass it on. So one node that hears the
authority keeps all fresh, and only a node that has heard neither the authority nor a fresher peer for ``max_age`` seconds refuses
new work. What is open goes on: losing the control plane never stops the data plane.
"""

from __future__ import annotations

from collections.abc import Mapping

from polder.model import RevocationList
from polder.model.overlay_messages import Heeded

_STEP = 20
"""A fresher list of the same epoch goes into a new snapshot when it gains a twentieth of the bound: most say nothing else."""


class Belief:
    """``max_age``: seconds after which the list is too old for new work; ``None``: never."""

    def __init__(self, max_age: float | None) -> None:
        self._max_age = max_age
        self._told: int | None = None
        self._heeded = Heeded(0, 0, 0, 0)

    def fresh_until(self, listed: RevocationList | None) -> int | None:
        """For the snapshot (Unix seconds). A node that holds no list at all knows of nobody who was revoked: no new work."""
        if self._max_age is None:
            return None
        self._told = int((listed.issued_at if listed else 0) + self._max_age)
        return self._told

    def is_due(self, listed: RevocationList | None) -> bool:
        """Whether the list in the last snapshot is so much older than ``listed`` that a new one is worth its cost."""
        if self._max_age is None or listed is None:
            return False
        return self._told is None or listed.issued_at + self._max_age - self._told > self._max_age / _STEP

    def put_in_force(self, listed: RevocationList, before: Mapping[str, int], after: Mapping[str, int]) -> None:
        """A list of a new epoch was applied; counters of the data plane ``before`` and ``after`` say what was cut."""
        cut = [after.get(name, 0) - before.get(name, 0) for name in ("identities_cut", "identities_tunnels_cut")]
        self._heeded = Heeded(listed.epoch, listed.issued_at, cut[0], cut[1])

    def heeded(self, listed: RevocationList | None) -> Heeded:
        """What to answer the authority: the list in force and what it cut, the same at every repetition."""
        if listed is None:
            return Heeded(0, 0, 0, 0)
        if listed.epoch != self._heeded.epoch:
            return Heeded(listed.epoch, listed.issued_at, 0, 0)
        return Heeded(listed.epoch, listed.issued_at, self._heeded.connections, self._heeded.tunnels)

    def lags(self, listed: RevocationList | None, now: float) -> bool:
        """Whether new work is refused because the list is too old, or there is none."""
        return self._max_age is not None and now > (listed.issued_at if listed else 0) + self._max_age
