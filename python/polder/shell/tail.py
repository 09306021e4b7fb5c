"""``Tail``: the last log lines of this process, for the administrator and for what is exported after an incident."""

from __future__ import annotations

import logging
from collections import deque

KEPT = 2000
LONGEST = 2000
"""Lines kept, and characters of one: 4 MB at most, some 400 KB as a rule."""


class Tail(logging.Handler):
    """Keeps what passes, formatted; the oldest goes first."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._lines: deque[str] = deque(maxlen=KEPT)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record."""
        self._lines.append(self.format(record)[:LONGEST])

    def lines(self, count: int = KEPT) -> list[str]:
        """The youngest ``count`` lines, oldest first."""
        return list(self._lines)[-count:] if count > 0 else []
