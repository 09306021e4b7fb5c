"""Who decides: any object of this shape, so that the rooms of credentials and money need not know this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from polder.model.reservations import Ask, Verdict

__all__ = ["Ask", "Decider", "Verdict"]


class Decider(Protocol):
    """Judges reservations. What it accepts for money is written down durably before it answers; a refresh is never charged again."""

    def decide_many(self, asks: Sequence[Ask], now: float) -> Sequence[Verdict]:
        """One verdict for each ask, in order; ``now`` is wall time in seconds. Those that arrived together may share one commit."""

    def numbers(self) -> Mapping[str, float | Mapping[str, float]]:
        """What ``/metrics`` tells of it: families of ``polder.shell.families``. May be asked by another thread."""

    def release(self, ask: Ask, now: float) -> None:
        """The reservation has ended at that router."""
