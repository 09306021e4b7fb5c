"""``polder settle``: an ISP deposits the checks that it took, and sees its account."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import click

from polder.bandex import Entry, format_amount
from polder.clearing.files import TILL
from polder.clearing.messages import Payment, Receipt, Statement
from polder.clearing.till import Till
from polder.cli.answer import answer, common, find_state
from polder.cli.statements import AFTER, obtain, tell
from polder.settings import ConfigError, load
from polder.settings.money import House, IspSettings
from polder.shell.clock import wall

NO_LINES = 10**18 - 1
"""As the id after which lines are wanted: the balances alone."""


@click.command()
@click.option("--came", metavar="SETTLEMENT/NUMBER", help="Say that this payment has come to you.")
@click.option("--statement", "stated", is_flag=True, help="Deposit nothing: print the account's lines.")
@AFTER
@common
def settle(came: str | None, stated: bool, after: int, state: str | None, as_json: bool) -> int:
    """Deposit all checks that wait, and print the account and what is due. Safe to repeat at any time, beside a running `polder pdp`.

    Exit status 3: some checks were refused for good; they are listed with the clearing house's reasons.
    """
    from polder.clearing.tls import Membership

    if stated and came is not None:
        raise ConfigError("command line", "came", "leave out --statement: it says nothing to the clearing house")
    if after and not stated:
        raise ConfigError("command line", "after", "says which lines: add --statement")
    place = find_state(state)
    settings = load(IspSettings, place.isp / "isp.toml", os.environ)
    if settings.clearing is None:
        raise ConfigError(
            str(place.isp / "isp.toml"), "clearing", "names no clearing house: add [clearing] with url and [clearing.tls]"
        )
    membership = Membership.load(settings.clearing.tls, place.isp)
    if stated:
        tell(obtain(settings.clearing.url, membership.client(settings.clearing.member), after), as_json=as_json)
        return 0
    till = Till(place.isp / TILL, settings.most_checks)
    try:
        answered, statement, payments = asyncio.run(_exchange(settings.clearing, membership, till, came))
        refused = till.refusals()
        waiting = till.totals()["waiting"]
    finally:
        till.close()
    facts = _facts(answered, statement, payments, refused, waiting)
    answer(facts, "\n".join(_lines(facts)), _next(payments, waiting), as_json=as_json)
    return 3 if any(receipt.outcome == "refused" for _, receipt in answered) else 0


Exchanged = tuple[list[tuple[Entry, Receipt]], Statement, tuple[Payment, ...]]


async def _exchange(house: House, membership: Any, till: Till, came: str | None) -> Exchanged:
    from polder.clearing.client import Client, deposit_all

    async with Client(house.url, membership.client(house.member)) as client:
        if came is not None:
            settlement, slash, number = came.rpartition("/")
            if not slash or not number.isdigit():
                raise ConfigError("command line", "came", "write SETTLEMENT/NUMBER, as the list of payments does")
            await client.paid(settlement, int(number))
        answered = await deposit_all(client, till, wall())
        return answered, await client.statement(NO_LINES), await client.payments()


def _facts(
    answered: list[tuple[Entry, Receipt]],
    statement: Statement,
    payments: tuple[Payment, ...],
    refused: list[tuple[Entry, str]],
    waiting: int,
) -> dict[str, Any]:
    outcomes = [receipt.outcome for _, receipt in answered]
    return {
        "account": statement.account,
        "deposited": {outcome: outcomes.count(outcome) for outcome in ("paid", "repeated", "refused")},
        "waiting": waiting,
        "balances": [{"currency": b.currency, "amount": b.amount, "due": b.due} for b in statement.balances],
        "refused": [{"charge": entry.charge, "amount": entry.amount, "why": why} for entry, why in refused],
        "payments": [
            {
                "name": f"{p.settlement}/{p.number}",
                "from": p.debtor,
                "to": p.creditor,
                "amount": p.amount,
                "currency": p.currency,
                "came": p.paid_at is not None,
            }
            for p in payments
        ],
    }


def _lines(facts: dict[str, Any]) -> list[str]:
    done = facts["deposited"]
    lines = [
        f"Deposited: {done['paid']} paid, {done['repeated']} paid before, {done['refused']} refused; {facts['waiting']} wait."
    ]
    for one in facts["balances"]:
        due = f", of which {format_amount(one['due'], one['currency'])} are being paid" if one["due"] else ""
        lines.append(f"Balance of {facts['account']}: {format_amount(one['amount'], one['currency'])}{due}")
    lines += [f"Refused: {format_amount(one['amount'])}: {one['why']}" for one in facts["refused"]]
    for one in facts["payments"]:
        state = "came" if one["came"] else "due"
        lines.append(
            f"Payment {one['name']}: {format_amount(one['amount'], one['currency'])} from {one['from']} to {one['to']}, {state}"
        )
    return lines


def _next(payments: tuple[Payment, ...], waiting: int) -> str:
    if waiting:
        return "polder settle once more, when the clocks agree"
    due = [payment for payment in payments if payment.paid_at is None]
    return f"polder settle --came {due[0].settlement}/{due[0].number}, when it has come" if due else "polder settle, tomorrow"
