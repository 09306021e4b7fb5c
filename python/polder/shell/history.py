"""``History``: what a shell counted lately, in bounded memory: each second for ten minutes, every ten seconds for six hours.

Columns of doubles: 2,760 numbers of 8 bytes for each name, at most ``MAX_NAMES`` names, so 5.7 MB and no more.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from math import isnan, nan
from typing import Any

FINE = (1.0, 600)
COARSE = (10.0, 2160)
"""Seconds between two samples, and how many are kept."""
MAX_NAMES = 256
_BEFORE = -1e18
"""Older than every sample."""


class _Ring:
    """The last ``size`` samples, one at most in each period."""

    def __init__(self, period: float, size: int) -> None:
        self.period = period
        self.size = size
        self.times = array("d")
        self.columns: dict[str, array[float]] = {}
        self.next = 0
        self._last = _BEFORE

    def add(self, now: float, values: Mapping[str, float]) -> None:
        if 0 <= now - self._last < self.period * 0.9:
            return
        self._last = now
        for name in values:
            if name not in self.columns and len(self.columns) < MAX_NAMES:
                self.columns[name] = array("d", [nan]) * len(self.times)
        if len(self.times) < self.size:
            self.times.append(now)
            for name, column in self.columns.items():
                column.append(values.get(name, nan))
            return
        self.times[self.next] = now
        for name, column in self.columns.items():
            column[self.next] = values.get(name, nan)
        self.next = (self.next + 1) % self.size

    def order(self) -> list[int]:
        """Places from the oldest to the youngest."""
        return [*range(self.next, len(self.times)), *range(self.next)]


class History:
    """``add`` once a second; ``now`` in Unix seconds."""

    def __init__(self) -> None:
        self._rings = (_Ring(*FINE), _Ring(*COARSE))

    def add(self, now: float, values: Mapping[str, float]) -> None:
        """One sample. Names beyond ``MAX_NAMES`` are left out."""
        for ring in self._rings:
            ring.add(now, values)

    def read(self, now: float, seconds: float, names: Iterable[str] = ()) -> dict[str, Any]:
        """The samples of the last ``seconds``: ``step`` (s), ``times``, ``values`` by name (``None``: not known then).

        The finest that reaches back so far; all names if none is given.
        """
        fine, coarse = self._rings
        ring = fine if seconds <= fine.period * fine.size else coarse
        places = [place for place in ring.order() if ring.times[place] > now - seconds]
        wanted = [name for name in names if name in ring.columns] or ([] if tuple(names) else sorted(ring.columns))
        values = {name: [_plain(ring.columns[name][place]) for place in places] for name in wanted}
        return {"step": ring.period, "times": [round(ring.times[place], 2) for place in places], "values": values}


def _plain(value: float) -> float | int | None:
    if isnan(value):
        return None
    return int(value) if value.is_integer() else value
