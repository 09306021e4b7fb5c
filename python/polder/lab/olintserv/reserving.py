"""Reservations of both last hops: a daemon at each host on the way, and what customers ask of theirs.

What is reserved between a customer and his two nearest nodes, one flow each way (RFC 2205: a reservation has one direction):

- towards the customer one reservation for both nodes together (style SE): whichever of them sends may use all of it, so that the death
  of one takes no bandwidth, and it is paid once;
- from the customer one to each node.

The classifier sees outer headers alone: between user and nodes UDP of the spread plane, or TCP of the links to access points; between
the site's gateway and its servlets TCP of the dial-outs.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polder.lab.olintserv.isps import LINE_MBIT, NARROW, OUT, SIDES, Side
from polder.lab.olintserv.market import Payer
from polder.lab.overlay import POLDER
from polder.lab.processes import Process, ProcessError, Processes, together
from polder.lab.world import Scene
from polder.rsvpd.client import Connection
from polder.rsvpd.values import Announce, Flow, Reserve

SHAPED_MBIT = LINE_MBIT * 0.97
"""A little less than the line carries, so that the queue is in the router."""
UDP, TCP = 17, 6
_BUCKET, _LEAST, _LARGEST = 64_000, 64, 1500
_PATIENCE_S, _START_S = 30.0, 90.0


@dataclass(frozen=True)
class Wish:
    """What one customer reserves: Mbit/s towards him from both nodes together, and from him to each."""

    side: Side
    protocol: int
    down_mbit: float
    up_mbit: float


class Reservations:
    """The daemons of one run. ``start`` them once; ``hold`` reservations for the time of a context."""

    def __init__(self, processes: Processes, world: Scene, directory: Path) -> None:
        self._processes, self._world, self._directory = processes, world, directory
        self._sides: tuple[Side, ...] = ()
        self._running: list[Process] = []

    async def start(self, pdps: dict[str, Path]) -> None:
        """A daemon on every host between the customers and their nodes. ``pdps``: decision points' sockets by ISP's router; an ISP
        that has none is left out.
        """
        self._sides = tuple(side for side in SIDES if side.isp in pdps)
        await together(*(self._daemon(*each) for side in self._sides for each in self._settings(side, pdps[side.isp])))

    def _settings(self, side: Side, pdp: Path) -> Iterator[tuple[str, str]]:
        """Each host's rsvp.toml: at the ISP's router the decision point's word is needed for both directions."""
        links = {
            side.isp: f'pdp = "unix:{pdp}"\n' + _link(NARROW, SHAPED_MBIT, policy=True) + _link("wan", None, policy=True),
            side.customer: _link(OUT, SHAPED_MBIT, policy=False),
        }
        for host in (side.isp, side.customer, *side.nodes):
            yield host, f'name = "{host}"\nsocket = "{self._socket(host)}"\nfirst_retry = 0.1\n' + links.get(host, "")

    async def _daemon(self, host: str, text: str) -> None:
        config = self._directory / f"rsvp-{host}.toml"
        config.write_text(text)
        argv = [*POLDER, "rsvpd", "--config", str(config), "--json"]
        process = await self._processes.start(host, f"rsvpd-{host}", argv, piped=True)
        await process.first_line(_START_S)
        self._running.append(process)

    def check(self) -> None:
        """Raise ``ProcessError`` when a daemon has ended."""
        self._processes.check(*self._running)

    @contextlib.asynccontextmanager
    async def hold(self, wishes: Iterable[Wish], payers: dict[str, Payer], seconds: float) -> AsyncIterator[None]:
        """Announce, pay and reserve; all stands while the context lasts, and is gone at every router after it.

        Raises ``NotReserved``, ``Refused``.
        """
        async with contextlib.AsyncExitStack() as stack:
            for wish in wishes:
                for asked, senders in self._requests(wish):
                    for sender in senders:
                        await self._announce(stack, asked, sender)
                for asked, _ in self._requests(wish):
                    await self._reserve(stack, asked, payers[wish.side.customer].bundle(asked, seconds))
            yield
        await self._forgotten()

    def _requests(self, wish: Wish) -> list[tuple[Reserve, tuple[str, ...]]]:
        """What is asked for, and by whom the data are sent."""
        side = wish.side
        nodes = tuple(self._world.hosts[node].ipv4 for node in side.nodes)
        down = Reserve(_flow(side.address, wish.protocol, wish.down_mbit), "SE", tuple((node, 0) for node in nodes))
        ups = [Reserve(_flow(node, wish.protocol, wish.up_mbit), "FF", ((side.address, 0),)) for node in nodes]
        return [(down, nodes), *((up, (side.address,)) for up in ups)]

    def _host(self, address: str) -> str:
        return next(name for name, host in self._world.hosts.items() if host.ipv4 == address)

    async def _announce(self, stack: contextlib.AsyncExitStack, asked: Reserve, sender: str) -> None:
        daemon = await stack.enter_async_context(await Connection.open(self._socket(self._host(sender))))
        await daemon.say(Announce(asked.flow, sender, 0))
        await daemon.until("announced", _PATIENCE_S)

    async def _reserve(self, stack: contextlib.AsyncExitStack, asked: Reserve, bundle: bytes) -> None:
        daemon = await stack.enter_async_context(await Connection.open(self._socket(self._host(asked.flow.destination))))
        await daemon.say(Reserve(asked.flow, asked.style, asked.senders, None, bundle))
        await daemon.until("confirmed", _PATIENCE_S)

    async def carried(self) -> list[dict[str, Any]]:
        """Counters of what is enforced on the lines: packets within and beyond, by session."""
        found = []
        for side in self._sides:
            for host, device in ((side.isp, NARROW), (side.customer, OUT)):
                async with await Connection.open(self._socket(host)) as daemon:
                    facts = await daemon.show()
                found += [{"router": host} | each for each in facts["enforced"] if each["device"] == device]
        return found

    async def _forgotten(self) -> None:
        """Wait until no router holds anything."""
        deadline = time.monotonic() + _PATIENCE_S
        for side in self._sides:
            for host in (side.isp, side.customer):
                async with await Connection.open(self._socket(host)) as daemon:
                    while (facts := await daemon.show())["reservations"] or facts["enforced"]:
                        if time.monotonic() > deadline:
                            raise ProcessError(f"{host} keeps a reservation that was torn down: {facts}")
                        await asyncio.sleep(0.05)

    def _socket(self, host: str) -> Path:
        return self._directory / f"rsvp-{host}" / "rsvp.sock"


def _flow(destination: str, protocol: int, mbit: float) -> Flow:
    rate = mbit * 1e6 / 8
    return Flow(destination, protocol, 0, rate, _BUCKET, 2 * rate, _LEAST, _LARGEST)


def _link(device: str, mbit: float | None, *, policy: bool) -> str:
    rate = "" if mbit is None else f"rate_mbit = {mbit:g}\n"
    return f'[[links]]\ndevice = "{device}"\n{rate}policy = {str(policy).lower()}\n'
