"""Rates say what happened and nothing else; curves keep their peaks; words are short."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.dashboard import words
from polder.dashboard.charts import BARS, fit, rows, spark
from polder.dashboard.rates import Track, added

STEPS = st.lists(st.tuples(st.floats(0.1, 5), st.integers(0, 10_000)), min_size=1, max_size=60)
VALUES = st.lists(st.none() | st.floats(0, 1e12, allow_subnormal=False), max_size=200)


@given(STEPS)
def test_what_a_counter_grew_is_what_its_rates_add_up_to(steps: list[tuple[float, int]]) -> None:
    track, at, total = Track(), 1000.0, 0
    for time, grown in steps:
        at, total = at + time, total + grown
        track.add(at, {"n": total})
    times, rates = track.times, track.rates("n")
    assert len(times) == len(rates) == len(steps) and rates[0] is None
    summed = sum((rate or 0) * (b - a) for (a, b), rate in zip(pairwise(times), rates[1:], strict=True))
    assert summed == pytest.approx(total - steps[0][1], rel=1e-6, abs=1e-3)
    assert track.grown(["n"], 1e6) == pytest.approx(summed, rel=1e-6, abs=1e-3)
    assert track.rate("n", 1e6) * (times[-1] - times[0]) == pytest.approx(summed, rel=1e-6, abs=1e-3)


@given(st.lists(st.dictionaries(st.sampled_from("ab"), st.integers(0, 1000), max_size=2), max_size=40))
def test_no_rate_is_negative_whatever_restarts_and_vanishes(samples: list[dict[str, int]]) -> None:
    track = Track()
    for second, values in enumerate(samples):
        track.add(float(second), values)
    assert all(rate is None or rate >= 0 for rate in track.rates(("a", "b")))
    assert track.rate(("a", "b")) >= 0 and track.grown(("a", "b"), 60) >= 0


def test_a_restart_a_pause_and_the_past_give_no_rate() -> None:
    track = Track()
    for at, value in ((0, 100), (1, 110), (2, 3), (3, 5), (60, 500), (59, 9)):
        track.add(at, {"n": value})
    assert track.rates("n") == (None, 10, None, 2, None)


def test_history_and_looks_join() -> None:
    track = Track()
    track.load({"step": 1, "times": [1, 2, 3], "values": {"n": [0, None, 4], "late": [None, None, 7]}})
    track.add(4, {"n": 8, "late": 7})
    assert track.rates("n") == (None, None, None, 4) and track.gauge("late") == (None, None, 7, 7)


@given(VALUES, st.integers(0, 80))
def test_a_curve_has_its_width_and_keeps_the_peak(values: list[float | None], width: int) -> None:
    fitted = fit(values, width)
    assert len(fitted) == width and len(spark(values, width)) == width and set(spark(values, width)) <= set(BARS)
    known = [value for value in values if value is not None]
    if width and known:
        assert max(value for value in fitted if value is not None) == max(known)
    assert all(len(row) == width for row in rows(values, width, 4))


@given(st.lists(VALUES, max_size=4))
def test_courses_are_added_from_their_ends(columns: list[list[float | None]]) -> None:
    summed = added([tuple(column) for column in columns])
    assert len(summed) == max(map(len, columns), default=0)
    if summed:
        last = [column[-1] for column in columns if column and column[-1] is not None]
        assert summed[-1] == (pytest.approx(sum(last)) if last else None)


@given(st.floats(0, 1e15))
def test_words_are_short(value: float) -> None:
    for text in (words.count(min(value, 1e12)), words.rate(min(value, 1e12)), words.data(value), words.duration(min(value, 1e9))):
        assert 1 <= len(text) <= 12


def test_words() -> None:
    assert [words.count(v) for v in (0, 7, 1204, 38_100, 2.4e6)] == ["0", "7", "1 204", "38.1k", "2.4M"]
    assert [words.data(v) for v in (0, 999, 38_000, 1.2e9)] == ["0 B", "999 B", "38.0 KB", "1.2 GB"]
    assert [words.duration(v) for v in (0, 12, 250, 11_100, 2_530_800, -61)] == [
        "0 s",
        "12 s",
        "4 min 10 s",
        "3 h 5 min",
        "29 d 7 h",
        "−1 min 1 s",
    ]
    assert [words.millis(v) for v in (0, 400, 84_000)] == ["–", "0.4 ms", "84 ms"]
    assert (
        words.rate(0.04) == "0.0"
        and words.plural(1, "node") == "1 node"
        and words.plural(3, "node does", "nodes do") == "3 nodes do"
    )
