"""``make bench`` part ``reservation``: a reserved flow through a narrow last hop that somebody else fills.

```text
 sender ── r1 … r5 ═══ 25 Mbit/s ═══ receiver        every router runs `polder rsvpd`, one `polder pdp` judges for all
                 │
               cross: 100 Mbit/s
```

*Flow*: 20 Mbit/s, alone, then against the cross traffic without and with a reservation, then sending more than it reserved. *Setup*: the
same routers with a delay on every link: how long until a reservation is in force at all five. *Decisions*: what a core of the policy
decision point judges in a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

from bench import cpu, report
from polder.keynote import signing
from polder.lab.lasthop import LastHop
from polder.lab.plots import DIKE, FLOOD, MIST
from polder.lab.processes import Process, Processes, wait_until_answers
from polder.lab.results import Claim, Measure, Result
from polder.model.reservations import Ask
from polder.pdp.frames import Judge, Judged, pack, read, unpack
from polder.rsvp.policy_data import pack_bundle
from polder.rsvpd.client import Connection
from polder.rsvpd.values import Announce, Flow, Reserve

ROUTERS, LINE, SHAPED, RATE, CROSS, EXCESS = 5, 25.0, 24.5, 20.0, 100.0, 30.0
SENT, PAYLOAD, LINK_MS = 19.95, 1372, 5.0
"""The flow sends a little less than it reserved, since clocks differ; packets have 1,400 bytes."""


def flow(hop: LastHop) -> Flow:
    """What is announced and reserved."""
    return Flow(hop.receiver, 17, 5004, RATE * 1e6 / 8, 32_000.0, RATE * 2e6 / 8, 64, 1400)


def credentials(directory: Path) -> bytes:
    """A policy that trusts a provider's key, and what this grants to its routers, signed; returns the bundle."""
    provider = signing.make_key("ed25519")
    key = signing.identifier(provider)
    (directory / "policy.kn").write_text(
        f'KeyNote-Version: 2\nAuthorizer: "POLICY"\nLicensees: "{key}"\nConditions: app_domain == "Polder-BandEx" -> "reserve";\n'
    )
    routers = " || ".join(f'"router:r{number}"' for number in range(1, ROUTERS + 1))
    grant = f'KeyNote-Version: 2\nAuthorizer: "{key}"\nLicensees: {routers}\nConditions: @rate <= {int(RATE * 1e6 / 8)} -> "reserve";\n'
    return pack_bundle([signing.sign(grant, provider).encode()])


@contextlib.asynccontextmanager
async def daemons(hop: LastHop, directory: Path) -> AsyncIterator[Process]:
    """Everybody's daemon, ready; the policy decision point's process."""
    polder = [sys.executable, "-m", "polder.cli.main"]
    async with Processes(directory) as processes:
        (directory / "pdp.toml").write_text(f'socket = "{directory}/pdp.sock"\npolicy = "{directory}/policy.kn"\n')
        pdp = await processes.start(None, "pdp", [*polder, "pdp", "--config", directory / "pdp.toml"])
        await wait_until_answers(directory / "pdp.sock", pdp, 60)
        for host in hop.hosts:
            text = f'name = "{host}"\nsocket = "{_socket(directory, host)}"\n'
            if host.startswith("r") and host != "receiver":
                rate = SHAPED if host == f"r{ROUTERS}" else 1000.0
                text += f'pdp = "unix:{directory}/pdp.sock"\n[[links]]\ndevice = "out"\nrate_mbit = {rate}\npolicy = true\n'
            (directory / f"{host}.toml").write_text(text)
        started = {
            host: await processes.start(host, host, [*polder, "rsvpd", "--config", directory / f"{host}.toml"])
            for host in hop.hosts
        }
        for host, process in started.items():
            await wait_until_answers(_socket(directory, host), process, 60)
        yield pdp


def _socket(directory: Path, host: str) -> Path:
    """Of a host's daemon: each has a directory of its own."""
    return directory / f"at-{host}" / "rsvp.sock"


async def announce(hop: LastHop, directory: Path) -> Connection:
    """The sender's announcement, as long as the connection is open."""
    sender = await Connection.open(_socket(directory, "sender"))
    await sender.say(Announce(flow(hop), hop.sender, 6000))
    await sender.until("announced", 10)
    return sender


async def reserve(hop: LastHop, directory: Path, bundle: bytes) -> tuple[Connection, float]:
    """A reservation, and how many milliseconds it took to be in force everywhere."""
    receiver = await Connection.open(_socket(directory, "receiver"))
    began = time.monotonic()
    await receiver.say(Reserve(flow(hop), "FF", ((hop.sender, 6000),), None, bundle))
    await receiver.until("confirmed", 30)
    return receiver, (time.monotonic() - began) * 1000


async def traffic(hop: LastHop, processes: Processes, seconds: float, mbit: float, cross: float) -> dict[str, Any]:
    """One phase: the flow, and beside it the cross traffic, which begins a second before and ends after."""
    tool = [sys.executable, "-m", "polder.lab.udp_flow"]

    def given(**values: Any) -> str:
        return json.dumps(values)

    swallower = await processes.start("receiver", "swallow", [*tool, "swallow", given(port=9)])
    receiving = await processes.start("receiver", "receive", [*tool, "receive", given(port=5004, idle=2.0)], piped=True)
    await receiving.first_line(60)
    filling = None
    if cross:
        words = given(to=hop.receiver, port=9, source_port=7000, mbit=cross, payload=PAYLOAD, seconds=seconds + 2)
        filling = await processes.start("cross", "cross", [*tool, "send", words], piped=True)
        await asyncio.sleep(1.0)
    words = given(to=hop.receiver, port=5004, source_port=6000, mbit=mbit, payload=PAYLOAD, seconds=seconds)
    sent = json.loads(await processes.run("sender", "send", [*tool, "send", words], seconds + 30))
    told = json.loads(await receiving.output(seconds + 60))
    crossed = json.loads(await filling.output(60)) if filling else {"sent": 0, "seconds": 1.0}
    await swallower.stop()
    packet = (PAYLOAD + 28) * 8 / 1e6
    return {
        "sent_mbit": round(sent["sent"] * packet / sent["seconds"], 3),
        "cross_mbit": round(crossed["sent"] * packet / crossed["seconds"], 1),
        "loss": round(1 - told["arrived"] / sent["sent"], 6),
        **told,
    }


async def measure_flow(directory: Path, seconds: float) -> list[dict[str, Any]]:
    """The phases of the flow."""
    hop = LastHop(ROUTERS, LINE)
    hop.build(directory)
    bundle, rows = credentials(directory), []
    phases = (("alone", SENT, 0.0, False), ("no reservation", SENT, CROSS, False))
    phases += (("reserved", SENT, CROSS, True), ("reserved, sends more", EXCESS, CROSS, True))
    async with daemons(hop, directory), Processes(directory) as processes:
        sender = await announce(hop, directory)
        for phase, mbit, cross, reserved in phases:
            receiver = (await reserve(hop, directory, bundle))[0] if reserved else None
            row: dict[str, Any] = {"part": "flow", "phase": phase}
            row |= await traffic(hop, processes, seconds, mbit, cross)
            if receiver is not None:
                async with await Connection.open(_socket(directory, f"r{ROUTERS}")) as last:
                    counts = (await last.show())["enforced"][0]
                row |= {"within_packets": counts["packets"], "beyond_packets": counts["packets_beyond"]}
                await receiver.close()
                await forgotten(directory)
            if phase != "alone":
                row["added_p99_ms"] = round((row["delay_p99_ms"] or 0) - rows[0]["delay_p99_ms"], 3)
            rows.append(row)
            print(row, flush=True)
        await sender.close()
    hop.close()
    return rows


async def forgotten(directory: Path) -> None:
    """Wait until no router holds a reservation."""
    deadline = time.monotonic() + 60
    for number in range(1, ROUTERS + 1):
        async with await Connection.open(_socket(directory, f"r{number}")) as router:
            while (facts := await router.show())["reservations"] or facts["enforced"]:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"r{number} keeps a reservation that was torn down: {facts}")
                await asyncio.sleep(0.02)


async def measure_setup(directory: Path, trials: int) -> list[dict[str, Any]]:
    """How long a reservation takes over five routers with delays between them."""
    hop = LastHop(ROUTERS, LINE, LINK_MS, LINK_MS)
    hop.build(directory)
    bundle, rows = credentials(directory), []
    async with daemons(hop, directory), Processes(directory) as processes:
        sender = await announce(hop, directory)
        quiet = await traffic(hop, processes, 2.0, 1.0, 0.0)
        rtt = 2 * quiet["delay_p50_ms"]
        for trial in range(trials):
            decision = statistics.median(await decisions(directory, hop, bundle, 21))
            receiver, took = await reserve(hop, directory, bundle)
            await receiver.close()
            await forgotten(directory)
            bound = 2 * rtt + decision
            rows.append(
                {
                    "part": "setup",
                    "trial": trial,
                    "rtt_ms": round(rtt, 2),
                    "decision_ms": round(decision, 2),
                    "setup_ms": round(took, 2),
                    "of_bound": round(took / bound, 3),
                }
            )
            print(rows[-1], flush=True)
        await sender.close()
    hop.close()
    return rows


def question(hop: LastHop, bundle: bytes, number: int) -> Ask:
    """What a router asks; other numbers are other sessions."""
    session, sender = f"udp {hop.receiver} port {1024 + number % 60_000}", f"{hop.sender} port 6000"
    rate = int(RATE * 1e6 / 8)
    return Ask(
        "r1", "out", session, (sender,), "FF", "controlled-load", rate, 32_000, 2 * rate, 64, 1400, rate, "00" * 32, False, bundle
    )


async def decisions(directory: Path, hop: LastHop, bundle: bytes, count: int) -> list[float]:
    """Milliseconds of single decisions, one after the other, as a router sees them."""
    reader, writer = await asyncio.open_unix_connection(directory / "pdp.sock")
    times = []
    for number in range(count):
        began = time.monotonic()
        writer.write(pack(Judge(number, question(hop, bundle, number))))
        data = await read(reader)
        assert data is not None
        judged: Judged = unpack(data, Judged)
        assert judged.verdict.accepted, judged.verdict.reason
        times.append((time.monotonic() - began) * 1000)
    writer.close()
    return times


async def measure_decisions(directory: Path, count: int) -> list[dict[str, Any]]:
    """Warm decisions per second of the policy decision point's processor time; a third are refused."""
    hop = LastHop(ROUTERS)
    hop.hosts = []
    bundle, rows = credentials(directory), []
    async with daemons(hop, directory) as pdp:
        await decisions(directory, hop, bundle, 50)
        for trial in range(3):
            reader, writer = await asyncio.open_unix_connection(directory / "pdp.sock")
            spent, began = cpu.spent_s([pdp.process.pid]), time.monotonic()
            asks = [pack(Judge(number, question(hop, bundle, number))) for number in range(count)]

            async def ask(writer: asyncio.StreamWriter = writer, asks: list[bytes] = asks) -> None:
                for at in range(0, count, 64):
                    writer.write(b"".join(asks[at : at + 64]))
                    await writer.drain()

            asking = asyncio.create_task(ask())
            accepted = 0
            for _ in range(count):
                data = await read(reader)
                assert data is not None
                accepted += unpack(data, Judged).verdict.accepted
            await asking
            wall, spent = time.monotonic() - began, cpu.spent_s([pdp.process.pid]) - spent
            writer.close()
            row = {"part": "decisions", "trial": trial, "decisions": count, "accepted": accepted, "seconds": round(wall, 3)}
            rows.append(row | {"per_cpu_second": round(count / spent), "cpu_us": round(spent / count * 1e6, 1)})
            print(rows[-1], flush=True)
    return rows


def claims() -> list[Claim]:
    """What must hold."""

    def of(field: str, phase: str) -> Measure:
        return Measure(field, {"part": "flow", "phase": phase})

    setup = {"part": "setup"}
    return [
        Claim("reservation-rate", "Mbit/s that a reserved 20 Mbit/s flow keeps", ">= 19.5", of("mbit", "reserved")),
        Claim("reservation-loss", "part of its packets that is lost", "< 0.001", of("loss", "reserved")),
        Claim(
            "reservation-delay",
            "delay that the cross traffic adds to it, 99th percentile, ms",
            "< 20",
            of("added_p99_ms", "reserved"),
        ),
        Claim("reservation-cross", "Mbit/s of cross traffic meanwhile", ">= 95", of("cross_mbit", "reserved")),
        Claim("reservation-without", "part that is lost without a reservation", ">= 0.5", of("loss", "no reservation")),
        Claim(
            "reservation-excess", "Mbit/s of a flow that sends 30 and reserved 20", ">= 19.5", of("mbit", "reserved, sends more")
        ),
        Claim(
            "reservation-setup",
            "time until in force over five routers, of 2 RTT + a decision",
            "<= 1",
            Measure("of_bound", setup, "median"),
        ),
        Claim(
            "pdp-rate",
            "warm decisions per second of processor time",
            ">= 5000",
            Measure("per_cpu_second", {"part": "decisions"}, "median"),
        ),
    ]


def draw(figure: Any, rows: Any) -> None:
    """The flow's phases, and the times to set up."""
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    phases = [row for row in rows if row["part"] == "flow"]
    names = [row["phase"].replace(", ", ",\n") for row in phases]
    left.bar(names, [row["mbit"] for row in phases], color=[MIST, FLOOD, DIKE, DIKE])
    left.axhline(RATE, color=MIST, linestyle="--")
    left.set(ylabel="Mbit/s that arrive", title=f"A {RATE:g} Mbit/s flow, {CROSS:g} Mbit/s of others")
    for name, row in zip(names, phases, strict=True):
        left.annotate(
            f"lost {row['loss']:.2%}\np99 {row['delay_p99_ms']:.0f} ms", (name, row["mbit"]), ha="center", va="bottom", fontsize=8
        )
    left.set_ylim(0, LINE * 1.3)
    trials = [row for row in rows if row["part"] == "setup"]
    right.plot([row["setup_ms"] for row in trials], "o", color=DIKE, label="in force at five routers")
    right.plot([2 * row["rtt_ms"] + row["decision_ms"] for row in trials], "-", color=MIST, label="2 RTT + one decision")
    right.set(xlabel="trial", ylabel="ms", title="Time to reserve")
    right.set_ylim(bottom=0)
    right.legend()


def part(work: Coroutine[Any, Any, list[dict[str, Any]]], path: Path) -> int:
    """Run one part inside the enclosure, and leave its rows in a file."""
    path.write_text(json.dumps(asyncio.run(work)))
    return 0


def main() -> int:
    """Run it; exit status 3 when a claim does not hold."""
    parser = report.arguments("reservation", __doc__, "short phases, few trials")
    parser.add_argument("--part", choices=["flow", "setup", "decisions"], help="internal: one part, in its own namespaces")
    parser.add_argument("--into", type=Path, help="internal: where its rows go")
    arguments = parser.parse_args()
    seconds, trials, count = (3.0, 3, 3000) if arguments.quick else (20.0, 20, 20_000)
    if arguments.part:
        directory = arguments.into.parent / arguments.part
        directory.mkdir()
        work = {
            "flow": lambda: measure_flow(directory, seconds),
            "setup": lambda: measure_setup(directory, trials),
            "decisions": lambda: measure_decisions(directory, count),
        }[arguments.part]
        return report.enclosed(lambda: part(work(), arguments.into))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory:
        for name in ("decisions", "flow", "setup"):
            into = Path(directory) / f"{name}.json"
            command = [sys.executable, "-m", "bench.reservation", "--part", name, "--into", str(into)]
            done = subprocess.run([*command, *(["--quick"] if arguments.quick else [])], check=False)
            if done.returncode:
                return done.returncode
            rows += json.loads(into.read_text())
    parameters = {"routers": ROUTERS, "line_mbit": LINE, "shaped_mbit": SHAPED, "reserved_mbit": RATE, "cross_mbit": CROSS}
    parameters |= {"sent_mbit": SENT, "seconds": seconds, "trials": trials, "link_delay_ms": LINK_MS, "decisions": count}
    result = Result("reservation", parameters, rows, claims(), "A reserved flow through a filled last hop")
    return report.finish(result, draw, record=not (arguments.no_record or arguments.quick), rows=False)


if __name__ == "__main__":
    sys.exit(main())
