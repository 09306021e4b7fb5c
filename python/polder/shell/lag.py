"""``LoopLag``: how late the event loop is. A control plane that is late answers calls late and decides late."""

from __future__ import annotations

import asyncio
from collections import deque

from polder.shell.clock import monotonic

_EVERY = 0.25
_KEPT = 40


class LoopLag:
    """Run ``forever`` as a task; ``worst`` is the greatest lateness of the last ten seconds."""

    def __init__(self) -> None:
        self._late: deque[float] = deque(maxlen=_KEPT)
        self._due = 0.0

    @property
    def worst(self) -> float:
        """Seconds; a loop that stands still now counts with what it is late already."""
        now_late = monotonic() - self._due if self._due else 0.0
        return max(0.0, now_late, *self._late)

    async def forever(self) -> None:
        """One look; the caller repeats it."""
        self._due = monotonic() + _EVERY
        await asyncio.sleep(_EVERY)
        self._late.append(max(0.0, monotonic() - self._due))
