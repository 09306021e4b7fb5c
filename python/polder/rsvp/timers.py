"""Deadlines by key: set again and again, popped when due."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator


class Timers:
    """A heap with one live deadline per key. What was set anew or cancelled stays in the heap until it comes up; when such entries
    are most of it, the heap is built again, so it stays within a few times the live keys.
    """

    def __init__(self) -> None:
        self._at: dict[Hashable, float] = {}
        self._heap: list[tuple[float, int, Hashable]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._at)

    def set(self, key: Hashable, at: float) -> None:
        """Let ``key`` come due at ``at``, and not before."""
        self._at[key] = at
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, key))
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self._at):
            self._heap = [(when, n, name) for n, (name, when) in enumerate(self._at.items())]
            self._count = len(self._heap)
            heapq.heapify(self._heap)

    def at(self, key: Hashable) -> float | None:
        """When ``key`` comes due."""
        return self._at.get(key)

    def cancel(self, key: Hashable) -> None:
        """Forget it."""
        self._at.pop(key, None)

    def next(self) -> float | None:
        """The first deadline."""
        while self._heap and self._at.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> Iterator[Hashable]:
        """Keys whose time has come, first the earliest; each is forgotten when it is given out."""
        while (first := self.next()) is not None and first <= now:
            key = heapq.heappop(self._heap)[2]
            del self._at[key]
            yield key
