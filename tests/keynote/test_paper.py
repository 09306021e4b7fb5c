"""The paper's example of Alice, Martha and Nick (BandExSOS §III-B): as printed it must be refused, repaired it must hold."""

from __future__ import annotations

import pytest

from polder.keynote import Checker
from polder.keynote.explain import explain
from polder.keynote.signing import make_signature, wrap
from tests.keynote.worlds import key, who

ALICE, MARTHA, NICK, ROUTE = "alice", "martha", "nick", "route"


def signed(body: str, author: str) -> str:
    """With a real signature, whatever the body says."""
    text = body + "Signature:\n"
    return text + wrap(make_signature(text, key(author), "sig-ed25519-base64:"))


def printed() -> tuple[str, list[str]]:
    """Policy, credit, offer and check with the paper's words, on real keys."""
    policy = f"""KeyNote-Version: 2
Local-Constants:
    NICK_KEY = "{who(NICK)}"
    MARTHA_KEY = "{who(MARTHA)}"
Authorizer: "POLICY"
Licensees: MARTHA_KEY && NICK_KEY
Conditions:
    app_domain == "BAND-X" -> "true";
"""
    credit = f"""KeyNote-Version: 2
Local-Constants:
    ALICE_KEY = "{who(ALICE)}"
    MARTHA_KEY = "{who(MARTHA)}"
Authorizer: MARTHA_KEY
Licensees: ALICE_KEY
Conditions: app_domain == "Band-X" &&
    currency == "USD" && &amount < 0.56
    && date < "20070324" -> "true";
"""
    offer = f"""KeyNote-Version: 2
Local-Constants:
    ISP_KEY = "{who(NICK)}"
    ROUTE_KEY = "{who(ROUTE)}"
Authorizer: ISP_KEY
Licensees: ROUTE_KEY
Conditions: app_domain == "Band-X" &&
    currency == "USD" &&
    &bandwidth <= "50Mbps" &&
    link_name == "Dublin-NYC" &&
    &amount >= 0.44
    && date < "20071120 -> "true";
"""
    check = f"""KeyNote-Version: 2
Local-Constants:
    ALICE_KEY = "{who(ALICE)}"
    ISP_KEY = "{who(NICK)}"
Authorizer: ALICE_KEY
Licensees: ISP_KEY
Conditions: app_domain == "BAND-X" &&
    currency == "USD" && amount == "0.44"
    && nonce == "eb2c3dfc8e9a" &&
    date == "20071120" -> "true";
"""
    return policy, [signed(credit, MARTHA), signed(offer, NICK), signed(check, ALICE)]


def repaired() -> tuple[str, list[str]]:
    """One spelling of the domain, numbers as numbers, all quotes closed, one day on which everything is valid."""
    policy, _ = printed()
    credit = f"""Authorizer: "{who(MARTHA)}"
Licensees: "{who(ALICE)}"
Conditions: app_domain == "BAND-X" && currency == "USD" && @amount >= 1 && @amount < 560000 && date < "20070324" -> "true";
"""
    offer = f"""Authorizer: "{who(NICK)}"
Licensees: "{who(ROUTE)}"
Conditions: app_domain == "BAND-X" && currency == "USD" && @bandwidth >= 1 && @bandwidth <= 50000000 && link_name == "Dublin-NYC"
    && @amount >= 440000 && date < "20071120" -> "true";
"""
    check = f"""Authorizer: "{who(ALICE)}"
Licensees: "{who(NICK)}"
Conditions: app_domain == "BAND-X" && currency == "USD" && amount == "440000" && nonce == "eb2c3dfc8e9a" && date == "20070320" -> "true";
"""
    return policy, [signed(credit, MARTHA), signed(offer, NICK), signed(check, ALICE)]


ACTION = {
    "app_domain": "BAND-X",
    "currency": "USD",
    "amount": "440000",
    "bandwidth": "50000000",
    "link_name": "Dublin-NYC",
    "nonce": "eb2c3dfc8e9a",
    "date": "20070320",
}


def test_printed_is_refused() -> None:
    """On any day and however the domain is spelt, and each reason is told."""
    policy, credentials = printed()
    for domain in ("BAND-X", "Band-X"):
        for date in ("20070320", "20070324", "20071119", "20071120"):
            action = ACTION | {"amount": "0.44", "bandwidth": "50", "app_domain": domain, "date": date}
            for asks in (who(ROUTE), who(NICK), who(ALICE)):
                assert not Checker().query([policy], credentials, [asks], action).passed
    action = ACTION | {"amount": "0.44", "date": "20071120"}
    notes = explain(Checker().query([policy], credentials, [who(ROUTE)], action, whole=True))
    assert [note.kind for note in notes] == ["licensees", "conditions", "refused", "licensees"]
    assert notes[1].why == 'app_domain == "Band-X" is false (app_domain is "BAND-X")'
    assert "syntax" in notes[2].why


def test_repaired_holds() -> None:
    """Alice pays, and Nick's router may configure the link."""
    policy, credentials = repaired()
    answer = Checker().query([policy], credentials, [who(ROUTE)], ACTION, require_conditions=True, whole=True)
    assert answer.passed
    assert [note.kind for note in explain(answer)] == ["counted"] * 4


@pytest.mark.parametrize(
    "change",
    [
        {"amount": "439999"},
        {"amount": "560000"},
        {"amount": ""},
        {"amount": "all"},
        {"bandwidth": "50000001"},
        {"bandwidth": "lots"},
        {"nonce": "another"},
        {"date": "20070324"},
        {"currency": "EUR"},
        {"link_name": "Dublin-Cork"},
        {"app_domain": "Band-X"},
    ],
)
def test_repaired_is_bound(change: dict[str, str]) -> None:
    """To amount, bandwidth, link, day, nonce and currency."""
    policy, credentials = repaired()
    assert not Checker().query([policy], credentials, [who(ROUTE)], ACTION | change, require_conditions=True).passed


def test_who_asks_matters() -> None:
    """With Nick's key as requester the offer would never be consulted; without the offer ROUTE_KEY gets nothing."""
    policy, (credit, offer, check) = repaired()
    wide = ACTION | {"bandwidth": "999000000"}
    assert Checker().query([policy], [credit, offer, check], [who(NICK)], wide).passed
    assert not Checker().query([policy], [credit, offer, check], [who(ROUTE)], wide).passed
    for left_out in range(3):
        some = [text for place, text in enumerate((credit, offer, check)) if place != left_out]
        assert not Checker().query([policy], some, [who(ROUTE)], ACTION).passed
