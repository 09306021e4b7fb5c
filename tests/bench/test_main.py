"""Which programs ``make bench`` is."""

from __future__ import annotations

from importlib.util import find_spec

from bench.__main__ import PROGRAMS, chosen


def test_every_program_exists_and_is_run_by_one_of_the_two_targets() -> None:
    assert all(find_spec(program.module) for program in PROGRAMS.values())
    short, long = chosen([], long=False), chosen([], long=True)
    assert sorted(short + long) == sorted(PROGRAMS)
    assert {"chains", "requests", "idle"} <= set(short)
    assert {"crash-points", "control-stopped"} <= set(long)
    assert chosen(["scan"], long=False) == ["scan"]
