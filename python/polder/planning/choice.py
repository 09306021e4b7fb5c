"""What an operator should choose: the smallest access points, beacons and servlets that keep the wished availability.

Each role has its price. An access point costs a user's forwarder a link at most. A node that knows a site's servlets is one whose
capture tells them. A servlet's capture tells the way in, and its rotation exposes more of them. So the choice is the one with the
smallest sum of ``PRICE`` over its nodes; among equals the likelier to hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from polder.model import PathMode
from polder.overlay.beacon import HEIRS
from polder.overlay.secrets import BEACONS
from polder.planning.chances import Shape, all_hit, denied, either, knowers
from polder.planning.course import SERVLETS, Attack, Repair, denied_moving, hazard, place_down, stationary

PRICE = {"access_points": 1, "knowers": 2, "servlets": 6}
MOST_ACCESS_POINTS, MOST_BEACONS, MOST_SERVLETS = 32, 16, 16
"""What settings allow of beacons and servlets; more access points win nothing that those do not bound."""


@dataclass(frozen=True)
class Choice:
    """A shape, and the chance (or share of time) that it denies a user."""

    shape: Shape
    denied: float


def price(shape: Shape) -> int:
    """What a shape costs, in no unit: to compare."""
    known = shape.beacons * (1 + shape.heirs)
    return PRICE["access_points"] * shape.access_points + PRICE["knowers"] * known + PRICE["servlets"] * shape.servlets


def for_strike(nodes: int, attacked: int, wished: float, mode: PathMode = PathMode.BEACON, heirs: int = HEIRS) -> Choice | None:
    """The cheapest shape that a strike on ``attacked`` nodes at one moment denies with chance ``wished`` at most, or ``None``."""

    def of_size(size: int) -> float:
        return all_hit(nodes, attacked, size)

    def of_knowers(beacons: int) -> float:
        return sum(chance * of_size(size) for size, chance in knowers(nodes, beacons, heirs).items())

    found = _cheapest(nodes, wished, mode, heirs, (of_size, of_size, of_knowers))
    return Choice(found, denied(found, attacked)) if found else None


def for_attack(
    nodes: int, attack: Attack, repair: Repair, wished: float, mode: PathMode = PathMode.BEACON, heirs: int = HEIRS
) -> Choice | None:
    """The cheapest shape that ``attack``, going on for good, denies for the share ``wished`` of time at most, or ``None``."""
    shares, strikes = stationary(nodes, attack), hazard(nodes, attack)

    def entered(size: int) -> float:
        return sum(share * all_hit(nodes, down, size) for down, share in shares.items())

    def served(size: int) -> float:
        return place_down(strikes, repair.servlet) ** size

    def known(beacons: int) -> float:
        return place_down(strikes, repair.beacon) ** (beacons * (1 + heirs))

    found = _cheapest(nodes, wished, mode, heirs, (entered, served, known))
    return Choice(found, denied_moving(found, attack, repair)) if found else None


_Failing = Callable[[int], float]


def _cheapest(
    nodes: int, wished: float, mode: PathMode, heirs: int, failing: tuple[_Failing, _Failing, _Failing]
) -> Shape | None:
    """``failing``: the chance that a user's access points, a site's servlets, all that know them, are down, by how many there are."""
    best: tuple[int, float, Shape] | None = None
    whole, least = largest(nodes, mode, heirs), defaults(nodes, mode, heirs)
    entered, served, known = failing
    ways_in = [entered(size) for size in range(1, whole.access_points + 1)]
    sites = [served(size) for size in range(least.servlets, whole.servlets + 1)]
    # In mode ``direct`` beacons do not count for this: those that nodes have by default.
    tried = [least.beacons] if mode is PathMode.DIRECT else range(least.beacons, whole.beacons + 1)
    for beacons in tried:
        unknown = 0.0 if mode is PathMode.DIRECT else known(beacons)
        for servlets, unserved in enumerate(sites, least.servlets):
            for access_points, shut in enumerate(ways_in, 1):
                chance = either(shut, unserved, unknown)
                if chance <= wished:
                    shape = Shape(nodes, access_points, servlets, beacons, heirs, mode)
                    rank = (price(shape), chance, shape)
                    if best is None or rank[:2] < best[:2]:
                        best = rank
                    break  # more access points only cost more
    return best[2] if best else None


def defaults(nodes: int, mode: PathMode = PathMode.BEACON, heirs: int = HEIRS) -> Shape:
    """What users, sites and nodes have where nobody chose; a choice never has fewer beacons or servlets."""
    return Shape(nodes, nodes, min(SERVLETS, nodes), min(BEACONS, nodes), heirs, mode)


def largest(nodes: int, mode: PathMode = PathMode.BEACON, heirs: int = HEIRS) -> Shape:
    """The shape that denies least of all that may be chosen."""
    access_points, servlets, beacons = (min(most, nodes) for most in (MOST_ACCESS_POINTS, MOST_SERVLETS, MOST_BEACONS))
    return Shape(nodes, access_points, servlets, beacons, heirs, mode)


def enough_nodes(choose: Callable[[int], Choice | None], nodes: int, most: int) -> int | None:
    """The fewest nodes, about, with which ``choose`` finds a shape, more than ``nodes`` and ``most`` at most; ``None``: never."""
    short, long = nodes, min(2 * nodes, most)
    while choose(long) is None:
        if long == most:
            return None
        short, long = long, min(2 * long, most)
    while long - short > max(1, long // 50):
        middle = (short + long) // 2
        short, long = (middle, long) if choose(middle) is None else (short, middle)
    return long
