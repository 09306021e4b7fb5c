"""What the history of an incident shows: peaks and courses. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from polder.dashboard import signs
from polder.dashboard.rates import Track

WATCHED: Mapping[str, Sequence[str]] = {
    "tunnels opened/s": ("tunnels",),
    "tunnels failed/s": ("tunnels_failed", "front_failed"),
    "paths replaced/s": ("failovers",),
    "connections refused/s": (
        "connections_refused",
        "front_over_connections",
        "front_over_connections_per_source",
        "front_over_handshake_rate",
    ),
    "handshakes failed/s": ("handshakes_failed",),
    "requests refused/s": tuple(name for name in signs.REFUSED if name != "connections_refused"),
    "limits hit/s": signs.LIMITS,
    "filter: packets refused/s": ("filter_refused_packets",),
    "filter: bytes refused/s": ("filter_refused_bytes",),
    "bytes to users/s": ("bytes_down", "front_bytes_down"),
}
"""Course → counters whose growth it is."""


class Course(NamedTuple):
    """One course of one part: ``times`` in Unix seconds; ``peak`` and when it was."""

    part: str
    name: str
    times: tuple[float, ...]
    values: tuple[float | None, ...]
    peak: float
    peak_at: float


def courses(part: str, history: Mapping[str, Any]) -> list[Course]:
    """Those in which anything happened."""
    track = Track(kept=len(history["times"]) + 1)
    track.load(history)
    found = []
    for name, counters in WATCHED.items():
        values, times = track.rates(counters), track.times
        known = [(value, at) for value, at in zip(values, times, strict=True) if value]
        if known:
            peak, peak_at = max(known)
            found.append(Course(part, name, times, values, peak, peak_at))
    return found
