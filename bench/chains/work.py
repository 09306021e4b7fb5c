"""What one client asks of one path, and what it cost the hops: CPU seconds are those of every hop's processes."""

from __future__ import annotations

import ssl
import statistics
import time
from collections.abc import Sequence
from typing import Any

from bench import cpu
from bench.fetch import Path, get, open_stream
from polder.lab.processes import Process

GIB = 1 << 30


def cpu_s(processes: Sequence[Process]) -> list[float]:
    """CPU seconds so far of each hop, its workers included (a hop is a session of its own)."""
    leaders = [process.process.pid for process in processes]
    return [cpu.spent_s(pids) for pids in cpu.sessions(leaders).values()]


def tunnels(path: Path, hops: Sequence[Process], tls: ssl.SSLContext, server: str, count: int) -> dict[str, Any]:
    """``count`` new connections with one GET of 1 KB each, one after the other."""
    open_stream(path, server, tls).close()
    before, began = cpu_s(hops), time.perf_counter()
    for _ in range(count):
        with open_stream(path, server, tls) as stream:
            get(stream, server, 1)
    took, after = time.perf_counter() - began, cpu_s(hops)
    spent = [(b - a) * 1000 / count for a, b in zip(before, after, strict=True)]
    return {"cpu_ms_per_tunnel": statistics.fmean(spent), "tunnels_per_s": count / took}


def bulk(path: Path, hops: Sequence[Process], tls: ssl.SSLContext, server: str, kilobytes: int) -> dict[str, Any]:
    """One download over an open connection."""
    with open_stream(path, server, tls) as stream:
        get(stream, server, 1)
        before, began = cpu_s(hops), time.perf_counter()
        get(stream, server, kilobytes)
        took, after = time.perf_counter() - began, cpu_s(hops)
    size = kilobytes * 1000
    spent = [(b - a) * GIB / size for a, b in zip(before, after, strict=True)]
    return {"mib_per_s": size / took / (1 << 20), "cpu_s_per_gib": statistics.fmean(spent) if spent else 0.0}
