"""How many reservations a policy decision point judges: a real ``polder pdp`` over its Unix socket, for several routers at once.

It sells: every reservation carries check, credit and offer (or two guarantees of banks besides), a check is written down durably before
the answer leaves, and a refresh brings the same check again. "new": checks that it has not seen, each verified and committed; "again":
refreshes. CPU is of the PDP's process alone, by the kernel's clock of it; routers are this process.

Run: ``python -m bench pdp [--quick]``.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from bench import report
from bench.cpu import spent_s
from bench.keynote_table import World
from polder.keynote.signing import encode_private, wrap
from polder.lab.results import Claim, Measure, Result
from polder.model.reservations import Ask
from polder.pdp.client import PdpClient
from polder.shell.clock import wall

ROUTERS, WINDOW = 4, 64
BANKS = ("martha", "bank1", "bank2", "bank3", "bank4")


def configure(root: Path, world: World, credentials: int) -> Path:
    """The files of a provider that sells; where its pdp.toml is."""
    key = root / "nick.key"
    key.write_text(wrap(encode_private(world.keys["nick"])))
    key.chmod(0o600)
    trusted = world.names[BANKS[credentials - 3]]
    (root / "isp.toml").write_text(
        f'name = "nick"\nkey_file = "nick.key"\n[routes.dublin-nyc]\nlinks = ["edge/lasthop"]\n[trusted]\n"{trusted}" = "1.00"\n'
    )
    (root / "pdp.toml").write_text(f'socket = "{root}/pdp.sock"\nisp = "{root}/isp.toml"\nlog_level = "warning"\n')
    return root / "pdp.toml"


async def ask_all(clients: list[PdpClient], asks: list[Ask]) -> list[float]:
    """Ask everything, each router with a window of its own; seconds until each answer, which must be yes."""
    waiting = iter(asks)
    times: list[float] = []

    async def lane(client: PdpClient) -> None:
        for ask in waiting:
            began = time.perf_counter()
            verdict = await client.judge(ask)
            assert verdict is not None, "no answer within a minute"
            assert verdict.accepted, verdict.reason
            times.append(time.perf_counter() - began)

    await asyncio.gather(*(lane(client) for client in clients for _ in range(WINDOW)))
    return times


def row(phase: str, credentials: int, times: list[float], took: float, cpu: float) -> dict[str, Any]:
    """What one phase came to."""
    times.sort()
    return {
        "phase": phase,
        "credentials": credentials,
        "decisions": len(times),
        "per_s": round(len(times) / took),
        "per_core_s": round(len(times) / cpu),
        "cpu_us": round(cpu / len(times) * 1e6, 1),
        "median_ms": round(times[len(times) // 2] * 1e3, 2),
        "p99_ms": round(times[len(times) * 99 // 100] * 1e3, 2),
    }


def serve(config: Path) -> tuple[subprocess.Popen[str], str]:
    """The process, and where it listens."""
    command = [sys.executable, "-m", "polder.cli.main", "pdp", "--config", str(config), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())["endpoints"][0]


async def measure(credentials: int, payments: int, rounds: int) -> list[dict[str, Any]]:
    """Both phases against one process."""
    world = World("ed25519", int(wall()))
    paid = [world.ask(credentials, number) for number in range(payments)]
    with tempfile.TemporaryDirectory() as place:
        process, endpoint = serve(configure(Path(place), world, credentials))
        clients = [PdpClient.to(endpoint, 60.0) for _ in range(ROUTERS)]
        running = [asyncio.create_task(client.run()) for client in clients]
        rows = []
        try:
            for phase, rounds_of_it in (("new", 1), ("again", rounds)):
                asks = [msgspec.structs.replace(one, installed=phase == "again") for one in paid] * rounds_of_it
                cpu, began = spent_s([process.pid]), time.perf_counter()
                times = await ask_all(clients, asks)
                took = time.perf_counter() - began
                rows.append(row(phase, credentials, times, took, spent_s([process.pid]) - cpu))
        finally:
            for task in running:
                task.cancel()
            process.terminate()
            process.wait(10)
    return rows


def claims() -> tuple[Claim, ...]:
    """What must hold."""
    return (
        Claim(
            "pdp.warm",
            "refreshes judged by the PDP for each second of its CPU, 3 credentials each",
            ">= 5000",
            Measure("per_core_s", {"phase": "again", "credentials": 3}),
        ),
    )


def main() -> int:
    """Measure; exit status 3 when a claim does not hold."""
    given = report.arguments("pdp", __doc__, "fewer payments").parse_args()
    payments, rounds = (100, 20) if given.quick else (500, 40)
    rows = [each for credentials in (3, 5) for each in asyncio.run(measure(credentials, payments, rounds))]
    parameters = {
        "payments": payments,
        "refreshes_each": rounds,
        "routers": ROUTERS,
        "open_questions_each": WINDOW,
        "algorithm": "ed25519",
    }
    result = Result("pdp", parameters, rows, claims(), "A policy decision point that sells: reservations judged")
    return report.finish(result, record=not given.no_record)


if __name__ == "__main__":
    raise SystemExit(main())
