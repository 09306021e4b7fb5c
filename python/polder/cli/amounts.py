"""Amounts, rates and keys as people type them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from polder.bandex import Terms, format_amount, parse_amount
from polder.bandex.texts import format_date
from polder.bandex.writing import to_file
from polder.keynote import principal, show
from polder.model import Refused
from polder.settings import write_atomic

_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kMG]?)bit\Z")
_TIMES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}


class AmountType(click.ParamType[int]):
    """``0.44``: micro-units."""

    name = "amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Micro-units of ``value``."""
        try:
            return value if isinstance(value, int) else parse_amount(value)
        except Refused as error:
            self.fail(error.why, param, ctx)


class RateType(click.ParamType[int]):
    """``20Mbit``: byte/s."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Byte/s of ``value``, rounded up."""
        match = _RATE.match(value) if isinstance(value, str) else None
        if match is None:
            self.fail(f"{value!r} is not a rate: write bits per second, such as 20Mbit or 500kbit", param, ctx)
        return -int(-float(match[1]) * _TIMES[match[2]] // 8)


AMOUNT = AmountType()
RATE = RateType()
PAY = "polder reserve udp:ADDRESS:PORT --from SENDER:PORT --mbit 20 --for 30m --credentials FILE --pay KEYFILE"
"""The next step of whoever holds offer and credit."""
OUT = click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write to; default: standard output.")


def put(texts: Iterable[str], out: Path | None) -> str:
    """Write credentials to ``out``; returns the words that say so, or the credentials themselves."""
    text = to_file(texts)
    if out is None:
        return text
    write_atomic(out, text.encode(), 0o600)
    return f"Written to {out}."


def describe(terms: Terms) -> list[str]:
    """A credential in words, a line for each fact."""
    facts = terms.facts()
    lines = [f"{facts.pop('kind')}, by {_key(terms.author)}"]
    currency = facts.pop("currency", "")
    for name, value in facts.items():
        if name in {"setup", "per_mbit_hour", "least", "most", "total", "amount"}:
            value = format_amount(value, currency)
        elif name in {"not_before", "not_after"}:
            value = f"{format_date(value)} UTC"
        elif name in {"isp_key", "provider", "user", "payer", "guarantor"}:
            value = _key(value)
        elif name == "most_rate":
            value = f"{value} byte/s"
        elif name == "most_seconds":
            value = f"{value} s"
        lines.append(f"  {name.replace('_', ' '):14} {value if not isinstance(value, tuple) else ', '.join(value) or 'any'}")
    return lines


def _key(text: str) -> str:
    return show(principal(text))
