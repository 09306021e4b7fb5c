"""Who suffers in a drill, and when users noticed."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.drill.plan import CannotDrill, Load, What, choose, findings, peers_of, phase
from polder.model.admin_messages import Report


def report(name: str, drills: bool = True) -> Report:
    return Report(name, "0", 0.0, 1.0, True, 3, (), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, {}, drills)


@given(st.integers(2, 40), st.floats(0.01, 0.5), st.integers(), st.data())
def test_never_more_than_half_and_only_the_willing(count: int, fraction: float, seed: int, data: st.DataObject) -> None:
    willing = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    reports = {f"n{i}": report(f"n{i}", able) for i, able in enumerate(willing)}
    try:
        nodes = choose(What.NODE_KILL, reports, fraction, "", Random(seed))
    except CannotDrill:
        assert sum(willing) < max(1, round(fraction * count))
        return
    assert 1 <= len(nodes) == len(set(nodes)) <= count / 2 and all(reports[name].drills for name in nodes)
    for name in nodes:
        peers = peers_of(name, reports, fraction, Random(seed))
        assert name not in peers and 1 <= len(peers) <= max(1, round(fraction * (count - 1)))


def test_what_cannot_be_drilled_says_why() -> None:
    for what, reports, fraction, in_use, why in (
        (What.NODE_KILL, {"n1": report("n1")}, 0.2, "", "needs two"),
        (What.NODE_KILL, {"n1": report("n1"), "n2": report("n2")}, 0.6, "", "at most 0.5"),
        (What.NODE_KILL, {"n1": report("n1", False), "n2": report("n2", False)}, 0.5, "", "rest from one"),
        (What.ACCESS_POINT, {"n1": report("n1"), "n2": report("n2")}, 0.5, "", "no forwarder"),
    ):
        with pytest.raises(CannotDrill, match=why):
            choose(what, reports, fraction, in_use, Random(1))
    assert choose(What.ACCESS_POINT, {"n1": report("n1"), "n2": report("n2")}, 0.5, "n2", Random(1)) == ("n2",)


def test_the_verdict() -> None:
    calm = [phase("before", [Load(0, 0.02)]), phase("during", [Load(1, 0.03), Load(2, 1.0)]), phase("after", [])]
    assert calm[1].median_ms == 1000 and calm[1].slowest_ms == 1000
    assert findings(calm, [], 2.0, 3.0, 0, slowest=3.0, ring=10.0) == ()
    bad = [calm[0], phase("during", [Load(1, 4.0), Load(2, 0.1, "status 502")])]
    said = " ".join(findings(bad, ["status 502"], 12.0, None, 0, slowest=3.0, ring=10.0))
    for part in ("1 of 2 pages failed: status 502", "4.0 s", "within 10 s", "came back"):
        assert part in said
    assert "answered 7 requests" in findings([], [], 1.0, 1.0, 7, slowest=3.0, ring=10.0)[0]
    assert findings([phase("before", [Load(0, 9.0, "x")])], [], 1.0, 1.0, 0, slowest=3.0, ring=10.0) == ()
