"""The load generator against a real node, and what becomes of its report."""

from __future__ import annotations

import asyncio
import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench import fronts
from polder.lab.processes import ProcessError, Processes

REPORT = {
    "requests": 2000,
    "failed": 0,
    "error": "",
    "seconds": 2.0,
    "cpu_ticks": 10,
    "resident_pages": [100, 300],
    "connected_s": 0.5,
    "p50_us": 1500,
    "p99_us": 9000,
    "worst_us": 9999,
}


class Files(SimpleHTTPRequestHandler):
    """The files of a directory, on connections that stay."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


def test_a_report_becomes_numbers_with_units() -> None:
    row = fronts.judged(REPORT, "nginx", fronts.Load(connections=50))
    assert row["requests_per_s"] == 1000
    assert row["cpu_us_per_request"] == pytest.approx(10 / fronts.TICK * 1e6 / 2000)
    assert row["kib_per_connection"] == pytest.approx(200 * fronts.PAGE / 1024 / 50)
    assert (row["p50_ms"], row["p99_ms"], row["connections_per_s"]) == (1.5, 9.0, 100)


@pytest.mark.parametrize("broken", [{"failed": 1}, {"requests": 0}])
def test_a_run_in_which_anything_failed_counts_for_nothing(broken: dict[str, int]) -> None:
    with pytest.raises(ProcessError, match="nginx"):
        fronts.judged(REPORT | broken, "nginx", fronts.Load())


def test_the_generator_measures_a_node_over_both_versions_and_notices_a_wrong_answer(tmp_path: Path) -> None:
    (tmp_path / "1k.bin").write_bytes(bytes(1000))
    handler = functools.partial(Files, directory=str(tmp_path))
    origin = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=origin.serve_forever, daemon=True).start()

    async def measure() -> None:
        async with Processes(tmp_path, separate=False) as processes:
            front = await fronts.polder(processes, origin.server_port)
            for version in front.versions:
                quick = fronts.Load(version=version, connections=3, streams=2, seconds=0.3, warm_s=0.1)
                row = await fronts.drive(processes, front, quick)
                assert row["requests_per_s"] > 0
                paced = fronts.Load(version=version, connections=3, streams=2, rate=50, seconds=1.0, warm_s=0.1)
                assert (await fronts.drive(processes, front, paced))["requests_per_s"] <= 60
                missing = fronts.Load(version=version, kilobytes=7, connections=1, seconds=0.2, warm_s=0)
                with pytest.raises(ProcessError, match="polder"):
                    await fronts.drive(processes, front, missing)

    try:
        asyncio.run(measure())
    finally:
        origin.shutdown()
        origin.server_close()
