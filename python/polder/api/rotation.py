"""Rotation of the issuer: prepare, announce, switch, drain, retire. Steps are rows of the ledger; this room adds files and words.

prepare   the root signs a new issuer; its key lies encrypted beside the old one's
announce  every revocation list names both: nodes accept certificates of both, and browsers are asked for either
switch    the new issuer signs certificates and lists
drain     renewals replace the old issuer's certificates
retire    the old issuer's key is on the revocation list, and deleted
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from polder.api.issuers import delete_key, store_key
from polder.model import Refused, Verdict
from polder.store import IssuerRow, Ledger, Stage
from polder.trust.authority import Issuer, make_issuer

PHASES = ("none", "prepared", "announced", "draining")


@dataclass(frozen=True)
class Status:
    """Where a rotation stands. ``phase`` is one of ``PHASES``; times in Unix seconds.

    ``holders``: identities that have not renewed since the switch; ``certificates``: valid ones of the issuer that goes.
    """

    phase: str
    since: float | None = None
    due: float | None = None
    holders: tuple[str, ...] = ()
    certificates: int = 0

    def record(self) -> dict[str, Any]:
        """For ``--json``."""
        due = {"switch_due": round(self.due)} if self.phase == "announced" and self.due is not None else {}
        since = {"since": round(self.since)} if self.since is not None else {}
        drain = {"not_renewed": list(self.holders), "certificates": self.certificates} if self.phase == "draining" else {}
        return {"phase": self.phase} | since | due | drain


class Rotation:
    """Steps over ``ledger``, by ``clock`` (Unix seconds). Blocking."""

    def __init__(self, ledger: Ledger, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._clock = clock

    def status(self) -> Status:
        """Where it stands."""
        rows = {row.stage: row for row in self._ledger.issuers.rows()}
        if (row := rows.get(Stage.PREPARED)) is not None:
            return Status("prepared", row.since)
        if (row := rows.get(Stage.NEXT)) is not None:
            return Status("announced", row.since, row.due)
        if (row := rows.get(Stage.OLD)) is not None:
            depend = self._ledger.issuers.dependants(row.key_hash, self._clock())
            return Status("draining", row.since, None, depend.holders, depend.certificates)
        return Status("none")

    def prepare(
        self,
        directory: Path,
        root: Issuer,
        password: str,
        make_key: Callable[[], ec.EllipticCurvePrivateKey],
        rng: random.Random,
    ) -> None:
        """Make the new issuer under ``root`` and keep it; the key is on the disk before the ledger knows it."""
        now = self._clock()
        known = {row.file for row in self._ledger.issuers.rows()}
        for file in directory.glob("issuer-*.key.pem"):
            if (stray := file.name.removesuffix(".key.pem")) not in known:
                delete_key(directory, stray)  # of a preparation or an abort that was interrupted
        issuer = make_issuer(root.key, root.certificate, make_key(), now, rng)
        stem = f"issuer-{issuer.key_hash.hex()[:8]}"
        store_key(directory, stem, issuer, password)
        try:
            self._ledger.issuers.prepare(issuer.key_hash, issuer.chain()[0], stem, now)
        except BaseException:
            delete_key(directory, stem)
            raise

    def announce(self, after: float) -> bool:
        """Name the prepared issuer to everybody; it signs ``after`` seconds later at the earliest."""
        return self._ledger.issuers.announce(self._clock(), after)

    def switch_if_due(self) -> bool:
        """Sign with the announced issuer if its time has come; whether that is new."""
        rows: tuple[IssuerRow, ...] = self._ledger.issuers.rows()
        now = self._clock()
        due = any(row.stage is Stage.NEXT and row.due <= now for row in rows)
        return due and self._ledger.issuers.switch(now)

    def abort(self, directory: Path) -> Status:
        """Go back. Raises ``Refused`` when nothing is under way."""
        forgotten = self._ledger.issuers.abort(self._clock())
        if forgotten is not None:
            delete_key(directory, forgotten.file)
        return self.status()

    def finish(self, directory: Path, *, force: bool) -> bool:
        """Retire the issuer that signs no more; whether there was one. Raises ``Refused`` while somebody has not renewed."""
        status = self.status()
        if status.phase in {"prepared", "announced"}:
            raise Refused(
                Verdict.NOT_YET, "the new issuer does not sign yet; `polder rotate issuer status` says when", retry=True
            )
        if status.holders and not force:
            count = len(status.holders)
            who = ", ".join(status.holders[:5]) + (f" and {count - 5} more" if count > 5 else "")
            raise Refused(
                Verdict.NOT_YET, f"not renewed yet: {who}; wait, revoke them, or add --force to cut them off", retry=True
            )
        retired = self._ledger.issuers.retire(self._clock())
        if retired is not None:
            delete_key(directory, retired.file)
        return retired is not None
