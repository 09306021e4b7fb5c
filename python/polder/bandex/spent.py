"""The spent set of one ISP: which checks it has taken, for what, and how much of each credit is spent (traps 29, 32, 33).

A check is remembered from before the first router is configured until it has expired and been deposited. ``SpentSet`` holds everything
in memory and decides; a durable store writes each ``Entry`` down before the router hears of it (``polder.clearing.till``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec

from polder.bandex.judge import Flow
from polder.model import Refused, Verdict


class Entry(msgspec.Struct, frozen=True):
    """A check that was taken. ``charge``, ``credit``: who pays which, as ``Bundle.charge`` and ``credit_id`` name them; ``digest``: of
    the check with its signature; ``flow``: as it was first asked for; ``bundle``: the texts, for the clearing house.
    """

    charge: str
    credit: str
    digest: str
    flow: Flow
    amount: int
    currency: str
    taken_at: float
    until: int
    credit_until: int
    bundle: tuple[str, ...]


class Spent(Protocol):
    """Where a desk looks up, and writes down, what was spent."""

    def __len__(self) -> int:
        """How many checks are remembered."""

    def find(self, charge: str) -> Entry | None:
        """The entry of a check, or none."""

    def of_credit(self, credit: str) -> int:
        """Micro-units spent of a credit so far."""

    def take(self, entries: Iterable[Entry]) -> None:
        """Write entries down, all or none, durable when it returns. Raises ``Refused`` (``BUSY``) when there is no room."""

    def sweep(self, now: float) -> int:
        """Forget what has ended before ``now`` and need not be kept for a deposit; returns how many."""


class SpentSet:
    """In memory: at most ``most`` entries; ``forget`` drops those that have ended and been deposited."""

    def __init__(self, most: int = 100_000) -> None:
        self._most = most
        self._entries: dict[str, Entry] = {}
        self._credits: dict[str, int] = {}
        self._ends: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, charge: str) -> Entry | None:
        """The entry of a check, or none."""
        return self._entries.get(charge)

    def entries(self) -> tuple[Entry, ...]:
        """All of them, in the order in which they were taken."""
        return tuple(self._entries.values())

    def of_credit(self, credit: str) -> int:
        """Micro-units spent of a credit so far."""
        return self._credits.get(credit, 0)

    def room(self, count: int) -> None:
        """Raise ``Refused`` unless ``count`` more entries fit."""
        if len(self._entries) + count > self._most:
            raise Refused(Verdict.BUSY, "the ISP holds as many checks as it can; it must deposit them first", retry=True)

    def take(self, entries: Iterable[Entry]) -> None:
        """Put in entries, whose charges must be new."""
        new = list(entries)
        self.room(len(new))
        for entry in new:
            if entry.charge in self._entries:
                raise Refused(Verdict.USED, "the check was taken before")
            self._entries[entry.charge] = entry
            self.spend(entry.credit, entry.amount, entry.credit_until)

    def spend(self, credit: str, amount: int, until: int) -> None:
        """Count ``amount`` of a credit, until that has ended; without an entry, where the check was forgotten before."""
        self._credits[credit] = self._credits.get(credit, 0) + amount
        self._ends[credit] = until

    def sweep(self, now: float) -> int:
        """Forget what has ended: nothing in memory waits for a deposit."""
        return len(self.forget(now, list(self._entries)))

    def forget(self, now: float, deposited: Iterable[str]) -> list[str]:
        """Drop those of ``deposited`` that ended before ``now``, and credits that did; returns the charges dropped."""
        gone = []
        for charge in deposited:
            entry = self._entries.get(charge)
            if entry is not None and entry.until <= now:
                del self._entries[charge]
                gone.append(charge)
        for credit in [credit for credit, end in self._ends.items() if end <= now]:
            del self._ends[credit], self._credits[credit]
        return gone
