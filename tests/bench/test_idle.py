"""Numbers of the idle tunnels, from times to claims."""

from __future__ import annotations

from typing import Any

import pytest
from bench.fetch import Path

from bench import idle


def hop(label: str) -> idle.Hop:
    way = Path(label, "127.0.0.1:1")
    process: Any = None
    return idle.Hop(label, process, way, way, peer=not label.startswith("polder"))


def test_ratios_compare_with_the_time_before_and_after() -> None:
    times = {"before": [1.0] * 50, "meanwhile": [3.0] * 100, "after": [2.0] * 150}
    row = idle.row(hop("polder"), 10_000, 5.6001, times)
    assert (row["p50_before_ms"], row["p50_after_ms"], row["p50_ratio"]) == (1.0, 2.0, 1.5)
    assert (row["kib_per_tunnel"], row["tunnels"], row["peer"]) == (5.6, 10_000, False)


def test_claims_come_from_the_rows() -> None:
    even = dict.fromkeys(idle.PHASES, [1.0] * 10)
    rows = [
        idle.row(hop("polder"), 10_000, 6, even),
        idle.row(hop("polder-own"), 4000, 36, even),
        idle.row(hop("nginx"), 4000, 40, even),
        idle.row(hop("haproxy"), 4000, 24, even),
    ]
    judged = {claim.id: claim.judge(rows) for claim in idle.claims()}
    assert all(one["holds"] for one in judged.values())
    assert judged["idle.best"]["measured"] == 0.25
    assert judged["idle.own"]["measured"] == 1.5
    rows[0]["kib_per_tunnel"] = 12.5
    assert not idle.claims()[1].judge(rows)["holds"]


def test_a_hop_that_never_rests_is_not_measured() -> None:
    spent = iter(range(10_000))
    with pytest.raises(RuntimeError, match="rest"):
        idle.settle(lambda: next(spent), patience=0.3)
    idle.settle(lambda: 7)
