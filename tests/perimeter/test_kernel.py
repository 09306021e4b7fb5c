"""The renderings against the plan's law, in the real kernel."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.lab


def run(case: str) -> dict[str, Any]:
    """The outcome of a case of ``router``, in namespaces of its own."""
    command = [sys.executable, "-m", "tests.perimeter.router", case]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


@pytest.mark.parametrize("case", ["nft-router", "nft-host", "iptables-router", "iptables-host"])
def test_the_kernel_lets_through_exactly_what_the_plan_says(case: str) -> None:
    outcome = run(case)
    assert outcome["wrong"] == []
    assert outcome["passed_without_filter"] > 100, "the router must carry, or a drop proves nothing"
    assert min(outcome["rulings"].get(ruling, 0) for ruling in ("gre", "flow", "too-big", "shut", "not-ours")) > 50


def test_a_stateful_flow_must_begin_inside_and_fragments_stay_out_with_tracking_loaded() -> None:
    outcome = run("tracked")
    assert outcome == {
        "before": False,
        "opened": True,
        "after": True,
        "other": False,
        "older": True,
        "fragments": [False, False],
        "whole": True,
    }


def test_replacing_a_plan_drops_nothing_and_lets_nothing_in() -> None:
    outcome = run("swap")
    assert outcome["rounds"] > 0
    assert (outcome["dropped"], outcome["leaked"]) == (0, 0)
    assert outcome["refused"] == 2 * outcome["rounds"], "the counters live on when the plan is replaced"


def test_a_capped_servlet_cannot_fill_the_link() -> None:
    outcome = run("cap")
    assert 60_000 <= outcome["passed"] <= outcome["most"]
    assert outcome["passed"] < outcome["offered"] or outcome["most"] >= outcome["offered"]
    assert outcome["other"]
