"""Whether a payment is good: the same judgement at the ISP, before it reserves, and at the clearing house, before it pays.

Cheap questions come first, each with its own refusal, so that an honest mistake is explained and a flood costs little; the last word is
KeyNote's, over the verifier's own attributes. Nothing is looked up elsewhere: the bundle is enough (BandEx, §III-B).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from polder.bandex.bundle import Bundle, normal
from polder.bandex.money import MOST, format_amount
from polder.bandex.terms import join_senders, route_principal
from polder.bandex.texts import APP_DOMAIN, format_date, kind_of
from polder.keynote import Answer, Assertion, Checker, KeyNoteError, Why, parse
from polder.keynote.checker import Entry
from polder.model import Refused, Verdict

VALUES = ("false", "true")


class Flow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is reserved, from the RSVP objects and the ISP's configuration alone (trap 31). Rates in byte/s, sizes in bytes."""

    isp: str
    route: str
    router: str
    link: str
    session: str
    senders: tuple[str, ...]
    style: str
    service: str
    rate: int
    bucket: int
    peak: int
    flowspec: str


@dataclass(frozen=True)
class Trust:
    """Whom a verifier trusts to pay: keys of providers and banks → greatest amount of one check, in micro-units."""

    payers: Mapping[str, int]
    _forms: dict[bytes, tuple[str, int]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._forms.update({normal(key): (key, most) for key, most in self.payers.items()})

    def roots(self, bundle: Bundle) -> list[tuple[str, int]]:
        """Who of them appears in ``bundle`` as provider or guarantor; raises ``Refused`` when nobody does."""
        keys = [bundle.credit.provider, *(one.guarantor for one in bundle.guarantees)]
        found = {form: self._forms[form] for form in map(normal, keys) if form in self._forms}
        if not found:
            raise Refused(Verdict.FOREIGN, "neither the credit's provider nor a guarantor in the bundle is trusted here")
        return list(found.values())


def check_flow(bundle: Bundle, flow: Flow) -> None:
    """Raise ``Refused`` unless the check is for this very flow (trap 34)."""
    check = bundle.check
    if (check.isp, check.route) != (flow.isp, flow.route):
        raise Refused(Verdict.DENIED, f"the check pays {check.isp} for {check.route}, not {flow.isp} for {flow.route}")
    if check.session != flow.session:
        raise Refused(Verdict.DENIED, f"the check is for session {check.session}, not {flow.session}")
    if check.senders != flow.senders:
        raise Refused(Verdict.DENIED, "the check is for other senders than the reservation names")
    if check.flowspec != flow.flowspec:
        raise Refused(Verdict.DENIED, "the check is for another FLOWSPEC than the reservation's")


def check_time(bundle: Bundle, now: float, most_life: float) -> None:
    """Raise ``Refused`` outside the credentials' time, or for a check that would have to be remembered for too long."""
    if now >= bundle.until:
        late = now - bundle.until
        why = f"a credential ended {late:.0f} s ago ({format_date(bundle.until)} UTC): write a new check, or compare the clocks"
        raise Refused(Verdict.EXPIRED, why)
    if now < bundle.since:
        early = bundle.since - now
        raise Refused(Verdict.NOT_YET, f"a credential begins in {early:.0f} s: compare the clocks", retry=True)
    if bundle.check.not_after - now > most_life:
        raise Refused(Verdict.DENIED, f"the check is good for {bundle.check.not_after - now:.0f} s; {most_life:.0f} are allowed")


def check_price(bundle: Bundle, flow: Flow) -> int:
    """Raise ``Refused`` unless the check pays the offer's price for its whole validity; returns that price."""
    offer, check = bundle.offer, bundle.check
    if offer.service != flow.service:
        raise Refused(Verdict.DENIED, f"the offer is for {offer.service}, the reservation asks for {flow.service}")
    if not 1 <= flow.rate <= offer.most_rate:
        raise Refused(Verdict.DENIED, f"the offer goes up to {offer.most_rate} byte/s; {flow.rate} are asked for")
    seconds = bundle.check.seconds
    if seconds > offer.most_seconds:
        raise Refused(Verdict.DENIED, f"the offer goes up to {offer.most_seconds} s; the check is for {seconds}")
    due = offer.price(flow.rate, seconds)
    if check.amount < due:
        asked = format_amount(due, offer.currency)
        raise Refused(
            Verdict.DENIED, f"the check pays {format_amount(check.amount)}; {flow.rate} byte/s for {seconds} s cost {asked}"
        )
    return due


def check_total(bundle: Bundle, spent: int) -> int:
    """Raise ``Refused`` when the credit would be overspent; returns what is spent of it with this check (trap 29)."""
    credit, total = bundle.credit, spent + bundle.check.amount
    if total > credit.total:
        left = format_amount(max(0, credit.total - spent), credit.currency)
        raise Refused(Verdict.EXCEEDED, f"{left} of the credit are left; the check is for {format_amount(bundle.check.amount)}")
    return total


def attributes(bundle: Bundle, flow: Flow, now: float, due: int, total: int) -> dict[str, str]:
    """The action, as KeyNote is asked: all from the verifier, but for amount and nonces, which the check's own conditions must equal."""
    check, offer = bundle.check, bundle.offer
    numbers = {
        "amount": check.amount,
        "total": total,
        "price": due,
        "setup": offer.setup,
        "per_mbit_hour": offer.per_mbit_hour,
        "rate": flow.rate,
        "bucket": flow.bucket,
        "peak": flow.peak,
        "seconds": check.seconds,
    }
    if max(numbers.values()) > MOST or min(numbers.values()) < 0:
        raise Refused(Verdict.MALFORMED, f"no number of a payment exceeds {MOST}")
    return {
        "app_domain": APP_DOMAIN,
        "isp": flow.isp,
        "route": flow.route,
        "router": flow.router,
        "link": flow.link,
        "session": flow.session,
        "senders": join_senders(flow.senders),
        "style": flow.style,
        "service": flow.service,
        "flowspec": flow.flowspec,
        "currency": offer.currency,
        "credit": check.credit_nonce,
        "nonce": check.nonce,
        "date": format_date(now),
        **{name: str(number) for name, number in numbers.items()},
    }


def policy(roots: Sequence[tuple[str, int]], isp: str, isp_key: str) -> list[str]:
    """The verifier's own policy, one assertion for each of ``roots``: who answers for payments, and the ISP whose offer it is."""
    return [
        f'Authorizer: "POLICY"\nLicensees: "{key}" && "{isp_key}"\n'
        f'Conditions: app_domain == "{APP_DOMAIN}" && isp == "{isp}" && @amount >= 1 && @amount <= {most} -> "true";\n'
        for key, most in roots
    ]


@functools.lru_cache(maxsize=256)
def _rule(text: str) -> Assertion:
    """A policy, parsed: the same few are asked again and again."""
    return parse(text)


def judge(checker: Checker, trust: Trust, bundle: Bundle, flow: Flow, now: float, due: int, total: int) -> frozenset[str]:
    """Ask KeyNote; raises ``Refused`` with the reason unless it says yes. Returns the credentials on which its answer rests: their
    signatures were checked, those of others perhaps not.
    """
    rules = [_rule(text) for text in policy(trust.roots(bundle), flow.isp, bundle.offer.isp_key)]
    asked = attributes(bundle, flow, now, due, total)
    try:
        answer = checker.query(
            rules, bundle.texts, [route_principal(flow.isp, flow.route)], asked, VALUES, require_conditions=True
        )
    except KeyNoteError as error:
        raise Refused(Verdict.MALFORMED, str(error)) from None
    if answer.value != "true":
        raise _why(answer)
    return frozenset(str(entry.text) for entry in _proven(answer))


def _proven(answer: Answer) -> list[Entry]:
    return [entry for entry in answer.entries if entry.level and entry.checked and entry.error is None and not entry.trusted]


def _why(answer: Answer) -> Refused:
    """The first cause, in words: a credential that cannot be believed, or one whose conditions do not hold."""
    credentials = [entry for entry in answer.entries if not entry.trusted]
    for entry in credentials:
        if entry.error is not None:
            forged = entry.error.kind in (Why.SIGNATURE, Why.UNSIGNED, Why.ALGORITHM, Why.KEY)
            verdict = Verdict.BAD_SIGNATURE if forged else Verdict.MALFORMED
            return Refused(verdict, f"the {_kind(entry.text)} is refused: {entry.error}")
    for entry in credentials:
        if entry.conditions == 0:
            return Refused(Verdict.DENIED, f"the conditions of the {_kind(entry.text)} do not hold for this reservation")
    if any(entry.conditions == 0 for entry in answer.entries):
        return Refused(Verdict.DENIED, "the check is larger than its provider or bank is trusted for here")
    return Refused(
        Verdict.DENIED, "the credentials do not lead from whom is trusted here to the offer: one in the chain is missing"
    )


def _kind(text: str | bytes) -> str:
    return kind_of(text if isinstance(text, str) else text.decode("ascii", "replace")).kind
