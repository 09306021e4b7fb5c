"""``Candidates``: who may be drawn as a servlet next, by what is known of the nodes and how many have learnt the way in."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from random import Random

from polder.model import Member

SHY = 30.0
"""Seconds for which a node that did not answer is drawn only where there is no other."""


class Candidates:
    """``exposed``: every node that ever knew the present way in. ``now`` in Unix seconds."""

    def __init__(self, rng: Random, exposed: Iterable[str]) -> None:
        self.pool: dict[str, Member] = {}
        self.burned: set[str] = set()
        self.exposed = set(exposed)
        self._rng = rng
        self._shy: dict[str, float] = {}

    def silent(self, name: str, now: float) -> None:
        """A node did not answer: for a while others are drawn before it."""
        self._shy[name] = now + SHY

    def answered(self, name: str) -> None:
        """A node answered."""
        self._shy.pop(name, None)

    def draw(
        self, count: int, now: float, exposure_max: int, placed: Collection[str], again: Collection[str] = ()
    ) -> list[Member]:
        """Nodes at random, neither burned nor ``placed``, those that answer first; where there are no others, those in ``again``.

        Once ``exposure_max`` nodes know the way in, only they are drawn (0: no bound; trap 4).
        """
        able = [name for name in self.pool if name not in self.burned]
        room = exposure_max - len(self.exposed)
        if exposure_max and room < count:
            strangers = [name for name in able if name not in self.exposed]
            taken = self._rng.sample(strangers, min(max(room, 0), len(strangers)))
            able = [name for name in able if name in self.exposed] + taken
        self._shy = {name: until for name, until in self._shy.items() if until > now}
        fresh = [name for name in able if name not in placed]
        well = [name for name in fresh if name not in self._shy]
        shy = [name for name in fresh if name in self._shy]
        chosen: list[str] = []
        for names in (well, shy, [name for name in able if name in again]):
            chosen += self._rng.sample(names, min(count - len(chosen), len(names)))
        return [self.pool[name] for name in chosen]

    def draw_beyond(self, placed: Collection[str]) -> list[Member]:
        """One more node, whoever knows the way in already: a site that nobody can reach needs no secret."""
        strangers = [name for name in self.pool if name not in self.burned and name not in placed]
        return [self.pool[self._rng.choice(strangers)]] if strangers else []
