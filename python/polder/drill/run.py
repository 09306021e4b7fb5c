"""``Rehearsal``: a drill from its announcement to its verdict."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from polder.dashboard.operator import whole_ring
from polder.drill import plan
from polder.drill.plan import CannotDrill, Outcome, What
from polder.drill.probe import Probe
from polder.engine import CallFailed
from polder.model import Member
from polder.model.admin_messages import Drill, Drilled, Report, ReportQuery
from polder.shell.clock import monotonic
from polder.shell.console import Console

_LOOK = 0.5
_PATIENCE = 2.0
_COUNTED = ("front_failed", "front_internal")


@dataclass(frozen=True)
class Order:
    """What the operator wants: times in seconds; ``slowest`` and ``ring`` are what he takes for unnoticed."""

    what: What
    fraction: float = 0.2
    seconds: float = 30.0
    before: float = 3.0
    settle: float = 60.0
    slowest: float = 3.0
    ring: float = 10.0


class Rehearsal:
    """``in_use``: the access point of the user here; ``probe`` reads meanwhile, if there is a user."""

    def __init__(
        self,
        console: Console,
        members: Iterable[Member],
        order: Order,
        probe: Probe | None,
        say: Callable[[str], None],
        rng: Random,
    ) -> None:
        self._console = console
        self._members = {member.name: member for member in members}
        self._order = order
        self._probe = probe
        self._say = say
        self._rng = rng
        self._id = secrets.token_hex(8)

    async def run(self, in_use: str = "") -> Outcome:
        """The whole of it. Raises ``CannotDrill`` before anybody suffers."""
        order = self._order
        before = await self._reports(self._members)
        nodes = plan.choose(order.what, before, order.fraction, in_use, self._rng)
        self._members = {name: member for name, member in self._members.items() if name in before}
        await self._announce(nodes)
        try:
            return await self._rehearse(nodes, before)
        finally:
            await self._tell(self._members, Drill(self._id, "end", nodes, order.seconds))

    async def _rehearse(self, nodes: tuple[str, ...], before: Mapping[str, Report]) -> Outcome:
        order, probe = self._order, self._probe
        if probe is not None:
            self._say(f"reading for {order.before:g} s, as a measure")
            probe.start()
            await asyncio.sleep(order.before)
        began = monotonic()
        self._say(f"{order.what}: {', '.join(nodes)} for {order.seconds:g} s")
        await self._begin(nodes, before)
        survivors = set(before) - (set() if order.what is What.LINK_CUT else set(nodes))
        # Without the links that are cut a ring may not be possible: then only its return counts.
        cut = order.what is What.LINK_CUT
        ring_s = 0.0 if cut else await self._until_whole(survivors, began, began + order.seconds)
        await asyncio.sleep(max(0.0, began + order.seconds - monotonic()))
        ended = monotonic()
        self._say("the drill is over; waiting until all are back")
        back_s = await self._until_whole(set(before), ended, ended + order.settle)
        if probe is not None:
            await probe.stop()
        after = await self._reports(survivors)
        loads = probe.loads if probe is not None else []
        phases = tuple(
            plan.phase(name, [load for load in loads if start <= load.began < end])
            for name, start, end in (("before", 0.0, began), ("during", began, ended), ("after", ended, ended + 1e9))
        )
        errors = _grown(before, after, _COUNTED)
        reasons = [load.why for load in loads if load.why and load.began >= began]
        found = plan.findings(phases, reasons, ring_s, back_s, errors, order.slowest, order.ring)
        masked = _grown(before, after, ("failovers",))
        return Outcome(order.what, nodes, order.seconds, phases if probe else (), ring_s, back_s, masked, errors, found)

    async def _announce(self, nodes: tuple[str, ...]) -> None:
        """To everybody; one refusal, and nobody suffers."""
        told = Drill(self._id, "announce", nodes, self._order.seconds)
        for name, answer in (await self._tell(self._members, told)).items():
            if not isinstance(answer, Drilled):
                await self._tell(self._members, Drill(self._id, "end", nodes, self._order.seconds))
                raise CannotDrill(f"node {name} does not agree: {answer}")

    async def _begin(self, nodes: tuple[str, ...], reports: Mapping[str, Report]) -> None:
        order = self._order
        step = "cut" if order.what is What.LINK_CUT else "silence"
        for name in nodes:
            peers = plan.peers_of(name, reports, order.fraction, self._rng) if step == "cut" else ()
            answer = (await self._tell([name], Drill(self._id, step, nodes, order.seconds, peers)))[name]
            if isinstance(answer, CallFailed):
                self._say(f"node {name} did not take its part: {answer}")

    async def _until_whole(self, wanted: set[str], since: float, until: float) -> float | None:
        """Seconds after ``since`` when all of ``wanted`` were one ring, and stayed so for two looks; ``None``: not until ``until``."""
        whole_at: float | None = None
        while monotonic() < until:
            began = monotonic()
            reports = await self._reports(wanted)
            facts = {name: {"joined": each.joined, "successors": each.successors} for name, each in reports.items()}
            if set(reports) == wanted and whole_ring(facts):
                if whole_at is not None:
                    return round(whole_at - since, 1)
                whole_at = monotonic()
            else:
                whole_at = None
            await asyncio.sleep(max(0.0, _LOOK - (monotonic() - began)))
        return None

    async def _reports(self, names: Iterable[str]) -> dict[str, Report]:
        asked = [self._members[name] for name in names]
        answers = await self._console.ask_all(asked, "report", ReportQuery(), _PATIENCE)
        return {name: answer for name, answer in answers.items() if isinstance(answer, Report)}

    async def _tell(self, names: Iterable[str], order: Drill) -> dict[str, Any | CallFailed]:
        return await self._console.ask_all([self._members[name] for name in names], "drill", order, _PATIENCE)


def _grown(before: Mapping[str, Report], after: Mapping[str, Report], counters: tuple[str, ...]) -> int:
    """By how much the counters grew at the nodes that lived through it."""
    alive = [name for name in after if name in before and after[name].uptime_s > before[name].uptime_s]
    return sum(max(0, after[n].counters.get(c, 0) - before[n].counters.get(c, 0)) for n in alive for c in counters)
