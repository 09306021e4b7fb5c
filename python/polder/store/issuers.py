"""``IssuerTable``: the authority's issuers and where each stands; a rotation is a walk of rows through states.

    prepared ── announce ──> next ── switch ──> current ── switch back ──┐
                                                   │                     │
                               (was current) ──> old  <──────────────────┘
                                                   └── retire ──> retired

One row is ``current`` at all times: it signs. Each step is one transaction; a step that was taken already changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from polder.model import Refused, Verdict
from polder.store import tables
from polder.store.database import transaction
from polder.store.entries import current_epoch


class Stage(StrEnum):
    """Where an issuer stands."""

    PREPARED = "prepared"
    NEXT = "next"
    CURRENT = "current"
    OLD = "old"
    RETIRED = "retired"


@dataclass(frozen=True)
class IssuerRow:
    """One issuer. ``key_hash``: SHA-256 of its SubjectPublicKeyInfo; ``file``: stem of its key's file; times in Unix seconds.

    ``due``: when a ``next`` one may begin to sign, once all nodes know it.
    """

    key_hash: bytes
    certificate: bytes
    file: str
    stage: Stage
    since: float
    due: float


@dataclass(frozen=True)
class Dependants:
    """Who still depends on an issuer: ``holders`` whose newest certificate is its, and all its ``certificates`` that are valid."""

    holders: tuple[str, ...]
    certificates: int


class IssuerTable:
    """Issuers in ``engine``'s database. Blocking, as the ledger is."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def rows(self) -> tuple[IssuerRow, ...]:
        """All that are not retired, the one that signs first, then by stage."""
        i = tables.issuers.c
        with transaction(self._engine) as db:
            found = db.execute(select(tables.issuers).where(i.stage != Stage.RETIRED)).all()
        order = [Stage.CURRENT, Stage.NEXT, Stage.OLD, Stage.PREPARED]
        rows = [IssuerRow(r.key_hash, r.certificate, r.file, Stage(r.stage), r.since, r.due) for r in found]
        return tuple(sorted(rows, key=lambda row: order.index(row.stage)))

    def adopt(self, key_hash: bytes, certificate: bytes, file: str, now: float) -> None:
        """The first issuer, which signs, and made every certificate so far; nothing happens when there is one."""
        with transaction(self._engine) as db:
            if db.scalar(select(func.count()).select_from(tables.issuers)) == 0:
                _insert(db, IssuerRow(key_hash, certificate, file, Stage.CURRENT, now, now), None)
                db.execute(update(tables.certificates).values(issuer=key_hash))

    def prepare(self, key_hash: bytes, certificate: bytes, file: str, now: float) -> None:
        """A further issuer, whose key is on the disk; raises ``Refused`` while another rotation is under way."""
        with transaction(self._engine) as db:
            self._idle(db)
            _insert(db, IssuerRow(key_hash, certificate, file, Stage.PREPARED, now, now), None)

    def announce(self, now: float, after: float) -> bool:
        """The prepared issuer becomes known, to sign ``after`` seconds from now at the earliest; whether there was one."""
        i = tables.issuers
        with transaction(self._engine) as db:
            row = db.execute(select(i.c.key_hash).where(i.c.stage == Stage.PREPARED)).first()
            if row is None:
                return False
            change = update(i).where(i.c.key_hash == row.key_hash)
            db.execute(change.values(stage=Stage.NEXT, since=now, due=now + after, epoch=current_epoch(db) + 1))
            return True

    def switch(self, now: float) -> bool:
        """The announced issuer signs from now on, the other one is old; whether that changed anything."""
        return self._swap(Stage.NEXT, now)

    def abort(self, now: float) -> IssuerRow | None:
        """Go back. Before the switch the new issuer is forgotten, and returned, so that its key can be deleted. After the switch
        the old one signs again, and the new one is the one to be retired. Raises ``Refused`` when nothing is under way.
        """
        i = tables.issuers
        with transaction(self._engine) as db:
            row = db.execute(select(i).where(i.c.stage.in_([Stage.PREPARED, Stage.NEXT]))).first()
            if row is not None:
                db.execute(delete(i).where(i.c.key_hash == row.key_hash))
                db.execute(insert(tables.epochs).values(epoch=current_epoch(db) + 1, why="a rotation of the issuer was aborted"))
                return IssuerRow(row.key_hash, row.certificate, row.file, Stage(row.stage), row.since, row.due)
        if not self._swap(Stage.OLD, now):
            raise Refused(Verdict.UNKNOWN, "no rotation of the issuer is under way")
        return None

    def retire(self, now: float) -> IssuerRow | None:
        """The old issuer is believed no more, in a new epoch; returns it, so that its key can be deleted."""
        i = tables.issuers
        with transaction(self._engine) as db:
            row = db.execute(select(i).where(i.c.stage == Stage.OLD)).first()
            if row is None:
                return None
            change = update(i).where(i.c.key_hash == row.key_hash)
            db.execute(change.values(stage=Stage.RETIRED, since=now, epoch=current_epoch(db) + 1))
            return IssuerRow(row.key_hash, row.certificate, row.file, Stage.RETIRED, row.since, row.due)

    def retired_files(self) -> tuple[str, ...]:
        """Stems of the files of retired issuers: what a crash left of them goes."""
        i = tables.issuers.c
        with transaction(self._engine) as db:
            return tuple(db.scalars(select(i.file).where(i.stage == Stage.RETIRED)))

    def dependants(self, key_hash: bytes, now: float) -> Dependants:
        """Who would stop if the issuer were retired now; the revoked do not count."""
        c, r = tables.certificates.c, tables.revocations.c
        gone = select(r.uri).where(r.uri.is_not(None), r.lifted_epoch.is_(None))
        valid = (c.issuer == key_hash, c.not_after > now, c.uri.not_in(gone))
        newest = select(c.key_hash, func.max(c.issued_at).label("end")).group_by(c.key_hash).subquery()
        last = (c.key_hash == newest.c.key_hash) & (c.issued_at == newest.c.end)
        with transaction(self._engine) as db:
            count = db.scalar(select(func.count()).select_from(tables.certificates).where(*valid)) or 0
            uris = db.scalars(select(c.uri).join(newest, last).where(*valid).distinct().order_by(c.uri)).all()
        return Dependants(tuple(uris), count)

    def _idle(self, db: Connection) -> None:
        i = tables.issuers.c
        if db.scalar(select(i.stage).where(i.stage.in_([Stage.PREPARED, Stage.NEXT, Stage.OLD])).limit(1)) is not None:
            raise Refused(
                Verdict.DENIED, "a rotation of the issuer is under way: `polder rotate issuer status` says where it stands"
            )

    def _swap(self, other: Stage, now: float) -> bool:
        """The ``other`` signs, and what signed so far is old."""
        i = tables.issuers
        with transaction(self._engine) as db:
            row = db.execute(select(i.c.key_hash).where(i.c.stage == other)).first()
            if row is None:
                return False
            db.execute(update(i).where(i.c.stage == Stage.CURRENT).values(stage=Stage.OLD, since=now))
            change = update(i).where(i.c.key_hash == row.key_hash)
            db.execute(change.values(stage=Stage.CURRENT, since=now, epoch=current_epoch(db) + 1))
            return True


def _insert(db: Connection, row: IssuerRow, epoch: int | None) -> None:
    values = {"key_hash": row.key_hash, "certificate": row.certificate, "file": row.file, "stage": row.stage}
    db.execute(insert(tables.issuers).values(**values, since=row.since, due=row.due, epoch=epoch))
