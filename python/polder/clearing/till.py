"""``Till``: an ISP's spent set on disk, and the checks that wait to be deposited.

One file of SQLite. ``take`` returns after the entries are synced, all that were given together in one transaction (group commit); a
crash before leaves none of them, and no router has heard of them. One process at a time takes checks: the file's lock says so. Others
(`polder settle`) may read, and write down what the clearing house answered.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

import msgspec

from polder.bandex import Entry, SpentSet
from polder.model import Refused, Verdict
from polder.settings.state import make_private

log = logging.getLogger("polder.clearing")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS checks (
  charge TEXT PRIMARY KEY, until INTEGER NOT NULL, entry BLOB NOT NULL,
  answer TEXT NOT NULL DEFAULT '', answered_at REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS checks_by_answer ON checks (answer, until);
CREATE TABLE IF NOT EXISTS credits (credit TEXT PRIMARY KEY, spent INTEGER NOT NULL, until INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_SPEND = "INSERT INTO credits VALUES (?, ?, ?) ON CONFLICT (credit) DO UPDATE SET spent = spent + excluded.spent"
_VERSION = "1"
PAID, REFUSED = "paid", "refused"
_BUSY_S = 30.0


class Till:
    """Implements ``polder.bandex.Spent``. Open it with ``open_spent`` to take checks, with ``Till`` to deposit them."""

    def __init__(self, path: Path, most: int = 100_000) -> None:
        make_private(path.parent)
        self.path = path
        self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        path.chmod(0o600)
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_SCHEMA)
        self._db.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (_VERSION,))
        (found,) = self._db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        if found != _VERSION:
            raise ValueError(f"{path} has schema {found}, this Polder knows {_VERSION}: use the Polder that wrote it")
        self._set = SpentSet(most)
        self._lock: int | None = None

    def load(self) -> Self:
        """Read what was taken before, and take checks from now on. Raises ``OSError`` when another process does."""
        descriptor = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise OSError(error.errno, f"another policy decision point takes checks into {self.path}: stop it first") from error
        self._lock = descriptor
        for credit, spent, until in self._db.execute("SELECT credit, spent, until FROM credits"):
            self._set.spend(credit, spent, until)
        for (blob,) in self._db.execute("SELECT entry FROM checks"):
            self._set.take([msgspec.msgpack.decode(blob, type=Entry)])
        return self

    def __len__(self) -> int:
        return len(self._set)

    def find(self, charge: str) -> Entry | None:
        """The entry of a check, or none."""
        return self._set.find(charge)

    def of_credit(self, credit: str) -> int:
        """Micro-units spent of a credit so far."""
        return self._set.of_credit(credit)

    def take(self, entries: Iterable[Entry]) -> None:
        """Write entries down, all or none; synced when it returns. Raises ``Refused`` when there is no room, or no disk."""
        new = list(entries)
        self._set.room(len(new))
        if self._lock is None:
            raise ValueError("this till was opened to deposit, not to take checks")
        rows = [(entry.charge, entry.until, msgspec.msgpack.encode(entry)) for entry in new]
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT INTO checks (charge, until, entry) VALUES (?, ?, ?)", rows)
            self._db.execute("COMMIT")
        except sqlite3.IntegrityError:
            self._undo()
            raise Refused(Verdict.USED, "the check was taken before") from None
        except sqlite3.Error as error:
            self._undo()
            raise Refused(
                Verdict.BUSY, f"the ISP cannot write down the check: {error}; it is not your fault", retry=True
            ) from error
        self._set.take(new)

    def entries(self) -> Iterator[Entry]:
        """All that was taken and is not forgotten."""
        return iter(self._set.entries())

    def charges(self) -> set[str]:
        """What the file holds at this moment, whoever wrote it."""
        return {charge for (charge,) in self._db.execute("SELECT charge FROM checks")}

    def waiting(self, most: int) -> list[Entry]:
        """Checks that no clearing house has answered for yet, those that end first."""
        rows = self._db.execute("SELECT entry FROM checks WHERE answer = '' ORDER BY until LIMIT ?", (most,))
        return [msgspec.msgpack.decode(blob, type=Entry) for (blob,) in rows]

    def answered(self, answers: Iterable[tuple[str, str]], now: float) -> None:
        """Write down what the clearing house said: (charge, ``paid`` or ``refused: why``)."""
        rows = [(answer, now, charge) for charge, answer in answers]
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("UPDATE checks SET answer = ?, answered_at = ? WHERE charge = ?", rows)
        self._db.execute("COMMIT")

    def sweep(self, now: float) -> int:
        """Forget checks that have ended and were answered for; returns how many (trap 33). Without a disk: none, and later.

        What they spent of credits that are still good is kept, also for who opens the file next.
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            rows = self._db.execute("DELETE FROM checks WHERE answer <> '' AND until <= ? RETURNING entry", (now,)).fetchall()
            gone = [msgspec.msgpack.decode(blob, type=Entry) for (blob,) in rows]
            self._db.executemany(_SPEND, [(one.credit, one.amount, one.credit_until) for one in gone])
            self._db.execute("DELETE FROM credits WHERE until <= ?", (now,))
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo()
            log.warning("the till cannot forget what is settled", extra={"error": str(error)})
            return 0
        return len(self._set.forget(now, [one.charge for one in gone]))

    def totals(self) -> dict[str, int]:
        """How many checks wait, were paid, were refused."""
        rows = self._db.execute("SELECT answer, count(*) FROM checks GROUP BY answer").fetchall()
        found = {"waiting": 0, PAID: 0, REFUSED: 0}
        for answer, count in rows:
            found[answer.partition(":")[0] or "waiting"] += count
        return found

    def refusals(self) -> list[tuple[Entry, str]]:
        """Checks that the clearing house will not pay, and why."""
        rows = self._db.execute("SELECT entry, answer FROM checks WHERE answer LIKE 'refused%'").fetchall()
        return [(msgspec.msgpack.decode(blob, type=Entry), answer.partition(": ")[2]) for blob, answer in rows]

    def _undo(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def close(self) -> None:
        """Close the file and let another process take checks."""
        self._db.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def open_spent(path: Path, most: int = 100_000) -> Till:
    """The durable spent set of one ISP, for its policy decision point."""
    return Till(path, most).load()
