"""How much memory this process has and may have: from ``/proc`` and the control group (cgroup v2), without a call outside."""

from __future__ import annotations

from pathlib import Path

from polder.settings.limits import Limits as Knobs
from polder.shell.health import Check
from polder.snapshot.schema import Limits

LOW, HIGH = 0.80, 0.95
"""Watermarks: above ``LOW`` an alert says so, above ``HIGH`` the process calls itself unfit."""


def limit(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The least ``memory.max`` of the control groups above this process in bytes; ``None``: none is set."""
    try:
        own = next(line[3:] for line in proc.read_text(encoding="ascii").splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return None
    found: list[int] = []
    place = root / own.lstrip("/")
    while place.is_relative_to(root):
        try:
            text = (place / "memory.max").read_text(encoding="ascii").strip()
            found += [int(text)] if text.isdigit() else []
        except OSError:
            pass
        place = place.parent
    return min(found, default=None)


def limits(knobs: Knobs) -> Limits:
    """The limits of a process: where its settings say no ``memory_bytes``, the watermarks stand on the control group's limit."""
    values = knobs.model_dump()
    return Limits(**values | {"memory_bytes": values["memory_bytes"] or limit() or 0})


def check(held: int, allowed: int | None) -> Check:
    """Below the high watermark, if there is a limit."""
    why = f"{held} of {allowed} bytes: above 95 % of MemoryMax; raise it, lower limits.connections, or add nodes"
    return Check("memory", allowed is None or held < HIGH * allowed, why)
