"""What offers, credits, checks and guarantees say: values that are written as KeyNote credentials and read back.

Times are whole Unix seconds, amounts micro-units, rates byte/s. Keys are KeyNote principals in canonical spelling. Every kind has an
expiry: KeyNote knows no revocation (RFC 2704 §7), so the risk of a credential is bounded by its life.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

from polder.bandex.money import check_amount, parse_currency, price
from polder.bandex.texts import CHECK, CREDIT, GUARANTEE, OFFER, Form
from polder.model import Refused, Verdict


@dataclass(frozen=True, kw_only=True)
class Terms(ABC):
    """What all kinds share: the form, and for how long it holds: from ``not_before`` until before ``not_after``."""

    FORM: ClassVar[Form]
    not_before: int
    not_after: int

    @property
    @abstractmethod
    def author(self) -> str:
        """The key that must sign."""

    def check(self) -> None:
        """Raise ``Refused`` for terms that could never hold, or would hold too widely."""
        if self.not_before >= self.not_after:
            raise Refused(Verdict.MALFORMED, f"the {self.FORM.kind} ends before it begins")

    def text(self) -> str:
        """The credential up to its Signature field; raises ``Refused``."""
        self.check()
        return self.FORM.write(asdict(self))

    @classmethod
    def read(cls, text: str) -> Self:
        """The terms of a signed text, whose signature is *not* looked at; raises ``Refused``."""
        terms = cls(**cls.FORM.read(text))
        terms.check()
        return terms

    def facts(self) -> dict[str, Any]:
        """For a program."""
        return {"kind": self.FORM.kind, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class OfferTerms(Terms):
    """An ISP's price for one of its routes: ``setup`` for each reservation and ``per_mbit_hour`` for 10^6 bit/s over an hour."""

    FORM: ClassVar[Form] = OFFER
    isp_key: str
    isp: str
    route: str
    service: str
    currency: str
    setup: int
    per_mbit_hour: int
    most_rate: int
    most_seconds: int

    @property
    def author(self) -> str:
        return self.isp_key

    @property
    def requester(self) -> str:
        """Whom the offer licenses, and who asks: the route's elements (trap 28: not the ISP's key)."""
        return route_principal(self.isp, self.route)

    def check(self) -> None:
        super().check()
        parse_currency(self.currency)
        check_amount(max(1, self.setup), "the price of a setup")
        check_amount(max(1, self.per_mbit_hour), "the price of a Mbit/s for an hour")
        if self.most_rate < 1 or self.most_seconds < 1:
            raise Refused(Verdict.MALFORMED, "an offer has a greatest rate and a greatest duration, both at least 1")

    def price(self, rate: int, seconds: int) -> int:
        """What ``rate`` byte/s for ``seconds`` costs, in micro-units, at least one."""
        return max(1, price(self.setup, self.per_mbit_hour, rate, seconds))


@dataclass(frozen=True, kw_only=True)
class CreditTerms(Terms):
    """A content provider answers for a user's checks: each between ``least`` and ``most``, all together at most ``total``."""

    FORM: ClassVar[Form] = CREDIT
    provider: str
    user: str
    currency: str
    nonce: str
    least: int
    most: int
    total: int

    @property
    def author(self) -> str:
        return self.provider

    def check(self) -> None:
        super().check()
        parse_currency(self.currency)
        for amount in (self.least, self.most, self.total):
            check_amount(amount, "a limit of a credit")
        if not self.least <= self.most <= self.total:
            raise Refused(Verdict.MALFORMED, "a credit's least amount is at most its greatest, and that at most its total")


@dataclass(frozen=True, kw_only=True)
class CheckTerms(Terms):
    """A user pays an ISP ``amount`` for one flow: ``session``, ``senders`` (RSVP's texts, sorted), ``flowspec`` (SHA-256 of the
    FLOWSPEC object's body) on one ``route``, from ``not_before`` until ``not_after``: the price is for all of that time, so that it does
    not depend on anybody's clock. ``credit_nonce`` names the credit that covers it; ``nonce`` makes it one.
    """

    FORM: ClassVar[Form] = CHECK
    payer: str
    isp_key: str
    isp: str
    route: str
    session: str
    senders: tuple[str, ...]
    flowspec: str
    currency: str
    amount: int
    credit_nonce: str
    nonce: str

    @property
    def author(self) -> str:
        return self.payer

    @property
    def seconds(self) -> int:
        """For how long it pays."""
        return self.not_after - self.not_before

    def check(self) -> None:
        super().check()
        parse_currency(self.currency)
        check_amount(self.amount, "a check's amount")

    def text(self) -> str:
        self.check()
        return self.FORM.write(asdict(self) | {"senders": join_senders(self.senders)})

    @classmethod
    def read(cls, text: str) -> Self:
        values = cls.FORM.read(text)
        joined = values.pop("senders")
        terms = cls(senders=tuple(joined.split(", ")) if joined else (), **values)
        terms.check()
        return terms


@dataclass(frozen=True, kw_only=True)
class GuaranteeTerms(Terms):
    """A bank answers for what a provider's users pay, up to ``most`` a check: the extra link in the chain."""

    FORM: ClassVar[Form] = GUARANTEE
    guarantor: str
    provider: str
    currency: str
    most: int

    @property
    def author(self) -> str:
        return self.guarantor

    def check(self) -> None:
        super().check()
        parse_currency(self.currency)
        check_amount(self.most, "the limit of a guarantee")


KINDS: dict[str, type[Terms]] = {kind.FORM.kind: kind for kind in (OfferTerms, CreditTerms, CheckTerms, GuaranteeTerms)}


def route_principal(isp: str, route: str) -> str:
    """The opaque KeyNote principal of an ISP's route."""
    return f"route:{isp}/{route}"


def join_senders(senders: tuple[str, ...]) -> str:
    """The ``senders`` attribute: RSVP's texts in their order; empty for any sender (style WF)."""
    return ", ".join(senders)
