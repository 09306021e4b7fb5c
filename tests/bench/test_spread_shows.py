"""What the spread plane's interruptions and its throughput are judged by."""

from __future__ import annotations

import pytest
from bench.spread_interruptions import Downloaded, Event

from bench import spread_interruptions, spread_session

FIRST = Downloaded(600, "right", [(0.0, 0), (1.0, 100), (1.5, 200), (4.0, 300), (4.1, 600)])
SECOND = Downloaded(600, "right", [(6.0, 0), (6.2, 500), (6.3, 600)])


@pytest.mark.parametrize(
    ("begin", "end", "stall", "size"),
    [
        (0.5, 1.6, 2500.0, 100),
        (2.0, 5.0, 2000.0, 300),
        (4.05, 6.1, 200.0, 0),
        (5.0, 5.5, 0.0, 0),
    ],
)
def test_the_longest_wait_of_a_download_that_an_event_met(begin: float, end: float, stall: float, size: int) -> None:
    assert spread_interruptions.stall_ms([FIRST, SECOND], begin, end) == stall
    assert spread_interruptions.came([FIRST, SECOND], begin, end) == size


def test_a_row_tells_what_the_line_carried_for_each_byte() -> None:
    made = spread_interruptions.row(Event("it happens", 2.0, 5.0, 450), [FIRST])
    assert (made["wire_per_byte"], made["bytes"], made["seconds"]) == (1.5, 300, 3.0)
    assert spread_interruptions.row(Event("it happens", 4.2, 5.0, 450), [FIRST])["wire_per_byte"] is None


def test_throughput_is_compared_turn_by_turn() -> None:
    rest = dict.fromkeys(spread_session.FIELDS, 1)
    speeds = {"quinn": (1000, 3000, 2000), "forwarded": (800, 2000, 1000), "spread": (500, 1800, 1700)}
    rows = [{"turn": n, "kind": kind} | rest | {"mbit_s": speeds[kind][n]} for n in range(3) for kind in spread_session.KINDS]
    found = [row for row in spread_session.summary(rows) if row["turn"] == "median"]
    assert {row["kind"]: row["mbit_s"] for row in found} == {
        "quinn": 2000, "forwarded": 1000, "spread": 1700,
        "spread over quinn": 0.6, "forwarded over quinn": 0.667, "spread over forwarded": 0.9,
    }  # fmt: skip
    (claim,) = spread_session.CLAIMS
    assert (claim.target, claim.judge(found)["measured"]) == (">= 0.7", 0.6)
