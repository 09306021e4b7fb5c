"""Amounts: whole micro-units of a currency, 0.44 USD is 440,000. No float ever holds money (32-bit floats of KeyNote lose cents).

KeyNote's ``@`` is a C ``long`` that may have 32 bits (RFC 2704 §5.1), so no number that a credential compares exceeds ``MOST``:
2,147 units of a currency in one check, or under one credit.
"""

from __future__ import annotations

import re

from polder.model import Refused, Verdict

MICRO = 1_000_000
MOST = 2**31 - 1
"""Greatest amount, total, rate or number of seconds that a credential speaks of."""

_CURRENCY = re.compile(r"[A-Z]{3}\Z")
_AMOUNT = re.compile(r"([0-9]{1,10})(?:\.([0-9]{1,6}))?\Z")


def parse_currency(text: str) -> str:
    """Three capital letters, as ISO 4217 has them; raises ``Refused``."""
    if not _CURRENCY.match(text):
        raise Refused(Verdict.MALFORMED, f"{text[:20]!r} is not a currency: three capital letters, such as USD")
    return text


def parse_amount(text: str) -> int:
    """Micro-units of ``"0.44"``: at least one, at most ``MOST``; raises ``Refused``."""
    return check_amount(parse_micro(text))


def parse_micro(text: str) -> int:
    """The same without bounds: of a limit, which may be none at all; raises ``Refused``."""
    match = _AMOUNT.match(text)
    if match is None:
        raise Refused(Verdict.MALFORMED, f"{text[:40]!r} is not an amount: write 12 or 0.44, with at most six decimals")
    return int(match[1]) * MICRO + int((match[2] or "0").ljust(6, "0"))


def check_amount(micro: int, what: str = "an amount") -> int:
    """``micro`` if it can be paid; raises ``Refused``."""
    if not 1 <= micro <= MOST:
        raise Refused(Verdict.MALFORMED, f"{what} lies between 0.000001 and {format_amount(MOST)}, not {micro} micro-units")
    return micro


def format_amount(micro: int, currency: str = "") -> str:
    """``0.44 USD``: at least two decimals, and as many more as are not zero."""
    whole, part = divmod(abs(micro), MICRO)
    decimals = f"{part:06d}".rstrip("0").ljust(2, "0")
    return f"{'-' if micro < 0 else ''}{whole}.{decimals} {currency}".rstrip()


def price(setup: int, per_mbit_hour: int, rate: int, seconds: int) -> int:
    """What a reservation costs, in micro-units, rounded up.

    ``setup``: micro-units for each reservation; ``per_mbit_hour``: for a million bit/s over an hour; ``rate``: byte/s.
    """
    return setup - (-(rate * 8 * seconds * per_mbit_hour) // (MICRO * 3600))
