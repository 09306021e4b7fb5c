"""The clearing house's routes, over its rules and its books."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from polder.clearing.house import House, account_of_user
from polder.clearing.messages import (
    MOST_DEPOSITS,
    Deposits,
    HouseAnswer,
    Paid,
    Payment,
    Payments,
    Receipts,
    Statement,
)
from polder.clearing.serving import Route
from polder.model import Refused, Verdict

TITLE = "Polder clearing house"


class ClearingFace:
    """Answers ISPs, providers and banks. ``name``: of the house."""

    def __init__(self, house: House, name: str, clock: Callable[[], float]) -> None:
        self._house = house
        self._name = name
        self._clock = clock

    def routes(self) -> tuple[Route, ...]:
        """All operations."""
        after = {"after": "id of the last line that you have; default: from the beginning"}
        user = {"user": "KeyNote key of one of your users (for providers): the user's account instead of your own"}
        return (
            Route("get", "/v1/house", "Who clears, and under which rules.", None, HouseAnswer, {}, self._about),
            Route(
                "post",
                "/v1/deposits",
                "Deposit checks. Safe to repeat: what was paid before is told again, and not paid again.",
                Deposits,
                Receipts,
                {},
                self._deposit,
            ),
            Route(
                "get", "/v1/statement", "Your account's postings and balances.", None, Statement, after | user, self._statement
            ),
            Route("get", "/v1/payments", "Payments of settlements that concern you.", None, Payments, {}, self._payments),
            Route("post", "/v1/payments", "Say that a payment to you has come. Safe to repeat.", Paid, Payment, {}, self._paid),
        )

    def _about(self, who: str, _body: None, _query: Mapping[str, str]) -> HouseAnswer:
        del who
        rules = self._house.rules
        return HouseAnswer(self._name, MOST_DEPOSITS, rules.deposit_delay, rules.skew)

    def _deposit(self, who: str, body: Deposits, _query: Mapping[str, str]) -> Receipts:
        isp = self._house.ledger.of_identity(who)
        return Receipts(tuple(self._house.deposit(isp, body.deposits, self._clock())))

    def _statement(self, who: str, _body: None, query: Mapping[str, str]) -> Statement:
        ledger = self._house.ledger
        own = ledger.of_identity(who)
        after = query.get("after", "0")
        if not (after.isascii() and after.isdigit() and len(after) < 19):
            raise Refused(Verdict.MALFORMED, "after is the id of a statement's line: a whole number")
        account = own.id
        if "user" in query:
            if own.kind != "provider":
                raise Refused(Verdict.DENIED, "only a provider sees its users' accounts")
            account = account_of_user(query["user"], own.key)
        return ledger.statement(account, int(after))

    def _payments(self, who: str, _body: None, _query: Mapping[str, str]) -> Payments:
        return Payments(tuple(self._house.ledger.payments(self._house.ledger.of_identity(who).id)))

    def _paid(self, who: str, body: Paid, _query: Mapping[str, str]) -> Payment:
        ledger = self._house.ledger
        return ledger.paid(body.settlement, body.number, ledger.of_identity(who).id, self._clock())


def routes_for_description() -> tuple[Route, ...]:
    """The routes without a house behind them: enough to describe them."""
    nobody: Any = None
    return ClearingFace(nobody, "clearing", lambda: 0.0).routes()
