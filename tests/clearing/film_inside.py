"""Two routers of Nick's with real daemons, his policy decision point, and Alice who pays for a film; run by ``test_journey.py``.

``python -m tests.clearing.film_inside DIRECTORY ISP_TOML CREDENTIALS KEY``: in namespaces of its own, with the files given. Prints what
`polder reserve` said, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from polder.lab import enclosure
from polder.lab.processes import Processes
from tests.rsvpd.world import World, in_force, nothing


async def film(directory: Path, isp: str, credentials: str, key: str) -> None:
    """One check, two routers, one charge, whatever restarts meanwhile."""
    async with Processes(directory) as processes:
        world = World(directory, processes, pdp="shop", isp=Path(isp))
        await world.open("shop")
        await world.announce("sender", world.hop.receiver, world.hop.sender)
        paying = ("--from", f"{world.hop.sender}:6000", "--credentials", credentials, "--pay", key, "--for", "10m")
        holding = await world.reserve(world.hop.receiver, *paying)
        await world.both(in_force)

        # Router and decision point die; the host's refreshes bring the same check again.
        for name in ("r1", "shop"):
            await world.kill(name)
        await world.judge("shop")
        await world.start("r1")
        await world.until("r1", in_force)
        assert holding.alive, holding.tail()
        await holding.stop()
        await world.both(nothing)
        said = [json.loads(line) for line in holding.log.read_text().splitlines() if line.startswith('{"reserved"')]
    world.hop.close()
    print(json.dumps(said), flush=True)


def main() -> int:
    directory, isp, credentials, key = sys.argv[1:]
    return enclosure.run(lambda: asyncio.run(film(Path(directory), isp, credentials, key)) or 0)  # type: ignore[func-returns-value]


if __name__ == "__main__":
    sys.exit(main())
