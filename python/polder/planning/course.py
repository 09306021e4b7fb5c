"""How long a user is denied while an attack goes on for good and nodes recover: SOS's dynamic analysis (JSAC 2004, §IV-B), and ours.

Nodes under attack are a birth–death chain: k of N are down; strikes come, each lasts a while. Four kinds, as in the paper: strikes
come at one rate in all (one attacker), or at one rate for each node that is up (many, or one who never tires); nodes recover each
by itself, or one after another.

*Roles that stay* (the paper): the user is denied in state k with the static chance. *Roles that move* (Polder): the ring gives a
dead beacon's keys to its successor and the site draws another servlet for a dead one, within a repair time that is measured; each
place of a role is then down for as long only. A place is an alternating process, and its share of down time depends on the two
means alone, not on their distributions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from polder.model import PathMode
from polder.overlay import SiteConfig
from polder.planning.chances import Shape, all_hit, denied, either

SERVLETS = SiteConfig.servlets
"""Of a site, by default."""

_NEGLIGIBLE = 80.0
"""States e^−80 times as likely as the likeliest are left out."""


@dataclass(frozen=True)
class Attack:
    """``rate``: strikes a second, in all or, with ``each``, at every node that is up; ``lasting``: mean seconds for which a struck
    node is down; ``at_once``: so many at most are held down at one time (0: no bound); ``one_by_one``: nodes recover one after
    another instead of each by itself. Raises ``ValueError`` for what is not positive.
    """

    rate: float
    lasting: float
    each: bool = False
    at_once: int = 0
    one_by_one: bool = False

    def __post_init__(self) -> None:
        if not (self.rate > 0 and self.lasting > 0 and self.at_once >= 0):
            raise ValueError("an attack has a rate and a length above 0")

    def births(self, nodes: int, down: int) -> float:
        """Strikes a second that take a node down while ``down`` are."""
        if down >= min(nodes, self.at_once or nodes):
            return 0.0
        return self.rate * (nodes - down) if self.each else self.rate

    def deaths(self, down: int) -> float:
        """Recoveries a second while ``down`` nodes are down."""
        return (1 if self.one_by_one else down) / self.lasting


def stationary(nodes: int, attack: Attack) -> dict[int, float]:
    """Number of nodes down → its share of time, states that hardly ever occur left out."""
    logs, best = [0.0], 0.0
    for down in range(nodes):
        birth = attack.births(nodes, down)
        if birth <= 0:
            break
        logs.append(logs[-1] + math.log(birth / attack.deaths(down + 1)))
        best = max(best, logs[-1])
    weights = {down: math.exp(value - best) for down, value in enumerate(logs) if value > best - _NEGLIGIBLE}
    whole = math.fsum(weights.values())
    return {down: weight / whole for down, weight in weights.items()}


def down_ratio(nodes: int, attack: Attack) -> float:
    """The share of nodes that is down, in the mean."""
    return sum(share * down for down, share in stationary(nodes, attack).items()) / nodes


def hazard(nodes: int, attack: Attack) -> float:
    """Strikes a second that a node which is up meets, in the mean."""
    shares = stationary(nodes, attack)
    strikes = sum(share * attack.births(nodes, down) for down, share in shares.items())
    up = sum(share * (nodes - down) for down, share in shares.items())
    return strikes / up if up else math.inf


def denied_staying(shape: Shape, attack: Attack) -> float:
    """The share of time in which the user is denied when no role moves."""
    return min(1.0, sum(share * denied(shape, down) for down, share in stationary(shape.nodes, attack).items()))


@dataclass(frozen=True)
class Repair:
    """Mean seconds from a strike until the role is played by a node that is up: another servlet serves; a node that lives and
    knows the servlets owns the key again, with as many heirs.
    """

    servlet: float
    beacon: float


def place_down(hazard_of_node: float, repair: float) -> float:
    """The share of time in which one place of a role is held by a node that is down: x / (1 + x), x = strikes × repair."""
    x = hazard_of_node * repair
    return x / (1 + x)


def denied_moving(shape: Shape, attack: Attack, repair: Repair) -> float:
    """The share of time in which the user is denied when servlets and beacons are repaired and his access points stay those."""
    strikes = hazard(shape.nodes, attack)
    entered = sum(
        share * all_hit(shape.nodes, down, shape.access_points) for down, share in stationary(shape.nodes, attack).items()
    )
    parts: Sequence[float] = [entered, place_down(strikes, repair.servlet) ** shape.servlets]
    if shape.mode is not PathMode.DIRECT:
        parts = [*parts, place_down(strikes, repair.beacon) ** (shape.beacons * (1 + shape.heirs))]
    return either(*parts)
