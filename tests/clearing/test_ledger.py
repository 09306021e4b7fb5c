"""The books under any sequence of deposits, frauds, settlements and payments, in SQLite and PostgreSQL: they always add up."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, text

from polder.bandex import pack
from polder.bandex.writing import write
from polder.clearing.house import House
from polder.clearing.ledger import Ledger, _audit, open_ledger
from polder.clearing.messages import Deposit
from polder.clearing.till import Till, open_spent
from polder.model import Refused
from tests.support.money import HOUR, NOW, Alice, Ask, credit, desk, guarantee, key, name_of

_SEEDS = itertools.count(100)


def taken(count: int, total: int = 2_000_000) -> list[Deposit]:
    """Checks that a fresh user wrote and Nick took."""
    alice, one, found = Alice(next(_SEEDS), total=total, nonce=f"{next(_SEEDS):032x}"), desk(), []
    for _ in range(count):
        assert one.decide(alice.ask(), NOW).accepted
    for entry in one._spent.entries():  # type: ignore[attr-defined]
        found.append(Deposit(entry.flow, entry.taken_at, entry.bundle))
    return found


def pay(house: House, deposits: list[Deposit], now: float = NOW + HOUR) -> list[str]:
    nick = house.ledger.of_identity("spiffe://x/site/nick")
    return [receipt.outcome for receipt in house.deposit(nick, deposits, now)]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("deposit"), st.integers(1, 4)),
        st.tuples(st.just("again"), st.integers(0, 9)),
        st.tuples(st.just("fraud"), st.integers(0, 9)),
        st.tuples(st.just("settle"), st.integers(0, 2)),
        st.tuples(st.just("paid"), st.integers(0, 3)),
    ),
    max_size=10,
)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_whatever_happens_the_books_add_up(house: House, steps: list[tuple[str, int]]) -> None:
    ledger, done = house.ledger, list[Deposit]()
    prefix = next(_SEEDS)
    for what, number in steps:
        old = done[number % len(done)] if done else None
        if what == "deposit":
            fresh = taken(number)
            assert pay(house, fresh) == ["paid"] * number
            done += fresh
        elif what == "again" and old:
            assert pay(house, [old, old]) == ["repeated", "repeated"]
        elif what == "fraud" and old:
            assert pay(house, [Deposit(old.flow, old.taken_at + 1, old.bundle)]) == ["refused"]
        elif what == "settle":
            name = f"{prefix}-{number}"
            assert ledger.settle(name, NOW) == ledger.settle(name, NOW)
        elif what == "paid":
            nick = ledger.of_identity("spiffe://x/site/nick").id
            for due in [one for one in ledger.payments(None) if one.paid_at is None][: number + 1]:
                first = ledger.paid(due.settlement, due.number, nick, NOW)
                assert ledger.paid(due.settlement, due.number, nick, NOW + 1) == first
        assert ledger.audit() == [] and sum(ledger.balances().values()) == 0
    ledger.settle(f"{prefix}-end", NOW)
    nick = ledger.of_identity("spiffe://x/site/nick").id
    for due in [one for one in ledger.payments(None) if one.paid_at is None]:
        ledger.paid(due.settlement, due.number, nick, NOW)
    assert set(ledger.balances().values()) <= {0}
    lines = ledger.statement(nick, most=10_000).lines
    assert sum(line.amount for line in lines) == 0
    assert sum(line.amount for line in lines if line.kind == "check") >= len(done) * 440_000


def test_a_failure_at_any_statement_changes_nothing(house: House) -> None:
    """Crash points inside the transaction: whichever statement fails, nothing of the deposit is there, and a repetition pays it."""
    deposits, ledger = taken(2), house.ledger
    before = (ledger.balances(), len(ledger.accounts()))
    for at in itertools.count(1):
        seen = itertools.count(1)

        def fail(*_: object, at: int = at, seen: itertools.count[int] = seen) -> None:
            if next(seen) == at:
                raise OSError("the disk is gone")

        event.listen(ledger.engine, "before_cursor_execute", fail)
        try:
            outcomes = pay(house, deposits)
        except OSError:
            outcomes = []
        finally:
            event.remove(ledger.engine, "before_cursor_execute", fail)
        if outcomes:
            break
        assert (ledger.balances(), len(ledger.accounts())) == before and ledger.audit() == []
    assert at > 15 and outcomes == ["paid", "paid"]
    assert ledger.audit() == []


def test_two_clearing_houses_over_one_database_pay_a_check_once(house: House, books_url: str) -> None:
    deposits = taken(4)
    others = [House(open_ledger(books_url), house.rules) for _ in range(2)]
    outcomes: list[list[str]] = []

    def work(one: House) -> None:
        outcomes.append(pay(one, deposits))

    threads = [threading.Thread(target=work, args=(one,)) for one in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for one in others:
        one.ledger.close()
    assert sorted(outcomes) == [["paid"] * 4, ["repeated"] * 4]
    assert house.ledger.balances()["nick", "USD"] == 4 * 440_000 and house.ledger.audit() == []


@pytest.mark.parametrize("forged", [False, True])
def test_a_provider_that_only_a_bank_knows_is_billed_to_the_bank(house: House, forged: bool) -> None:
    """And to no other, whoever's guarantee somebody forges into the bundle."""
    alice = Alice(next(_SEEDS))
    abroad = credit(provider=name_of("pia"))
    alice.credit, alice.credit_text = abroad, write(abroad, key("pia"))
    alice.links = (write(guarantee(provider=name_of("pia")), key("bank")),)
    if forged:  # by a bank that has an account, and for which a greater one answers
        house.register("world", "bank", name_of("world"), "spiffe://x/site/world", NOW, most=1)
        house.register("small", "bank", name_of("small"), "spiffe://x/site/small", NOW, most=1, guarantor=name_of("world"))
        text = write(guarantee(provider=name_of("pia"), guarantor=name_of("small"), most=1_000_000), key("small"))
        alice.links = (text.replace("1000000", "1000001"), *alice.links)
    texts = alice.texts(alice.check()[1])
    one = desk(bank=1_000_000)
    assert one.decide(Ask(pack(texts)), NOW).accepted
    (entry,) = one._spent.entries()  # type: ignore[attr-defined]
    assert pay(house, [Deposit(entry.flow, entry.taken_at, entry.bundle)]) == ["paid"]
    (due,) = house.ledger.settle("s", NOW)
    assert (due.debtor, due.creditor, due.amount) == ("bank", "nick", 440_000)


def test_evidence_is_forgotten_and_nothing_is_paid_again(house: House) -> None:
    deposits = taken(1)
    assert pay(house, deposits) == ["paid"]
    later = NOW + 8 * 24 * HOUR
    assert house.ledger.prune(NOW + HOUR) == 0 and house.ledger.prune(later) == 1
    assert pay(house, deposits) == ["refused"]  # its movement is remembered for ever
    assert house.ledger.audit() == []


def test_names_and_identities_belong_to_one_account(house: House) -> None:
    with pytest.raises(Refused, match="has that name or identity already"):
        house.register("nick", "isp", name_of("mallory"), "spiffe://x/site/m", NOW)
    with pytest.raises(Refused, match="users' accounts open with their first check"):
        house.register("alice", "user", name_of("alice"), "spiffe://x/user/alice", NOW)
    with pytest.raises(Refused, match="is a name, not a key"):
        house.register("x", "isp", "not-a-key", "spiffe://x/site/x", NOW)
    with pytest.raises(Refused, match="has no account here"):
        house.ledger.of_identity("spiffe://x/site/nobody")


def test_an_audit_finds_what_was_changed_behind_its_back(house: House) -> None:
    pay(house, taken(2))
    ledger = house.ledger
    for statement, found in (
        ("UPDATE postings SET amount = amount + 1 WHERE amount > 0", "does not sum to zero"),
        ("UPDATE balances SET amount = amount + 1 WHERE amount > 0", "its postings sum to"),
        ("UPDATE checks SET amount = amount + 1", "was paid 440000"),
        ("UPDATE movements SET charge = NULL", "was paid None"),
    ):
        with ledger.engine.connect() as db:  # and taken back
            db.execute(text(statement))
            assert any(found in line for line in _audit(db)), statement
            db.rollback()
    assert ledger.audit() == []


def test_only_the_creditor_confirms_a_payment(house: House) -> None:
    pay(house, taken(1))
    (due,) = house.ledger.settle("s", NOW)
    martha = house.ledger.of_identity("spiffe://x/site/martha").id
    with pytest.raises(Refused, match="only the creditor says"):
        house.ledger.paid(due.settlement, due.number, martha, NOW)
    with pytest.raises(Refused, match="has no payment 7"):
        house.ledger.paid("s", 7, martha, NOW)


def test_a_guarantor_is_there_and_is_not_answered_for(house: House) -> None:
    """Else no settlement would ever come to an end."""

    def answers(who: str, kind: str, guarantor: str) -> None:
        house.register(who, kind, name_of(who), f"spiffe://x/site/{who}", NOW, most=1, guarantor=name_of(guarantor))

    with pytest.raises(Refused, match="register it first"):
        answers("martha", "provider", "stranger")
    with pytest.raises(Refused, match="only banks and providers"):
        answers("martha", "provider", "nick")
    with pytest.raises(Refused, match="would answer for itself"):
        answers("bank", "bank", "bank")
    answers("martha", "provider", "bank")
    with pytest.raises(Refused, match="would answer for itself"):
        answers("bank", "bank", "martha")
    assert house.ledger.settle("now", NOW) == []


def test_books_of_a_newer_polder_are_left_alone(ledger: Ledger, books_url: str) -> None:
    from sqlalchemy import update

    from polder.clearing import tables

    ledger.run(lambda db: db.execute(update(tables.meta).values(value="9")))
    with pytest.raises(ValueError, match="the books have schema 9"):
        open_ledger(books_url)


# The till


def test_one_process_takes_checks_and_others_deposit(tmp_path: Path) -> None:
    first = open_spent(tmp_path / "till.sqlite3")
    with pytest.raises(OSError, match="takes checks into"):
        open_spent(tmp_path / "till.sqlite3")
    assert desk(first).decide(Alice().ask(), NOW).accepted
    beside = Till(tmp_path / "till.sqlite3")
    (entry,) = beside.waiting(9)
    beside.answered([(entry.charge, "refused: no money")], NOW)
    assert beside.totals() == {"waiting": 0, "paid": 0, "refused": 1} and beside.refusals() == [(entry, "no money")]
    with pytest.raises(ValueError, match="to deposit, not to take"):
        beside.take([entry])
    beside.close()
    first.close()
    again = open_spent(tmp_path / "till.sqlite3")
    assert again.find(entry.charge) == entry and again.of_credit(entry.credit) == entry.amount
    again.close()


def test_a_check_that_cannot_be_written_down_is_not_taken(tmp_path: Path) -> None:
    """A full disk refuses what is new, and nothing else: refreshes go on, and what is settled is forgotten later."""
    till = open_spent(tmp_path / "till.sqlite3")
    one, alice = desk(till), Alice(total=2_000_000_000)
    paid, new = alice.ask(), alice.ask()
    assert one.decide(paid, NOW).accepted
    till.answered([(entry.charge, "paid") for entry in till.waiting(9)], NOW)
    (pages,) = till._db.execute("PRAGMA page_count").fetchone()
    till._db.execute(f"PRAGMA max_page_count = {pages}")
    refused = one.decide(new, NOW)
    while refused.accepted:  # there was room left in its last pages
        refused = one.decide(new := alice.ask(), NOW)
    assert refused.refused is not None and refused.refused.retry and "disk is full" in refused.refused.why
    held = len(till)
    assert one.decide(paid, NOW).accepted and len(till) == held
    till._db.execute("PRAGMA query_only = on")
    assert till.sweep(NOW + HOUR) == 0 and len(till) == held
    till._db.execute("PRAGMA query_only = off")
    till._db.execute("PRAGMA max_page_count = 1000000")
    assert till.sweep(NOW + HOUR) == 1
    assert one.decide(new, NOW).accepted and len(till) == held
    till.close()
