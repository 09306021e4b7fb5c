"""Placements, ratios and rows of the spread plane's figures; bounds of its attackers."""

from __future__ import annotations

import random

import pytest

from bench import spread_attackers, spread_failures, spread_lab, spread_latency
from polder.lab import latency, sweep
from polder.lab.load import Load
from polder.lab.spread import Mode


def matrix() -> latency.Matrix:
    rng = random.Random(1)
    rows = [[2.0] * 100 for _ in range(100)]
    for a in range(100):
        for b in range(a):
            rows[a][b] = rows[b][a] = rng.uniform(4, 200)
    return latency.Matrix(tuple(f"h{n}" for n in range(100)), tuple(map(tuple, rows)), "test")


@pytest.mark.parametrize("near", [True, False])
def test_everybody_is_somewhere_else(near: bool) -> None:
    drawn = spread_lab.draw(matrix(), random.Random(2), "x", near=near)
    assert len({drawn.user, drawn.site, *drawn.relays}) == 2 + spread_lab.RELAYS
    assert (drawn.direct_ms <= spread_lab.NEAR_MS) == near
    assert drawn.detours(80)[0] <= drawn.detours(8)[0]


def test_where_nobody_is_near_there_is_no_such_placement() -> None:
    far = latency.Matrix(tuple("abc"), ((2, 50, 50), (50, 2, 50), (50, 50, 2)), "test")
    with pytest.raises(latency.NoMatrixError, match="within 10 ms"):
        spread_lab.draw(far, random.Random(1), "x", near=True)


def loads(times: dict[str, float], start: float = 0.0) -> list[Load]:
    return [Load(start + n, seconds, True, 1, "", page) for n, (page, seconds) in enumerate(times.items())]


def test_pages_of_all_sizes_compare_by_their_own_medians() -> None:
    base = loads({"/a": 1.0, "/b": 4.0})
    assert spread_lab.ratios(loads({"/a": 2.0, "/b": 2.0, "/unknown": 9.0}), base) == [0.5, 2.0]
    bad = Load(0, 60, False, 0, "lost", "/a")
    assert spread_lab.ratios([bad], base) == []
    assert [spread_lab.share([1.0, 2.0, 3.0, 4.0], part) for part in (0.5, 0.99)] == [3.0, 4.0]
    assert [one.page for one in spread_lab.learned(loads({"/a": 1, "/b": 1, "/c": 1, "/d": 1}))] == ["/c", "/d"]


def test_a_row_of_the_failures_counts_what_failed_in_both_parts() -> None:
    quiet = loads({"/a": 1.0, "/b": 2.0})
    after = [*loads({"/a": 1.1, "/b": 4.0}), Load(0, 60, False, 0, "lost", "/a")]
    row = spread_failures.row(Mode(naive=False, copies=0.5), 0.5, quiet, after)
    assert (row["failed"], row["pages"], row["median_ratio"], row["p99_ratio"]) == (1, 3, 2.0, 2.0)


def test_a_row_of_the_attackers_has_the_loss_and_the_longest_pause_of_the_attack() -> None:
    slices = [999_999] * 40 + [125_000] * 40 + [100_000] * 40
    row = spread_attackers.row(Mode(False, 0.5), "sweeping", {"slices": slices, "gaps": [(5.0, 2.0), (9.0, 0.4)]}, 8.0)
    assert (row["quiet_mbit_s"], row["attacked_mbit_s"], row["loss"], row["stall_s"]) == (10.0, 8.0, 0.2, 0.4)


def test_the_sweeping_attacker_comes_to_everybody_in_turn() -> None:
    relays = [f"node{n}" for n in range(spread_attackers.RELAYS)]
    choose = spread_attackers.sweeping(relays, random.Random(1))
    turns = [choose(step) for step in range(5)]
    assert sorted(host for turn in turns for host in turn) == sorted(relays)


def test_the_figure_is_whole_in_one_placement_and_has_its_corners_in_the_others() -> None:
    whole = spread_latency.points(spread_latency.WHOLE, quick=False)
    assert sum(len(modes) for _, modes in whole) == 2 * len(spread_latency.SIZES) * len(spread_latency.COPIES)
    assert [size for size, _ in spread_latency.points("near", quick=False)] == [8, 80]


def test_floods_stay_in_the_laboratory_and_within_their_bounds() -> None:
    assert sweep.chosen('["198.18.1.7"]', 2) == ["198.18.1.7"]
    for line in ('["192.0.2.1"]', '["198.18.1.1", "198.18.1.2", "198.18.1.3"]'):
        with pytest.raises(sweep.BadFloodError):
            sweep.chosen(line, 2)
    with pytest.raises(sweep.BadFloodError):
        sweep.check(100.0, 8, 10.0)
    with pytest.raises(sweep.BadFloodError):
        sweep.check(1.0, 8, 1000.0)
