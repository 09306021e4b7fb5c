"""``polder clearing``: run a clearing house; its operator's commands on the same machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from polder.bandex import format_amount
from polder.clearing.files import read_public
from polder.clearing.house import KINDS, House
from polder.clearing.messages import Statement
from polder.cli import running
from polder.cli.amounts import AMOUNT
from polder.cli.answer import answer, common, find_state
from polder.cli.running import LEVELS
from polder.cli.statements import AFTER, tell
from polder.settings import ConfigError, load
from polder.settings.money import ClearingSettings
from polder.shell.clock import wall
from polder.shell.process import Closeable, Life, run

T = TypeVar("T")


@click.group()
def clearing() -> None:
    """Keep the books between users, providers, banks and ISPs; pay each check once (clearing.toml)."""


def _in_house(state: str | None, work: Callable[[House], T]) -> T:
    from polder.clearing.running import open_house

    place = find_state(state)
    house = open_house(load(ClearingSettings, place.clearing / "clearing.toml", os.environ), place.clearing)
    try:
        return work(house)
    finally:
        house.ledger.close()


@clearing.command()
@click.option("--log-level", type=LEVELS, help="Instead of log_level in clearing.toml.")
@common
def serve(log_level: str | None, state: str | None, as_json: bool) -> int:
    """Run the clearing house. With --json a line on standard output says where it listens."""
    from polder.clearing.running import ClearingShell

    place = find_state(state)

    def settings() -> ClearingSettings:
        return load(ClearingSettings, place.clearing / "clearing.toml", os.environ, running.log_level(log_level))

    def ready(shell: Closeable) -> None:
        assert isinstance(shell, ClearingShell)
        text = f"The clearing house listens at {shell.address}."
        answer({"address": shell.address}, text, "polder clearing register NAME --kind isp …", as_json=as_json)

    async def start(life: Life[ClearingSettings]) -> Closeable:
        return await ClearingShell.start(life.settings, place.clearing, life)

    return run(settings, start, ready)


@clearing.command()
@common
def reload(state: str | None, as_json: bool) -> int:
    """Have the running clearing house read clearing.toml again. Exit status 3: something that changed waits for an upgrade."""
    return running.reload(find_state(state).clearing / "admin.sock", "clearing", as_json=as_json)


@clearing.command()
@common
def upgrade(state: str | None, as_json: bool) -> None:
    """Have the program that is installed now take over from the running clearing house; no request is refused meanwhile."""
    running.upgrade(find_state(state).clearing / "admin.sock", as_json=as_json)


@clearing.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS), required=True)
@click.option("--key", required=True, metavar="KEY", help="Its KeyNote key, or a file that holds it.")
@click.option("--identity", required=True, help="Whom its TLS certificate names: spiffe://overlay/site/NAME, or dns:HOST.")
@click.option(
    "--each", "most", type=AMOUNT, default=1_000_000, help="Providers, banks: greatest amount of one check; default: 1.00."
)
@click.option("--guarantor", metavar="KEY", help="For a provider: the bank that is billed for it, a key or a file.")
@common
def register(
    name: str, kind: str, key: str, identity: str, most: int, guarantor: str | None, state: str | None, as_json: bool
) -> None:
    """Open an account for an ISP, provider or bank, or change it. Users' accounts open with their first check."""
    above = read_public(guarantor) if guarantor else None
    account = _in_house(
        state, lambda house: house.register(name, kind, read_public(key), identity, wall(), most=most, guarantor=above)
    )
    facts = {"account": account, "name": name, "kind": kind, "identity": identity}
    answer(facts, f"{kind} {name} has account {account[:16]}….", "polder clearing accounts", as_json=as_json)


@clearing.command()
@common
def accounts(state: str | None, as_json: bool) -> None:
    """List all accounts with their balances."""

    def read(house: House) -> list[dict[str, Any]]:
        held = house.ledger.balances()
        rows = house.ledger.accounts()
        names = {row.id: row.name for row in rows}
        return [
            {
                "name": row.name,
                "kind": row.kind,
                "identity": row.identity,
                "guarantor": names.get(row.guarantor),
                "balances": {currency: amount for (name, currency), amount in held.items() if name == row.name},
            }
            for row in rows
        ]

    found = _in_house(state, read)
    lines = []
    for row in found:
        amounts = (
            ", ".join(format_amount(amount, currency) for currency, amount in row["balances"].items()) or "nothing moved yet"
        )
        lines.append(f"{row['kind']:9} {row['name']:24} {amounts}{'; billed to ' + row['guarantor'] if row['guarantor'] else ''}")
    answer({"accounts": found}, "\n".join(lines) or "No accounts yet.", "polder clearing settle", as_json=as_json)


@clearing.command()
@click.argument("name")
@AFTER
@common
def statement(name: str, after: int, state: str | None, as_json: bool) -> None:
    """Print the lines of the account NAME, users' included (`polder clearing accounts` lists them)."""

    def read(house: House) -> Statement:
        account = next((row.id for row in house.ledger.accounts() if row.name == name), None)
        if account is None:
            raise ConfigError("command line", "name", f"there is no account {name!r}: see `polder clearing accounts`")
        return house.ledger.statement(account, after)

    tell(_in_house(state, read), as_json=as_json)


@clearing.command("settle")
@click.option("--name", help="Name of this settlement; the same name again shows it again. Default: the day.")
@common
def settle_accounts(name: str | None, state: str | None, as_json: bool) -> None:
    """Bill users' debts to those who answer for them, net what is left, and print who pays whom."""
    from polder.bandex.texts import format_date

    chosen = name or format_date(wall())[:8]
    payments = _in_house(state, lambda house: house.ledger.settle(chosen, wall()))
    rows = [
        {
            "number": p.number,
            "from": p.debtor,
            "to": p.creditor,
            "amount": p.amount,
            "currency": p.currency,
            "came": p.paid_at is not None,
        }
        for p in payments
    ]
    lines = [f"{chosen}/{p.number}: {p.debtor} pays {p.creditor} {format_amount(p.amount, p.currency)}" for p in payments]
    step = "the creditors run `polder settle --came …` when a payment has come" if rows else "nothing: nobody owes anything"
    answer({"settlement": chosen, "payments": rows}, "\n".join(lines) or f"{chosen}: all is even.", step, as_json=as_json)


@clearing.command()
@common
def audit(state: str | None, as_json: bool) -> int:
    """Add the books up, movement by movement. Exit status 3 when something is wrong."""
    wrong = _in_house(state, lambda house: house.ledger.audit())
    text = "\n".join(wrong) or "The books add up: every movement sums to zero, every balance to its postings."
    answer(
        {"wrong": wrong},
        text,
        "stop the clearing house and look at its database" if wrong else "polder clearing settle",
        as_json=as_json,
    )
    return 3 if wrong else 0


@clearing.command("openapi")
def print_openapi() -> None:
    """Print the description of the clearing house's HTTP interface (OpenAPI 3.1)."""
    from polder.clearing.faces import TITLE, routes_for_description
    from polder.clearing.serving import openapi

    click.echo(openapi(TITLE, routes_for_description()))
