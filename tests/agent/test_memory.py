"""What a site's agent remembers over a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from polder.site.memory import SiteMemory


def test_exposure_is_kept_over_a_restart_and_begins_anew_when_the_edge_moves(tmp_path: Path) -> None:
    file = tmp_path / "agent.mp"
    first = SiteMemory.load(file).at("192.0.2.1", 1000.0)
    assert (first.edge, first.exposed, first.exposed_since) == ("192.0.2.1", (), 1000)
    known = SiteMemory(first.inner_secret, 7, 8, first.edge, ("n1", "n2"), 1000)
    known.save(file)
    assert SiteMemory.load(file).at("192.0.2.1", 2000.0) == known
    moved = SiteMemory.load(file).at("192.0.2.9", 2000.0)
    assert (moved.exposed, moved.exposed_since, moved.appointment_epoch, moved.record_epoch) == ((), 2000, 7, 8)
    assert moved.inner_secret != known.inner_secret, "inner addresses are part of what the old servlets know"


def test_a_damaged_memory_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    file = tmp_path / "agent.mp"
    file.write_bytes(b"\x81\xa1x")
    with pytest.raises(ValueError, match="damaged"):
        SiteMemory.load(file)
