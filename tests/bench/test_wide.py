"""Placements and rows of the wide-area measurement."""

from __future__ import annotations

import random

import pytest

from bench import wide
from polder.lab import latency
from polder.lab.load import Load

HOSTS = ["authority", "node1", "node2", "node3", "isp", "user1", "user2"]


def matrix(places: int, rtt: float) -> latency.Matrix:
    rows = tuple(tuple(0.0 if a == b else rtt for b in range(places)) for a in range(places))
    return latency.Matrix(tuple(f"h{n}" for n in range(places)), rows, "test")


@pytest.mark.parametrize("seed", range(5))
def test_everybody_is_somewhere_else_and_readers_are_near_a_node(seed: int) -> None:
    places = latency.synthetic(random.Random(1))
    placement = wide.draw_placement(places, HOSTS, random.Random(seed))
    assert sorted(placement.places) == sorted(HOSTS)
    assert len(set(placement.places.values())) == len(HOSTS)
    assert all(placement.rtt_ms(user, placement.nearest(user)) <= wide.NEAR_MS for user in ("user1", "user2"))


def test_where_nobody_is_near_there_is_no_placement() -> None:
    with pytest.raises(latency.NoMatrixError, match="within 20 ms"):
        wide.draw_placement(matrix(20, 50.0), HOSTS, random.Random(1))


def loads(*seconds: float, bad: int = 0) -> list[Load]:
    good = [Load(0, one, True, 1000) for one in (9.0, *seconds)]
    return good + [Load(0, 0.001, False, 0, "lost")] * bad


def test_a_row_compares_one_readers_medians_and_counts_what_failed() -> None:
    placement = wide.draw_placement(matrix(20, 10.0), HOSTS, random.Random(1))
    (row,) = wide.rows_of(
        3, placement, {"user1": loads(1.0, 2.0, 3.0)}, {"user1": loads(2.0, 2.2, 9.9, bad=1)}, frozenset({"node9"})
    )
    assert (row["direct_ms"], row["beacon_ms"], row["ratio_to_direct"]) == (2000, 2200, 1.1)
    assert (row["placement"], row["pages"], row["failed"], row["rtt_site_ms"]) == (3, 9, 1, 10)
    assert row["nearest_serves"] == 0
    judged = {claim.id: claim.judge([row, row | {"ratio_to_direct": 1.3}]) for claim in wide.claims()}
    assert judged["wide.median"]["measured"] == 1.2
    assert judged["wide.median"]["holds"]
    assert not judged["wide.failed"]["holds"]


def test_a_reader_who_saw_no_page_is_a_row_too() -> None:
    placement = wide.draw_placement(matrix(20, 10.0), HOSTS, random.Random(1))
    (row,) = wide.rows_of(0, placement, {"user1": loads(1.0)}, {"user1": loads(bad=2)}, frozenset())
    assert (row["beacon_ms"], row["ratio_to_direct"], row["failed"]) == (None, None, 2)


def test_a_draws_median_is_that_of_its_readers() -> None:
    rows = [{"ratio_to_direct": ratio} for ratio in (1.0, 1.2, None, 3.0)]
    assert wide.draw_row(2, rows) == {"placement": 2, "draw_median": 1.2, "readers": 3}
    judged = {
        claim.id: claim.judge([wide.draw_row(n, [{"ratio_to_direct": r}]) for n, r in enumerate((1.0, 1.1, 9.0))])
        for claim in wide.claims()
    }
    assert judged["wide.draws"]["measured"] == 1.1


def test_servlets_are_nearer_where_nodes_were_reached_before() -> None:
    places = latency.synthetic(random.Random(1))
    hosts = ["isp", *(f"node{n}" for n in range(1, 11)), "user1"]
    placements = [wide.draw_placement(places, hosts, random.Random(seed)) for seed in range(10)]
    by_chance, known = wide.drawn(placements, random.Random(1))
    assert (by_chance["known"], known["known"]) == (0, 1)
    assert known["rtt_ms"] < by_chance["rtt_ms"] and known["servlets"] == by_chance["servlets"] == 10 * wide.REDRAWN * 2
