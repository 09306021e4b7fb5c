"""Closed forms of an attack that goes on: against a chain solved by other means, and as shares must behave."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.planning.chances import Shape
from polder.planning.course import (
    Attack,
    Repair,
    denied_moving,
    denied_staying,
    down_ratio,
    hazard,
    place_down,
    stationary,
)

_ATTACKS = st.builds(
    Attack,
    st.floats(1e-4, 10),
    st.floats(1, 1e4),
    each=st.booleans(),
    at_once=st.integers(0, 40),
    one_by_one=st.booleans(),
)


@given(st.integers(1, 60), _ATTACKS)
def test_what_enters_a_state_leaves_it(nodes: int, attack: Attack) -> None:
    shares = stationary(nodes, attack)
    assert sum(shares.values()) == pytest.approx(1)
    for down, share in shares.items():
        if down + 1 in shares:
            up, back = share * attack.births(nodes, down), shares[down + 1] * attack.deaths(down + 1)
            assert up == pytest.approx(back)
    assert not attack.at_once or max(shares) <= attack.at_once


def test_known_chains() -> None:
    # Nodes by themselves: each down for ρ / (1 + ρ) of the time, and binomial together.
    each = stationary(10, Attack(0.5, 1.0, each=True))
    assert each == pytest.approx({k: math.comb(10, k) * 0.5**k / 1.5**10 for k in range(11)})
    # M/M/n/n: Erlang's loss formula.
    erlang = stationary(100, Attack(3.0, 1.0, at_once=5))
    whole = sum(3**k / math.factorial(k) for k in range(6))
    assert erlang == pytest.approx({k: 3**k / math.factorial(k) / whole for k in range(6)})
    # M/M/1/N.
    queue = stationary(4, Attack(0.5, 1.0, one_by_one=True))
    assert queue == pytest.approx({k: 0.5**k / sum(0.5**j for j in range(5)) for k in range(5)})


def test_a_million_nodes() -> None:
    attack = Attack(100_000.0, 3.0)
    assert down_ratio(1_000_000, attack) == pytest.approx(0.3, rel=1e-6)
    assert denied_staying(Shape(1_000_000, 3, 2), attack) == pytest.approx(0.1144, rel=0.01)


def test_the_papers_dynamic_table() -> None:
    """Ten of each role, each node by itself with ρ = λ/μ: about 3 (ρ / (1 + ρ))^10."""
    for rho, chance in ((0.5, 5.1e-5), (1.0, 2.9e-3), (2.0, 5.1e-2)):
        shape = Shape(10_000, 10, 10, 10, 0)
        assert denied_staying(shape, Attack(rho, 1.0, each=True)) == pytest.approx(chance, rel=0.05)


@given(st.integers(1, 50), _ATTACKS, st.floats(0.1, 1000), st.floats(0.1, 1000))
def test_shares_of_time(nodes: int, attack: Attack, servlet: float, beacon: float) -> None:
    shape = Shape(nodes, 1, 1, 1)
    quick, slow = Repair(servlet, beacon), Repair(2 * servlet, 2 * beacon)
    assert 0 <= denied_moving(shape, attack, quick) <= denied_moving(shape, attack, slow) <= 1
    assert 0 <= denied_staying(shape, attack) <= 1
    assert 0 <= place_down(hazard(nodes, attack), servlet) < 1


@pytest.mark.parametrize(("rate", "lasting", "at_once"), [(0, 1, 0), (1, 0, 0), (1, 1, -1), (-1, 1, 0), (float("nan"), 1, 0)])
def test_attacks_that_are_none(rate: float, lasting: float, at_once: int) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Attack(rate, lasting, at_once=at_once)
