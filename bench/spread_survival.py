"""``python -m bench.spread_survival``: copies or forward error correction, where relays are dead and nobody has noticed yet.

Real ends and relays in memory, 80 relays, a share of them dead, no feedback: the part of the datagrams that is lost, over the share of
dead relays, for copies (0, 50, 100, 200 %) and for Reed-Solomon groups with the same number of extra packets; for bursts of 20
datagrams in single packets, and for lone datagrams, where a group has but one. By chance copies lose f^(1+c), a little less as they
take different relays.
"""

from __future__ import annotations

import math
import sys
from typing import Any

from bench import report
from polder.engine import laboratory
from polder.engine.facade import BUILD
from polder.lab.results import Claim, Measure, Result

RELAYS = 80
DEAD = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
WAYS: tuple[tuple[str, float, tuple[int, int] | None], ...] = (
    ("none", 0.0, None),
    ("copies 50 %", 0.5, None),
    ("copies 100 %", 1.0, None),
    ("copies 200 %", 2.0, None),
    ("repairs 50 %", 0.0, (20, 10)),
    ("repairs 100 %", 0.0, (20, 20)),
    ("repairs 200 %", 0.0, (20, 40)),
)
BURSTS = (1, 20)


def row(way: tuple[str, float, tuple[int, int] | None], dead: float, burst: int, datagrams: int) -> dict[str, Any]:
    """What one way loses."""
    name, copies, fec = way
    count = datagrams - datagrams % burst
    config = {
        "relays": RELAYS, "dead": round(RELAYS * dead), "copies": copies, "fec": fec, "run": 1, "burst": burst,
        "datagrams": count, "seed": 1,
    }  # fmt: skip
    got = laboratory.run("survival", config)
    return {
        "way": name,
        "dead_share": dead,
        "burst_datagrams": burst,
        "lost_share": round(1 - got["delivered"] / got["datagrams"], 5),
        "extra_packets_share": round(got["packets"] / got["datagrams"] - 1, 3),
        "chance_share": round(expected(copies, dead), 5) if fec is None else None,
    }


def expected(copies: float, dead: float) -> float:
    """Loss of copies by chance: all of a datagram's relays, which differ, are among the dead."""
    gone, whole = round(RELAYS * dead), int(copies)

    def all_of(sent: int) -> float:
        return math.comb(gone, sent) / math.comb(RELAYS, sent)

    return (1 - copies + whole) * all_of(1 + whole) + (copies - whole) * all_of(2 + whole)


def lost(way: str, dead: float, burst: int) -> Measure:
    """The loss of one row."""
    return Measure("lost_share", {"way": way, "dead_share": dead, "burst_datagrams": burst})


def claims() -> list[Claim]:
    """What decides."""
    return [
        Claim(
            "spread-survival.law",
            "loss with 200 % copies, half of the relays dead (0.120 by chance)",
            "<= 0.14",
            lost("copies 200 %", 0.5, 20),
        ),
        Claim(
            "spread-survival.repairs",
            "loss with 100 % repairs, 20 % dead, groups that fill up",
            "<= 0.005",
            lost("repairs 100 %", 0.2, 20),
        ),
        Claim("spread-survival.copies", "the same with 100 % copies", ">= 0.02", lost("copies 100 %", 0.2, 20)),
        Claim(
            "spread-survival.lone",
            "extra packets of 50 % repairs where datagrams come one by one",
            ">= 0.9",
            Measure("extra_packets_share", {"way": "repairs 50 %", "burst_datagrams": 1, "dead_share": 0.0}),
        ),
    ]


def main() -> int:
    """Measure, write, print."""
    arguments = report.arguments("spread_survival", __doc__).parse_args()
    datagrams = 2000 if arguments.quick else 40_000
    rows = [row(way, dead, burst, datagrams) for burst in BURSTS for way in WAYS for dead in DEAD]
    parameters = {"relays": RELAYS, "datagrams": datagrams, "run_packets": 1, "build": BUILD}
    result = Result(
        "spread-survival", parameters, rows, claims(), "Copies or forward error correction, before anybody has noticed"
    )
    return report.finish(result, record=not arguments.no_record)


if __name__ == "__main__":
    sys.exit(main())
