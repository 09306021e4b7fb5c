"""What the machine decides, done by a host helper that is slow, refuses, or goes away."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from polder.host.commands import HostError
from polder.host.messages import FlowReserve
from polder.rsvp.intserv import Flowspec
from polder.rsvp.state import Install, Traffic, Uninstall
from polder.rsvpd import enforcing
from polder.rsvpd.enforcing import Enforcer
from tests.rsvp.examples import SENDER, SESSION, TSPEC

FLOW = Traffic(1, SESSION, (SENDER,), Flowspec(TSPEC))
DEVICES = {1: "eth1", 2: "eth2"}


class Helper:
    """Behind a ``Host``: reserves by device and handle once its ``gate`` is open; ``refuses`` says why it does not."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()
        self.refuses = ""
        self.away = False
        self.closed = False
        self.shaped: dict[str, int | None] = {}
        self.flows: dict[tuple[str, int], FlowReserve] = {}

    async def shape(self, device: str, rate: int | None) -> None:
        self._may()
        self.shaped[device] = rate

    async def rsvp_sockets(self) -> dict[str, int]:
        return {}

    async def reserve(self, flow: FlowReserve) -> None:
        self.asked.set()
        await self.gate.wait()
        self._may()
        self.flows[flow.device, flow.handle] = flow

    async def release(self, device: str, handle: int) -> None:
        self.flows.pop((device, handle), None)

    def gone(self) -> bool:
        return self.away

    async def close(self) -> None:
        self.closed = True

    def _may(self) -> None:
        if self.refuses:
            raise HostError(self.refuses)


class Told(list[tuple[int, str]]):
    """What the machine hears, in order."""

    def hear(self, handle: int, why: str) -> None:
        self.append((handle, why))


@asynccontextmanager
async def enforcer(helpers: Callable[[], Helper], told: Told) -> AsyncIterator[Enforcer]:
    """One at work, with both devices ordered."""
    one = Enforcer(helpers, DEVICES.__getitem__, told.hear, Counter())  # type: ignore[arg-type]
    await one.open({"eth1": 1000, "eth2": 1000})
    tasks = [asyncio.create_task(one.run()), asyncio.create_task(one.watch())]
    try:
        yield one
    finally:
        for task in tasks:
            task.cancel()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that must come."""
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.001)


async def test_what_was_overtaken_is_neither_done_nor_told() -> None:
    helper, told = Helper(), Told()
    async with enforcer(lambda: helper, told) as one:
        helper.gate.clear()
        one.put(Install(1, FLOW))
        await helper.asked.wait()
        # While the first is being done: more of the same flow, its end, and another flow under the handle that is free again.
        for rate in range(1, 100):
            one.put(Install(1, replace(FLOW, flowspec=Flowspec(replace(TSPEC, rate=float(rate))))))
        one.put(Uninstall(1))
        one.put(Install(1, replace(FLOW, interface=2)))
        helper.gate.set()
        await until(lambda: bool(told))
        assert told == [(1, "")], "of the last one, once it is in force"
        assert list(helper.flows) == [("eth2", 1)]
        assert one.flows == {1: (replace(FLOW, interface=2), "")}
        one.put(Uninstall(1))
        await until(lambda: not helper.flows)
        assert not one.flows


async def test_a_refusal_of_what_was_overtaken_ends_nothing_else() -> None:
    helper, told = Helper(), Told()
    async with enforcer(lambda: helper, told) as one:
        helper.gate.clear()
        one.put(Install(1, FLOW))
        await helper.asked.wait()
        helper.refuses = "no"
        one.put(Uninstall(1))
        helper.gate.set()
        await until(lambda: not one.flows and helper.gate.is_set() and one._work.empty())
        assert told == []
        helper.refuses = ""
        one.put(Install(1, FLOW))
        await until(lambda: bool(told))
        assert told == [(1, "")]


async def test_while_the_helper_is_away_nothing_is_called_enforced(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(enforcing, "_LOOK_S", 0.01)
    first, second, told = Helper(), Helper(), Told()
    there: list[Helper] = [first]

    def connect() -> Helper:
        if not there:
            raise HostError("nobody is there")
        return there[0]

    async with enforcer(connect, told) as one:
        one.put(Install(1, FLOW))
        await until(lambda: bool(told))
        assert one.flows == {1: (FLOW, "")}
        there.clear()
        first.away = True
        await until(lambda: one.flows[1][1] == "nobody is there")
        assert first.closed
        second.refuses = "no such device"
        there.append(second)
        await until(lambda: one.flows[1][1] == "no such device")
        second.refuses = ""
        one.order({})
        one.order({"eth1": 2000})
        await until(lambda: one.flows == {1: (FLOW, "")})
        assert list(second.flows) == [("eth1", 1)]
        assert told == [(1, "")], "what stands was promised once"
