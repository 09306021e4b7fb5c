"""Names and the arithmetic of the ring."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.model import RING_SIZE, Kind, SpiffeId, between, between_right, distance, parse_name

POINTS = st.integers(0, RING_SIZE - 1) | st.integers(0, 5) | st.integers(RING_SIZE - 5, RING_SIZE - 1)
NAMES = st.from_regex(r"[a-z0-9._-]{1,63}", fullmatch=True)


@given(st.sampled_from(Kind), NAMES, NAMES)
def test_spiffe_ids_round_trip(kind: Kind, domain: str, name: str) -> None:
    who = SpiffeId(domain, kind, name)
    assert SpiffeId.parse(str(who)) == who


@given(st.text(max_size=60) | st.text("spiffe:/ouNZ.01-_", max_size=40).map(lambda text: "spiffe://" + text))
def test_any_text_is_an_id_that_reads_the_same_or_is_refused(text: str) -> None:
    try:
        who = SpiffeId.parse(text)
    except ValueError:
        return
    assert str(who) == text


@pytest.mark.parametrize(
    "uri",
    [
        "spiffe://o.test/user/ann/",
        "spiffe://o.test//ann",
        "spiffe://o.test/user/",
        "spiffe:///user/ann",
        "SPIFFE://o.test/user/ann",
        "spiffe://o.test/root/ann",
        "spiffe://o.test/user/Ann",
        "spiffe://o.test/user/a%6en",
        "spiffe://o.test/user/ann?x",
        "o.test/user/ann",
        "spiffe://spiffe://user/ann",
    ],
)
def test_near_misses_are_refused(uri: str) -> None:
    with pytest.raises(ValueError):
        SpiffeId.parse(uri)


@given(st.text(max_size=70))
def test_names_are_what_both_halves_take(text: str) -> None:
    """The same rule stands in ``crates/types/src/identity.rs``."""
    good = 1 <= len(text) <= 63 and all(c in "abcdefghijklmnopqrstuvwxyz0123456789._-" for c in text)
    try:
        assert parse_name(text) == text
        assert good
    except ValueError:
        assert not good


def test_a_final_newline_is_part_of_the_name() -> None:
    with pytest.raises(ValueError):
        parse_name("ann\n")


@given(POINTS, POINTS)
def test_distances_complete_each_other(a: int, b: int) -> None:
    assert 0 <= distance(a, b) < RING_SIZE
    assert (a + distance(a, b)) % RING_SIZE == b
    assert (distance(a, b) + distance(b, a)) % RING_SIZE == 0


@given(POINTS, POINTS, POINTS)
def test_a_point_lies_in_one_of_two_arcs_or_on_an_end(x: int, a: int, b: int) -> None:
    if a == b:
        assert between(x, a, b) == (x != a)
        assert between_right(x, a, b)
        return
    assert between(x, a, b) + between(x, b, a) + (x in (a, b)) == 1
    assert between_right(x, a, b) == (between(x, a, b) or x == b)


@given(POINTS, POINTS, POINTS, st.integers(0, RING_SIZE - 1))
def test_turning_the_ring_changes_nothing(x: int, a: int, b: int, turn: int) -> None:
    moved = [(point + turn) % RING_SIZE for point in (x, a, b)]
    assert between(x, a, b) == between(*moved)
    assert between_right(x, a, b) == between_right(*moved)
