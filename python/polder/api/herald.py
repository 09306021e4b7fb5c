"""``Herald``: brings the authority's revocation list to the nodes, and asks each what it cut.

A new epoch goes to every node at once, whoever wrote it into the ledger; between epochs the list is signed anew every few seconds
and given to some, who pass it on: its age tells every node how long it has been cut off.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from polder.api.service import AuthorityService
from polder.engine import CallFailed
from polder.model import Member, Refused, RevocationList, Signed, decode
from polder.model.overlay_messages import Heed, Heeded, Sync, Synced
from polder.shell.clock import monotonic, wall
from polder.shell.console import Console
from polder.store import Ledger

log = logging.getLogger("polder.authority")

LOOK_EVERY = 0.5
"""Seconds between looks for an epoch that another process wrote; `polder revoke` and its like tell at once."""
WAIT = 2.0
"""Seconds that a node has to answer. Who is silent hears again with the next list, from its peers, or asks by itself."""
FANOUT = 3


@dataclass(frozen=True)
class Report:
    """What became of one epoch: who has it in force, who did not answer and why, what was cut."""

    epoch: int
    acknowledged: tuple[str, ...]
    silent: dict[str, str]
    connections: int
    tunnels: int
    seconds: float

    def record(self) -> dict[str, Any]:
        """For the administrator."""
        counts = {"nodes": len(self.acknowledged) + len(self.silent), "connections_cut": self.connections}
        return counts | {
            "epoch": self.epoch,
            "acknowledged": list(self.acknowledged),
            "silent": self.silent,
            "tunnels_cut": self.tunnels,
            "seconds": round(self.seconds, 3),
        }


class Herald:
    """``work`` runs what blocks on the authority's worker; ``on_epoch`` is told before a new epoch is signed."""

    def __init__(
        self,
        service: AuthorityService,
        ledger: Ledger,
        console: Console,
        work: Callable[[Callable[[], Any]], Awaitable[Any]],
        rng: random.Random,
        on_epoch: Callable[[], Awaitable[None]],
    ) -> None:
        self.last: Report | None = None
        self._service = service
        self._ledger = ledger
        self._console = console
        self._work = work
        self._rng = rng
        self._on_epoch = on_epoch
        self._turn = asyncio.Lock()
        self._refreshed = monotonic()
        self._seen = -1

    async def announce(self) -> Report:
        """Bring the list of this moment to all nodes; returns when each has answered, or is silent for ``WAIT`` seconds."""
        async with self._turn:
            began = monotonic()
            # Read before what belongs to it: a step that another process takes meanwhile is seen at the next look.
            self._seen = await self._work(self._ledger.epoch)
            await self._on_epoch()
            report = await self._tell_all(began)
            log.info("told", extra={key: value for key, value in report.record().items() if key != "acknowledged"})
            self.last, self._refreshed = report, monotonic()
            return report

    async def look(self, every: float) -> None:
        """One look: announce a new epoch, or spread a fresh list when ``every`` seconds have passed."""
        epoch = await self._work(self._ledger.epoch)
        if self.last is None or epoch != self._seen:
            await self.announce()
        elif monotonic() - self._refreshed >= every:
            await self._refresh(self.last)
        await asyncio.sleep(LOOK_EVERY)

    async def _tell_all(self, began: float) -> Report:
        members = await self._work(self._ledger.members)
        if await self._work(self._ledger.is_restored):
            await self._recover(members)
        signed, listed = await self._list()
        answers = await self._console.ask_all(members, "revocations", Heed(signed), WAIT)
        heeded = {name: answer for name, answer in answers.items() if isinstance(answer, Heeded)}
        highest = max((answer.epoch for answer in heeded.values()), default=0)
        if highest > listed.epoch:
            # A ledger that was brought back from an older copy: what nodes hold must not beat what is decided from now on.
            why = f"a node holds epoch {highest}; this ledger had {listed.epoch}"
            log.warning("the epoch is raised", extra={"why": why})
            await self._work(lambda: self._ledger.raise_epoch(highest, why))
            return await self._tell_all(began)
        silent = {name: str(answer) for name, answer in answers.items() if isinstance(answer, CallFailed)}
        return Report(
            listed.epoch,
            tuple(sorted(heeded)),
            dict(sorted(silent.items())),
            sum(answer.connections for answer in heeded.values()),
            sum(answer.tunnels for answer in heeded.values()),
            monotonic() - began,
        )

    async def _recover(self, members: tuple[Member, ...]) -> None:
        """After a restore: whom nodes know to be revoked stays revoked. Tried again at the next look while no node answers."""
        answers = await self._console.ask_all(members, "sync", Sync(()), WAIT)
        lists = [held for answer in answers.values() if isinstance(answer, Synced) for held in self._lists(answer)]
        if lists:
            newest = max(lists, key=lambda held: (held.epoch, held.issued_at))
            count = await self._work(lambda: self._ledger.recover(newest, wall()))
            log.warning("revocations were taken back from the nodes", extra={"count": count, "epoch": newest.epoch})

    def _lists(self, answer: Synced) -> list[RevocationList]:
        """The revocation lists in an answer that this authority signed."""
        found = []
        for signed in answer.records:
            try:
                found.append(self._service.verifier().open_revocations(signed, wall()))
            except Refused:
                continue  # a site's record, or none of ours
        return found

    async def _refresh(self, last: Report) -> None:
        """A fresh list to some, and to those who were silent."""
        self._refreshed = monotonic()
        signed, _ = await self._list()
        members: tuple[Member, ...] = await self._work(self._ledger.members)
        some = self._rng.sample(members, min(FANOUT, len(members)))
        silent = [member for member in members if member.name in last.silent]
        await self._console.ask_all({*some, *silent}, "revocations", Heed(signed), WAIT)

    async def _list(self) -> tuple[Signed, RevocationList]:
        signed: Signed = await self._work(self._service.revocations)
        listed = decode(signed.payload, RevocationList)
        self._console.believe(listed)
        return signed, listed
