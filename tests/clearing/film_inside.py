"""Two routers of Nick's with real daemons, his policy decision point, and Alice who pays for a film; run by ``test_journey.py``.

``python -m tests.clearing.film_inside DIRECTORY ISP_TOML CREDENTIALS KEY``: in namespaces of its own, with the files given. Prints what
`polder reserve` said, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from polder.lab import enclosure
from polder.lab.lasthop import LastHop
from polder.lab.processes import Process, Processes
from tests.rsvpd.inside import LIMIT_S, POLDER, in_force, nothing, start, there, until


async def exists(path: Path, process: Process) -> None:
    """Wait for a file that ``process`` makes."""
    deadline = time.monotonic() + LIMIT_S
    while not path.exists():
        assert process.alive, process.tail()
        assert time.monotonic() < deadline, process.tail()
        await asyncio.sleep(0.05)


async def judging(processes: Processes, directory: Path, isp: str) -> Process:
    """The policy decision point."""
    (directory / "pdp.toml").write_text(f'socket = "{directory}/pdp.sock"\nisp = "{isp}"\n')
    pdp = await processes.start(None, "pdp", [*POLDER, "pdp", "--config", directory / "pdp.toml"])
    await there(directory / "pdp.sock", pdp)
    return pdp


async def film(directory: Path, isp: str, credentials: str, key: str) -> None:
    """One check, two routers, one charge, whatever restarts meanwhile."""
    hop = LastHop(2)
    hop.build(directory)
    (directory / "keys").write_text("7 " + "ab" * 32 + "\n")
    session = f"udp:{hop.receiver}:5004"
    common = ["--mbit", "4", "--max-packet", "1400", "--json"]
    ask = [*POLDER, "reserve", session, "--from", f"{hop.sender}:6000", *common, "--socket", f"{directory}/receiver.sock"]
    ask += ["--credentials", credentials, "--pay", key, "--wait", "200s", "--for", "10m"]
    async with Processes(directory) as processes:
        pdp = await judging(processes, directory, isp)
        helper = await processes.start(
            "r2", "helper", [*POLDER, "host-helper", "--socket", directory / "helper.sock", "--reserve", "out"]
        )
        await exists(directory / "helper.sock", helper)
        running = dict(
            zip(
                ("r1", "r2", "sender", "receiver"),
                await asyncio.gather(*(start(processes, directory, host) for host in ("r1", "r2", "sender", "receiver"))),
                strict=True,
            )
        )
        telling = [*POLDER, "rsvp", "announce", session, "--source", f"{hop.sender}:6000", *common]
        await processes.start("sender", "announce", [*telling, "--socket", f"{directory}/sender.sock"])
        holding = await processes.start(None, "reserve", ask)
        for host in ("r1", "r2"):
            await until(directory, host, in_force)

        # Router and decision point die; the host's refreshes bring the same check again.
        for process in (running["r1"], pdp):
            process.process.kill()
            await process.process.wait()
        await judging(processes, directory, isp)
        running["r1"] = await start(processes, directory, "r1")
        await until(directory, "r1", in_force)
        assert holding.alive, holding.tail()
        await holding.stop()
        for host in ("r1", "r2"):
            await until(directory, host, nothing)
        said = [json.loads(line) for line in holding.log.read_text().splitlines() if line.startswith('{"reserved"')]
    hop.close()
    print(json.dumps(said), flush=True)


def main() -> int:
    directory, isp, credentials, key = sys.argv[1:]
    return enclosure.run(lambda: asyncio.run(film(Path(directory), isp, credentials, key)) or 0)  # type: ignore[func-returns-value]


if __name__ == "__main__":
    sys.exit(main())
