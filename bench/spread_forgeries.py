"""``python -m bench.spread_forgeries``: packets that no relay may pass, sent to a relay: what passes, what is answered, what each costs.

A node relays on loopback; forged packets of each kind go to its port, 1,000 to see whether any passes or is answered, and many more to
see what refusing one costs. Good packets show what passing one costs. The sender listens for answers, the sink for what passes; the
relay's own counters say that every packet was refused, and none lost on the way.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from bench import cpu, report
from bench.spread_relay import EPOCH, RELAY, SERVLET, datagram_record, epoch_key, free_address, relay, tool
from polder.engine.facade import BUILD
from polder.lab import enclosure
from polder.lab.engines import Remote
from polder.lab.processes import Processes
from polder.lab.results import Claim, Measure, Result

KINDS = (
    "fuzzed", "replayed", "truncated", "lengthened", "re-addressed", "turned", "re-ranked", "re-listed",
    "cross-relay", "cross-epoch", "stale", "expired", "keyless", "random",
)  # fmt: skip
OTHER = 3
ELSEWHERE = "127.0.0.1:9"
RATE = 50_000
Keys = tuple[bytes, bytes]


async def send(processes: Processes, kind: str, count: int, node: Remote, sink: str, keys: Keys, seed: int) -> dict[str, Any]:
    """Packets of one kind."""
    config = {
        "kind": kind, "count": count, "rate": RATE, "epoch": EPOCH, "key": keys[0], "other_key": keys[1], "seed": seed,
        "relay": [RELAY, datagram_record(node.spread[0])],
        "other": [OTHER, datagram_record(ELSEWHERE)],
        "servlet": [SERVLET, datagram_record(sink)],
    }  # fmt: skip
    return await tool(processes, "forgeries", config)


def counted(before: dict[str, int], after: dict[str, int]) -> tuple[int, int]:
    """Packets refused and passed meanwhile."""
    grown = {name: after[name] - before[name] for name in after if name.startswith("spread_")}
    return sum(value for name, value in grown.items() if name.startswith("spread_refused_")), (
        grown["spread_out_packets"] + grown["spread_back_packets"]
    )


async def kind_row(
    processes: Processes, kind: str, counts: tuple[int, int], node: Remote, sink: str, keys: Keys, rounds: int
) -> dict[str, Any]:
    """What 1,000 packets of a kind do, and what one of many costs (median of ``rounds``)."""
    before = await node.apply()
    got = await send(processes, kind, counts[0], node, sink, keys, seed=1)
    after = await node.apply()
    refused, passed = counted(before, after)
    costs = []
    for round_ in range(rounds):
        pid = node.process.process.pid
        spent = cpu.spent_s([pid])
        sent = await send(processes, kind, counts[1], node, sink, keys, seed=2 + round_)
        packets = sent["sent"] * (2 if kind == "replayed" else 1)
        costs.append((cpu.spent_s([pid]) - spent) * 1e6 / packets)
    good_first = got["sent"] if kind == "replayed" else 0
    return {
        "kind": kind,
        "sent": got["sent"],
        "refused": refused,
        "passed": passed - good_first if kind != "good" else passed,
        "at_servlet": got["passed"],
        "answered": got["answered"],
        "cpu_us_per_packet": round(statistics.median(costs), 3),
    }


def claims() -> list[Claim]:
    """The promises."""
    forged = {"forged": True}
    return [
        Claim(
            "spread-forgeries.passed", "forged packets passed, of 1,000 of each kind", "== 0", Measure("passed", forged, "sum")
        ),
        Claim(
            "spread-forgeries.servlet", "forged packets that reached the servlet", "== 0", Measure("at_servlet", forged, "sum")
        ),
        Claim("spread-forgeries.answered", "datagrams that came back", "== 0", Measure("answered", {}, "sum")),
        Claim(
            "spread-forgeries.refused",
            "packets counted as refused over those sent, least of the kinds",
            ">= 1",
            Measure("refused_share", forged, "min"),
        ),
        Claim(
            "spread-forgeries.cost",
            "CPU of the dearest refusal over that of passing a good packet",
            "<= 2",
            Measure("cost_over_good", forged, "max"),
        ),
    ]


async def measure(many: int, rounds: int, *, record: bool) -> int:
    """All kinds in turn."""
    folder = (Path("build/lab") / f"spread-forgeries-{os.getpid()}").resolve()
    keys = epoch_key(bytes(range(32)), EPOCH), epoch_key(bytes(32), EPOCH)
    sink = free_address()
    async with Processes(folder) as processes:
        node = await relay(processes, sink, keys[0], ((OTHER, ELSEWHERE),))
        rows: list[dict[str, Any]] = []
        for kind in ("good", *KINDS):
            row = await kind_row(processes, kind, (1000, many), node, sink, keys, rounds)
            row["forged"] = kind != "good"
            row["refused_share"] = round(row["refused"] / row["sent"], 4)
            row["cost_over_good"] = round(row["cpu_us_per_packet"] / (rows[0] if rows else row)["cpu_us_per_packet"], 3)
            rows.append(row)
            print(" ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    parameters = {"of_each_kind": 1000, "for_cost": many, "rounds": rounds, "packets_per_s": RATE, "build": BUILD}
    result = Result("spread-forgeries", parameters, rows, claims(), "Forged packets at a relay")
    return report.finish(result, record=record, rows=False)


def main() -> int:
    """Measure, write, print."""
    arguments = report.arguments("spread_forgeries", __doc__).parse_args()
    many, rounds = (5000, 1) if arguments.quick else (50_000, 3)
    return enclosure.run(lambda: asyncio.run(measure(many, rounds, record=not arguments.no_record)))


if __name__ == "__main__":
    sys.exit(main())
