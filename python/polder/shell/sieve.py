"""``Sieve``: passes log records on, but not the same line again and again: what repeats is counted and told as a number.

A flood makes the same refusal thousands of times; a full disk or a drowned operator would be the attacker's second success.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from polder.shell.clock import monotonic

WINDOW = 10.0
"""Seconds for which the occurrences of one line are counted together."""
KINDS = 512
"""Lines told apart; the one that is longest silent is forgotten first. Some 500 bytes each."""


@dataclass
class _Line:
    since: float
    passed: int = 0
    held: int = 0


class Sieve(logging.Handler):
    """Passes at most ``most`` equal lines (logger, level, text) in ``WINDOW`` seconds to ``handlers``; 0: all.

    What was held back is told by one more such line, with the extra ``repeated``, as soon as anything is logged afterwards.
    """

    def __init__(self, handlers: Sequence[logging.Handler], most: int, clock: Callable[[], float] = monotonic) -> None:
        super().__init__()
        self.most = most
        self.by_level: Counter[str] = Counter({"debug": 0, "info": 0, "warning": 0, "error": 0})
        self.suppressed = 0
        self._handlers = tuple(handlers)
        self._clock = clock
        self._lines: OrderedDict[tuple[str, int, str], _Line] = OrderedDict()
        self._swept = clock()

    def emit(self, record: logging.LogRecord) -> None:
        """Pass, or count."""
        self.by_level[_level(record.levelno)] += 1
        now = self._clock()
        self._sweep(now)
        key = (record.name, record.levelno, str(record.msg))
        line = self._lines.setdefault(key, _Line(now))
        self._lines.move_to_end(key)
        if line.passed >= self.most > 0:
            line.held += 1
            self.suppressed += 1
        else:
            line.passed += 1
            self._pass(record)
        if len(self._lines) > KINDS:
            self._tell(*self._lines.popitem(last=False))

    def _sweep(self, now: float) -> None:
        """Forget lines whose time is over, and tell what was held back of them."""
        if now - self._swept < 1:
            return
        self._swept = now
        for key in [key for key, line in self._lines.items() if now - line.since >= WINDOW]:
            self._tell(key, self._lines.pop(key))

    def _tell(self, key: tuple[str, int, str], line: _Line) -> None:
        if line.held:
            name, level, text = key
            record = logging.LogRecord(name, level, "", 0, text, None, None)
            record.repeated = line.held
            self._pass(record)

    def _pass(self, record: logging.LogRecord) -> None:
        for handler in self._handlers:
            handler.handle(record)


def _level(number: int) -> str:
    names = ((logging.ERROR, "error"), (logging.WARNING, "warning"), (logging.INFO, "info"))
    return next((name for least, name in names if number >= least), "debug")
