"""The world of real roles: it settles as it must, and what it says of attacks agrees with the closed forms."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from polder.model import PathMode
from polder.planning.chances import Shape, denied, knowers
from polder.planning.course import Attack, denied_staying
from polder.planning.trials import First, Order, around_mean, course, exact, share_denied, struck_once
from polder.planning.world import SITE, Field, Pace, World


@pytest.mark.parametrize("mode", PathMode)
@pytest.mark.parametrize("nodes", [8, 1000, 100_000])
def test_a_placement(mode: PathMode, nodes: int) -> None:
    rng = Random(4)
    world = World(Field(nodes, rng), Shape(nodes, 3, 2, mode=mode), rng.sample(range(nodes), 3), rng)
    world.settle()
    told = {at for at, place in world.places.items() if place.beacons.entries(world.now).get(SITE)}
    assert len(told) in knowers(nodes, 3, 1) and world.site.serving() == 2
    assert all(world.ways(at) for at in world.entries)
    servlets = {world.field.position(admitted.member) for admitted in world.site.admitted()}
    assert not any(world.ways(at, servlets) for at in world.entries), "without servlets nobody gets through"
    assert not any(world.ways(at, set(world.entries)) for at in world.entries)
    through = [world.ways(at, told - {at} - servlets) for at in world.entries]
    assert all(through) == (mode is PathMode.DIRECT) or set(world.entries) & (told | servlets)


def test_a_dead_servlet_is_replaced_and_a_dead_beacon_succeeded() -> None:
    rng = Random(9)
    world = World(Field(60, rng), Shape(60, 1, 2, 1, 0), [7], rng)
    world.settle()
    first = {world.field.position(admitted.member) for admitted in world.site.admitted()}
    beacon = next(at for at, place in world.places.items() if place.beacons.entries(world.now).get(SITE))
    for at in {*first, beacon} - {7}:
        world.strike(at)
    assert not world.ways(7)
    world.run(world.now + 60)
    now = {world.field.position(admitted.member) for admitted in world.site.admitted()}
    assert world.ways(7) and not now & (first - {7})
    for at in {*first, beacon} - {7}:
        world.recover(at)
    world.run(world.now + 60)
    assert world.ways(7) and world.site.serving() == 2


def test_every_node_is_struck_once_in_an_order() -> None:
    order = Order(50, Random(1))
    assert sorted(order.rank(at) for at in range(50)) == list(range(50))
    for count in (0, 7, 50):
        assert sum(at in First(order, count) for at in range(50)) == count


def test_static_attacks_agree_with_the_closed_form() -> None:
    rng, shape, counts, trials = Random(2), Shape(40, 2, 2), (4, 12, 20, 28, 36), 150
    outcomes = [struck_once(Field(40, rng), shape, counts, rng) for _ in range(trials)]
    for lost in outcomes:
        assert all(one <= other for one, other in itertools.pairwise(lost)), "more struck, no less denied"
    for number, count in enumerate(counts):
        low, high = exact(sum(lost[number] for lost in outcomes), trials, 1e-6)
        assert low <= denied(shape, count) <= high


def test_an_attack_that_goes_on_agrees_with_the_closed_form() -> None:
    rng, shape, attack = Random(3), Shape(40, 2, 2), Attack(0.02, 60.0, each=True)
    shares = [share_denied(Field(40, rng), shape, attack, 60, rng) for _ in range(80)]
    low, high = around_mean(shares, 5)
    assert low <= denied_staying(shape, attack) <= high


def test_roles_that_move_deny_for_less_time() -> None:
    rng, shape, attack = Random(6), Shape(60, 3, 2), Attack(0.01, 60.0, each=True)
    seen = [course(Field(60, rng), shape, attack, 120, rng, Pace()) for _ in range(3)]
    assert all(one.denied[0] >= one.denied[1] >= one.denied[2] >= 0 for one in seen)
    assert sum(one.denied[2] for one in seen) / 3 < denied_staying(shape, attack)
    assert all(0 <= one.servlets_down < 0.5 and 0 <= one.beacons_down < 0.6 for one in seen)


def test_exact_intervals() -> None:
    assert exact(0, 10, 0.05) == (0.0, pytest.approx(0.3085, abs=1e-3))
    assert exact(10, 10, 0.05) == (pytest.approx(0.6915, abs=1e-3), 1.0)
    assert exact(5, 10, 0.05) == (pytest.approx(0.1871, abs=1e-3), pytest.approx(0.8129, abs=1e-3))
