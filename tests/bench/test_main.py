"""Which programs ``make bench`` is."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from bench.__main__ import PROGRAMS, Program, chosen, run, times


def test_every_program_exists_and_is_run_by_one_of_the_two_targets() -> None:
    assert all(find_spec(program.module) for program in PROGRAMS.values())
    short, long = chosen([], long=False), chosen([], long=True)
    assert sorted(short + long) == sorted(PROGRAMS)
    assert {"chains", "requests", "idle"} <= set(short)
    assert {"crash-points", "control-stopped"} <= set(long)
    assert chosen(["scan"], long=False) == ["scan"]


def test_how_long_all_took_is_a_claim() -> None:
    rows = [{"program": "a", "seconds": 300.0, "status": 0}, {"program": "b", "seconds": 200.0, "status": 3}]
    judged = {quick: times(rows, quick=quick).record()["claims"] for quick in (True, False)}
    assert [claim["holds"] for claim in judged[True]] == [False, True]
    assert [claim["holds"] for claim in judged[False]] == [True, True]
    stuck = times([*rows, {"program": "c", "seconds": 1800.0, "status": 124}], quick=False).record()["claims"]
    assert not stuck[1]["holds"]


def test_a_program_that_is_stuck_is_ended_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "asleep.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setitem(PROGRAMS, "stuck", Program("asleep", "waits for ever"))
    monkeypatch.setattr("bench.__main__._STUCK_S", 0.2)
    assert run("stuck", quick=False)["status"] == 124
    assert "did not end" in capfd.readouterr().err
