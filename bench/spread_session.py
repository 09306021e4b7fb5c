"""``python -m bench.spread_session``: one stream over a session of the spread plane and eight relays, beside plain quinn.

Server and client are a process each, with one thread; the relays share a third. All kinds have the same streams, windows, TLS and
runtime, and the same two cores, in alternating turns. ``forwarded`` is plain quinn again, but its datagrams cross a bare forwarder in a
process of its own, both ways, unread and unchanged and in the runs in which they came: a relay that computes nothing, hence what any
transport over such a relay pays here. Its CPU stands where that of relays does. The spread plane's datagrams cross a relay and are
sealed once more at both ends, and carry 128 bytes less; its ends have larger socket buffers than quinn asks for. CPU is user and system
time of all processes over all bytes that came; ``sent_again`` the share of the server's packets that QUIC took for lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench import cpu, report
from polder.engine.facade import BUILD
from polder.lab import spread
from polder.lab.attacks import socket_record
from polder.lab.plots import DIKE, SAND, SEA
from polder.lab.processes import Processes
from polder.lab.results import Claim, Measure, Result

RELAYS = 8
COPIES = 0.0
WARM = 32 << 20
LOOPBACK = "127.0.0.1"
BUFFER = 4 << 20
"""As nodes ask it for their relays."""
UDP_GRO = 104
"""``linux/udp.h``: packets of one run are taken together."""
PATIENCE_S = 300.0
KINDS = ("quinn", "forwarded", "spread")
RATIOS = (("spread", "quinn"), ("forwarded", "quinn"), ("spread", "forwarded"))


def loopback_socket() -> socket.socket:
    """A datagram socket at a free port, as relays have it."""
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    opened.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    opened.bind((LOOPBACK, 0))
    return opened


class Turn:
    """One transfer: its servers, from their start to their end."""

    def __init__(self, processes: Processes, kind: str, number: int) -> None:
        """Start the server, and what ``kind`` has between it and the client."""
        self.kind, self._name, self._processes = kind, f"{kind}-{number}", processes
        self._servers: list[spread.Tool] = []
        rng, overlay = random.Random(number), None
        chain, key = spread.certificate()
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(loopback_socket()) for _ in range(RELAYS + 1)]
            ports = [one.getsockname()[1] for one in sockets]
            sockets.pop().close()  # the server binds to it itself, and a forwarder to the first
            if kind == "spread":
                members = [spread.Member("", rng.getrandbits(63), LOOPBACK, rng.randbytes(32), port) for port in ports]
                overlay = spread.describe(members, spread.Mode(naive=False, copies=COPIES), rng)
                fds = [one.fileno() for one in sockets]
                pairs = [(known.id, fd) for known, fd in zip(members, fds, strict=False)]
                self._start("spread-relays", {"overlay": overlay, "sockets": pairs}, fds)
        where = reached = socket_record(LOOPBACK, ports[-1])
        if kind == "forwarded":
            reached = socket_record(LOOPBACK, ports[0])
            self._start("datagrams", {"listen": reached, "to": where, "both_ways": True})
        self._start("bulk-server", {"overlay": overlay, "listen": where, "chain": chain, "key": key})
        self._client = {"overlay": overlay, "server": reached, "root": chain, "warm": WARM}

    def _start(self, tool: str, config: dict[str, Any], fds: Sequence[int] = ()) -> None:
        name = f"{self._name}-{tool}"
        self._servers.append(spread.Tool(self._processes.directory, None, name, tool, config, fds))

    async def transfer(self, size: int) -> dict[str, Any]:
        """Fetch ``size`` bytes; a row. Raises ``ProcessError``."""
        for server in self._servers:
            await server.ready()
        pids = [server.process.pid for server in self._servers]
        before = [cpu.spent_s([pid]) for pid in pids]
        argv = [sys.executable, "-m", "polder.lab.tool", "bulk-client"]
        config = msgspec.msgpack.encode(self._client | {"bytes": size})
        seen = json.loads(await self._processes.run(None, f"{self._name}-client", argv, PATIENCE_S, config))
        served = [cpu.spent_s([pid]) - spent for pid, spent in zip(pids, before, strict=True)]
        sent = self._servers[-1].frames()[-1]
        gib = (WARM + size) / (1 << 30)
        return {
            "kind": self.kind,
            "mbit_s": round(size * 8 / seen["seconds"] / 1e6),
            "seconds": round(seen["seconds"], 3),
            "cpu_s_per_gib": round((seen["cpu_s"] + sum(served)) / gib, 3),
            "client_cpu_s_per_gib": round(seen["cpu_s"] / gib, 3),
            "server_cpu_s_per_gib": round(served[-1] / gib, 3),
            "relays_cpu_s_per_gib": round(sum(served[:-1]) / gib, 3),
            "mtu": seen["mtu"],
            "sent_again": round(sent["lost"] / sent["packets"], 4),
        }

    def stop(self) -> None:
        """End the servers."""
        for server in self._servers:
            server.stop()


FIELDS = (
    "mbit_s",
    "seconds",
    "cpu_s_per_gib",
    "client_cpu_s_per_gib",
    "server_cpu_s_per_gib",
    "relays_cpu_s_per_gib",
    "mtu",
    "sent_again",
)


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """After all turns: a row for each kind with medians, and one for each of ``RATIOS`` with the median of the turns' own ratios."""
    medians = [
        {"kind": kind, "turn": "median"}
        | {field: round(statistics.median(row[field] for row in rows if row["kind"] == kind), 4) for field in FIELDS}
        for kind in KINDS
    ]
    return [*rows, *medians, *(ratio(rows, *pair) for pair in RATIOS)]


def ratio(rows: Sequence[dict[str, Any]], upper: str, lower: str) -> dict[str, Any]:
    """One kind over another, turn by turn."""
    over, under = ([row for row in rows if row["kind"] == kind] for kind in (upper, lower))
    medians = {
        field: round(statistics.median(a[field] / b[field] for a, b in zip(over, under, strict=True)), 3)
        for field in ("mbit_s", "cpu_s_per_gib")
    }
    return {"kind": f"{upper} over {lower}", "turn": "median", **medians}


CLAIMS = [
    Claim("session.throughput", "one stream over eight relays, over plain quinn on the same two cores", ">= 0.7",
          Measure("mbit_s", {"kind": "spread over quinn"})),
]  # fmt: skip


def draw(figure: Any, rows: Sequence[Any]) -> None:
    """Throughput of every turn, and where the CPU goes."""
    left, right = figure.subplots(1, 2)
    for kind, colour in zip(KINDS, (SAND, DIKE, SEA), strict=True):
        speeds = [row["mbit_s"] / 1000 for row in rows if row["kind"] == kind and row["turn"] != "median"]
        left.plot(range(1, len(speeds) + 1), speeds, marker="o", color=colour, label=kind)
    left.set(title="One stream", xlabel="turn", ylabel="Gbit/s", ylim=(0, None))
    left.legend()
    medians = [next(row for row in rows if row["kind"] == kind and row["turn"] == "median") for kind in KINDS]
    bottom = [0.0] * len(KINDS)
    for part, colour in (("client", SEA), ("server", DIKE), ("relays", SAND)):
        heights = [row[f"{part}_cpu_s_per_gib"] for row in medians]
        right.bar(KINDS, heights, bottom=bottom, color=colour, label=part)
        bottom = [below + height for below, height in zip(bottom, heights, strict=True)]
    right.set(title="CPU", ylabel="seconds per GiB")
    right.legend()


async def measure(folder: Path, turns: int, size: int) -> list[dict[str, Any]]:
    """All turns, each kind in each."""
    rows = []
    async with Processes(folder, separate=False) as processes:
        for number in range(1, turns + 1):
            for kind in KINDS:
                turn = Turn(processes, kind, number)
                try:
                    rows.append({"turn": number, **await turn.transfer(size)})
                finally:
                    turn.stop()
                report.show(rows[-1:])
    return rows


def main() -> int:
    """Measure, write, print."""
    chosen = report.arguments("spread_session", __doc__, "three turns of 256 MiB").parse_args()
    turns, size = (3, 256 << 20) if chosen.quick else (7, 1 << 30)
    folder = (Path("build/lab") / f"spread-session-{time.strftime('%H%M%S')}").resolve()
    rows = summary(asyncio.run(measure(folder, turns, size)))
    report.show([row for row in rows if row["turn"] == "median"])
    parameters = {
        "relays": RELAYS, "copies": COPIES, "bytes": size, "warm_bytes": WARM, "turns": turns, "streams": 1, "build": BUILD,
        "relay_socket_bytes": BUFFER, "cores": sorted(os.sched_getaffinity(0)),
    }  # fmt: skip
    result = Result("spread-session", parameters, rows, CLAIMS, "A session over eight relays, beside plain quinn")
    return report.finish(result, draw, record=not chosen.no_record, rows=False)


if __name__ == "__main__":
    sys.exit(main())
