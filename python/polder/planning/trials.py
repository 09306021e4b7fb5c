"""Chance over the world of real roles: how often, and for how long, an attack denies a user.

A *placement* is one site with its users in an overlay whose ring ids, keys, servlets and access points were drawn. After it has
settled nodes are struck, and the roles themselves are asked whether a request gets through.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from polder.planning.chances import Shape, all_hit
from polder.planning.course import Attack, stationary
from polder.planning.world import Field, Pace, World


class Order:
    """All nodes in the order in which an attacker strikes them, drawn evenly, and only as far as somebody asks."""

    def __init__(self, nodes: int, rng: Random) -> None:
        self._nodes, self._rng = nodes, rng
        self._ranks: dict[int, int] = {}
        self._used: set[int] = set()

    def rank(self, at: int) -> int:
        """When node ``at`` is struck: 0 is first."""
        rank = self._ranks.get(at)
        while rank is None:
            drawn = self._rng.randrange(self._nodes)
            if drawn not in self._used:
                rank = self._ranks[at] = drawn
                self._used.add(drawn)
        return rank


@dataclass(frozen=True)
class First(Container[int]):
    """The first ``count`` nodes of an order."""

    order: Order
    count: int

    def __contains__(self, at: object) -> bool:
        return isinstance(at, int) and self.order.rank(at) < self.count


def settled(members: Field, shape: Shape, rng: Random, pace: Pace | None = None) -> World:
    """A placement, drawn and settled."""
    world = World(members, shape, rng.sample(range(len(members)), shape.access_points), rng, pace)
    world.settle()
    return world


def struck_once(members: Field, shape: Shape, counts: Sequence[int], rng: Random) -> list[bool]:
    """One placement and one order of strikes: for each count of nodes struck at one moment, whether the user is denied."""
    world = settled(members, shape, rng)
    order = Order(len(members), rng)
    return [not any(world.ways(at, First(order, count)) for at in world.entries) for count in counts]


def down_at_first(nodes: int, attack: Attack, rng: Random) -> list[int]:
    """Nodes that are down at a moment drawn at random while ``attack`` goes on."""
    shares = stationary(nodes, attack)
    count = rng.choices(list(shares), list(shares.values()))[0]
    return rng.sample(range(nodes), count)


def share_denied(members: Field, shape: Shape, attack: Attack, events: int, rng: Random) -> float:
    """The share of time in which the user of one placement is denied over so many strikes and recoveries, roles staying where
    they are.
    """
    world = settled(members, shape, rng)
    size, lost, whole = len(members), 0.0, 0.0
    down = down_at_first(size, attack, rng)
    struck = set(down)
    for _ in range(events):
        birth = attack.births(size, len(down))
        death = attack.deaths(len(down)) if down else 0.0
        stay = 1 / (birth + death)  # the mean of how long this state lasts: less scatter than a draw of it
        whole += stay
        if not any(world.ways(at, struck) for at in world.entries):
            lost += stay
        if rng.random() * (birth + death) < birth:
            down.append(_up(size, struck, rng))
            struck.add(down[-1])
        else:
            gone = rng.randrange(len(down))
            down[gone], down[-1] = down[-1], down[gone]
            struck.discard(down.pop())
    return lost / whole


def _up(nodes: int, struck: Container[int], rng: Random) -> int:
    """A node that is not struck, drawn evenly."""
    while (at := rng.randrange(nodes)) in struck:
        pass
    return at


@dataclass(frozen=True)
class Course:
    """Shares of time in one placement under an attack that goes on, while its roles are repaired.

    ``denied``: for a user with 1, 2, … access points, the mean over all choices of them among the world's entries;
    ``servlets_down``, ``beacons_down`` (owners and heirs), ``nodes_down``: the mean share of those that were down.
    """

    denied: tuple[float, ...]
    servlets_down: float
    beacons_down: float
    nodes_down: float


LOOK = 1.0
"""Seconds between two looks at the world."""

ENTRIES = 12
"""Nodes by which users enter one world: a user has some of them, and every choice counts."""


def course(members: Field, shape: Shape, attack: Attack, seconds: float, rng: Random, pace: Pace) -> Course:
    """Run one placement for ``seconds`` under ``attack``, which has gone on for a tenth of that before, so that roles have moved.

    ``shape.access_points``: the most that a user has.
    """
    size, know = len(members), min(len(members), shape.beacons * (1 + shape.heirs))
    world = World(members, shape, rng.sample(range(size), ENTRIES), rng, pace)
    world.settle()
    for at in down_at_first(size, attack, rng):
        world.strike(at)
    moments = _moments(world, attack, rng)
    begin = world.now + seconds / 10
    end, event, looks = begin + seconds, next(moments), 0
    sums = [0.0] * (shape.access_points + 3)
    while world.now < end:
        look = world.now + LOOK
        while event <= look:
            world.run(event)
            event = next(moments)
        world.run(look)
        if world.now < begin:
            continue
        looks += 1
        without = sum(not world.ways(entry) for entry in world.entries)
        serving, knowing = world.living()
        down = (1 - min(serving, shape.servlets) / shape.servlets, 1 - min(knowing, know) / know, len(world.down) / size)
        lost = (all_hit(ENTRIES, without, count) for count in range(1, shape.access_points + 1))
        sums = [total + one for total, one in zip(sums, (*lost, *down), strict=True)]
    means = [total / looks for total in sums]
    return Course(tuple(means[:-3]), *means[-3:])


def _moments(world: World, attack: Attack, rng: Random) -> Iterator[float]:
    """When the next strike or recovery is due; asked for the one after it, it happens."""
    size, now = len(world.field), world.now
    while True:
        down = sorted(world.down)
        birth = attack.births(size, len(down))
        death = attack.deaths(len(down)) if down else 0.0
        now += rng.expovariate(birth + death)
        yield now
        if rng.random() * (birth + death) < birth:
            world.strike(_up(size, world.down, rng))
        else:
            world.recover(rng.choice(down))


def exact(hits: int, of: int, doubt: float) -> tuple[float, float]:
    """The interval in which a chance lies that gave ``hits`` of ``of``, wrong with chance ``doubt`` at most (Clopper, Pearson 1934)."""
    low = 0.0 if hits == 0 else _solve(lambda chance: 1 - _at_most(hits - 1, of, chance) < doubt / 2)
    high = 1.0 if hits == of else _solve(lambda chance: _at_most(hits, of, chance) > doubt / 2)
    return low, high


def _solve(below: Callable[[float], bool]) -> float:
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return low


def _at_most(hits: int, of: int, chance: float) -> float:
    """How likely ``of`` tries with ``chance`` each give so many hits at most."""
    if not 0 < chance < 1:
        return float(chance <= 0 or hits >= of)
    logs = (math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1) for k in range(hits + 1))
    yes, no = math.log(chance), math.log1p(-chance)
    return min(1.0, math.fsum(math.exp(one + k * yes + (of - k) * no) for k, one in enumerate(logs)))


def around_mean(values: Sequence[float], z: float) -> tuple[float, float]:
    """The interval in which the mean lies of which ``values`` are independent draws, at ``z`` standard deviations."""
    middle, half = statistics.fmean(values), z * statistics.stdev(values) / math.sqrt(len(values))
    return max(0.0, middle - half), min(1.0, middle + half)
