"""The paper's chain: repaired it pays for Alice's film, with and without a bank; as it was printed it is refused, and why."""

from __future__ import annotations

import dataclasses

import pytest

from polder.bandex import CheckTerms, CreditTerms, OfferTerms, pack
from polder.bandex.writing import from_file, order, to_file, write
from polder.keynote import Checker
from tests.support.money import HOUR, NOW, Alice, desk, guarantee, key, name_of


def test_alice_pays_nick_with_marthas_credit() -> None:
    one, alice = desk(), Alice()
    ask = alice.ask()
    decision = one.decide(ask, NOW)
    assert decision.accepted and decision.until == NOW + HOUR / 2 and len(decision.charge) == 64
    refreshed = one.decide(ask.but(installed=True), NOW + 30)
    assert refreshed == decision  # trap 38: a refresh is not a new payment
    further = one.decide(ask.but(router="core", link="edge"), NOW + 31)
    assert further == decision  # and the next router of the route charges the same
    assert one.counters == {"accepted": 3, "judged": 3}


def test_a_bank_is_one_more_link() -> None:
    alice = Alice()
    foreign = desk(bank=1_000_000)
    refused = foreign.decide(alice.ask(), NOW)
    assert refused.word == "foreign-identity"
    alice.links = (write(guarantee(), key("bank")),)
    assert foreign.decide(alice.ask(), NOW).accepted
    alice.links = (write(guarantee(most=1000), key("bank")),)
    narrow = foreign.decide(alice.ask(), NOW)
    narrow_verdict = narrow.verdict()
    assert (narrow_verdict.code, narrow_verdict.reason) == (3, "the conditions of the guarantee do not hold for this reservation")


def test_two_banks_in_a_row() -> None:
    alice = Alice()
    alice.links = (
        write(guarantee(), key("bank")),
        write(guarantee(guarantor=name_of("world"), provider=name_of("bank")), key("world")),
    )
    assert desk(world=1_000_000).decide(alice.ask(), NOW).accepted
    alice.links = alice.links[1:]
    assert desk(world=1_000_000).decide(alice.ask(), NOW).word == "denied"  # the link from the first bank is missing


@pytest.mark.parametrize("who", ["payer", "isp"])
def test_no_guarantee_stands_in_for_check_or_offer(who: str) -> None:
    """A bank that vouches for the ISP itself would make every forged check good: refused before KeyNote is asked."""
    alice = Alice()
    vouched = guarantee(provider=name_of({"payer": "alice", "isp": "nick"}[who]))
    alice.links = (write(vouched, key("bank")),)
    forged = alice.check()[1].replace("@amount == 440000", "@amount == 540000")
    refused = desk(bank=1_000_000, martha=1).decide(alice.ask().but(bundle=pack(alice.texts(forged))), NOW)
    assert not refused.accepted and "never by or for the payer or the ISP" in refused.verdict().reason


def test_provider_and_isp_need_two_keys() -> None:
    alice = Alice()
    alice.credit = dataclasses.replace(alice.credit, provider=name_of("nick"))
    alice.credit_text = write(alice.credit, key("nick"))
    refused = desk(nick=1_000_000).decide(alice.ask(), NOW)
    assert "different keys" in refused.verdict().reason


def test_credentials_go_through_a_file() -> None:
    alice = Alice()
    text = to_file([alice.offer_text, alice.credit_text, alice.check()[1]])
    held = from_file(text)
    assert [type(terms) for _, terms in held] == [OfferTerms, CreditTerms, CheckTerms]
    assert desk().decide(alice.ask().but(bundle=pack(order(held))), NOW).accepted


# Trap 26: the printed example. Keys are real ones, so that its other faults show; each assertion is signed as it stands.

PRINTED_CREDIT = """KeyNote-Version: 2
Authorizer: "{martha}"
Licensees: "{alice}"
Conditions: app_domain == "Band-X" && currency == "USD" && &amount < 0.56 && date < "20070324" -> "true";
"""
PRINTED_OFFER = """KeyNote-Version: 2
Authorizer: "{nick}"
Licensees: "{route}"
Conditions: app_domain == "Band-X" && currency == "USD" && &bandwidth <= "50Mbps" && link_name == "Dublin-NYC"
  && &amount >= 0.44 && date < "20071120 -> "true";
"""
PRINTED_CHECK = """KeyNote-Version: 2
Authorizer: "{alice}"
Licensees: "{nick}"
Conditions: app_domain == "BAND-X" && currency == "USD" && amount == "0.44" && nonce == "eb2c3dfc8e9a"
  && date == "20071120" -> "true";
"""
PRINTED_POLICY = 'Authorizer: "POLICY"\nLicensees: "{martha}" && "{nick}"\nConditions: app_domain == "BAND-X" -> "true";\n'
ACTION = {
    "app_domain": "BAND-X",
    "currency": "USD",
    "amount": "0.44",
    "nonce": "eb2c3dfc8e9a",
    "date": "20071120",
    "bandwidth": "50",
    "link_name": "Dublin-NYC",
}


def _printed(text: str, author: str) -> str:
    from polder.keynote.signing import identifier, sign

    names = {who: identifier(key(who)) for who in ("alice", "martha", "nick", "route")}
    return sign(text.format(**names), key(author)) if author else text.format(**names)


def test_the_printed_chain_is_refused_with_an_explanation() -> None:
    """As printed, and then with one fault after the other mended: only when all are, the chain holds."""
    with pytest.raises(ValueError, match=r"&bandwidth <= \"50Mbps\" compares float with string"):
        _printed(PRINTED_OFFER, "nick")
    typed = PRINTED_OFFER.replace('&bandwidth <= "50Mbps"', "@bandwidth <= 50")
    with pytest.raises(
        ValueError, match="'true' stands where"
    ):  # the date's quote is not closed, so that the next one opens nothing
        _printed(typed, "nick")
    offer = typed.replace('"20071120 ->', '"20071120" ->')
    credit, check, policy = PRINTED_CREDIT, PRINTED_CHECK, PRINTED_POLICY
    steps = [
        ("the domains differ by their capitals", lambda text: text.replace("Band-X", "BAND-X")),
        ("the credit ended eight months before", lambda text: text.replace("20070324", "20080324")),
        ("the offer ends on the day of the check", lambda text: text.replace('date < "20071120"', 'date < "20071121"')),
    ]
    values = []
    for _, mend in [("as printed", str), *steps]:
        credit, offer, check = mend(credit), mend(offer), mend(check)
        texts = [_printed(credit, "martha"), _printed(offer, "nick"), _printed(check, "alice")]
        values.append(Checker().query([_printed(policy, "")], texts, [name_of("route")], ACTION).value)
    assert values == ["false"] * len(steps) + ["true"]


def test_the_printed_requester_would_leave_the_offer_out() -> None:
    """Trap 28: asked in the ISP's own name, the chain holds without any offer."""
    texts = [
        _printed(PRINTED_CREDIT.replace("Band-X", "BAND-X").replace("20070324", "20080324"), "martha"),
        _printed(PRINTED_CHECK, "alice"),
    ]
    policy = [_printed(PRINTED_POLICY, "")]
    assert Checker().query(policy, texts, [name_of("nick")], ACTION).value == "true"
    assert Checker().query(policy, texts, [name_of("route")], ACTION).value == "false"
