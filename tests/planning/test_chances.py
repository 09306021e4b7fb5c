"""Closed forms of a static attack: against counting every case, and as chances must behave."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.model import PathMode
from polder.planning.chances import Shape, all_hit, denied, either, knowers


def _known(nodes: int, owners: tuple[int, ...], heirs: int) -> set[int]:
    return {(owner + step) % nodes for owner in owners for step in range(heirs + 1)}


@pytest.mark.parametrize("nodes", range(1, 9))
@pytest.mark.parametrize("heirs", range(4))
def test_how_many_know_is_counted_rightly(nodes: int, heirs: int) -> None:
    for beacons in range(1, nodes + 1):
        every = [len(_known(nodes, owners, heirs)) for owners in itertools.combinations(range(nodes), beacons)]
        counted = {size: count / len(every) for size, count in Counter(every).items()}
        assert knowers(nodes, beacons, heirs) == pytest.approx(counted)


@pytest.mark.parametrize("mode", PathMode)
@pytest.mark.parametrize(
    ("nodes", "access_points", "servlets", "beacons", "heirs"), [(5, 2, 1, 2, 1), (5, 1, 2, 1, 2), (6, 2, 2, 2, 0)]
)
def test_roles_that_may_meet_against_every_case(
    mode: PathMode, nodes: int, access_points: int, servlets: int, beacons: int, heirs: int
) -> None:
    shape = Shape(nodes, access_points, servlets, beacons, heirs, mode)
    everybody = range(nodes)
    placed = []
    for entries in itertools.combinations(everybody, access_points):
        for carrying in itertools.combinations(everybody, servlets):
            for owners in itertools.combinations(everybody, beacons):
                known = [] if mode is PathMode.DIRECT else [_known(nodes, owners, heirs)]
                placed.append([set(entries), set(carrying), *known])
    for attacked in range(nodes + 1):
        strikes = [set(struck) for struck in itertools.combinations(everybody, attacked)]
        lost = sum(any(part <= struck for part in parts) for parts in placed for struck in strikes)
        assert denied(shape, attacked) == pytest.approx(float(Fraction(lost, len(placed) * len(strikes))))


def test_distinct_roles_against_every_case() -> None:
    shape = Shape(6, 2, 1, 2, 0, distinct=True)
    for attacked in range(7):
        struck, lost, whole = set(range(attacked)), 0, 0
        for order in itertools.permutations(range(6), 5):
            whole += 1
            lost += any(set(part) <= struck for part in (order[:2], order[2:3], order[3:5]))
        assert denied(shape, attacked) == pytest.approx(lost / whole)


@st.composite
def _shapes(draw: st.DrawFn) -> Shape:
    nodes = draw(st.integers(1, 60))
    size = st.integers(1, nodes)
    mode = draw(st.sampled_from(list(PathMode)))
    return Shape(nodes, draw(size), draw(size), min(draw(size), 8), draw(st.integers(0, 4)), mode)


@given(_shapes())
def test_a_chance_that_grows_with_the_attack(shape: Shape) -> None:
    chances = [denied(shape, attacked) for attacked in range(shape.nodes + 1)]
    assert chances[0] == 0 and chances[-1] == 1 and all(0 <= chance <= 1 for chance in chances)
    assert all(one <= other + 1e-12 for one, other in itertools.pairwise(chances))


@given(_shapes(), st.data())
def test_more_of_a_role_never_harms(shape: Shape, data: st.DataObject) -> None:
    attacked = data.draw(st.integers(0, shape.nodes))
    for name in ("access_points", "servlets", "beacons"):
        if getattr(shape, name) < shape.nodes:
            larger = Shape(**{**vars(shape), name: getattr(shape, name) + 1})
            assert denied(larger, attacked) <= denied(shape, attacked) + 1e-12
    more = Shape(**{**vars(shape), "heirs": shape.heirs + 1})
    assert denied(more, attacked) <= denied(shape, attacked) + 1e-12


@given(st.integers(1, 10**6), st.integers(1, 16), st.integers(0, 4))
def test_all_who_know_are_counted_at_any_size(nodes: int, beacons: int, heirs: int) -> None:
    beacons = min(nodes, beacons)
    chances = knowers(nodes, beacons, heirs)
    assert sum(chances.values()) == pytest.approx(1)
    assert min(chances) >= min(nodes, beacons + heirs) and max(chances) <= min(nodes, beacons * (heirs + 1))


def test_small_chances_are_not_rounded_away() -> None:
    assert either(1e-18, 2e-18) == pytest.approx(3e-18)
    assert all_hit(10**6, 10**5, 10) == pytest.approx(1e-10, rel=1e-3)


def test_the_papers_numbers() -> None:
    """A = B = S = k of 1,000 nodes, without heirs: the table of SOS's model."""
    for ratio, k, chance in ((0.1, 1, 0.27), (0.3, 3, 0.078), (0.5, 5, 0.090), (0.8, 10, 0.29)):
        assert denied(Shape(1000, k, k, k, 0), round(1000 * ratio)) == pytest.approx(chance, rel=0.03)


@pytest.mark.parametrize("sizes", [(0, 1, 1), (5, 6, 1), (5, 1, 0), (5, 1, 6)])
def test_impossible_shapes_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"1 at least|too small"):
        Shape(*sizes)
    with pytest.raises(ValueError, match="cannot be attacked"):
        denied(Shape(5, 1, 1), 6)
    assert math.isclose(denied(Shape(5, 1, 1, 1, 0), 5), 1)
