"""``Desk``: an ISP's decision whether a reservation is paid for. It answers a policy decision point, for all its routers.

A decision is a list of named questions, cheapest first; a refusal names the first that failed. What is accepted for the first time is
written into the spent set before the answer leaves, so that no crash and no second router can use a check twice; a refresh finds its
entry and is never charged again (traps 32, 36, 38).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polder.bandex import bundle as bundles
from polder.bandex.bundle import Bundle, normal
from polder.bandex.judge import Flow, Trust, check_flow, check_price, check_time, check_total, judge
from polder.bandex.spent import Entry, Spent
from polder.keynote import Checker
from polder.model import Refused
from polder.model import Verdict as Why
from polder.model.reservations import Ask, Verdict

CODES: Mapping[Why, int] = {
    Why.DENIED: 3,
    Why.FOREIGN: 3,
    Why.WRONG_HOLDER: 3,
    Why.USED: 3,
    Why.BUSY: 3,
    Why.EXCEEDED: 4,
    Why.EXPIRED: 6,
    Why.NOT_YET: 6,
    Why.MALFORMED: 11,
    Why.BAD_SIGNATURE: 12,
    Why.UNKNOWN: 14,
}
"""Refusal → value of an RSVP policy error (RFC 2750 §3.2): reject, exceeded, expired, syntax, integrity, missing."""


_KEPT = 1024
"""Accepted bundles that a desk keeps read; some 20 kB each."""


_SWEEP_S = 60.0
"""How often the spent set forgets what has ended and was deposited."""


@dataclass(frozen=True)
class Decision:
    """What the desk found. ``refused``: why not, if so; ``until``: Unix time at which the payment ends; ``charge``: names it."""

    refused: Refused | None = None
    until: float = 0.0
    charge: str = ""

    @property
    def accepted(self) -> bool:
        """Whether it is paid for."""
        return self.refused is None

    @property
    def word(self) -> str:
        """For counters."""
        return "accepted" if self.refused is None else str(self.refused.verdict)

    def verdict(self) -> Verdict:
        """As a router hears it."""
        if self.refused is None:
            return Verdict(True, 0, "paid", self.until, self.charge)
        return Verdict(False, CODES.get(self.refused.verdict, 3), self.refused.why, 0.0, "")


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
        raise Refused(Why.DENIED, f"the check pays for route {wanted}, which does not use link {link} of router {router}")


class Desk:
    """Decides for one ISP. ``counters`` counts outcomes by verdict, and the work that was done for them. One thread at a time."""

    def __init__(self, isp: Isp, trust: Trust, spent: Spent, checker: Checker | None = None) -> None:
        self.isp = isp
        self._trust = trust
        self._spent = spent
        self._checker = checker or Checker()
        self._key = normal(isp.key)
        self._paid: dict[bytes, Bundle] = {}
        """Bundles that were accepted, read, by their bytes: refreshes and the route's other routers bring the same."""
        self._swept = -_SWEEP_S
        self.counters: Counter[str] = Counter()

    def decide(self, ask: Ask, now: float) -> Decision:
        """Whether ``ask`` is paid for at ``now`` (Unix seconds). Durable when it returns."""
        return self._all([ask], now)[0]

    def decide_many(self, asks: Sequence[Ask], now: float) -> list[Verdict]:
        """The same for all that arrived together, in their order: what is new is written down in one go."""
        return [decision.verdict() for decision in self._all(asks, now)]

    def release(self, ask: Ask, now: float) -> None:
        """The reservation's state has ended. Nothing is paid back, and its entry stays: the check is used up."""
        del ask, now
        self.counters["released"] += 1

    def numbers(self) -> dict[str, float | dict[str, float]]:
        """What ``/metrics`` tells: decisions by outcome (also those that never came, so that the first is seen as a rise), the spent
        set's size, and KeyNote's work. May be asked by another thread.
        """
        outcomes: dict[str, float] = dict.fromkeys(("accepted", *map(str, CODES)), 0.0) | self.counters
        judged, released = outcomes.pop("judged", 0), outcomes.pop("released", 0)
        own: dict[str, float | dict[str, float]] = {
            "desk_decisions": outcomes,
            "desk_judged": judged,
            "desk_released": released,
            "desk_checks": len(self._spent),
        }
        return self._checker.numbers() | own

    def _all(self, asks: Sequence[Ask], now: float) -> list[Decision]:
        if not self._swept <= now < self._swept + _SWEEP_S:
            self._spent.sweep(now)
            self._swept = now
        taken: dict[str, Entry] = {}
        decisions = [self._decide(ask, now, taken) for ask in asks]
        if taken:
            try:
                self._spent.take(taken.values())
            except Refused as refused:
                decisions = [Decision(refused) if decision.charge in taken else decision for decision in decisions]
        for decision in decisions:
            self.counters[decision.word] += 1
        return decisions

    def _decide(self, ask: Ask, now: float, taken: dict[str, Entry]) -> Decision:
        try:
            paid = self._paid.get(ask.bundle) or bundles.read(bundles.unpack(ask.bundle))
            flow = self._flow(ask, paid)
            check_flow(paid, flow)
            known = taken.get(paid.charge) or self._spent.find(paid.charge)
            check_time(paid, now, self.isp.most_life)
            due, total = self._first(paid, flow, now, taken) if known is None else self._again(paid, flow, known)
            self.counters["judged"] += 1
            judge(self._checker, self._trust, paid, flow, known.taken_at if known else now, due, total)
        except Refused as refused:
            return Decision(refused)
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
        self._paid[ask.bundle] = paid
        if len(self._paid) > _KEPT:
            del self._paid[next(iter(self._paid))]
        return Decision(until=paid.until, charge=paid.charge)

    def _flow(self, ask: Ask, paid: Bundle) -> Flow:
        if normal(paid.check.isp_key) != self._key or paid.check.isp != self.isp.name:
            raise Refused(Why.DENIED, f"the check is payable to {paid.check.isp}, not to {self.isp.name} and its key")
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
            raise Refused(Why.USED, "another check of the payer with this nonce was taken before: make a new nonce for each")
        if (known.flow.session, known.flow.senders, known.flow.flowspec) != (flow.session, flow.senders, flow.flowspec):
            raise Refused(Why.USED, "the check was taken for another flow")
        due = check_price(paid, flow)
        return due, max(known.amount, min(paid.credit.total, self._spent.of_credit(known.credit)))
