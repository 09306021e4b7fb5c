"""Cross traffic: everybody else on both last hops, in both directions, twice what the lines carry."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from polder.lab.olintserv.isps import LINE_MBIT, SIDES
from polder.lab.processes import Process, Processes
from polder.lab.world import Scene

EACH_MBIT = 2 * LINE_MBIT
"""Through each line, each way."""
_PORT, _PAYLOAD = 9, 1372
_TOOL = [sys.executable, "-m", "polder.lab.udp_flow"]
_PATIENCE_S = 30.0


class Cross:
    """``open`` once; then ``start``, ``mark`` and ``stop`` for each showing."""

    def __init__(self, processes: Processes, world: Scene) -> None:
        self._processes, self._world = processes, world
        self._running: list[Process] = []
        self._began = 0.0
        self._before = 0

    async def open(self) -> None:
        """Somebody who takes what arrives, so that nobody answers it. Raises ``ProcessError``."""
        for host in ("bot", *(side.customer for side in SIDES)):
            swallow = await self._processes.start(host, f"swallow-{host}", [*_TOOL, "swallow", _words(port=_PORT)], piped=True)
            await swallow.first_line(_PATIENCE_S)

    async def start(self, begin: float, end: float) -> None:
        """Fill both lines, both ways, from ``begin`` until ``end`` (Unix seconds). ``begin`` some seconds ahead: processes take time."""
        bot = self._world.hosts["bot"].ipv4
        for port, side in enumerate(SIDES, 7000):
            for host, to in (("bot", side.crossed), (side.customer, bot)):
                words = {"to": to, "port": _PORT, "source_port": port, "mbit": EACH_MBIT, "payload": _PAYLOAD}
                argv = [*_TOOL, "send", _words(**words, at=begin, seconds=end - begin)]
                self._running.append(await self._processes.start(host, f"cross-{host}-{port}", argv))

    def mark(self) -> None:
        """Measure from now on."""
        self._began, self._before = time.monotonic(), self._sent()

    def mbit(self) -> float:
        """What was sent into each last hop from the wide area, on average since ``mark``."""
        return (self._sent() - self._before) * 8 / 1e6 / (time.monotonic() - self._began) / len(SIDES)

    async def stop(self) -> None:
        """End it. Safe to call when nothing runs."""
        running, self._running = self._running, []
        await asyncio.gather(*(process.stop() for process in running))

    def _sent(self) -> int:
        return self._world.counts(["bot"])["in_bytes"]


def _words(**values: Any) -> str:
    return json.dumps(values)
