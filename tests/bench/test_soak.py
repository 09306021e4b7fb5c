"""The soak's verdict: a leak anywhere, a failed page, or reading that did not go on, is seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from bench.soak import ALLOWED, CLAIMS, EVERY_S, Watch, panics, warm_up
from bench.soak_parts import FILE, PAGE, body

from polder.lab.results import Result


def _watched(leaking: str) -> list[dict[str, Any]]:
    watch = Watch(cast(Any, None), cast(Any, None))
    for part in ("node5", "authority"):
        for what in ALLOWED:
            hourly = 100 * ALLOWED[what] if (part, what) == ("node5", leaking) else 0.0
            times = [number * EVERY_S for number in range(180)]
            watch.samples[part, what] = [(at, 50 + hourly * at / 3600 + int(at) % 3) for at in times]
    return watch.rows(0.0, warm_up(15))


def _verdict(leaking: str = "", failed: int = 0, rate: float = 4.0, troubles: int = 0, panicked: int = 0) -> set[str]:
    """The claims that do not hold."""
    rows = _watched(leaking)
    rows += [{"part": "happenings", "what": str(kind), "count": 5} for kind in range(7)]
    rows += [{"part": "troubles", "count": troubles}, {"part": "panics", "count": panicked}]
    rows += [{"part": "reader", "failed": failed, "pages_per_s": rate}]
    return {claim["id"] for claim in Result("soak", {}, rows, CLAIMS).record()["claims"] if not claim["holds"]}


def test_a_quiet_soak_holds() -> None:
    assert _verdict() == set()


@pytest.mark.parametrize("what", ALLOWED)
def test_a_leak_is_named(what: str) -> None:
    assert _verdict(leaking=what) == {f"soak.{what}"}


def test_what_readers_missed_is_named() -> None:
    assert _verdict(failed=1) == {"soak.failed"}
    assert _verdict(rate=1.0) == {"soak.pages"}
    assert _verdict(troubles=1) == {"soak.troubles"}
    assert _verdict(panicked=1) == {"soak.panics"}


def test_panics_are_read_from_the_logs(tmp_path: Path) -> None:
    (tmp_path / "node-node1.log").write_text(
        "thread 'polder-engine' (97) panicked at crates/x.rs:1:2:\n`async fn` resumed\n{}\n" * 2
    )
    (tmp_path / "node-node2.log").write_text('{"text": "told"}\n')
    assert panics(tmp_path) == 2


def test_pages_are_told_apart() -> None:
    assert len(body(PAGE)) == PAGE and body(FILE)[:PAGE] != body(PAGE)
