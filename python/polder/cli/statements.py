"""An account's statement, as an ISP, a provider, a bank and the clearing house itself print it."""

from __future__ import annotations

import asyncio
import ssl

import click
import msgspec

from polder.bandex import format_amount
from polder.bandex.texts import format_date
from polder.clearing.messages import Statement
from polder.cli.answer import answer

AFTER = click.option(
    "--after", type=click.IntRange(0), default=0, show_default=True, metavar="ID", help="Only lines after the one with this id."
)


def obtain(url: str, context: ssl.SSLContext, after: int, user: str | None = None) -> Statement:
    """The own account at the clearing house at ``url``, or that of a provider's ``user``. Raises ``Refused``, ``OSError``."""
    from polder.clearing.client import Client

    async def ask() -> Statement:
        async with Client(url, context) as client:
            return await client.statement(after, user)

    return asyncio.run(ask())


def tell(statement: Statement, *, as_json: bool) -> None:
    """Print it: each line with the balance after it, oldest first."""
    lines = [
        f"{line.id:8}  {format_date(line.at)}  {line.kind:8}  {format_amount(line.amount, line.currency):>18}"
        f"  {format_amount(line.balance, line.currency):>18}  {line.other}"
        for line in statement.lines
    ]
    lines += [f"Balance of {statement.account}: {format_amount(one.amount, one.currency)}" for one in statement.balances]
    if statement.more:
        step = f"the same with --after {statement.lines[-1].id}: there are more lines"
    else:
        step = "polder settle" if statement.kind == "isp" else "pay what settlements ask of you"
    answer(msgspec.to_builtins(statement), "\n".join(lines) or "Nothing has moved yet.", step, as_json=as_json)
