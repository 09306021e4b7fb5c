"""``House``: what the clearing house does with a deposit. It judges as the ISP did, with what it alone knows: all ISPs' deposits.

One payment per payer and nonce, ever; one credit never beyond its total, whichever ISPs took the checks (traps 29, 32). A repetition of a
deposit whose answer was lost gets the answer again; any other deposit of a check that was paid is refused.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, insert, select, update

from polder.bandex import bundle as bundles
from polder.bandex.books import transfer
from polder.bandex.bundle import Bundle, normal
from polder.bandex.judge import Trust, check_flow, check_price, check_time, check_total, judge
from polder.bandex.terms import GuaranteeTerms
from polder.clearing import tables
from polder.clearing.ledger import Ledger, move
from polder.clearing.messages import MOST_DEPOSITS, Deposit, Receipt
from polder.keynote import Checker
from polder.model import Refused, Verdict

KINDS = ("isp", "provider", "bank")


def account_of(key: str) -> str:
    """The account of a key: SHA-256 of its normal form, in hex; raises ``Refused`` for what is no key."""
    return hashlib.sha256(normal(key)).hexdigest()


def account_of_user(user: str, provider: str) -> str:
    """A user's account with one provider, who is billed for it."""
    return hashlib.sha256(normal(user) + b"\0" + normal(provider)).hexdigest()


@dataclass(frozen=True)
class HouseRules:
    """``deposit_delay``: seconds after its end for which a check may be deposited; ``skew``: by which clocks may differ; ``most_life``:
    longest validity of a check."""

    deposit_delay: float = 7 * 86_400.0
    skew: float = 60.0
    most_life: float = 86_400.0


@dataclass
class House:
    """Deposits into ``ledger`` under ``rules``. Blocking; one thread at a time. ``counters`` counts deposits by what became of them."""

    ledger: Ledger
    rules: HouseRules
    checker: Checker = field(default_factory=Checker)
    counters: Counter[str] = field(default_factory=Counter)

    def register(
        self, name: str, kind: str, key: str, identity: str, now: float, *, most: int = 0, guarantor: str | None = None
    ) -> str:
        """Open an account for an ISP, provider or bank, or change it; returns its id. ``most``: see ``tables.accounts``.

        Raises ``Refused``.
        """
        if kind not in KINDS:
            raise Refused(
                Verdict.MALFORMED, f"{kind} is not one of {', '.join(KINDS)}: users' accounts open with their first check"
            )
        account = account_of(key)
        above = account_of(guarantor) if guarantor else None
        self.ledger.register(account, name, kind, key, identity, 0 if kind == "isp" else most, above, now)
        return account

    def deposit(self, isp: Row[Any], deposits: Sequence[Deposit], now: float) -> list[Receipt]:
        """Pay the deposits of one ISP, each by itself, all durable together; one receipt for each, in their order."""
        if isp.kind != "isp":
            raise Refused(Verdict.DENIED, f"{isp.name} is a {isp.kind}: only ISPs deposit checks")
        if not 1 <= len(deposits) <= MOST_DEPOSITS:
            raise Refused(Verdict.MALFORMED, f"a request holds 1 to {MOST_DEPOSITS} deposits")
        receipts = self.ledger.run(lambda db: self._all(db, isp, deposits, now))
        for receipt in receipts:
            self.counters[receipt.verdict or receipt.outcome] += 1
        return receipts

    def _all(self, db: Connection, isp: Row[Any], deposits: Sequence[Deposit], now: float) -> list[Receipt]:
        trust = _trust(db)
        receipts = []
        for one in deposits:
            try:
                receipts.append(self._one(db, isp, one, trust, now))
            except Refused as refused:  # nothing was written for it: all questions come before the first row
                receipts.append(Receipt("refused", verdict=str(refused.verdict), why=refused.why, retry=refused.retry))
        return receipts

    def _one(self, db: Connection, isp: Row[Any], one: Deposit, trust: Trust, now: float) -> Receipt:
        paid = bundles.read(one.bundle)
        before = _paid_before(db, paid, one.fingerprint, isp.id)
        if before is not None:
            return before
        self._timely(paid, one.taken_at, now)
        if normal(paid.check.isp_key) != normal(isp.key) or one.flow.isp != isp.name:
            raise Refused(Verdict.WRONG_HOLDER, f"the check is payable to {paid.check.isp}, not to {isp.name}")
        check_flow(paid, one.flow)
        due = check_price(paid, one.flow)
        spent = db.scalar(select(tables.spent.c.spent).where(tables.spent.c.id == paid.credit_id))
        total = check_total(paid, spent or 0)
        believed = judge(self.checker, trust, paid, one.flow, one.taken_at, due, total)
        payer = _open_payer(db, paid, believed, now)
        self._write(db, isp, one, paid, payer, spent is None, total, now)
        return Receipt("paid", paid.charge, paid.check.currency, paid.check.amount, now)

    def _timely(self, paid: Bundle, taken_at: float, now: float) -> None:
        """Raise ``Refused`` unless the check was good when the ISP says that it took it, and is deposited in time (trap 33)."""
        if taken_at > now + self.rules.skew:
            why = f"the ISP says that it took the check {taken_at - now:.0f} s from now: its clock is fast, or ours slow"
            raise Refused(Verdict.NOT_YET, why, retry=True)
        check_time(paid, taken_at, self.rules.most_life)
        if now >= paid.check.not_after + self.rules.deposit_delay:
            days = self.rules.deposit_delay / 86_400
            raise Refused(Verdict.EXPIRED, f"checks must be deposited within {days:g} days of their end")

    def _write(
        self, db: Connection, isp: Row[Any], one: Deposit, paid: Bundle, payer: str, fresh: bool, total: int, now: float
    ) -> None:
        check, delay = paid.check, self.rules.deposit_delay
        db.execute(
            insert(tables.checks).values(
                charge=paid.charge,
                deposit=one.fingerprint,
                isp=isp.id,
                payer=payer,
                digest=paid.digest,
                currency=check.currency,
                amount=check.amount,
                paid_at=now,
                keep_until=check.not_after + delay,
                evidence=msgspec.json.encode(one),
            )
        )
        s = tables.spent.c
        if fresh:
            keep = paid.credit.not_after + delay
            db.execute(insert(tables.spent).values(id=paid.credit_id, spent=total, keep_until=keep))
        else:
            db.execute(update(tables.spent).where(s.id == paid.credit_id).values(spent=total))
        move(db, transfer("check", payer, isp.id, check.amount), check.currency, now, charge=paid.charge)


def _paid_before(db: Connection, paid: Bundle, fingerprint: str, isp: str) -> Receipt | None:
    c = tables.checks.c
    row = db.execute(select(c.deposit, c.isp, c.currency, c.amount, c.paid_at).where(c.charge == paid.charge)).first()
    if row is not None and (row.deposit, row.isp) == (fingerprint, isp):
        return Receipt("repeated", paid.charge, row.currency, row.amount, row.paid_at)
    m = tables.movements.c
    if row is not None or db.scalar(select(m.id).where(m.charge == paid.charge)) is not None:
        raise Refused(Verdict.USED, "a check of this payer with this nonce was paid before; nothing is paid twice")
    return None


def _trust(db: Connection) -> Trust:
    """Providers that answer for themselves, and banks."""
    a = tables.accounts.c
    rows = db.execute(select(a.key, a.most).where(a.kind.in_(("provider", "bank")), a.guarantor.is_(None), a.most > 0))
    return Trust({row.key: row.most for row in rows})


def _open_payer(db: Connection, paid: Bundle, believed: frozenset[str], now: float) -> str:
    """The user's account, and those of the providers above it up to one that is registered; opened where they are missing."""
    above = account_of(paid.credit.provider)
    user = account_of_user(paid.check.payer, paid.credit.provider)
    chain = [(above, paid.credit.provider)]
    texts = [text for text in paid.texts if text in believed]
    links = [GuaranteeTerms.read(text) for text in texts if text.startswith(GuaranteeTerms.FORM.mark)]
    while not _known(db, chain[-1][0]):
        link = next((one for one in links if account_of(one.provider) == chain[-1][0]), None)
        if link is None or len(chain) > len(links):
            raise Refused(Verdict.FOREIGN, "nobody who is registered here answers for the credit's provider")
        chain.append((account_of(link.guarantor), link.guarantor))
    for (account, key), (guarantor, _) in reversed(list(itertools.pairwise(chain))):
        _open(db, account, f"provider-{account[:16]}", "provider", key, guarantor, now)
    if not _known(db, user):
        _open(db, user, f"user-{user[:16]}", "user", paid.check.payer, above, now)
    return user


def _known(db: Connection, account: str) -> bool:
    return db.scalar(select(tables.accounts.c.id).where(tables.accounts.c.id == account)) is not None


def _open(db: Connection, account: str, name: str, kind: str, key: str, guarantor: str, now: float) -> None:
    values = {"id": account, "name": name, "kind": kind, "key": key, "identity": None, "guarantor": guarantor}
    db.execute(insert(tables.accounts).values(**values, most=0, opened_at=now))
