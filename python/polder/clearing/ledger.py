"""``Ledger``: the clearing house's books in a database. Each public method is one transaction; what it has returned survives a crash.

On SQLite a transaction holds the write lock from its beginning; on PostgreSQL it is SERIALIZABLE, and is tried again when it
collided with another. Blocking: call it from one worker thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Row, and_, delete, func, insert, or_, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from polder.bandex.books import Movement, bill, net, transfer
from polder.clearing import tables
from polder.clearing.messages import Balance, Line, Payment, Statement
from polder.model import Refused, Verdict
from polder.store import open_engine, transaction

T = TypeVar("T")
_TRIES = 20
_COLLIDED = frozenset({"40001", "40P01"})
"""SQLSTATE of a serialization failure and of a deadlock: nothing happened, and trying again is right."""


def open_ledger(url: str) -> Ledger:
    """The ledger in the database at ``url`` (``sqlite:///FILE``, ``postgresql+psycopg://…``), whose tables are made.

    Raises ``ValueError`` when a newer Polder wrote it.
    """
    engine = open_engine(url)
    with engine.begin() as db:
        tables.metadata.create_all(db)
        found = db.scalar(select(tables.meta.c.value).where(tables.meta.c.key == "schema"))
        if found is None:
            db.execute(insert(tables.meta).values(key="schema", value=str(tables.SCHEMA)))
        elif int(found) != tables.SCHEMA:
            raise ValueError(f"the books have schema {found}, this Polder knows {tables.SCHEMA}: use the Polder that wrote them")
    return Ledger(engine)


class Ledger:
    """The books in ``engine``'s database."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def run(self, work: Callable[[Connection], T]) -> T:
        """``work`` in one transaction, again when it collided with another's; raises ``Refused`` when it always does."""
        for _ in range(_TRIES):
            try:
                with transaction(self.engine) as db:
                    return work(db)
            except IntegrityError:
                if self.engine.dialect.name == "sqlite":  # alone, nobody can have been faster
                    raise
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in _COLLIDED:
                    raise
        raise Refused(Verdict.BUSY, "too many others write into the books at the same time", retry=True)

    # Accounts

    def register(
        self, account: str, name: str, kind: str, key: str, identity: str, most: int, guarantor: str | None, now: float
    ) -> None:
        """Open an account, or change name, identity, limit and guarantor of one; raises ``Refused`` for a name or identity in use, and
        for a guarantor that is not there, or for whom this account answers itself.
        """

        def work(db: Connection) -> None:
            a = tables.accounts.c
            clash = db.execute(select(a.name).where(a.id != account, or_(a.name == name, a.identity == identity))).first()
            if clash is not None:
                raise Refused(Verdict.DENIED, f"account {clash.name} has that name or identity already")
            _answerable(db, account, guarantor)
            values = {"name": name, "kind": kind, "key": key, "identity": identity, "most": most, "guarantor": guarantor}
            if _account(db, account) is None:
                db.execute(insert(tables.accounts).values(id=account, opened_at=now, **values))
            else:
                db.execute(update(tables.accounts).where(a.id == account).values(**values))

        self.run(work)

    def accounts(self) -> list[Row[Any]]:
        """All accounts, by kind and name."""
        return self.run(
            lambda db: list(db.execute(select(tables.accounts).order_by(tables.accounts.c.kind, tables.accounts.c.name)))
        )

    def of_identity(self, identity: str) -> Row[Any]:
        """Whose TLS identity this is; raises ``Refused``."""
        row = self.run(lambda db: db.execute(select(tables.accounts).where(tables.accounts.c.identity == identity)).first())
        if row is None:
            raise Refused(Verdict.UNKNOWN, f"{identity} has no account here: ask the clearing house to register it")
        return row

    # Settlement

    def settle(self, name: str, now: float) -> list[Payment]:
        """Bill debts to those who answer for them, and net what is left; returns the payments. The same name: the same payments."""

        def work(db: Connection) -> list[Payment]:
            s = tables.settlements.c
            found = db.scalar(select(s.id).where(s.name == name))
            if found is None:
                made = db.execute(insert(tables.settlements).values(name=name, at=now)).inserted_primary_key
                assert made is not None  # the table has one
                found = int(made[0])
                _settle(db, found, now)
            return _payments(db, tables.payments.c.settlement == found)

        return self.run(work)

    def paid(self, name: str, number: int, account: str, now: float) -> Payment:
        """``account`` says that a payment to it has come; raises ``Refused`` for a payment to somebody else. Safe to repeat."""

        def work(db: Connection) -> Payment:
            p, s = tables.payments.c, tables.settlements.c
            query = select(tables.payments).join(tables.settlements).where(s.name == name, p.number == number)
            row = db.execute(query).first()
            if row is None:
                raise Refused(Verdict.UNKNOWN, f"settlement {name} has no payment {number}")
            if row.creditor != account:
                raise Refused(Verdict.DENIED, "only the creditor says that a payment has come")
            here = and_(p.settlement == row.settlement, p.number == number)
            if row.paid_at is None:
                db.execute(update(tables.payments).where(here).values(paid_at=now))
                move(db, transfer("payment", row.creditor, row.debtor, row.amount), row.currency, now, settlement=row.settlement)
            return _payments(db, here)[0]

        return self.run(work)

    def payments(self, account: str | None, most: int = 200) -> list[Payment]:
        """Payments of ``account``, or all, the newest settlement first."""
        p = tables.payments.c
        mine = or_(p.debtor == account, p.creditor == account) if account else p.number >= 0
        return self.run(lambda db: _payments(db, mine, most))

    # Reading

    def statement(self, account: str, after: int = 0, most: int = 500) -> Statement:
        """Postings of ``account`` after the one with id ``after``."""

        def work(db: Connection) -> Statement:
            row = _account(db, account)
            if row is None:
                raise Refused(Verdict.UNKNOWN, "there is no such account")
            lines = _lines(db, account, after, most + 1)
            return Statement(row.name, row.kind, _balances(db, account), tuple(lines[:most]), len(lines) > most)

        return self.run(work)

    def balances(self) -> dict[tuple[str, str], int]:
        """(account's name, currency) → balance."""
        b, a = tables.balances.c, tables.accounts.c
        query = select(a.name, b.currency, b.amount).join(tables.accounts, a.id == b.account)
        return self.run(lambda db: {(row.name, row.currency): row.amount for row in db.execute(query)})

    def audit(self) -> list[str]:
        """What does not add up; nothing, if all is well."""
        return self.run(_audit)

    def prune(self, now: float) -> int:
        """Forget the evidence of checks that nobody may deposit any more; the movements stay for ever. Returns how many."""

        def work(db: Connection) -> int:
            gone = db.execute(delete(tables.checks).where(tables.checks.c.keep_until < now)).rowcount
            db.execute(delete(tables.spent).where(tables.spent.c.keep_until < now))
            return int(gone)

        return self.run(work)


# Parts of transactions


def move(
    db: Connection, movement: Movement, currency: str, now: float, *, charge: str | None = None, settlement: int | None = None
) -> None:
    """Write a movement, its postings and the new balances."""
    row = db.execute(
        insert(tables.movements).values(kind=movement.kind, at=now, charge=charge, settlement=settlement)
    ).inserted_primary_key
    assert row is not None  # the table has one
    b = tables.balances.c
    for posting in movement.postings:
        here = and_(b.account == posting.account, b.currency == currency)
        before = db.scalar(select(b.amount).where(here))
        after = (before or 0) + posting.amount
        if before is None:
            db.execute(insert(tables.balances).values(account=posting.account, currency=currency, amount=after))
        else:
            db.execute(update(tables.balances).where(here).values(amount=after))
        line = {"movement": row[0], "account": posting.account, "currency": currency, "amount": posting.amount}
        db.execute(insert(tables.postings).values(**line, balance=after))


def _account(db: Connection, account: str) -> Row[Any] | None:
    return db.execute(select(tables.accounts).where(tables.accounts.c.id == account)).first()


def _answerable(db: Connection, account: str, guarantor: str | None) -> None:
    """Raise ``Refused`` unless ``guarantor`` may answer for ``account``: settlements bill upwards, and must come to an end."""
    above = guarantor
    while above is not None:
        row = _account(db, above)
        if row is None:
            raise Refused(Verdict.UNKNOWN, "the guarantor has no account here: register it first")
        if row.kind not in ("bank", "provider"):
            raise Refused(Verdict.DENIED, f"{row.name} is of the kind {row.kind}: only banks and providers answer for others")
        if above == account:
            raise Refused(Verdict.DENIED, "the account would answer for itself, by way of those that it answers for")
        above = row.guarantor


def _settle(db: Connection, settlement: int, now: float) -> None:
    a, b, p = tables.accounts.c, tables.balances.c, tables.payments.c
    guarantors = {row.id: row.guarantor for row in db.execute(select(a.id, a.guarantor).where(a.guarantor.is_not(None)))}
    number = 0
    for currency in sorted(db.scalars(select(b.currency).distinct())):
        held = {row.account: row.amount for row in db.execute(select(b.account, b.amount).where(b.currency == currency))}
        for movement in bill(held, guarantors):
            move(db, movement, currency, now, settlement=settlement)
            for posting in movement.postings:
                held[posting.account] = held.get(posting.account, 0) + posting.amount
        for row in db.execute(select(tables.payments).where(p.currency == currency, p.paid_at.is_(None))):
            held[row.debtor] += row.amount
            held[row.creditor] -= row.amount
        for due in net(held):
            values = {"currency": currency, "debtor": due.debtor, "creditor": due.creditor, "amount": due.amount}
            db.execute(insert(tables.payments).values(settlement=settlement, number=number, paid_at=None, **values))
            number += 1


def _payments(db: Connection, where: Any, most: int = 100_000) -> list[Payment]:
    p, s = tables.payments.c, tables.settlements.c
    debtor, creditor = tables.accounts.alias("debtor"), tables.accounts.alias("creditor")
    query = (
        select(s.name, tables.payments, debtor.c.name.label("pays"), creditor.c.name.label("gets"))
        .join_from(tables.payments, tables.settlements)
        .join(debtor, debtor.c.id == p.debtor)
        .join(creditor, creditor.c.id == p.creditor)
        .where(where)
        .order_by(p.settlement.desc(), p.number)
        .limit(most)
    )
    return [Payment(row.name, row.number, row.currency, row.pays, row.gets, row.amount, row.paid_at) for row in db.execute(query)]


def _balances(db: Connection, account: str) -> tuple[Balance, ...]:
    b, p = tables.balances.c, tables.payments.c
    found = []
    for row in db.execute(select(b.currency, b.amount).where(b.account == account).order_by(b.currency)):
        open_here = and_(p.paid_at.is_(None), p.currency == row.currency)
        owed = db.scalar(select(func.coalesce(func.sum(p.amount), 0)).where(open_here, p.creditor == account)) or 0
        owes = db.scalar(select(func.coalesce(func.sum(p.amount), 0)).where(open_here, p.debtor == account)) or 0
        found.append(Balance(row.currency, row.amount, int(owed) - int(owes)))
    return tuple(found)


def _lines(db: Connection, account: str, after: int, most: int) -> list[Line]:
    o, m, a = tables.postings.c, tables.movements.c, tables.accounts.c
    other = tables.postings.alias("other")
    query = (
        select(tables.postings, m.at, m.kind, m.charge, a.name)
        .join(tables.movements, m.id == o.movement)
        .join(other, and_(other.c.movement == o.movement, other.c.id != o.id))
        .join(tables.accounts, a.id == other.c.account)
        .where(o.account == account, o.id > after)
        .order_by(o.id)
        .limit(most)
    )
    return [Line(r.id, r.at, r.kind, r.currency, r.amount, r.balance, r.name, r.charge) for r in db.execute(query)]


def _audit(db: Connection) -> list[str]:
    o, b, c, m = tables.postings.c, tables.balances.c, tables.checks.c, tables.movements.c
    wrong = []
    for row in db.execute(select(o.movement).group_by(o.movement, o.currency).having(func.sum(o.amount) != 0)):
        wrong.append(f"movement {row.movement} does not sum to zero")
    sums = {
        (r.account, r.currency): int(r[2])
        for r in db.execute(select(o.account, o.currency, func.sum(o.amount)).group_by(o.account, o.currency))
    }
    kept = {(r.account, r.currency): r.amount for r in db.execute(select(b.account, b.currency, b.amount))}
    wrong += [
        f"the balance of {account[:12]} in {currency} is {kept.get((account, currency))}, its postings sum to {total}"
        for (account, currency), total in sums.items()
        if kept.get((account, currency)) != total
    ]
    wrong += [
        f"account {account[:12]} has a balance in {currency} and no posting" for account, currency in kept.keys() - sums.keys()
    ]
    paid = (
        select(c.charge, c.amount, o.amount.label("paid"))
        .outerjoin(tables.movements, m.charge == c.charge)
        .outerjoin(tables.postings, and_(o.movement == m.id, o.account == c.isp))
        .where(or_(o.amount.is_(None), o.amount != c.amount))
    )
    wrong += [f"check {row.charge[:12]} over {row.amount} was paid {row.paid}" for row in db.execute(paid)]
    return wrong
