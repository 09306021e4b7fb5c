"""The one place where shells read clocks and chance; deciding rooms get them as arguments."""

from __future__ import annotations

import random
import time


def wall() -> float:
    """Unix time in seconds: for validity periods that others signed."""
    return time.time()  # noqa: TID251 - the place that the ban points to


def monotonic() -> float:
    """Seconds that never jump: for timers."""
    return time.monotonic()


def chance() -> random.Random:
    """Randomness from the operating system, for jitter and choices."""
    return random.SystemRandom()
