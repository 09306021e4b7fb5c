"""Writing credentials: terms and a private key become signed text; a file holds several, with a blank line between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from polder.bandex.bundle import normal
from polder.bandex.terms import KINDS, CheckTerms, CreditTerms, OfferTerms, Terms
from polder.bandex.texts import kind_of
from polder.keynote import KeyNoteError, principal, split_assertions
from polder.keynote.signing import PrivateKey, identifier, sign
from polder.model import Refused, Verdict

BACKDATE = 30
"""Seconds by which what is written begins in the past: clocks differ. A check pays for them too."""


class Wanted(NamedTuple):
    """A reservation that is to be paid for: RSVP's texts, ``rate`` in byte/s (R of a guaranteed one), for ``seconds``."""

    session: str
    senders: tuple[str, ...]
    flowspec: str
    rate: int
    seconds: int


def write(terms: Terms, key: PrivateKey) -> str:
    """The signed credential; raises ``Refused`` when ``key`` is not its author's."""
    own = principal(identifier(key))
    if normal(terms.author) != own:
        raise Refused(
            Verdict.WRONG_HOLDER, f"the {terms.FORM.kind} must be signed by {terms.author[:40]}…, and this is another key"
        )
    try:
        return sign(terms.text(), key)
    except KeyNoteError as error:
        raise Refused(Verdict.MALFORMED, f"the {terms.FORM.kind} cannot be signed: {error}") from None


def pay(
    wanted: Wanted, offer: OfferTerms, credit: CreditTerms, payer: PrivateKey, nonce: str, now: float
) -> tuple[CheckTerms, str]:
    """The check that pays ``offer``'s price for ``wanted``, against ``credit``. ``nonce``: 32 hexadecimal digits, never used before.

    Raises ``Refused`` when offer or credit do not go so far, in the words that the ISP would use.
    """
    seconds = wanted.seconds + BACKDATE
    if wanted.rate > offer.most_rate or seconds > offer.most_seconds:
        raise Refused(Verdict.DENIED, f"the offer goes up to {offer.most_rate} byte/s for {offer.most_seconds} s")
    amount = offer.price(wanted.rate, seconds)
    if amount > credit.most or amount < credit.least:
        raise Refused(
            Verdict.EXCEEDED, f"it costs {amount} micro-units; the credit is for {credit.least} to {credit.most} a check"
        )
    end = int(now) + wanted.seconds
    if end > min(offer.not_after, credit.not_after):
        raise Refused(
            Verdict.EXPIRED, "the offer or the credit ends before the reservation would: fetch new ones, or reserve for less"
        )
    terms = CheckTerms(
        not_before=int(now) - BACKDATE,
        not_after=end,
        payer=identifier(payer),
        isp_key=offer.isp_key,
        isp=offer.isp,
        route=offer.route,
        session=wanted.session,
        senders=wanted.senders,
        flowspec=wanted.flowspec,
        currency=offer.currency,
        amount=amount,
        credit_nonce=credit.nonce,
        nonce=nonce,
    )
    return terms, write(terms, payer)


def to_file(texts: Iterable[str]) -> str:
    """A file of credentials."""
    return "\n".join(text.rstrip("\n") + "\n" for text in texts)


def from_file(text: str) -> list[tuple[str, Terms]]:
    """The credentials in a file, each with its terms; raises ``Refused`` for what is none."""
    return [(one, KINDS[kind_of(one).kind].read(one)) for one in split_assertions(text)]


def order(texts: Sequence[tuple[str, Terms]]) -> list[str]:
    """Check, credit, guarantees, offer: the order in which bundles are sent."""
    places = ["check", "credit", "guarantee", "offer"]
    return [text for text, terms in sorted(texts, key=lambda each: places.index(each[1].FORM.kind))]
