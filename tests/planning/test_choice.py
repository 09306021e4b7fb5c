"""What an operator is told to choose is enough, and nothing cheaper is."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from polder.model import PathMode
from polder.planning.chances import Shape, denied
from polder.planning.choice import defaults, enough_nodes, for_attack, for_strike, largest, price
from polder.planning.course import Attack, Repair, denied_moving


@given(st.integers(1, 200), st.data())
@settings(max_examples=60)
def test_a_choice_keeps_the_wish(nodes: int, data: st.DataObject) -> None:
    attacked, wished = data.draw(st.integers(0, nodes)), data.draw(st.floats(1e-9, 0.5))
    mode, heirs = data.draw(st.sampled_from(list(PathMode))), data.draw(st.integers(0, 2))
    choice = for_strike(nodes, attacked, wished, mode, heirs)
    if choice is None:
        assert denied(largest(nodes, mode, heirs), attacked) > wished
        return
    least = defaults(nodes, mode, heirs)
    assert choice.denied <= wished and choice.denied == denied(choice.shape, attacked)
    assert choice.shape.beacons >= least.beacons and choice.shape.servlets >= least.servlets


def test_nothing_cheaper_is_enough() -> None:
    wished, attacked = 0.02, 8
    choice = for_strike(20, attacked, wished)
    assert choice is not None
    sizes = itertools.product(range(1, 21), range(2, 17), range(3, 17))
    cheaper = (shape for a, s, b in sizes if price(shape := Shape(20, a, s, b)) < price(choice.shape))
    assert all(denied(shape, attacked) > wished for shape in cheaper)


def test_an_attack_that_goes_on() -> None:
    attack, repair = Attack(0.05, 600.0), Repair(10, 20)
    choice = for_attack(100, attack, repair, 1e-3)
    assert choice is not None and choice.denied == denied_moving(choice.shape, attack, repair) <= 1e-3
    assert for_attack(100, Attack(10.0, 600.0), repair, 1e-3) is None


def test_more_nodes_are_named_when_no_choice_is_enough() -> None:
    def choose(nodes: int) -> object:
        return for_strike(nodes, 18, 1e-3)

    assert choose(20) is None
    more = enough_nodes(choose, 20, 10_000)  # type: ignore[arg-type]
    assert more is not None and choose(more) is not None and choose(more - 1) is None
    assert enough_nodes(lambda nodes: None, 20, 10_000) is None
