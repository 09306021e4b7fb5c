"""What this process uses, as its kernel counts it."""

from __future__ import annotations

import os
import resource
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


def cpu_ms() -> int:
    """Milliseconds of processor time since the start, in user and system mode."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return int(1000 * (used.ru_utime + used.ru_stime))


def rss_bytes() -> int:
    """Resident memory; 0 where ``/proc`` does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0
