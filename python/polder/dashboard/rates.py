"""``Track``: the recent course of one part's numbers, and how fast its counters grow.

A counter that falls belongs to a new process: that interval has no rate, and none is ever negative.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

KEPT = 300
"""Samples: five minutes of one a second."""
_GAP = 30.0
"""Seconds between two samples beyond which a rate would say nothing about either."""


class Track:
    """``add`` samples in the order of their times; others are left out. ``kept``: how many, the youngest."""

    def __init__(self, kept: int = KEPT) -> None:
        self._samples: deque[tuple[float, Mapping[str, float]]] = deque(maxlen=kept)

    def add(self, at: float, values: Mapping[str, float]) -> None:
        """One sample; ``at`` in seconds."""
        if not self._samples or at > self._samples[-1][0]:
            self._samples.append((at, values))

    def load(self, history: Mapping[str, Any]) -> None:
        """What a shell remembers from before we looked (route ``history``)."""
        columns = history["values"]
        for index, at in enumerate(history["times"]):
            self.add(at, {name: column[index] for name, column in columns.items() if column[index] is not None})

    @property
    def times(self) -> tuple[float, ...]:
        """When the samples were taken."""
        return tuple(at for at, _ in self._samples)

    def last(self, name: str, default: float = 0) -> float:
        """The youngest value."""
        return self._samples[-1][1].get(name, default) if self._samples else default

    def gauge(self, name: str) -> tuple[float | None, ...]:
        """The values as they were."""
        return tuple(values.get(name) for _, values in self._samples)

    def rates(self, names: str | Iterable[str]) -> tuple[float | None, ...]:
        """Growth per second of the sum of ``names``, for each sample since the one before; ``None`` where that is not known."""
        wanted = (names,) if isinstance(names, str) else tuple(names)
        found: list[float | None] = []
        before: tuple[float, Mapping[str, float]] | None = None
        for at, values in self._samples:
            found.append(None if before is None else _rate(before, (at, values), wanted))
            before = (at, values)
        return tuple(found)

    def rate(self, names: str | Iterable[str], over: float = 5.0) -> float:
        """Growth per second over the last ``over`` seconds; 0 where nothing is known."""
        if not self._samples:
            return 0.0
        end = self._samples[-1][0]
        wanted = (names,) if isinstance(names, str) else tuple(names)
        recent = [sample for sample in self._samples if sample[0] >= end - over]
        grown = time = 0.0
        for before, after in pairwise(recent):
            rate = _rate(before, after, wanted)
            if rate is not None:
                grown += rate * (after[0] - before[0])
                time += after[0] - before[0]
        return grown / time if time else 0.0

    def grown(self, names: Iterable[str], over: float) -> float:
        """By how much the sum of ``names`` grew in the last ``over`` seconds, restarts left out."""
        end = self._samples[-1][0] if self._samples else 0.0
        times = self.times
        rates = self.rates(names)
        steps = range(1, len(times))
        return sum((rates[i] or 0.0) * (times[i] - times[i - 1]) for i in steps if times[i] > end - over)


def _rate(
    before: tuple[float, Mapping[str, float]], after: tuple[float, Mapping[str, float]], names: Sequence[str]
) -> float | None:
    time = after[0] - before[0]
    if not 0 < time <= _GAP:
        return None
    known = [name for name in names if name in after[1] and name in before[1]]
    if not known:
        return None
    grown = 0.0
    for name in known:
        step = after[1][name] - before[1][name]
        if step < 0:
            return None
        grown += step
    return grown / time


def added(columns: Sequence[tuple[float | None, ...]]) -> tuple[float | None, ...]:
    """Sum of several courses that end at the same moment; the shorter ones are unknown before."""
    length = max((len(column) for column in columns), default=0)
    padded = [(None,) * (length - len(column)) + tuple(column) for column in columns]
    sums: list[float | None] = []
    for values in zip(*padded, strict=True):
        known = [value for value in values if value is not None]
        sums.append(sum(known) if known else None)
    return tuple(sums)
