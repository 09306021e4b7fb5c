"""Whether a process is fit to work: named checks, each with the reason why not and how to mend it. No outside calls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Check:
    """One condition of readiness. ``why``: cause and cure, for the operator; never a servlet's, user's or peer's name."""

    name: str
    good: bool
    why: str = ""


def report(checks: Iterable[Check]) -> tuple[bool, dict[str, Any]]:
    """Whether all is good, and the body of ``/readyz``: ``ready``, ``checks`` (all names), ``reasons`` (what is not)."""
    known = tuple(checks)
    reasons = [{"check": check.name, "why": check.why} for check in known if not check.good]
    return not reasons, {"ready": not reasons, "checks": [check.name for check in known], "reasons": reasons}


def certificate(not_after: float, now: float) -> Check:
    """The process can prove who it is. ``not_after``, ``now``: Unix seconds."""
    why = "the certificate has ended; renewal is tried on, so see whether the authority can be reached"
    return Check("certificate", not_after > now, why)


def snapshot(version: int) -> Check:
    """The data plane has been told what to do."""
    return Check("snapshot", version > 0, "no snapshot is in force yet; if this lasts, the log says what was refused")


def staying(closing: bool) -> Check:
    """The process is not on its way out."""
    return Check("staying", not closing, "the process is stopping: it ends what is open and takes nothing new")
