"""Talks to a clearing house, or to a provider's portal. Raises ``Refused`` (its answer) or ``OSError`` (no answer: send it again)."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlencode

import aiohttp
import msgspec

from polder.api.messages import Problem
from polder.bandex import Entry
from polder.clearing.messages import (
    MOST_DEPOSITS,
    CreditRequest,
    Deposit,
    Deposits,
    Granted,
    HouseAnswer,
    Paid,
    Payment,
    Payments,
    Receipt,
    Receipts,
    Statement,
)
from polder.clearing.till import PAID, REFUSED, Till
from polder.model import Refused, Verdict

_TIMEOUT = aiohttp.ClientTimeout(total=60, connect=10)
_MAX_ANSWER = 4 << 20

T = TypeVar("T")


class Client:
    """``async with Client(url, context) as client``; ``context``: from ``Membership.client``."""

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        base = url.strip().rstrip("/")
        if not re.match(r"https://[^/\s@?#]+\Z", base):
            raise Refused(Verdict.MALFORMED, f"{url!r} is not a clearing house's URL: write https://host:port")
        self._base = base
        self._context = context
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._context, limit=2)
        self._session = aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT, trust_env=False)
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._session is not None:
            await self._session.close()

    async def house(self) -> HouseAnswer:
        """Who clears."""
        return await self._call(HouseAnswer, "GET", "house")

    async def deposit(self, deposits: Sequence[Deposit]) -> tuple[Receipt, ...]:
        """One receipt for each, in their order; at most ``MOST_DEPOSITS``."""
        found = (await self._call(Receipts, "POST", "deposits", Deposits(tuple(deposits)))).receipts
        if len(found) != len(deposits):
            raise Refused(Verdict.MALFORMED, f"{len(found)} receipts came for {len(deposits)} deposits")
        return found

    async def statement(self, after: int = 0, user: str | None = None) -> Statement:
        """The own account, or one of a provider's users."""
        asked = {"after": str(after)} | ({"user": user} if user else {})
        return await self._call(Statement, "GET", f"statement?{urlencode(asked)}")

    async def payments(self) -> tuple[Payment, ...]:
        """Payments that concern the own account."""
        return (await self._call(Payments, "GET", "payments")).payments

    async def paid(self, settlement: str, number: int) -> Payment:
        """Say that a payment has come."""
        return await self._call(Payment, "POST", "payments", Paid(settlement, number))

    async def credit(self, key: str, request: str) -> Granted:
        """Ask a provider's portal for a credit for ``key``."""
        return await self._call(Granted, "POST", "credits", CreditRequest(key, request))

    async def _call(self, kind: type[T], method: str, path: str, body: msgspec.Struct | None = None) -> T:
        assert self._session is not None  # entered
        data = msgspec.json.encode(body) if body is not None else None
        headers = {"Content-Type": "application/json"} if data is not None else {}
        try:
            try:
                status, answer = await self._exchange(self._session, method, path, data, headers)
            except aiohttp.ServerDisconnectedError:  # it had closed the idle connection; every call is safe to repeat
                status, answer = await self._exchange(self._session, method, path, data, headers)
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
            raise Refused(Verdict.FOREIGN, f"{self._base} is not whom we were told ({_cause(error)})") from error
        except (aiohttp.ClientError, asyncio.IncompleteReadError) as error:
            raise ConnectionError(
                f"{self._base} does not answer ({_cause(error)}); is it running, and are we registered?"
            ) from error
        except TimeoutError as error:
            raise TimeoutError(f"{self._base} does not answer in time") from error
        return _read(kind, status, answer)

    async def _exchange(
        self, session: aiohttp.ClientSession, method: str, path: str, data: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        url = f"{self._base}/v1/{path}"
        async with session.request(method, url, data=data, headers=headers, allow_redirects=False) as response:
            length = response.content_length
            if length is None or length > _MAX_ANSWER:
                raise Refused(Verdict.MALFORMED, "the answer is not a clearing house's: no length, or too long")
            return response.status, await response.content.readexactly(length)


async def deposit_all(client: Client, till: Till, now: float, most: int = MOST_DEPOSITS) -> list[tuple[Entry, Receipt]]:
    """Deposit everything that waits in ``till`` and has not been answered; returns what was answered. Safe to repeat after any failure.

    What may be paid later (``retry``) stays in the till.
    """
    answered: list[tuple[Entry, Receipt]] = []
    later: set[str] = set()
    while entries := [entry for entry in till.waiting(most + len(later)) if entry.charge not in later][:most]:
        receipts = await client.deposit([Deposit(entry.flow, entry.taken_at, entry.bundle) for entry in entries])
        both = list(zip(entries, receipts, strict=True))
        answered += both
        later |= {entry.charge for entry, receipt in both if receipt.outcome == "refused" and receipt.retry}
        words = [
            (entry.charge, f"{REFUSED}: {receipt.why}" if receipt.outcome == "refused" else PAID)
            for entry, receipt in both
            if entry.charge not in later
        ]
        till.answered(words, now)
    return answered


def _read(kind: type[T], status: int, body: bytes) -> T:
    if status == 200:
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refused(Verdict.MALFORMED, f"the answer cannot be read: {error}") from error
    try:
        problem = msgspec.json.decode(body, type=Problem)
        refused = Refused(Verdict(problem.verdict), problem.detail, retry=problem.retry)
    except (msgspec.DecodeError, ValueError):
        raise Refused(Verdict.UNKNOWN, f"the answer has status {status}", retry=status >= 500) from None
    raise refused


def _cause(error: Any) -> str:
    return str(getattr(error, "os_error", None) or getattr(error, "certificate_error", None) or error)
