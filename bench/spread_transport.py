"""``python -m bench.spread_transport``: one sprayed QUIC connection beside QUIC multipath. Writes ``spread-transport.json``, ``.svg``.

A program of its own (``bench/transport``: quinn, and noq for multipath) loads 8 MiB and 200 pages of 20 KB over eight real UDP
relays on loopback that delay, lose, pace (20 Mbit/s each) and, in one setting, die before the second hundred pages. The sprayed
connection's core is a small one made for this question, not the product's: it decides how QUIC is used, not how fast Polder is.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import report
from polder.lab.results import Claim, Measure, Result

HERE = Path(__file__).parent / "transport"
RELAYS = 8
SETTINGS = {
    "even": ("20", "0", 0),
    "uneven": ("10,20,40,80", "0", 0),
    "lossy": ("20,22,25,30", "0.01", 0),
    "uneven and lossy": ("10,20,40,80", "0.01", 0),
    "half die": ("20,22,25,30", "0", 4),
}
"""Name → one-way delays in ms in turn, loss per direction, relays that die."""
KINDS = {
    "sprayed, quinn's own thresholds": ("sprayed-default", "0", False),
    "sprayed": ("sprayed", "0", False),
    "sprayed, 200 % copies": ("sprayed", "2", False),
    "sprayed, feedback, 50 % copies": ("sprayed-feedback", "0.5", False),
    "sprayed, feedback, 50 % copies, BBR": ("sprayed-feedback", "0.5", True),
    "multipath": ("multipath", "0", False),
}
CHOSEN = "sprayed, feedback, 50 % copies, BBR"


def build() -> Path:
    """Build the program; where it stands."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", "target")).resolve() / "transport"
    environment = os.environ | {"CARGO_TARGET_DIR": str(target)}
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=HERE, env=environment, check=True)
    return target / "release" / "polder-transport-bench"


def measure(program: Path, setting: str, kind: str) -> dict[str, Any]:
    """One run; without numbers where it was not done in time or broke, with the reason."""
    delays, loss, die = SETTINGS[setting]
    word, copies, bbr = KINDS[kind]
    environment = os.environ | ({"BBR": "1"} if bbr else {})
    command = [str(program), word, str(RELAYS), delays, loss, str(die), copies]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    row: dict[str, Any] = {"setting": setting, "kind": kind, "done": run.returncode == 0}
    if run.returncode == 0:
        times: dict[str, float] = json.loads(run.stdout)
        return row | times
    return row | {"why": run.stderr.strip().removeprefix("Error: ")}


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per setting and kind: medians over the runs that were done, and how many were not."""
    out = []
    for setting in SETTINGS:
        for kind in KINDS:
            mine = [run for run in runs if run["setting"] == setting and run["kind"] == kind]
            done = [run for run in mine if run["done"]]
            row: dict[str, Any] = {"setting": setting, "kind": kind, "runs": len(mine), "not_done": len(mine) - len(done)}
            for field in ("bulk_ms", "page_ms", "page_p99_ms", "after_ms", "after_p99_ms", "worst_ms"):
                if done:
                    row[field] = round(statistics.median(run[field] for run in done), 2)
            out.append(row)
    return out


CLAIMS = (
    Claim(
        "default-thresholds",
        "over uneven relays quinn's own thresholds take reordering for loss: such runs are not done in 40 s",
        ">= 1",
        Measure("not_done", {"setting": "uneven", "kind": "sprayed, quinn's own thresholds"}),
    ),
    Claim(
        "half-die",
        "with half of the relays dying under it, the sprayed connection with feedback is always done",
        "== 0",
        Measure("not_done", {"setting": "half die", "kind": CHOSEN}),
    ),
    Claim(
        "half-die-page",
        "median page with half of the relays dead, sprayed with feedback over its own quiet one",
        "<= 1.1",
        Measure(
            "after_ms",
            {"setting": "half die", "kind": CHOSEN},
            over=Measure("page_ms", {"setting": "half die", "kind": CHOSEN}),
        ),
    ),
    Claim(
        "lossy-page",
        "99th percentile of pages under 1 % loss, sprayed over multipath",
        "<= 1",
        Measure(
            "page_p99_ms",
            {"setting": "lossy", "kind": CHOSEN},
            over=Measure("page_p99_ms", {"setting": "lossy", "kind": "multipath"}),
        ),
    ),
)


def draw(figure: Any, rows: Sequence[Any]) -> None:
    """Milliseconds of the 99th percentile of pages, by setting; runs not done are missing."""
    axis = figure.subplots()
    width = 0.8 / len(KINDS)
    for number, kind in enumerate(KINDS):
        times = [next(row.get("after_p99_ms") for row in rows if row["setting"] == s and row["kind"] == kind) for s in SETTINGS]
        places = [place + number * width for place, time in enumerate(times) if time is not None]
        axis.bar(places, [time for time in times if time is not None], width, label=kind)
    axis.set(yscale="log", ylabel="99th percentile of a 20 KB page, ms", title="Second hundred pages (missing: not done in 40 s)")
    axis.set_xticks([place + 0.4 for place in range(len(SETTINGS))], list(SETTINGS))
    axis.legend(fontsize=7)


def main() -> int:
    """Build, run in turns, record; exit status 3 if a claim does not hold."""
    arguments = report.arguments("spread_transport", __doc__, "one round").parse_args()
    program, rounds = build(), 1 if arguments.quick else 3
    runs = []
    for _ in range(rounds):
        for setting in SETTINGS:
            for kind in KINDS:
                runs.append(measure(program, setting, kind))
                print(json.dumps(runs[-1]), flush=True)
    settings = {name: {"delays_ms": d, "loss": loss, "die": die} for name, (d, loss, die) in SETTINGS.items()}
    parameters = {"relays": RELAYS, "relay_mbit_s": 20, "rounds": rounds, "limit_s": 40, "settings": settings}
    title = "One sprayed QUIC connection beside QUIC multipath"
    result = Result("spread-transport", parameters, summary(runs), CLAIMS, title)
    return report.finish(result, draw, record=not arguments.no_record)


if __name__ == "__main__":
    sys.exit(main())
