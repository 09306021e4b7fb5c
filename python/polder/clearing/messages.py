"""What the clearing house's HTTP interface says: JSON bodies. Amounts are micro-units, times Unix seconds."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from polder.bandex import Flow

MOST_DEPOSITS = 64
"""Deposits in one request: some megabyte at most."""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of requests: an unknown field is an error."""


class Reply(msgspec.Struct, frozen=True):
    """Base of answers: a client ignores fields that it does not know."""


class Deposit(Message, frozen=True):
    """A check as the ISP took it: for what, when, and the whole bundle."""

    flow: Flow
    taken_at: float
    bundle: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all of it, in hex: the same deposit again is a repetition, anything else about the same check is not."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


class Deposits(Message, frozen=True):
    """Up to 64 deposits; each is answered by itself, in their order."""

    deposits: tuple[Deposit, ...]


class Receipt(Reply, frozen=True):
    """What became of a deposit. ``outcome``: ``paid``; ``repeated``: it was paid before, by this very deposit, and is not paid again;
    ``refused``: ``verdict`` and ``why`` tell the reason, ``retry`` whether the same deposit may be paid later.
    """

    outcome: Literal["paid", "repeated", "refused"]
    charge: str = ""
    currency: str = ""
    amount: int = 0
    paid_at: float = 0.0
    verdict: str = ""
    why: str = ""
    retry: bool = False


class Receipts(Reply, frozen=True):
    """One for each deposit."""

    receipts: tuple[Receipt, ...]


class Balance(Reply, frozen=True):
    """``amount`` in favour of the account; ``due``: of it, what payments of settlements that are under way will bring to zero."""

    currency: str
    amount: int
    due: int


class Line(Reply, frozen=True):
    """One posting of a statement. ``id`` grows; ``balance``: after it; ``other``: the other account's name; ``charge``: which check."""

    id: int
    at: float
    kind: str
    currency: str
    amount: int
    balance: int
    other: str
    charge: str | None = None


class Statement(Reply, frozen=True):
    """An account's postings after ``after``, oldest first; ``more``: ask again after the last line's id."""

    account: str
    kind: str
    balances: tuple[Balance, ...]
    lines: tuple[Line, ...]
    more: bool


class Payment(Reply, frozen=True):
    """What a settlement asks ``debtor`` to pay to ``creditor``, outside of the clearing house."""

    settlement: str
    number: int
    currency: str
    debtor: str
    creditor: str
    amount: int
    paid_at: float | None


class Payments(Reply, frozen=True):
    """Payments that concern the asking account, the newest settlement first."""

    payments: tuple[Payment, ...]


class Paid(Message, frozen=True):
    """The creditor's word that a payment has come."""

    settlement: str
    number: int


class HouseAnswer(Reply, frozen=True):
    """Who clears, until how long after its end a check may be deposited (seconds), and how far clocks may differ."""

    name: str
    most_deposits: int
    deposit_delay: float
    skew: float


class CreditRequest(Message, frozen=True):
    """A user asks the provider's portal for a credit. ``key``: the KeyNote key with which the user will sign checks; ``request``: 32
    hexadecimal digits that the user made up: the same request again is answered with the same credit.
    """

    key: str
    request: str


class Granted(Reply, frozen=True):
    """The credit and what links it to those whom ISPs trust, as credentials; what it is good for."""

    credentials: tuple[str, ...]
    currency: str
    most: int
    total: int
    not_after: int
    repeated: bool = False
