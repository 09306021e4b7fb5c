"""Double entry: every movement is a set of postings whose amounts sum to zero, so that the books always add up.

A balance is what an account is owed by the rest, in micro-units: ISPs rise when a check is paid, users fall. A settlement moves the
debts of users to those who answer for them, nets what is left, and names payments; each payment that was made is a movement that brings
both sides nearer to zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Posting(NamedTuple):
    """``amount`` micro-units in favour of ``account`` (negative: against it)."""

    account: str
    amount: int


@dataclass(frozen=True)
class Movement:
    """Postings that belong together. Raises ``ValueError`` unless they sum to zero and none is empty."""

    kind: str
    postings: tuple[Posting, ...]

    def __post_init__(self) -> None:
        if sum(posting.amount for posting in self.postings) != 0 or not all(posting.amount for posting in self.postings):
            raise ValueError(f"a movement of the kind {self.kind} does not add up: {self.postings}")


class Due(NamedTuple):
    """A payment that settles: ``debtor`` pays ``creditor`` outside of the books."""

    debtor: str
    creditor: str
    amount: int


def transfer(kind: str, debtor: str, creditor: str, amount: int) -> Movement:
    """``amount`` to the debit of one and the credit of the other."""
    return Movement(kind, (Posting(debtor, -amount), Posting(creditor, amount)))


def bill(balances: Mapping[str, int], guarantors: Mapping[str, str]) -> list[Movement]:
    """Movements that bring every account with a guarantor to zero, at the guarantor's cost, from the users upwards.

    ``guarantors``: account → who answers for it. Raises ``ValueError`` when they answer for each other in a circle.
    """
    left = dict(balances)
    movements = []
    for account in _upwards(guarantors):
        amount = left.get(account, 0)
        if amount:
            guarantor = guarantors[account]
            movements.append(Movement("bill", (Posting(account, -amount), Posting(guarantor, amount))))
            left[guarantor] = left.get(guarantor, 0) + amount
            left[account] = 0
    return movements


def net(balances: Mapping[str, int]) -> list[Due]:
    """Payments that bring all ``balances`` to zero: fewer than there are accounts, the greatest debts first.

    Raises ``ValueError`` when the balances do not sum to zero.
    """
    if sum(balances.values()) != 0:
        raise ValueError("the balances do not add up")
    debtors = sorted((amount, account) for account, amount in balances.items() if amount < 0)
    creditors = sorted(((-amount, account) for account, amount in balances.items() if amount > 0))
    dues, at = [], 0
    for debt, debtor in debtors:
        while debt:
            credit, creditor = creditors[at]
            amount = min(-debt, -credit)
            dues.append(Due(debtor, creditor, amount))
            debt += amount
            creditors[at] = (credit + amount, creditor)
            at += credit + amount == 0
    return dues


def _upwards(guarantors: Mapping[str, str]) -> Sequence[str]:
    """The accounts that have a guarantor, each before the one that answers for it. Chains may be long: no function here calls itself."""
    depth: dict[str, int] = {}
    for first in guarantors:
        way: list[str] = []
        seen: set[str] = set()
        above: str | None = first
        while above is not None and above not in depth:
            if above in seen:
                raise ValueError(f"{above} answers for itself, in a circle")
            seen.add(above)
            way.append(above)
            above = guarantors.get(above)
        start = -1 if above is None else depth[above]
        for number, account in enumerate(reversed(way), 1):
            depth[account] = start + number
    return sorted(guarantors, key=lambda account: (-depth[account], account))
