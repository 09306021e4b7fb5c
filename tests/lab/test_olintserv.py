"""What a viewer sees, and how one showing becomes a row. The whole story runs as `polder demo olintserv`."""

from __future__ import annotations

import io
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from polder.lab.olintserv import playing, report, story, stream
from polder.lab.olintserv.playing import FRAME_S, LAG_S, SEEN_S, Frame
from polder.lab.olintserv.run import COMBINATIONS, Run, Showing, Times
from polder.lab.olintserv.story import Story

EPOCH = 1000.0


def frame(number: int, delay: float) -> Frame:
    made = EPOCH + number * FRAME_S
    return Frame(number, made, made + delay, 100)


def view(frames: list[Frame], last: int = 99) -> playing.View:
    return playing.view(frames, 0, last, EPOCH, EPOCH + last * FRAME_S + LAG_S)


def test_frames_in_time_are_shown_without_a_stall() -> None:
    seen = view([frame(number, LAG_S - 0.01) for number in range(100)])
    assert (seen.stalls, seen.lost, seen.bytes) == ((), (), 10_000)
    assert seen.delay_ms(0.5) == pytest.approx(790) and view([]).delay_ms(0.5) is None


def test_a_late_frame_freezes_once_and_those_behind_it_are_late_alike() -> None:
    seen = view([frame(number, 0.1 if number < 50 else LAG_S + 0.5) for number in range(100)])
    (stall,) = seen.stalls
    assert stall.begin == pytest.approx(EPOCH + 50 * FRAME_S + LAG_S) and stall.seconds == pytest.approx(0.5)
    assert seen.lost == tuple(range(87, 100)), "what comes after the end has not come"


def test_a_hole_freezes_for_as_long_as_it_is() -> None:
    seen = view([frame(number, 0.1) for number in range(100) if not 20 <= number < 45])
    (stall,) = seen.stalls
    assert stall.seconds == pytest.approx(25 * FRAME_S) and seen.lost == tuple(range(20, 45))
    one = view([frame(number, 0.1) for number in range(100) if number != 20])
    assert (one.stalls, one.lost) == ((), (20,)), "nobody sees a single missing picture"


def test_nothing_from_some_moment_on_freezes_until_the_end() -> None:
    seen = view([frame(number, 0.1) for number in range(60)])
    (stall,) = seen.stalls
    assert tuple(stall) == pytest.approx((EPOCH + 60 * FRAME_S + LAG_S, EPOCH + 99 * FRAME_S + LAG_S))
    assert playing.within(seen, stall.begin + 1, stall.end) == pytest.approx((0, stall.seconds - 1))


@given(st.dictionaries(st.integers(0, 60), st.floats(0, 5), max_size=60), st.randoms(use_true_random=False))
def test_stalls_are_ordered_apart_and_within_the_time(delays: dict[int, float], rng: Random) -> None:
    frames = [frame(number, delay) for number, delay in delays.items()]
    seen = view(frames, 60)
    end = EPOCH + 60 * FRAME_S + LAG_S
    edges = [moment for stall in seen.stalls for moment in stall]
    assert edges == sorted(edges) and all(EPOCH <= moment <= end for moment in edges)
    assert all(stall.seconds >= SEEN_S for stall in seen.stalls)
    shuffled = frames + frames[:10]
    rng.shuffle(shuffled)
    assert view(shuffled, 60) == seen
    assert len(seen.lost) + len(seen.delays_ms) <= 61


def test_key_frames_are_larger_and_the_rate_is_kept() -> None:
    sizes = [stream.size(number, 3.0) for number in range(120)]
    assert sizes[0] == sizes[12] > 3 * sizes[1]
    assert sum(sizes) * 8 / (120 * FRAME_S) == pytest.approx(3e6, rel=1e-3)


def test_a_row_says_what_happened_in_each_part() -> None:
    times = Times.of(20.0)
    showing = Showing(COMBINATIONS[2], times, EPOCH, began=EPOCH + 10.0, opened=2, dead=("node1", "node4", "node7"))
    made = range(200, 900)
    showing.frames = [frame(number, 0.06) for number in made if not 550 <= number < 600]
    row = showing.row()
    assert (row["stalls"], row["stalls_quiet"], row["stalls_cross"], row["stalls_dead"]) == (1, 0, 0, 1)
    assert row["frozen_s"] == row["frozen_dead_s"] == pytest.approx(2.0)
    assert (row["reopened"], row["dead"], row["combination"], row["reserved"]) == (1, "node1 node4 node7", "reserved", True)
    assert row["lost"] == pytest.approx(50 / 481, abs=1e-3) and row["delay_p99_ms"] == pytest.approx(60)
    assert len(row["worst_ms"]) == len(row["lost_share"]) == 41
    assert row["worst_ms"][26] is None and row["lost_share"][26] > 0.9 and row["lost_share"][3] == 0
    assert row["mbit"] == pytest.approx(431 * 100 * 8 / 1e6 / (481 * FRAME_S), abs=0.01)


def test_the_table_shows_each_combination_and_fits_a_terminal(tmp_path: Path) -> None:
    run = Run(tmp_path, 20.0)
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    with Story(run, console):
        for one in COMBINATIONS[:3]:
            showing = Showing(one, run.times, EPOCH, began=EPOCH + 10.0, opened=1, dead=("node1",))
            showing.frames = [
                frame(number, 0.06) for number in range(200, 900) if one.name != "spread" or not 550 <= number < 600
            ]
            run.watch(showing)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, shown.splitlines())) <= 80
    lines = {one.name: next(line for line in shown.splitlines() if one.title in line) for one in COMBINATIONS}
    assert "×" in lines["spread"] and "2.0 s" in lines["spread"] and "10.4%" in lines["spread"]
    assert "×" not in lines["reserved"] and "60 ms" in lines["reserved"] and "▁▁" in lines["reserved"]
    assert "ms" not in lines["both"], "not shown yet"


def test_the_money_is_told_and_the_claims_follow_from_rows(tmp_path: Path) -> None:
    run = Run(tmp_path, 20.0)
    for one in COMBINATIONS:
        showing = Showing(one, run.times, EPOCH, began=EPOCH + 10.0, opened=1, dead=("node1", "node4", "node7"))
        showing.frames = [frame(number, 0.06) for number in range(200, 900) if one.name == "both" or not 550 <= number < 600]
        showing.facts = {"cross_mbit": 20.0, "dead_share": 0.3}
        run.rows.append(showing.row())
    paid = {"paid": 6, "repeated": 0, "refused": 0}
    run.books = {"deposited": {"nick": paid, "nora": paid}, "earned": {"nick": 440_000, "nora": 1}, "left": 0, "wrong": 0}
    run.books["payments"] = [{"from": "martha", "to": "nick", "amount": 440_000, "currency": "USD"}]
    judged = report.result(run).record()
    assert [claim["id"] for claim in judged["claims"] if not claim["holds"]] == []
    console = Console(width=80, file=io.StringIO())
    console.print(story.money(run.books))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "0.44 USD" in shown and "martha" in shown and "nobody" in shown
    run.rows[3]["stalls"] = 1
    assert [claim["id"] for claim in report.result(run).record()["claims"] if not claim["holds"]] == ["olintserv.both"]
