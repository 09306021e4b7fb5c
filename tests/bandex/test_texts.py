"""Canonical texts: what is written is read back; what differs by one character is something else, or nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.bandex import CheckTerms, CreditTerms, GuaranteeTerms, OfferTerms, Terms, format_amount, parse_amount
from polder.bandex.money import MICRO, MOST, price
from polder.bandex.texts import FORMS, format_date
from polder.model import Refused
from tests.support.money import name_of

names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
nonces = st.from_regex(r"[0-9a-f]{32}", fullmatch=True)
amounts = st.integers(1, MOST)
texts = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='"\\,'), min_size=1, max_size=60)
times = st.tuples(st.integers(0, 2**33), st.integers(1, 10**6)).map(lambda t: {"not_before": t[0], "not_after": t[0] + t[1]})
currencies = st.sampled_from(["USD", "EUR", "JPY"])


@st.composite
def terms(draw: st.DrawFn) -> Terms:
    """Any credential."""
    when, currency = draw(times), draw(currencies)
    kind = draw(st.sampled_from([OfferTerms, CreditTerms, CheckTerms, GuaranteeTerms]))
    if kind is OfferTerms:
        offered = [draw(st.integers(0, MOST)) for _ in range(2)] + [draw(amounts), draw(amounts)]
        who = (name_of("nick"), draw(names), draw(names), draw(st.sampled_from(["controlled-load", "guaranteed"])), currency)
        keys = ("isp_key", "isp", "route", "service", "currency", "setup", "per_mbit_hour", "most_rate", "most_seconds")
        return OfferTerms(**when, **dict(zip(keys, (*who, *offered), strict=True)))
    if kind is CreditTerms:
        least, most, total = sorted(draw(amounts) for _ in range(3))
        who = {"provider": name_of("martha"), "user": name_of("alice"), "currency": currency, "nonce": draw(nonces)}
        return CreditTerms(**when, **who, least=least, most=most, total=total)
    if kind is GuaranteeTerms:
        return GuaranteeTerms(
            **when, guarantor=name_of("bank"), provider=name_of("martha"), currency=currency, most=draw(amounts)
        )
    flow = {"session": draw(texts), "senders": tuple(draw(st.lists(texts, max_size=4))), "flowspec": draw(nonces) * 2}
    where = {"isp": draw(names), "route": draw(names), "isp_key": name_of("nick"), "payer": name_of("alice")}
    paid = {"currency": currency, "amount": draw(amounts), "credit_nonce": draw(nonces), "nonce": draw(nonces)}
    return CheckTerms(**when, **flow, **where, **paid)


SIGNED = 'Signature: "sig-ed25519-base64:AAAA"\n'


@given(terms())
def test_what_is_written_is_read(one: Terms) -> None:
    assert type(one).read(one.text() + SIGNED) == one


@given(terms(), st.data())
def test_one_other_character_is_another_credential_or_none(one: Terms, data: st.DataObject) -> None:
    text = one.text()
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(min_codepoint=9, max_codepoint=126).filter(lambda c: c != text[at]))
    changed = text[:at] + other + text[at + 1 :]
    try:
        found = type(one).read(changed + SIGNED)
    except Refused:
        return
    assert found != one and found.text() == changed


@given(st.text(max_size=400))
def test_no_text_does_harm(text: str) -> None:
    for form in FORMS:
        with pytest.raises(Refused):
            form.read(form.mark + text)


def test_a_forged_quote_has_no_place() -> None:
    """Trap 31: nothing of a reservation's text can end a string in the conditions."""
    one = CheckTerms(
        not_before=0, not_after=9, payer=name_of("alice"), isp_key=name_of("nick"), isp="nick", route="r", session='x" || "1" == "1',
        senders=(), flowspec="0" * 64, currency="USD", amount=1, credit_nonce="0" * 32, nonce="1" * 32,
    )  # fmt: skip
    with pytest.raises(Refused, match="cannot be the session"):
        one.text()


@pytest.mark.parametrize("text", ["", "0", "-1", "1e3", "0.0000001", "2147.483648", "1,5", "٣", "0x10", " 1", "nan", "inf"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(Refused):
        parse_amount(text)


@given(amounts)
def test_amounts_keep_every_unit(micro: int) -> None:
    assert parse_amount(format_amount(micro)) == micro


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 10**9), st.integers(1, 10**6))
def test_a_price_is_rounded_up_and_never_falls(setup: int, unit: int, rate: int, seconds: int) -> None:
    exact = rate * 8 * seconds * unit
    assert (price(setup, unit, rate, seconds) - setup) * MICRO * 3600 - exact in range(MICRO * 3600)
    assert price(setup, unit, rate, seconds) <= price(setup, unit, rate, seconds + 1)
    assert price(setup, unit, rate, seconds) <= price(setup, unit, rate + 1, seconds)


@given(st.integers(0, 2**37), st.integers(0, 2**37))
def test_dates_have_the_order_of_their_texts(one: int, other: int) -> None:
    assert (one < other) == (format_date(one) < format_date(other))
