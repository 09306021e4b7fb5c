"""The history keeps what it promises, in bounded memory, whatever the clock and the names do."""

from __future__ import annotations

import logging

from hypothesis import given
from hypothesis import strategies as st

from polder.shell.history import COARSE, FINE, MAX_NAMES, History
from polder.shell.logs import JsonLines
from polder.shell.tail import KEPT, LONGEST, Tail

SAMPLES = st.lists(
    st.tuples(st.floats(-5, 40), st.dictionaries(st.sampled_from("abcd"), st.integers(0, 1 << 53), max_size=4)), max_size=80
)


@given(SAMPLES)
def test_what_is_read_was_added_and_nothing_is_moved(samples: list[tuple[float, dict[str, int]]]) -> None:
    history, now = History(), 1_000_000.0
    added: dict[tuple[float, str], set[int]] = {}
    for step, values in samples:
        now += step
        history.add(now, values)
        for name, value in values.items():
            added.setdefault((round(now, 2), name), set()).add(value)
    read = history.read(now, 600)
    for name, column in read["values"].items():
        assert len(column) == len(read["times"])
        for at, value in zip(read["times"], column, strict=True):
            assert value is None or value in added[at, name]


def test_ten_minutes_of_seconds_and_six_hours_of_tens() -> None:
    history = History()
    for second in range(30_000):
        history.add(float(second), {"n": second})
    now = 29_999.0
    fine = history.read(now, FINE[0] * FINE[1])
    assert fine["step"] == 1 and len(fine["times"]) == 600 and fine["values"]["n"][-1] == 29_999
    coarse = history.read(now, 6 * 3600)
    assert coarse["step"] == 10 and len(coarse["times"]) == COARSE[1] and coarse["values"]["n"][0] > 29_999 - 21_600 - 10
    assert coarse["times"] == sorted(coarse["times"])
    assert history.read(now, 10, ["n", "absent"])["values"].keys() == {"n"}
    assert history.read(now, 10, ["absent"])["values"] == {}


def test_names_are_bounded() -> None:
    history = History()
    for second in range(50):
        history.add(float(second), {f"{second}.{each}": 1 for each in range(50)})
    assert len(history.read(50.0, 100)["values"]) == MAX_NAMES


def test_the_tail_keeps_the_youngest_lines_and_bounds_each() -> None:
    tail = Tail(JsonLines())
    for number in range(KEPT + 50):
        tail.handle(logging.makeLogRecord({"name": "polder.x", "msg": f"{number} " + "y" * 5000, "levelname": "INFO"}))
    lines = tail.lines()
    assert len(lines) == KEPT and all(len(line) <= LONGEST for line in lines)
    assert f'"text": "{KEPT + 49} ' in lines[-1]
    assert tail.lines(3) == lines[-3:] and tail.lines(0) == []
