"""The ledger: one-use tokens, lost answers, places, revocation; and a failure at any statement changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from sqlalchemy import Engine, event, select

from polder.model import Refused, Verdict
from polder.store import Entry, Issued, Ledger, open_database, sqlite_url, tables
from tests.support.identities import DOMAIN, NOW, who

HOUR = 3600.0


def token(n: int) -> bytes:
    return n.to_bytes(32, "big")


def key(n: int) -> bytes:
    return (1000 + n).to_bytes(32, "big")


def grant(kind: str, name: str, groups: tuple[str, ...] = (), hosts: tuple[str, ...] = ()) -> Entry:
    return Entry(who(kind, name), groups, hosts, None, None, None)


class Maker:
    """Counts what it is asked to issue."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, entry: Entry) -> Issued:
        self.count += 1
        return Issued(f"{self.count:x}", (str(entry.id).encode(), b"issuer"), NOW + 24 * HOUR)


def place(taken: frozenset[int]) -> int:
    return max(taken, default=0) + 1


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = open_database(sqlite_url(tmp_path / "a.sqlite3"))
    yield made
    made.dispose()


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    return Ledger(engine, DOMAIN)


@pytest.fixture
def issue() -> Maker:
    return Maker()


def refused(call: Callable[[], object]) -> Verdict:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value.verdict


def enrol(ledger: Ledger, issue: Maker, n: int, entry: Entry, k: int | None = None, now: float = NOW) -> Issued:
    ledger.invite(token(n), entry, now, HOUR)
    return ledger.enrol(token(n), key(n if k is None else k), "127.0.0.1:1", now, place, issue)


def test_a_token_works_once(ledger: Ledger, issue: Maker) -> None:
    first = enrol(ledger, issue, 1, grant("node", "n1"))
    assert ledger.granted(token(1)) == who("node", "n1")
    assert refused(lambda: ledger.enrol(token(1), key(2), None, NOW, place, issue)) is Verdict.USED
    again = ledger.enrol(token(1), key(1), None, NOW + 10 * HOUR, place, issue)  # the answer was lost
    assert (again, issue.count) == (first, 1)


def test_unknown_and_expired_tokens(ledger: Ledger, issue: Maker) -> None:
    assert refused(lambda: ledger.enrol(token(9), key(1), None, NOW, place, issue)) is Verdict.UNKNOWN
    assert refused(lambda: ledger.granted(token(9))) is Verdict.UNKNOWN
    ledger.invite(token(1), grant("node", "n1"), NOW, HOUR)
    assert refused(lambda: ledger.enrol(token(1), key(1), None, NOW + HOUR, place, issue)) is Verdict.EXPIRED
    assert issue.count == 0


def test_a_name_keeps_its_place(ledger: Ledger, issue: Maker) -> None:
    for n in (1, 2):
        enrol(ledger, issue, n, grant("node", f"n{n}"))
    enrol(ledger, issue, 3, grant("node", "n1"))
    members = {member.name: member.id for member in ledger.members()}
    assert members == {"n1": 1, "n2": 2}


def test_only_nodes_have_places_and_addresses(ledger: Ledger, issue: Maker) -> None:
    enrol(ledger, issue, 1, grant("user", "ann", groups=("staff",)))
    ((entry, revoked),) = ledger.identities()
    assert (entry, revoked) == (Entry(who("user", "ann"), ("staff",), (), None, None, None), False)
    assert ledger.members() == ()


def test_a_key_is_one_identitys(ledger: Ledger, issue: Maker) -> None:
    enrol(ledger, issue, 1, grant("user", "ann"))
    assert refused(lambda: enrol(ledger, issue, 2, grant("user", "bob"), k=1)) is Verdict.WRONG_HOLDER


def test_a_host_is_one_sites(ledger: Ledger, issue: Maker) -> None:
    enrol(ledger, issue, 1, grant("site", "wiki", hosts=("a.example", "b.example")))
    other = grant("site", "evil", hosts=("b.example",))
    assert refused(lambda: ledger.invite(token(2), other, NOW, HOUR)) is Verdict.WRONG_HOLDER
    enrol(ledger, issue, 3, grant("site", "wiki", hosts=("a.example",)))  # the site itself may change its names
    ledger.invite(token(2), other, NOW, HOUR)
    enrol(ledger, issue, 4, grant("site", "third", hosts=("b.example",)))
    assert refused(lambda: ledger.enrol(token(2), key(2), None, NOW, place, issue)) is Verdict.WRONG_HOLDER
    assert ledger.hosts() == ("a.example", "b.example")


def test_renewal_by_key_also_after_expiry(ledger: Ledger, issue: Maker) -> None:
    enrol(ledger, issue, 1, grant("node", "n1"))
    entry, issued = ledger.renew(key(1), "127.0.0.1:9", NOW + 24 * HOUR + 5, 10.0, issue)
    assert (entry.id, entry.ring_id, issued.serial) == (who("node", "n1"), (1).to_bytes(16, "big"), "2")
    assert ledger.members()[0].address == "127.0.0.1:9"
    assert refused(lambda: ledger.renew(key(1), None, NOW + 24 * HOUR + 11, 10.0, issue)) is Verdict.EXPIRED
    assert refused(lambda: ledger.renew(key(2), None, NOW, 10.0, issue)) is Verdict.UNKNOWN


def test_renewals_do_not_pile_up(ledger: Ledger, engine: Engine, issue: Maker) -> None:
    first = enrol(ledger, issue, 1, grant("node", "n1"))
    enrol(ledger, issue, 2, grant("node", "n2"))
    last = [ledger.renew(key(1), None, NOW + n, HOUR, issue)[1] for n in range(5)][-1]
    with engine.connect() as connection:
        serials = set(connection.scalars(select(tables.certificates.c.serial).where(tables.certificates.c.key_hash == key(1))))
    assert serials == {first.serial, last.serial}
    assert ledger.enrol(token(1), key(1), None, NOW, place, issue) == first


def test_revocation_by_identity_and_every_key(ledger: Ledger, issue: Maker) -> None:
    assert ledger.revoked(NOW) == (0, ())
    enrol(ledger, issue, 1, grant("user", "ann"))
    enrol(ledger, issue, 2, grant("user", "ann"))
    ledger.invite(token(3), grant("user", "ann"), NOW, HOUR)
    assert ledger.revoke(who("user", "ann"), "left", NOW) == (1, 2)
    assert ledger.revoke(who("user", "ann"), "again", NOW) == (1, 2)
    epoch, rows = ledger.revoked(NOW)
    assert epoch == 1
    assert {row.uri or row.key_hash for row in rows} == {str(who("user", "ann")), key(1), key(2)}
    assert refused(lambda: ledger.renew(key(1), None, NOW, HOUR, issue)) is Verdict.REVOKED
    assert refused(lambda: ledger.enrol(token(3), key(3), None, NOW, place, issue)) is Verdict.EXPIRED  # open invitations end too
    assert refused(lambda: ledger.invite(token(4), grant("user", "ann"), NOW, HOUR)) is Verdict.REVOKED
    assert refused(lambda: ledger.revoke(who("user", "nobody"), "", NOW)) is Verdict.UNKNOWN


def test_reinstating_needs_a_new_key(ledger: Ledger, issue: Maker) -> None:
    enrol(ledger, issue, 1, grant("node", "n1"))
    ledger.revoke(who("node", "n1"), "", NOW)
    assert ledger.members() == ()
    ledger.invite(token(2), grant("node", "n1"), NOW, HOUR, reinstate=True)
    assert ledger.revoked(NOW)[0] == 1  # nothing changes until the token is used
    assert refused(lambda: ledger.enrol(token(2), key(1), None, NOW, place, issue)) is Verdict.REVOKED
    ledger.enrol(token(2), key(2), None, NOW, place, issue)
    epoch, rows = ledger.revoked(NOW)
    assert (epoch, [row.key_hash for row in rows]) == (2, [key(1)])
    assert ledger.members()[0].name == "n1"


def test_who_comes_back_and_is_revoked_again_adds_one_key_each_time(ledger: Ledger, engine: Engine, issue: Maker) -> None:
    for n in range(1, 8):
        ledger.invite(token(n), grant("user", "eve"), NOW, HOUR, reinstate=True)
        ledger.enrol(token(n), key(n), None, NOW, place, issue)
        assert ledger.revoke(who("user", "eve"), "", NOW)[1] == n
    listed = [row.key_hash for row in ledger.revoked(NOW)[1] if row.key_hash]
    assert listed == [key(n) for n in range(1, 8)]
    with engine.begin() as db:  # as ledgers were written before
        db.execute(tables.revocations.insert().values(epoch=99, key_hash=key(1), revoked_at=NOW, reason=""))
    epoch, rows = ledger.revoked(NOW)
    assert epoch == 99 and [row.key_hash for row in rows if row.key_hash] == listed


def test_a_revoked_key_leaves_the_list_with_its_certificate(ledger: Ledger, issue: Maker) -> None:
    enrol(ledger, issue, 1, grant("user", "ann"))
    ledger.revoke(who("user", "ann"), "", NOW)
    epoch, rows = ledger.revoked(NOW + 24 * HOUR)
    assert (epoch, [row.uri for row in rows]) == (1, [str(who("user", "ann"))])
    assert refused(lambda: ledger.renew(key(1), None, NOW + 25 * HOUR, 100 * HOUR, issue)) is Verdict.REVOKED


def test_secrets_of_two_epochs(ledger: Ledger) -> None:
    assert [ledger.add_secret(bytes([n]) * 32, NOW + n) for n in range(3)] == [1, 2, 3]
    assert [(s.epoch, s.not_before, s.secret[0]) for s in ledger.secrets()] == [(2, NOW + 1, 1), (3, NOW + 2, 2)]


def test_a_failed_issue_leaves_the_token_unused(ledger: Ledger, issue: Maker) -> None:
    ledger.invite(token(1), grant("node", "n1"), NOW, HOUR)

    def fail(_: Entry) -> Issued:
        raise RuntimeError("no entropy")

    with pytest.raises(RuntimeError):
        ledger.enrol(token(1), key(1), None, NOW, place, fail)
    assert ledger.identities() == ()
    assert ledger.enrol(token(1), key(2), None, NOW, place, issue).serial == "1"


class Crash(Exception):
    pass


def dump(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        return list(raw.iterdump())


def _enrol(ledger: Ledger) -> None:
    ledger.enrol(token(2), key(5), "127.0.0.1:2", NOW, place, Maker())


OPERATIONS: dict[str, Callable[[Ledger], object]] = {
    "enrol": _enrol,
    "renew": lambda ledger: ledger.renew(key(1), "127.0.0.1:3", NOW, HOUR, lambda _: Issued("ff", (b"a",), NOW)),
    "revoke": lambda ledger: ledger.revoke(who("node", "n1"), "", NOW),
    "invite": lambda ledger: ledger.invite(token(8), grant("site", "s", hosts=("h.example",)), NOW, HOUR),
    "secret": lambda ledger: ledger.add_secret(b"s" * 32, NOW),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_at_any_statement_changes_nothing(engine: Engine, ledger: Ledger, name: str, when: str) -> None:
    """The n-th statement fails, for every n, until the operation gets through; then it has happened once."""
    issued = Maker()
    issued.count = 100
    enrol(ledger, issued, 1, grant("node", "n1"))
    ledger.revoke(who("node", "n1"), "", NOW) if name == "enrol" else None
    ledger.invite(token(2), grant("node", "n1"), NOW, HOUR, reinstate=True)
    left = 0

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Crash

    event.listen(engine, f"{when}_cursor_execute", count)
    before = dump(engine)
    crashes = 0
    while True:
        left = crashes + 1
        try:
            OPERATIONS[name](ledger)
            break
        except Crash:
            crashes += 1
            left = 0
            assert dump(engine) == before, f"statement {crashes}"
    event.remove(engine, f"{when}_cursor_execute", count)
    assert crashes >= 1
    assert dump(engine) != before


class LedgerMachine(RuleBasedStateMachine):
    """Random operations against a model that is a few dictionaries."""

    tokens = Bundle("tokens")

    def __init__(self) -> None:
        super().__init__()
        self.engine = open_database("sqlite://")
        self.ledger = Ledger(self.engine, DOMAIN)
        self.issue = Maker()
        self.now = NOW
        self.used: dict[int, int] = {}
        self.owner: dict[int, str] = {}
        self.revoked: set[str] = set()
        self.dead: set[int] = set()
        self.names: dict[int, str] = {}
        self.expiry: dict[int, float] = {}
        self.epoch = 0

    def teardown(self) -> None:
        self.engine.dispose()

    @rule(target=tokens, name=st.sampled_from("abc"), reinstate=st.booleans())
    def invite(self, name: str, reinstate: bool) -> int:
        n = len(self.names) + 1
        self.names[n] = name
        if name in self.revoked and not reinstate:
            assert refused(lambda: self.ledger.invite(token(n), grant("node", name), self.now, HOUR)) is Verdict.REVOKED
            self.expiry[n] = -1.0
        else:
            self.ledger.invite(token(n), grant("node", name), self.now, HOUR, reinstate=reinstate)
            self.expiry[n] = self.now + HOUR
        return n

    @rule(n=tokens, k=st.integers(1, 6))
    def enrol(self, n: int, k: int) -> None:
        name = self.names[n]
        good = (
            self.used.get(n) == k
            if n in self.used
            else self.now < self.expiry[n] and k not in self.dead and self.owner.get(k, name) == name
        )
        if not good:
            refused(lambda: self.ledger.enrol(token(n), key(k), None, self.now, place, self.issue))
            return
        self.ledger.enrol(token(n), key(k), None, self.now, place, self.issue)
        if n not in self.used:
            self.used[n] = k
            self.owner[k] = name
            if name in self.revoked:
                self.revoked.discard(name)
                self.epoch += 1

    @rule(name=st.sampled_from("abc"))
    def revoke(self, name: str) -> None:
        if name not in self.owner.values():
            assert refused(lambda: self.ledger.revoke(who("node", name), "", self.now)) is Verdict.UNKNOWN
            return
        if name not in self.revoked:
            self.epoch += 1
            self.revoked.add(name)
            self.dead |= {k for k, owner in self.owner.items() if owner == name}
            for n, invited in self.names.items():
                if invited == name and n not in self.used:
                    self.expiry[n] = min(self.expiry[n], self.now)
        assert self.ledger.revoke(who("node", name), "", self.now)[0] == self.epoch

    @rule(seconds=st.floats(0, 2 * HOUR))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def the_list_is_right(self) -> None:
        epoch, rows = self.ledger.revoked(NOW)
        assert epoch == self.epoch
        assert {row.uri for row in rows if row.uri} == {str(who("node", name)) for name in self.revoked}
        assert {row.key_hash for row in rows if row.key_hash} == {key(k) for k in self.dead}

    @invariant()
    def places_are_unique_and_kept(self) -> None:
        entries = [entry for entry, _ in self.ledger.identities()]
        assert {entry.id.name for entry in entries} == set(self.owner.values())
        assert len({entry.ring_id for entry in entries}) == len(entries)


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
