"""Who suffers in a drill, and what is to be thought of what was seen. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from random import Random
from typing import NamedTuple

import msgspec

from polder.model.admin_messages import Report

MOST = 0.5
"""Largest share of the nodes that may suffer at once."""


class What(StrEnum):
    """What is rehearsed."""

    NODE_KILL = "node-kill"
    LINK_CUT = "link-cut"
    ACCESS_POINT = "access-point"


class CannotDrill(ValueError):
    """There is nobody to drill with, and what would help."""


def choose(what: What, reports: Mapping[str, Report], fraction: float, in_use: str, rng: Random) -> tuple[str, ...]:
    """The nodes that suffer: ``fraction`` of all, at least one, drawn among the willing; for ``access-point`` that ``in_use``.

    Raises ``CannotDrill``.
    """
    if not 0 < fraction <= MOST:
        raise CannotDrill(f"a drill takes a fraction above 0 and at most {MOST:g} of the nodes")
    most = int(len(reports) * MOST)
    if most < 1:
        raise CannotDrill(f"{len(reports)} node answers: a drill needs two, so that somebody is left")
    willing = sorted(name for name, report in reports.items() if report.drills)
    if what is What.ACCESS_POINT:
        if in_use not in willing:
            who = f"node {in_use}" if in_use else "no forwarder of an enrolled user runs here, so none"
            raise CannotDrill(f"{who} takes part in a drill now: it rests, or `drills` is off there")
        return (in_use,)
    count = min(most, max(1, round(fraction * len(reports))))
    if len(willing) < count:
        said = f"{len(willing)} of {len(reports)} nodes take part in a drill now, {count} are needed"
        raise CannotDrill(f"{said}: the others rest from one, or have `drills = false`. Wait, or choose a smaller --fraction")
    return tuple(sorted(rng.sample(willing, count)))


def peers_of(node: str, reports: Mapping[str, Report], fraction: float, rng: Random) -> tuple[str, ...]:
    """Whom ``node`` shall not be linked with: that ``fraction`` of the others, at least one."""
    others = sorted(set(reports) - {node})
    return tuple(sorted(rng.sample(others, max(1, round(fraction * len(others))))))


class Load(NamedTuple):
    """One page load: when it began and how long it took (s), and why it failed (empty: it did not)."""

    began: float
    took: float
    why: str = ""


class Phase(msgspec.Struct, frozen=True):
    """What users saw in one phase; times in milliseconds."""

    name: str
    loads: int
    failed: int
    median_ms: float
    slowest_ms: float


class Outcome(msgspec.Struct, frozen=True):
    """A drill's table and verdict. Times in seconds; ``None``: it did not come about while we looked.

    ``ring_s``: after the failure, until the survivors' ring was whole; ``back_s``: after the end of the drill, until all nodes
    were in it again. ``masked``: paths that failed and were replaced; ``errors``: what the nodes themselves answered with errors.
    """

    what: str
    nodes: tuple[str, ...]
    seconds: float
    phases: tuple[Phase, ...]
    ring_s: float | None
    back_s: float | None
    masked: int
    errors: int
    findings: tuple[str, ...]


def phase(name: str, loads: Sequence[Load]) -> Phase:
    """Summary of the loads that began in one phase."""
    times = sorted(1000 * load.took for load in loads)
    median = times[len(times) // 2] if times else 0.0
    failed = sum(bool(load.why) for load in loads)
    return Phase(name, len(loads), failed, round(median, 1), round(times[-1], 1) if times else 0.0)


def findings(
    phases: Sequence[Phase],
    reasons: Sequence[str],
    ring_s: float | None,
    back_s: float | None,
    errors: int,
    slowest: float,
    ring: float,
) -> tuple[str, ...]:
    """What should not have been: ``slowest`` and ``ring`` are the bounds (s). Empty: users noticed nothing."""
    found = []
    during = [each for each in phases if each.name != "before"]
    failed, loads = sum(each.failed for each in during), sum(each.loads for each in during)
    if failed:
        found.append(f"{failed} of {loads} pages failed: {'; '.join(sorted(set(reasons))[:3])}")
    late = max((each.slowest_ms for each in during), default=0.0)
    if late > slowest * 1000:
        found.append(f"the slowest page took {late / 1000:.1f} s (bound {slowest:g} s)")
    if not loads and errors:
        found.append(f"nodes answered {errors} requests of users with errors")
    if ring_s is None or ring_s > ring:
        found.append(f"the ring was not whole within {ring:g} s of the failure")
    if back_s is None:
        found.append("not every node came back into the ring")
    return tuple(found)
