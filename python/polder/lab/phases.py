"""One phase of an experiment: readers read, attackers attack, and what happened is sampled."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from polder.lab import attacks, load
from polder.lab.processes import ProcessError, Processes, together
from polder.lab.world import Scene

SAMPLE_S = 0.5
_LEAD_S = 3.0
"""Readers' and attackers' processes need this long to start on two cores; the readers all begin at one moment."""
_SLACK_S = 20.0
_CLEAR_S = 0.5


@dataclass(frozen=True)
class Plan:
    """What a phase is. ``readers`` maps a user's host to what he does (its ``start`` is set when the phase begins)."""

    name: str
    title: str
    seconds: float
    readers: dict[str, load.Reader]
    attacks: tuple[attacks.Attack, ...] = ()


@dataclass(frozen=True)
class Sample:
    """The site's side over half a second: ``at`` seconds since the phase's start; Mbit/s at IP level."""

    at: float
    flood_mbit_s: float
    narrow_mbit_s: float
    narrow_drops: int


@dataclass
class Outcome:
    """What happened in a phase. Times of ``loads`` are on the monotonic clock, ``start`` too."""

    plan: Plan
    start: float = 0.0
    loads: list[load.Load] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """The result's row."""
        within = [one for one in self.samples if 0 <= one.at <= self.plan.seconds]
        flood = sum(one.flood_mbit_s for one in within) / len(within) if within else 0.0
        drops = sum(one.narrow_drops for one in within)
        summary = load.summary(self.loads, self.plan.seconds)
        return {"phase": self.plan.name, **summary, "flood_mbit_s": round(flood, 2), "narrow_drops": drops}


Watch = Callable[[Outcome], None]
"""Called after every page load and sample."""


async def run(processes: Processes, world: Scene, plan: Plan, watch: Watch = lambda _: None, seed: int = 1) -> Outcome:
    """Run a phase to its end. The attack begins with the readers' processes and outlasts the last page load.

    Raises ``ProcessError`` when a reader or an attacker fails to do its work.
    """
    outcome = Outcome(plan, start=time.monotonic() + _LEAD_S)
    longest = max((reader.limit for reader in plan.readers.values()), default=0.0)
    under_attack = _LEAD_S + plan.seconds + longest
    raid = asyncio.create_task(attacks.launch(processes, world, plan.attacks, under_attack, seed))
    sampling = asyncio.create_task(_sample(world, plan, outcome, watch))
    try:
        await together(*(_read(processes, user, reader, outcome, watch) for user, reader in plan.readers.items()))
        outcome.reports = await raid
    finally:
        sampling.cancel()
        raid.cancel()
    await asyncio.sleep(_CLEAR_S if plan.attacks else 0)  # the queues of the last phase are not the next one's affair
    return outcome


async def _read(processes: Processes, user: str, reader: load.Reader, outcome: Outcome, watch: Watch) -> None:
    """One reader: collect his page loads as they come."""
    plan = outcome.plan
    described = msgspec.json.encode(msgspec.structs.replace(reader, start=outcome.start, duration=plan.seconds))
    argv = [sys.executable, "-m", "polder.lab.load"]
    process = await processes.start(user, f"reader-{plan.name}-{user}", argv, stdin=described, piped=True)
    assert process.process.stdout is not None
    async with asyncio.timeout(_LEAD_S + plan.seconds + reader.limit + _SLACK_S):
        async for line in process.process.stdout:
            outcome.loads.append(msgspec.json.decode(line, type=load.Load))
            watch(outcome)
        status = await process.process.wait()
    if status != 0:
        raise ProcessError(f"the reader on {user} failed, status {status}:\n{process.tail()}")


async def _sample(world: Scene, plan: Plan, outcome: Outcome, watch: Watch) -> None:
    """Every half second: what the bots put in, and what the narrow link carried and dropped."""
    bots = sorted({bot for attack in plan.attacks for bot in attacks.group_hosts(world, attack.bots)})
    last = time.monotonic()
    before = (world.counts(bots), world.narrow())
    while True:
        await asyncio.sleep(SAMPLE_S)
        now = time.monotonic()
        after = (world.counts(bots), world.narrow())
        span = now - last
        flood = (_passed(after[0]) - _passed(before[0])) * 8 / span / 1e6
        narrow = (after[1]["bytes"] - before[1]["bytes"]) * 8 / span / 1e6
        drops = after[1]["drops"] - before[1]["drops"]
        outcome.samples.append(Sample(now - outcome.start, flood, narrow, drops))
        watch(outcome)
        last, before = now, after


def _passed(counts: dict[str, int]) -> int:
    return counts.get("in_bytes", 0)


def dump(outcomes: Sequence[Outcome]) -> str:
    """Everything that was seen, as JSON, for later questions."""
    return json.dumps(
        [
            {
                "row": outcome.row(),
                "loads": [msgspec.to_builtins(one) | {"start": one.start - outcome.start} for one in outcome.loads],
                "samples": [vars(sample) for sample in outcome.samples],
                "attackers": outcome.reports,
            }
            for outcome in outcomes
        ],
        indent=1,
    )
