"""How likely a static attack denies a user: closed forms after SOS (Keromytis, Misra, Rubenstein, JSAC 2004, §IV-A), for our roles.

The attacker silences n of N nodes, drawn at random: roles are secret and rotate, so he cannot do better than guess. The user is
denied when all of his access points are among them, or all nodes that know the site's servlets, or all servlets. *Static*: before
anything is repaired.

Who knows the servlets is not simply B nodes. B beacon keys fall on B different owners (spare keys see to that), each with ``heirs``
nodes behind it on the ring, and these may overlap. Of N ring ids and the keys, all drawn evenly, every order round the ring is
equally likely; so the owners are an even draw of B of N nodes, and the heirs follow from the gaps between them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from polder.model import PathMode
from polder.overlay.beacon import HEIRS
from polder.overlay.secrets import BEACONS


@dataclass(frozen=True)
class Shape:
    """An overlay and what one user and one site have in it.

    ``access_points``: nodes that the user may enter by; ``beacons``: B; ``heirs``: nodes behind each that know as much;
    ``distinct``: no node plays two of the roles (SOS's simplification). In Polder roles are drawn independently and may meet.
    Raises ``ValueError`` when that many nodes are not there.
    """

    nodes: int
    access_points: int
    servlets: int
    beacons: int = BEACONS
    heirs: int = HEIRS
    mode: PathMode = PathMode.BEACON
    distinct: bool = False

    def __post_init__(self) -> None:
        if min(self.nodes, self.access_points, self.servlets, self.beacons) < 1 or self.heirs < 0:
            raise ValueError("nodes, access points, servlets and beacons are 1 at least, heirs 0")
        most = max(self.access_points, self.servlets, self.beacons)
        if self.distinct:
            most = self.access_points + self.servlets + self.beacons * (1 + self.heirs)
        if most > self.nodes:
            raise ValueError(f"an overlay of {self.nodes} nodes is too small: {most} are needed")


def all_hit(nodes: int, attacked: int, size: int) -> float:
    """The chance that an even draw of ``attacked`` of ``nodes`` nodes contains ``size`` given ones: C(N−k, n−k) / C(N, n)."""
    if size > attacked:
        return 0.0
    return math.prod((attacked - i) / (nodes - i) for i in range(size))


@lru_cache(maxsize=4096)
def _ways(parts: int, total: int, most: int) -> int:
    """In how many ways ``total`` is a sum of ``parts`` ordered numbers from 1 to ``most``."""
    if parts == 0:
        return int(total == 0)
    return sum(_ways(parts - 1, total - first, most) for first in range(1, min(most, total) + 1))


@lru_cache(maxsize=1024)
def knowers(nodes: int, beacons: int, heirs: int) -> Mapping[int, float]:
    """Number of nodes that know a site's servlets → its chance.

    The gaps g_1 … g_B between owners round the ring are an even draw of the ways to write N as a sum of B numbers, and
    Σ min(g_i, heirs + 1) nodes know. b of the gaps are wider than ``heirs``; the others are counted one by one.
    """
    beacons, reach = min(beacons, nodes), heirs + 1
    whole = math.comb(nodes - 1, beacons - 1)
    chances: dict[int, float] = {}
    for wide in range(beacons + 1):
        narrow = beacons - wide
        for taken in range(narrow, narrow * heirs + 1) if narrow else (0,):
            room = nodes - taken - wide * reach  # what the wide gaps have beyond their least
            spread = math.comb(room + wide - 1, wide - 1) if wide and room >= 0 else int(not wide and room == 0)
            count = math.comb(beacons, wide) * _ways(narrow, taken, heirs) * spread
            if count:
                size = wide * reach + taken
                chances[size] = chances.get(size, 0.0) + count / whole
    return chances


def either(*chances: float) -> float:
    """The chance that one at least of independent things happens; exact for small ones."""
    if any(chance >= 1.0 for chance in chances):
        return 1.0
    return 0.0 - math.expm1(sum(math.log1p(-chance) for chance in chances))


def denied(shape: Shape, attacked: int) -> float:
    """The chance that ``attacked`` nodes silenced at one moment, drawn at random, deny the user, before any repair.

    Mode ``direct``: access points know the servlets already and need no beacon (for as long as their answer lives). Mode ``ring``:
    a lower bound, met once the ring has closed over the dead; what is stuck in the seconds before has no closed form and is
    measured. Raises ``ValueError`` unless 0 ≤ attacked ≤ nodes.
    """
    if not 0 <= attacked <= shape.nodes:
        raise ValueError(f"{attacked} of {shape.nodes} nodes cannot be attacked")
    know = {0: 1.0} if shape.mode is PathMode.DIRECT else knowers(shape.nodes, shape.beacons, shape.heirs)
    if shape.distinct:
        blocked = _one_of_disjoint(shape, attacked, know)
    else:
        parts = [all_hit(shape.nodes, attacked, size) for size in (shape.access_points, shape.servlets)]
        if shape.mode is not PathMode.DIRECT:
            parts.append(sum(chance * all_hit(shape.nodes, attacked, size) for size, chance in know.items()))
        blocked = either(*parts)
    return min(1.0, blocked)


def _one_of_disjoint(shape: Shape, attacked: int, know: Mapping[int, float]) -> float:
    """One of the disjoint role sets at least is hit wholly: inclusion and exclusion."""

    def hit(*sizes: int) -> float:
        return all_hit(shape.nodes, attacked, sum(sizes))

    a, s, blocked = shape.access_points, shape.servlets, 0.0
    for k, chance in know.items():
        if not k:
            blocked += chance * (hit(a) + hit(s) - hit(a, s))
        else:
            blocked += chance * (hit(a) + hit(k) + hit(s) - hit(a, k) - hit(a, s) - hit(k, s) + hit(a, k, s))
    return blocked
