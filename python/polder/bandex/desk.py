"""``Desk``: an ISP's decision whether a reservation is paid for. It answers a policy decision point, for all its routers.

A decision is a list of named questions, cheapest first; a refusal names the first that failed. What is accepted for the first time is
written into the spent set before the answer leaves, so that no crash and no second router can use a check twice; a refresh finds its
entry and is never charged again (traps 32, 36, 38).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from polder.bandex import bundle as bundles
from polder.bandex.bundle import Bundle, normal
from polder.bandex.judge import Flow, Trust, check_flow, check_price, check_time, check_total, judge
from polder.bandex.spent import Entry, Spent
from polder.keynote import Checker
from polder.model import Refused, Verdict

CODES: Mapping[Verdict, int] = {
    Verdict.DENIED: 3,
    Verdict.FOREIGN: 3,
    Verdict.WRONG_HOLDER: 3,
    Verdict.USED: 3,
    Verdict.BUSY: 3,
    Verdict.EXCEEDED: 4,
    Verdict.EXPIRED: 6,
    Verdict.NOT_YET: 6,
    Verdict.MALFORMED: 11,
    Verdict.BAD_SIGNATURE: 12,
    Verdict.UNKNOWN: 14,
}
"""Refusal → value of an RSVP policy error (RFC 2750 §3.2): reject, exceeded, expired, syntax, integrity, missing."""


_KEPT = 1024
"""Accepted bundles that a desk keeps read; some 20 kB each."""


class Asked(Protocol):
    """What a policy decision point asks: the RSVP objects of one reservation at one router, and its bundle."""

    @property
    def router(self) -> str: ...
    @property
    def link(self) -> str: ...
    @property
    def session(self) -> str: ...
    @property
    def senders(self) -> tuple[str, ...]: ...
    @property
    def style(self) -> str: ...
    @property
    def service(self) -> str: ...
    @property
    def rate(self) -> int: ...
    @property
    def bucket(self) -> int: ...
    @property
    def peak(self) -> int: ...
    @property
    def reserved_rate(self) -> int: ...
    @property
    def flowspec(self) -> str: ...
    @property
    def bundle(self) -> bytes: ...


class Decision(msgspec.Struct, frozen=True):
    """``code``: 0, or the RSVP error value. ``until``: Unix time at which the payment ends. ``charge``: names the payment."""

    accepted: bool
    code: int
    reason: str
    until: float
    charge: str
    verdict: str = ""


@dataclass(frozen=True)
class Isp:
    """Who sells: the key that signs offers, and routes: name → (router, link) pairs that one payment covers together."""

    name: str
    key: str
    routes: Mapping[str, frozenset[tuple[str, str]]]
    most_life: float = 86_400.0
    """Longest time for which a check may pay; the spent set remembers it for so long."""

    def route_of(self, router: str, link: str, wanted: str) -> str:
        """``wanted`` if it leads over this link; raises ``Refused`` (trap 32: a check is good on one route)."""
        if (router, link) in self.routes.get(wanted, ()):
            return wanted
        raise Refused(Verdict.DENIED, f"the check pays for route {wanted}, which does not use link {link} of router {router}")


class Desk:
    """Decides for one ISP. ``counters`` counts outcomes by verdict, and the work that was done for them. One thread at a time."""

    def __init__(self, isp: Isp, trust: Trust, spent: Spent, checker: Checker | None = None) -> None:
        self.isp = isp
        self._trust = trust
        self._spent = spent
        self._checker = checker or Checker()
        self._key = normal(isp.key)
        self._paid: dict[bytes, Bundle] = {}
        """Bundles that were accepted, read, by the hash of their bytes: refreshes and the route's other routers bring the same."""
        self.counters: Counter[str] = Counter()

    def decide(self, ask: Asked, now: float) -> Decision:
        """Whether ``ask`` is paid for at ``now`` (Unix seconds). Durable when it returns."""
        return self.decide_many([ask], now)[0]

    def decide_many(self, asks: Sequence[Asked], now: float) -> list[Decision]:
        """The same for all that arrived together: what is new is written down in one go."""
        taken: dict[str, Entry] = {}
        decisions = [self._decide(ask, now, taken) for ask in asks]
        if taken:
            try:
                self._spent.take(taken.values())
            except Refused as refused:
                decisions = [
                    self._refuse(refused) if decision.accepted and decision.charge in taken else decision
                    for decision in decisions
                ]
        for decision in decisions:
            self.counters[decision.verdict or "accepted"] += 1
        return decisions

    def release(self, ask: Asked, now: float) -> None:
        """The reservation's state has ended. Nothing is paid back, and its entry stays: the check is used up."""
        del ask, now
        self.counters["released"] += 1

    def _decide(self, ask: Asked, now: float, taken: dict[str, Entry]) -> Decision:
        try:
            key = hashlib.sha256(ask.bundle).digest()
            paid = self._paid.get(key) or bundles.read(bundles.unpack(ask.bundle))
            flow = self._flow(ask, paid)
            check_flow(paid, flow)
            known = taken.get(paid.charge) or self._spent.find(paid.charge)
            check_time(paid, now, self.isp.most_life)
            due, total = self._first(paid, flow, now, taken) if known is None else self._again(paid, flow, known)
            self.counters["judged"] += 1
            judge(self._checker, self._trust, paid, flow, known.taken_at if known else now, due, total)
        except Refused as refused:
            return self._refuse(refused)
        if known is None:
            taken[paid.charge] = Entry(
                paid.charge,
                paid.credit_id,
                paid.digest,
                flow,
                paid.check.amount,
                paid.check.currency,
                now,
                paid.until,
                paid.credit.not_after,
                paid.texts,
            )
        self._paid[key] = paid
        if len(self._paid) > _KEPT:
            del self._paid[next(iter(self._paid))]
        return Decision(True, 0, "paid", paid.until, paid.charge)

    def _flow(self, ask: Asked, paid: Bundle) -> Flow:
        if normal(paid.check.isp_key) != self._key or paid.check.isp != self.isp.name:
            raise Refused(Verdict.DENIED, f"the check is payable to {paid.check.isp}, not to {self.isp.name} and its key")
        route = self.isp.route_of(ask.router, ask.link, paid.check.route)
        rate = max(ask.rate, ask.reserved_rate)
        return Flow(
            self.isp.name,
            route,
            ask.router,
            ask.link,
            ask.session,
            tuple(ask.senders),
            ask.style,
            ask.service,
            rate,
            ask.bucket,
            ask.peak,
            ask.flowspec,
        )

    def _first(self, paid: Bundle, flow: Flow, now: float, taken: Mapping[str, Entry]) -> tuple[int, int]:
        """A new payment: price and total."""
        waiting = sum(entry.amount for entry in taken.values() if entry.credit == paid.credit_id)
        total = check_total(paid, self._spent.of_credit(paid.credit_id) + waiting)
        return check_price(paid, flow), total

    def _again(self, paid: Bundle, flow: Flow, known: Entry) -> tuple[int, int]:
        """The refresh of a payment, or another router of its route: judged as when it was taken, and not charged."""
        if known.digest != paid.digest:
            raise Refused(Verdict.USED, "another check of the payer with this nonce was taken before: make a new nonce for each")
        if (known.flow.session, known.flow.senders, known.flow.flowspec) != (flow.session, flow.senders, flow.flowspec):
            raise Refused(Verdict.USED, "the check was taken for another flow")
        due = check_price(paid, flow)
        return due, max(known.amount, min(paid.credit.total, self._spent.of_credit(known.credit)))

    def _refuse(self, refused: Refused) -> Decision:
        return Decision(False, CODES.get(refused.verdict, 3), refused.why, 0.0, "", str(refused.verdict))
