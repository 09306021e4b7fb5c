"""Claims about growth, and the CPU clock that they rest on."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
from bench.fetch import Path

from bench import cpu, growth


def rows(cpu_us: float) -> list[dict[str, Any]]:
    def front(system: str, count: int, us: float, ms: float) -> dict[str, Any]:
        named = {"what": "connections", "system": system, "peer": system != "polder", "connections": count}
        return named | {"cpu_us_per_request": us, "p50_ms": ms, "connections_per_s": 300.0 if count < 9000 else 120.0}

    def node(count: int, mode: str, ms: float, mib: float) -> dict[str, Any]:
        return {"what": "nodes", "nodes": count, "mode": mode, "median_ms": ms, "mib_per_node": mib}

    fronts = [
        front("polder", 1, 90, 1),
        front("polder", 10, 40, 1),
        front("polder", 9750, cpu_us, 2),
        front("nginx", 9750, 50, 1.6),
    ]
    return [*fronts, *(node(count, mode, 0.7, 60) for count in (4, 32) for mode in ("beacon", "ring", "direct"))]


def test_claims_go_from_the_least_to_the_most_that_was_measured() -> None:
    judged = {claim.id: claim.judge(rows(60)) for claim in growth.claims(rows(60))}
    assert all(one["holds"] for one in judged.values())
    assert judged["growth.cpu"]["measured"] == 1.5
    assert judged["growth.latency"]["measured"] == 1.25
    assert not growth.claims(rows(90))[0].judge(rows(90))["holds"]
    crowd = {"what": "connections", "system": "polder", "peer": False, "connections": 1000, "connections_per_s": 300.0}
    (judged_too,) = [c for c in growth.claims([*rows(60), crowd]) if c.id == "growth.connecting"]
    assert judged_too.judge([*rows(60), crowd])["measured"] == 0.4


def test_the_clock_of_another_process_counts_what_it_computes_and_nothing_of_one_that_is_gone() -> None:
    me = os.getpid()
    assert me in cpu.sessions([os.getsid(0)])[os.getsid(0)]
    began, own = cpu.spent_s([me]), time.process_time()
    while time.process_time() - own < 0.05:
        sum(range(1000))
    assert cpu.spent_s([me]) - began >= 0.05
    assert cpu.spent_s([2**22 + 1]) == 0


def test_a_tunnel_that_broke_is_asked_for_once_more_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = iter([1.0, None, 3.0, 4.0])

    def others(_way: Path, _count: int) -> list[float]:
        if (took := next(heard)) is None:
            raise RuntimeError("a tunnel has ended")
        return [took]

    monkeypatch.setattr(growth, "others", others)
    times, again = growth.asked({"beacon": Path("beacon", "127.0.0.1:1")}, 3)
    assert (times, again) == ({"beacon": [1.0, 3.0, 4.0]}, {"beacon": 1})
    heard = iter([None, None])
    with pytest.raises(RuntimeError):
        growth.asked({"beacon": Path("beacon", "127.0.0.1:1")}, 1)
