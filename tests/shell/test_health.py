"""Readiness says what is wrong; the memory check believes the control group."""

from __future__ import annotations

from pathlib import Path

import pytest

from polder.shell import health, memory
from polder.shell.health import Check, report


def test_all_good_is_ready_and_one_bad_is_not() -> None:
    good = Check("ring", True, "never shown")
    assert report([good]) == (True, {"ready": True, "checks": ["ring"], "reasons": []})
    ready, body = report([good, Check("snapshot", False, "none yet")])
    assert not ready
    assert body == {"ready": False, "checks": ["ring", "snapshot"], "reasons": [{"check": "snapshot", "why": "none yet"}]}


def test_the_common_checks() -> None:
    assert health.certificate(100, 99).good and not health.certificate(100, 100).good
    assert health.snapshot(1).good and not health.snapshot(0).good
    assert health.staying(False).good and not health.staying(True).good


@pytest.mark.parametrize(
    ("limits", "least"),
    [
        ({"a/b": "max", "a": "max", "": "max"}, None),
        ({"a/b": "max", "a": "500", "": "max"}, 500),
        ({"a/b": "300", "a": "500"}, 300),
        ({}, None),
    ],
)
def test_the_least_limit_above_the_process_counts(tmp_path: Path, limits: dict[str, str], least: int | None) -> None:
    root = tmp_path / "cgroup"
    (root / "a" / "b").mkdir(parents=True)
    for place, text in limits.items():
        (root / place / "memory.max").write_text(text + "\n")
    own = tmp_path / "self"
    own.write_text("0::/a/b\n")
    assert memory.limit(own, root) == least


def test_no_control_group_no_limit(tmp_path: Path) -> None:
    assert memory.limit(tmp_path / "none", tmp_path) is None
    assert memory.check(10**12, None).good


def test_the_high_watermark_is_95_per_cent() -> None:
    assert memory.check(949, 1000).good
    assert not memory.check(950, 1000).good
