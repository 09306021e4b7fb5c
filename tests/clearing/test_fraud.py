"""Every fraud that the design names, through the real desk and the real clearing house: refused, why, and at what cost.

Costs are counted, not timed: signatures that were checked, judgements that were asked for, rows that were written.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from polder.bandex import Desk, Entry, Flow, pack
from polder.bandex.desk import Decision
from polder.bandex.writing import write
from polder.clearing.house import House
from polder.clearing.ledger import Ledger
from polder.clearing.messages import Deposit, Receipt
from polder.clearing.till import Till, open_spent
from polder.keynote import signatures
from polder.keynote.signing import sign
from polder.model import Refused
from tests.support.money import FLOWSPEC, HOUR, NOW, RATE, Alice, Ask, desk, guarantee, key, name_of, offer


@pytest.fixture
def till(tmp_path: Path) -> Iterator[Till]:
    """Nick's durable spent set."""
    opened = open_spent(tmp_path / "till.sqlite3")
    yield opened
    opened.close()


@pytest.fixture
def nick(till: Till) -> Desk:
    """Nick's desk, with the till."""
    return desk(till)


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every signature that is checked, while the test runs."""
    seen: list[str] = []
    verify = signatures.verify

    def count(*arguments: object, **named: object) -> None:
        seen.append("one")
        verify(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(signatures, "verify", count)
    yield seen


def deposit(entry: Entry) -> Deposit:
    return Deposit(entry.flow, entry.taken_at, entry.bundle)


def bank(house: House, entries: list[Deposit], isp: str = "nick", now: float = NOW + HOUR) -> list[Receipt]:
    return house.deposit(house.ledger.of_identity(f"spiffe://x/site/{isp}"), entries, now)


def refusal(decision: Decision) -> tuple[int, str]:
    verdict = decision.verdict()
    assert not verdict.accepted and verdict.charge == "" and verdict.until == 0
    return verdict.code, verdict.reason


def whole(ledger: Ledger, paid: int) -> None:
    """The books add up, and ``paid`` micro-units went from users to ISPs."""
    assert ledger.audit() == []
    held = ledger.balances()
    assert sum(held.values()) == 0
    assert sum(amount for (name, _), amount in held.items() if name in ("nick", "rival")) == paid


def test_an_honest_check_is_paid_once(nick: Desk, till: Till, house: House) -> None:
    assert nick.decide(Alice().ask(), NOW).accepted
    (entry,) = till.waiting(10)
    (receipt,) = bank(house, [deposit(entry)])
    assert (receipt.outcome, receipt.amount, receipt.charge) == ("paid", entry.amount, entry.charge)
    whole(house.ledger, entry.amount)


def test_double_deposit(nick: Desk, till: Till, house: House) -> None:
    nick.decide(Alice().ask(), NOW)
    (entry,) = till.waiting(10)
    first = deposit(entry)
    assert bank(house, [first])[0].outcome == "paid"
    again = bank(house, [first], now=NOW + 2 * HOUR)[0]
    assert (again.outcome, again.paid_at) == ("repeated", NOW + HOUR)  # the answer was lost: told again, not paid again
    later = Deposit(first.flow, first.taken_at + 1, first.bundle)
    twice = bank(house, [later, first, later])
    assert [receipt.outcome for receipt in twice] == ["refused", "repeated", "refused"]
    assert (twice[0].verdict, twice[0].retry) == ("already-used", False) and "nothing is paid twice" in twice[0].why
    whole(house.ledger, entry.amount)


def test_a_check_deposited_by_another_isp(nick: Desk, till: Till, house: House) -> None:
    nick.decide(Alice().ask(), NOW)
    (entry,) = till.waiting(10)
    (stolen,) = bank(house, [deposit(entry)], "rival")
    assert (stolen.verdict, stolen.why) == ("wrong-holder", "the check is payable to nick, not to rival")
    with pytest.raises(Refused, match="only ISPs deposit checks"):
        bank(house, [deposit(entry)], "martha")
    whole(house.ledger, 0)


def test_one_check_at_two_routers(nick: Desk) -> None:
    ask = Alice().ask()
    assert nick.decide(ask, NOW).accepted
    elsewhere = refusal(nick.decide(ask.but(router="south"), NOW))
    assert elsewhere == (3, "the check pays for route dublin-nyc, which does not use link lasthop of router south")
    assert nick.counters["judged"] == 1
    told = nick.numbers()
    outcomes = told["desk_decisions"]
    assert isinstance(outcomes, dict) and outcomes["busy"] == 0
    assert {outcome: count for outcome, count in outcomes.items() if count} == {"accepted": 1, "denied": 1}
    assert (told["desk_judged"], told["desk_checks"]) == (1, 1)
    assert (told["keynote_queries"], told["keynote_signatures"]) == (1, 3)


def test_one_check_at_two_routers_at_the_same_moment(nick: Desk, till: Till) -> None:
    """Both asks arrive together, for two flows, each with its own check of one nonce: one is taken."""
    alice = Alice()
    _, one = alice.check(nonce="0" * 32)
    _, other = alice.check(nonce="0" * 32, session="udp 198.18.1.2 port 5004")
    asks = [Ask(pack(alice.texts(one))), Ask(pack(alice.texts(other)), session="udp 198.18.1.2 port 5004")]
    decisions = nick.decide_many(asks, NOW)
    assert [decision.accepted for decision in decisions] == [True, False]
    assert "with this nonce was taken before" in decisions[1].reason
    assert len(till.waiting(10)) == 1


def test_overspending_by_many_small_checks(nick: Desk, till: Till, house: House) -> None:
    """Trap 29: each check is within the credit's limit; the sum is bounded at the ISP, and over all ISPs at the clearing house."""
    alice = Alice(total=1_400_000)
    decisions = [nick.decide(alice.ask(), NOW) for _ in range(5)]
    assert [decision.accepted for decision in decisions] == [True, True, True, False, False]
    assert refusal(decisions[3]) == (4, "0.08 USD of the credit are left; the check is for 0.44")
    entries = till.waiting(10)
    assert [receipt.outcome for receipt in bank(house, [deposit(entry) for entry in entries])] == ["paid"] * 3
    # Another ISP, which knew nothing of them, took one more.
    abroad = offer(isp="rival", isp_key=name_of("rival"))
    _, check = alice.check(isp="rival", isp_key=name_of("rival"))
    flow = msgspec.structs.replace(entries[0].flow, isp="rival")
    over = Deposit(flow, NOW, (check, alice.credit_text, write(abroad, key("rival"))))
    (refused,) = bank(house, [over], "rival")
    assert (refused.verdict, refused.retry) == ("exceeded", False) and "of the credit are left" in refused.why
    whole(house.ledger, sum(entry.amount for entry in entries))


def test_overspending_within_one_batch(nick: Desk, till: Till) -> None:
    alice = Alice(total=900_000)
    decisions = nick.decide_many([alice.ask() for _ in range(4)], NOW)
    assert [decision.code for decision in decisions] == [0, 0, 4, 4]
    assert len(till.waiting(10)) == 2


def test_expired(nick: Desk, till: Till, house: House) -> None:
    ask = Alice().ask()
    late = refusal(nick.decide(ask, NOW + HOUR))
    assert late[0] == 6 and late[1].startswith("a credential ended 1800 s ago (20071120003000 UTC)")
    assert nick.decide(ask, NOW).accepted
    ended = nick.decide(ask, NOW + HOUR)  # trap 45: what was paid for ends, and a refresh does not go on for free
    assert refusal(ended)[0] == 6
    (entry,) = till.waiting(10)
    (never,) = bank(house, [deposit(entry)], now=NOW + 8 * 24 * HOUR)
    assert (never.verdict, never.why) == ("expired", "checks must be deposited within 7 days of their end")
    (lied,) = bank(house, [Deposit(entry.flow, NOW + HOUR, entry.bundle)])
    assert lied.verdict == "expired"  # taken after its end, says the ISP itself


REBOUND = {
    "session": {"session": "udp 198.18.1.9 port 5004"},
    "senders": {"senders": ("203.0.113.66 port 1",)},
    "no senders": {"senders": ()},
    "flowspec": {"flowspec": "00" * 32},
    "service": {"service": "guaranteed"},
    "rate": {"reserved_rate": RATE + 1},
    "link": {"link": "other"},
}


@pytest.mark.parametrize("how", REBOUND)
def test_rebound_to_another_flow(how: str, nick: Desk, till: Till, house: House) -> None:
    """Trap 34: a sniffed check pays for its own flow alone, before and after it was taken."""
    ask = Alice().ask()
    assert refusal(nick.decide(ask.but(**REBOUND[how]), NOW))[0] == 3
    assert nick.counters["judged"] == 0  # refused before KeyNote was asked
    assert nick.decide(ask, NOW).accepted
    assert refusal(nick.decide(ask.but(**REBOUND[how]), NOW))[0] == 3
    (entry,) = till.waiting(10)
    changes = {"rate": RATE * 2} if how == "rate" else {k: v for k, v in REBOUND[how].items() if k != "link"}
    if changes:
        moved = Deposit(msgspec.structs.replace(entry.flow, **changes), NOW, entry.bundle)
        assert bank(house, [moved])[0].verdict == "denied"
    whole(house.ledger, 0)


def test_constants_that_hide_the_flow(nick: Desk, checked: list[str]) -> None:
    """A check's own Local-Constants stand before the action's attributes (RFC 2704 §4.6.2): the one spelling has none."""
    alice = Alice()
    body = alice.check()[1].partition("Signature:")[0].replace("Authorizer:", 'Local-Constants: session = "x"\nAuthorizer:')
    texts = alice.texts(sign(body, key("alice")))
    checked.clear()
    assert refusal(nick.decide(Ask(pack(texts)), NOW))[0] == 11
    assert checked == []


@pytest.mark.parametrize("which", ["check", "credit", "offer", "guarantee"])
def test_forged(which: str, nick: Desk, till: Till, house: House) -> None:
    """Each credential in turn is signed by Mallory, or changed after it was signed."""
    alice = Alice()
    alice.links = (write(guarantee(), key("bank")),)
    texts = alice.texts(alice.check()[1])
    at = ["check", "credit", "guarantee", "offer"].index(which)
    one = desk(till, bank=1_000_000)
    head, _, tail = texts[at].partition("Signature:")
    old = {"check": "440000", "credit": "2000000", "offer": "per_mbit_hour == 40000", "guarantee": "1000000"}[which]
    new = {"check": "440001", "credit": "2000001", "offer": "per_mbit_hour == 39999", "guarantee": "1000001"}[which]
    changed = head.replace(old, new) + "Signature:" + tail
    assert changed != texts[at]
    forged = [*texts[:at], changed, *texts[at + 1 :]]
    code, reason = refusal(one.decide(Ask(pack(forged)), NOW))
    assert code == 12 and reason.startswith(f"the {which} is refused: the signature does not verify")
    assert len(till) == 0  # trap 36: what is not proved spends no nonce
    assert one.decide(Ask(pack(texts)), NOW).accepted
    flow = till.waiting(1)[0].flow
    house.register("martha", "provider", name_of("martha"), "spiffe://x/site/martha", NOW, guarantor=name_of("bank"))
    (refused,) = bank(house, [Deposit(flow, NOW, tuple(forged))])
    assert refused.verdict == "bad-signature"
    whole(house.ledger, 0)


GARBAGE = ["", "lots", "-1", "0", "1e9", "0x7f", "440000.0", " 440000", "0440000", "2147483648", "99999999999999999999"]


@pytest.mark.parametrize("amount", GARBAGE)
def test_garbage_amount(amount: str, nick: Desk) -> None:
    """Trap 30: what is no number reads as 0 in KeyNote and would pass a bound from above alone."""
    alice = Alice()
    body = alice.check()[1].partition("Signature:")[0].replace("@amount == 440000", f"@amount == {amount}")
    try:
        text = sign(body, key("alice"))
    except ValueError:
        text = body + 'Signature: "sig-ed25519-base64:AAAA"\n'
    code, reason = refusal(nick.decide(Ask(pack(alice.texts(text))), NOW))
    assert code == 11 and "check" in reason
    assert nick.counters["judged"] == 0


def test_an_amount_below_the_price(nick: Desk) -> None:
    code, reason = refusal(nick.decide(Alice().ask(amount=1), NOW))
    assert code == 3 and reason == "the check pays 0.000001; 2500000 byte/s for 1830 s cost 0.44 USD"


def test_a_chain_of_ten_thousand_credentials(nick: Desk, checked: list[str], house: House) -> None:
    alice = Alice()
    link = write(guarantee(), key("bank"))
    texts = [alice.check()[1], alice.credit_text, *itertools.repeat(link, 10_000), alice.offer_text]
    code, reason = refusal(nick.decide(Ask(pack(texts)), NOW))
    assert (code, reason) == (11, f"the bundle has {len(pack(texts))} bytes; 16384 are allowed")
    short = [text[:1] for text in texts]
    assert refusal(nick.decide(Ask(pack(short)), NOW))[1].startswith("the bundle has")
    flow = Flow("nick", "dublin-nyc", "edge", "lasthop", "s", (), "FF", "guaranteed", 1, 1, 1, FLOWSPEC)
    (refused,) = bank(house, [Deposit(flow, NOW, tuple(texts))])
    assert refused.verdict == "malformed"
    assert checked == [] and nick.counters["judged"] == 0


def test_the_longest_chain_costs_as_many_signatures(nick: Desk, till: Till, checked: list[str]) -> None:
    alice = Alice()
    alice.links = tuple(write(guarantee(most=n + 1), key("bank")) for n in range(20))
    assert refusal(nick.decide(alice.ask(), NOW))[0] == 11
    alice.links = alice.links[:10]
    ask = alice.ask()
    checked.clear()
    assert desk(till, bank=1_000_000, martha=1_000_000).decide(ask, NOW).accepted
    assert len(checked) == 3  # check, credit and offer; no guarantee whose limit is too low


def test_a_regex_bomb(nick: Desk, checked: list[str]) -> None:
    """No assertion of a payer's own making is evaluated: only the four forms are, none of which has a regular expression."""
    alice = Alice()
    bomb = '"' + "a" * 40 + '" ~= "(a*)*b"'
    body = alice.check()[1].partition("Signature:")[0].replace("@amount == 440000", bomb)
    texts = alice.texts(sign(body, key("alice")))
    checked.clear()
    assert refusal(nick.decide(Ask(pack(texts)), NOW))[0] == 11
    other = f'Authorizer: "{name_of("alice")}"\nLicensees: "{name_of("nick")}"\nConditions: {bomb};\n'
    texts = [*alice.texts(alice.check()[1]), sign(other, key("alice"))]
    checked.clear()
    code, reason = refusal(nick.decide(Ask(pack(texts)), NOW))
    assert (code, reason) == (11, "an assertion is neither check, credit, offer nor guarantee of BandEx")
    assert checked == [] and nick.counters["judged"] == 0


def test_a_payer_whose_clock_is_wrong(nick: Desk) -> None:
    """Half a minute is forgiven, because checks are written to begin earlier; more is told."""
    ask = Alice().ask()
    assert nick.decide(ask, NOW - 30).accepted
    early = refusal(nick.decide(Alice(2).ask(), NOW - 31))
    assert early == (6, "a credential begins in 1 s: compare the clocks")
    late = refusal(nick.decide(Alice(2).ask(), NOW + HOUR / 2))
    assert late[0] == 6 and "ended 0 s ago" in late[1] and "compare the clocks" in late[1]


def test_an_isp_whose_clock_is_wrong(nick: Desk, till: Till, house: House) -> None:
    assert nick.decide(Alice().ask(), NOW).accepted
    (entry,) = till.waiting(1)
    (fast,) = bank(house, [deposit(entry)], now=NOW - 61)
    assert (fast.verdict, fast.retry) == ("not-yet-valid", True) and "its clock is fast, or ours slow" in fast.why
    assert bank(house, [deposit(entry)], now=NOW - 59)[0].outcome == "paid"


def test_a_check_for_too_long_a_time(nick: Desk) -> None:
    """Trap 33: the spent set need not remember for longer than the ISP says."""
    alice = Alice()
    alice.credit = dataclasses.replace(alice.credit, not_after=int(NOW) + 48 * HOUR)
    alice.credit_text = write(alice.credit, key("martha"))
    reason = refusal(nick.decide(alice.ask(not_after=int(NOW) + 25 * HOUR), NOW))
    assert reason == (3, "the check is good for 90000 s; 86400 are allowed")


def test_a_full_till_takes_nothing_and_forgets_what_is_settled(tmp_path: Path) -> None:
    till = open_spent(tmp_path / "small.sqlite3", most=2)
    one, alice = desk(till), Alice()
    decisions = [one.decide(alice.ask(), NOW) for _ in range(3)]
    assert [d.accepted for d in decisions] == [True, True, False] and "deposit them first" in refusal(decisions[2])[1]
    till.answered([(entry.charge, "paid") for entry in till.waiting(10)], NOW)
    assert till.sweep(NOW) == 0 and till.sweep(NOW + HOUR) == 2
    till.close()


def test_a_credits_total_holds_when_its_checks_are_forgotten_and_the_desk_restarts(tmp_path: Path) -> None:
    """Who spends all of a credit, and waits until that is settled, has nothing left of it, whichever process asks."""
    alice, later, credit = Alice(), NOW + HOUR, ""
    for moments in ((NOW,) * 4, (later,), (later + 60,)):
        till = open_spent(tmp_path / "till.sqlite3")
        one = desk(till)
        decisions = [one.decide(alice.ask(now), now) for now in moments]
        if moments[0] == NOW:
            assert all(decision.accepted for decision in decisions)
            credit = till.waiting(1)[0].credit
            till.answered([(entry.charge, "paid") for entry in till.waiting(10)], NOW)
        else:
            assert [refusal(decision) for decision in decisions] == [
                (4, "0.24 USD of the credit are left; the check is for 0.44")
            ]
            assert len(till) == 0
        till.close()
    till = open_spent(tmp_path / "till.sqlite3")
    assert till.of_credit(credit) == 1_760_000
    till.sweep(alice.credit.not_after)
    till.close()
    till = open_spent(tmp_path / "till.sqlite3")
    assert till.of_credit(credit) == 0, "it has ended"
    till.close()


def test_nonces_belong_to_their_payer(nick: Desk, house: House, till: Till) -> None:
    """Two users may choose the same nonce; one user may not, however the key is spelled."""
    alice, bob = Alice(), Alice(who="bob")
    both = [alice.ask(nonce="0" * 32), bob.ask(nonce="0" * 32)]
    assert [decision.accepted for decision in nick.decide_many(both, NOW)] == [True, True]
    hexed = "ed25519-hex:" + key("alice").public_key().public_bytes_raw().hex()  # type: ignore[union-attr]
    spelled = refusal(nick.decide(alice.ask(nonce="0" * 32, payer=hexed), NOW))
    assert "with this nonce was taken before" in spelled[1]
    assert [r.outcome for r in bank(house, [deposit(e) for e in till.waiting(9)])] == ["paid", "paid"]
