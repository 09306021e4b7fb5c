"""``Candidates``: who may be drawn as a servlet next, by what is known of the nodes and how many have learnt the way in."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from random import Random

from polder.model import Member

SHY = 30.0
"""Seconds for which a node that did not answer is drawn only where there is no other."""


_BLIND = 0.25
"""Share of choices between two that distance does not decide."""


class Candidates:
    """``exposed``: every node that ever knew the present way in. ``now`` in Unix seconds."""

    def __init__(self, rng: Random, exposed: Iterable[str]) -> None:
        self.pool: dict[str, Member] = {}
        self.burned: set[str] = set()
        self.exposed = set(exposed)
        self._rng = rng
        self._shy: dict[str, float] = {}
        self._rtt_us: dict[str, int] = {}

    def silent(self, name: str, now: float) -> None:
        """A node did not answer: for a while others are drawn before it."""
        self._shy[name] = now + SHY

    def answered(self, name: str) -> None:
        """A node answered."""
        self._shy.pop(name, None)

    def reached(self, name: str, rtt_us: int) -> None:
        """A link to a node came up, with this round trip."""
        self._rtt_us[name] = rtt_us

    def draw(
        self, count: int, now: float, exposure_max: int, placed: Collection[str], again: Collection[str] = ()
    ) -> list[Member]:
        """Nodes at random, neither burned nor ``placed``, those that answer first; where there are no others, those in ``again``.

        Of each two that are drawn the nearer is taken, where both were reached before (the power of two choices: Mitzenmacher 1996),
        three times in four: nobody learns of the site for being measured, no node's chance more than doubles, however near it
        is, and none falls below a quarter.
        Once ``exposure_max`` nodes know the way in, only they are drawn (0: no bound; trap 4).
        """
        able = [name for name in self.pool if name not in self.burned]
        room = exposure_max - len(self.exposed)
        if exposure_max and room < count:
            strangers = [name for name in able if name not in self.exposed]
            taken = self._rng.sample(strangers, min(max(room, 0), len(strangers)))
            able = [name for name in able if name in self.exposed] + taken
        self._shy = {name: until for name, until in self._shy.items() if until > now}
        self._rtt_us = {name: rtt for name, rtt in self._rtt_us.items() if name in self.pool}
        fresh = [name for name in able if name not in placed]
        well = [name for name in fresh if name not in self._shy]
        shy = [name for name in fresh if name in self._shy]
        chosen: list[str] = []
        for names in (well, shy, [name for name in able if name in again]):
            chosen += self._nearer(names, count - len(chosen))
        return [self.pool[name] for name in chosen]

    def _nearer(self, names: list[str], count: int) -> list[str]:
        """``count`` of them, or all: mostly the nearer of two that were drawn; the first if it is not known which that is."""
        drawn = self._rng.sample(names, min(2 * count, len(names)))
        chosen = drawn[:count]
        for index, other in enumerate(drawn[count:]):
            mine, its = self._rtt_us.get(chosen[index]), self._rtt_us.get(other)
            if mine is not None and its is not None and its < mine and self._rng.random() >= _BLIND:
                chosen[index] = other
        return chosen

    def draw_beyond(self, placed: Collection[str]) -> list[Member]:
        """One more node, whoever knows the way in already: a site that nobody can reach needs no secret."""
        strangers = [name for name in self.pool if name not in self.burned and name not in placed]
        return [self.pool[self._rng.choice(strangers)]] if strangers else []
