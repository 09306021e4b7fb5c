"""CPU time of other processes, to the nanosecond: the kernel's ``/proc`` counts in hundredths of a second."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path


def sessions(leaders: Sequence[int]) -> dict[int, list[int]]:
    """The processes of sessions, by leader: nginx is a master and a worker."""
    found: dict[int, list[int]] = {leader: [] for leader in leaders}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            session = int(stat.read_text().rpartition(") ")[2].split()[3])
            if session in found:
                found[session].append(int(stat.parent.name))
    return found


def spent_s(pids: Iterable[int]) -> float:
    """CPU seconds of the processes so far, user and system, threads that have ended included; one that is gone counts nothing."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += time.clock_gettime(_clock(pid))
    return total


def _clock(pid: int) -> int:
    """Linux's CPU clock of a process, as ``clock_getcpuclockid`` makes it."""
    return (~pid << 3) | 2
