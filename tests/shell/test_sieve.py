"""What repeats is counted, told once with its number, and nothing else is lost."""

from __future__ import annotations

import logging

from hypothesis import given
from hypothesis import strategies as st

from polder.shell.sieve import KINDS, WINDOW, Sieve


class Kept(logging.Handler):
    """Keeps records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def weight(self, text: str) -> int:
        """Occurrences told of ``text``: each line counts one, or what it says was held back."""
        return sum(getattr(record, "repeated", 1) for record in self.records if record.getMessage() == text)


class Bench:
    """A sieve with a clock that is moved by hand."""

    def __init__(self, most: int) -> None:
        self.now = 0.0
        self.kept = Kept()
        self.sieve = Sieve((self.kept,), most, lambda: self.now)

    def say(self, text: str, level: int = logging.WARNING) -> None:
        self.sieve.handle(logging.LogRecord("polder.x", level, "", 0, text, None, None))


def test_the_first_pass_the_rest_is_counted_and_told() -> None:
    bench = Bench(3)
    for _ in range(100):
        bench.say("refused")
    assert len(bench.kept.records) == 3
    assert bench.sieve.suppressed == 97
    bench.say("something else")
    assert bench.kept.records[-1].getMessage() == "something else"
    bench.now = WINDOW + 1
    bench.say("something else")
    told = [record for record in bench.kept.records if hasattr(record, "repeated")]
    assert [(record.getMessage(), record.repeated) for record in told] == [("refused", 97)]
    bench.say("refused")
    assert not hasattr(bench.kept.records[-1], "repeated"), "a new window"


def test_levels_are_counted_whether_they_pass_or_not() -> None:
    bench = Bench(1)
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        bench.say("same", level)
        bench.say("same", level)
    assert dict(bench.sieve.by_level) == {"debug": 2, "info": 2, "warning": 2, "error": 4}


def test_no_bound_passes_everything() -> None:
    bench = Bench(0)
    for _ in range(1000):
        bench.say("x")
    assert len(bench.kept.records) == 1000


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 3)), max_size=200), st.integers(1, 4))
def test_every_occurrence_is_told_in_the_end(steps: list[tuple[float, int]], most: int) -> None:
    bench = Bench(most)
    said = [0] * 4
    for pause, which in steps:
        bench.now += pause
        said[which] += 1
        bench.say(f"line {which}")
    bench.now += 2 * WINDOW
    bench.say("end")
    assert [bench.kept.weight(f"line {which}") for which in range(4)] == said


def test_memory_is_bounded_and_what_is_forgotten_is_told() -> None:
    bench = Bench(1)
    bench.say("first")
    bench.say("first")
    for number in range(KINDS):
        bench.say(f"other {number}")
    assert bench.kept.weight("first") == 2
