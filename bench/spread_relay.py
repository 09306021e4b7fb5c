"""``python -m bench.spread_relay``: what a relay of the spread plane costs per packet, beside a bare forwarder.

Both take and send packets in runs (recvmmsg and sendmmsg with UDP_GRO and UDP_SEGMENT), each in a process of its own on one core;
load and sink share the other core. The bare one changes nothing; ours proves each packet and rewrites it. Both get the same
packets of one session, in bursts, in alternating turns, for several lengths of runs. CPU is user and system time of the relay's
process over the packets that came out; the rate is over the bursts.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from bench import cpu, report
from polder.engine.facade import BUILD
from polder.lab import enclosure
from polder.lab.attacks import socket_record
from polder.lab.engines import Pki, Remote, launch
from polder.lab.processes import Process, Processes
from polder.lab.results import Claim, Measure, Result
from polder.model import Kind
from polder.snapshot.schema import EngineConfig, Snapshot, Spread, SpreadEpoch, SpreadMembers

DOMAIN = "bench.test"
RUNS = (1, 4, 16, 48)
SIZE = 1200
TOOL = [sys.executable, "-m", "polder.lab.tool"]
EPOCH = 1
RELAY, SERVLET = 1, 2
_DAY = 86_400


def epoch_key(secret: bytes, epoch: int) -> bytes:
    """E of ``docs/design/spread.md``."""
    return hmac.digest(secret, b"polder epoch" + epoch.to_bytes(4, "big"), hashlib.sha256)


def pin(pid: int, core: int) -> None:
    """All threads of a process on one core."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


def free_address() -> str:
    """A loopback address for datagrams that nobody uses now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"


async def relay(processes: Processes, sink: str, key: bytes, others: tuple[tuple[int, str], ...] = ()) -> Remote:
    """A node that relays to ``sink``; ``others`` are in its list too."""
    now = time.time()  # noqa: TID251 - the shell of a program
    pki = Pki(DOMAIN, now, 1)
    base = Snapshot(0, DOMAIN, (pki.root,), pki.member(Kind.NODE, "relay", RELAY))
    address = free_address()
    config = EngineConfig(role="node", listen=("127.0.0.1:0",), spread_listen=(address,))
    node = await launch(processes, None, "relay", config, base)
    members = SpreadMembers(1, ((RELAY, address), (SERVLET, sink), *others))
    epoch = SpreadEpoch(EPOCH, key, int(now) - _DAY, int(now) + _DAY)
    await node.apply(spread=Spread(RELAY, (epoch,), (members,), 1024, 1000, 30))
    await asyncio.sleep(2.5)  # a relay is deaf for twice the span after its start
    return node


async def bare(processes: Processes, sink: str) -> tuple[Process, str]:
    """The bare forwarder to ``sink``."""
    address = free_address()
    config = msgspec.msgpack.encode({"listen": datagram_record(address), "to": datagram_record(sink)})
    process = await processes.start(None, "bare", [*TOOL, "datagrams"], stdin=config)
    host, port = address.rsplit(":", 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, int(port)))
        while True:  # until nobody answers that the port is closed
            probe.send(b"?")
            await asyncio.sleep(0.05)
            try:
                probe.send(b"?")
                break
            except ConnectionRefusedError:
                continue
    return process, address


async def tool(processes: Processes, name: str, config: dict[str, Any]) -> dict[str, Any]:
    """The report of one of the laboratory's tools, run on the second core."""
    argv = [sys.executable, "-m", "bench.on_core", "1", *TOOL, name]
    answer: dict[str, Any] = json.loads(await processes.run(None, name, argv, 120, msgspec.msgpack.encode(config)))
    return answer


def datagram_record(address: str) -> dict[str, Any]:
    """``ip:port`` as the laboratory's tools read it."""
    host, port = address.rsplit(":", 1)
    return socket_record(host, int(port))


async def load(processes: Processes, to: str, sink: str, key: bytes, run: int, seconds: float) -> dict[str, Any]:
    """Packets of one session through ``to``."""
    config = {
        "to": datagram_record(to), "sink": datagram_record(sink), "relay": RELAY, "epoch": EPOCH, "key": key, "servlet": SERVLET,
        "size": SIZE, "run": run, "seconds": seconds, "rate": 0,
    }  # fmt: skip
    return await tool(processes, "spray", config)


async def turn(
    processes: Processes, peer: str, pid: int, to: str, sink: str, key: bytes, run: int, seconds: float
) -> dict[str, Any]:
    """One row."""
    before = cpu.spent_s([pid])
    got = await load(processes, to, sink, key, run, seconds)
    spent = cpu.spent_s([pid]) - before
    return {
        "relay": peer,
        "run_packets": run,
        "cpu_us_per_packet": round(spent * 1e6 / got["received"], 4),
        "kpps": round(got["received"] / got["busy_s"] / 1000, 1),
        "kpps_per_core": round(got["received"] / spent / 1000, 1),
        "lost_share": round(1 - got["received"] / got["sent"], 4),
        "packets_per_run_out": round(got["received"] / got["received_runs"], 2),
    }


def fold(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The median of each relay's turns, and ratios to the bare forwarder."""
    folded = []
    for run in RUNS:
        of = {}
        for peer in ("bare", "polder"):
            turns = [row for row in rows if row["relay"] == peer and row["run_packets"] == run]
            if not turns:
                continue
            of[peer] = {"relay": peer, "run_packets": run, "turns": len(turns)} | {
                field: round(statistics.median(row[field] for row in turns), 4)
                for field in turns[0]
                if field not in ("relay", "run_packets")
            }
            folded.append(of[peer])
        if len(of) == 2:
            of["polder"]["cpu_ratio_to_bare"] = round(of["polder"]["cpu_us_per_packet"] / of["bare"]["cpu_us_per_packet"], 3)
            of["polder"]["rate_ratio_to_bare"] = round(of["polder"]["kpps_per_core"] / of["bare"]["kpps_per_core"], 3)
    return folded


def claims() -> list[Claim]:
    """The promises; runs of 16 are the default."""
    ours = {"relay": "polder", "run_packets": 16}
    cost = "CPU per packet over the bare forwarder's"
    return [
        Claim("spread-relay.cpu", f"{cost}, runs of 16 (GSO and GRO in use)", "<= 3", Measure("cpu_ratio_to_bare", ours)),
        Claim("spread-relay.single", f"{cost}, single packets", "<= 3", Measure("cpu_ratio_to_bare", ours | {"run_packets": 1})),
        Claim(
            "spread-relay.rate",
            "packets per second and core over the bare forwarder's, runs of 16",
            ">= 0.5",
            Measure("rate_ratio_to_bare", ours),
        ),
        Claim(
            "spread-relay.runs", "packets of a run that leave together, runs of 16", ">= 8", Measure("packets_per_run_out", ours)
        ),
    ]


async def measure(rounds: int, seconds: float, *, record: bool) -> int:
    """Alternating turns."""
    folder = (Path("build/lab") / f"spread-relay-{os.getpid()}").resolve()
    key = epoch_key(bytes(range(32)), EPOCH)
    sink = free_address()
    rows: list[dict[str, Any]] = []
    async with Processes(folder) as processes:
        node = await relay(processes, sink, key)
        forwarder, address = await bare(processes, sink)
        peers = [("polder", node.process.process.pid, node.spread[0]), ("bare", forwarder.process.pid, address)]
        for _, pid, _ in peers:
            pin(pid, 0)
        for round_ in range(rounds):
            for run in RUNS:
                for peer, pid, to in peers if round_ % 2 else peers[::-1]:
                    rows.append(await turn(processes, peer, pid, to, sink, key, run, seconds))
                    print(" ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    parameters = {"datagram_bytes": SIZE, "runs": list(RUNS), "rounds": rounds, "seconds": seconds, "build": BUILD}
    result = Result("spread-relay", parameters, fold(rows), claims(), "What a relay costs per packet, beside a bare forwarder")
    return report.finish(result, record=record)


def main() -> int:
    """Measure, write, print."""
    arguments = report.arguments("spread_relay", __doc__).parse_args()
    rounds, seconds = (1, 0.5) if arguments.quick else (5, 2.0)
    return enclosure.run(lambda: asyncio.run(measure(rounds, seconds, record=not arguments.no_record)))


if __name__ == "__main__":
    sys.exit(main())
