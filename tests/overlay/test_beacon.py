"""The beacon's table: what is refused and why (traps 3, 5 and 6), and that nothing else is."""

from __future__ import annotations

from random import Random

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from polder.model import Appointment, Kind, Refused, RevocationList, Signed, Verdict, decode
from polder.model.overlay_messages import Advertise, Caller, EpochSecret, ServletsQuery, Withdraw
from polder.overlay import BeaconTable, EpochSecrets
from polder.overlay.checks import MAX_LIFE
from polder.trust import Revoked, sign
from tests.overlay.support import (
    NOW,
    SECRET,
    advertise,
    appointment,
    beacon_table,
    caller,
    holder,
    key_of,
    node,
    pki,
    withdrawal,
)
from tests.support.identities import DOMAIN, Pki


def refused(table: BeaconTable, body: Advertise, who: Caller, now: float = NOW) -> Refused:
    with pytest.raises(Refused) as info:
        table.advertise(body, who, now)
    return info.value


def test_a_servlet_that_a_site_appointed_is_taken_for_three_periods() -> None:
    table = beacon_table()
    assert table.advertise(advertise(appointment()), caller("n1"), NOW).lifetime == 30
    assert table.take_change() and not table.take_change()
    assert table.entries(NOW) == {"wiki": (node("n1"),)}
    assert table.poll_timeout() == NOW + 30
    table.handle_timeout(NOW + 30)
    assert table.entries(NOW + 30) == {} and table.take_change()


def test_an_entry_ends_with_its_appointment_at_the_latest() -> None:
    table = beacon_table()
    assert table.advertise(advertise(appointment(end=NOW + 7)), caller("n1"), NOW).lifetime == 7
    assert table.entries(NOW + 7) == {}


def test_a_refresh_prolongs_without_a_change() -> None:
    table = beacon_table()
    signed = appointment()
    table.advertise(advertise(signed), caller("n1"), NOW)
    table.take_change()
    table.advertise(advertise(signed), caller("n1"), NOW + 25)
    assert not table.take_change()
    assert table.entries(NOW + 50) == {"wiki": (node("n1"),)}


def foreign() -> Signed:
    """The same words under another authority's root."""
    site = Pki().member("site", "wiki")
    return sign(decode(appointment().payload, Appointment), site.key, site.chain)


def tampered(signed: Signed) -> Signed:
    return Signed(signed.payload.replace(b"wiki", b"w1ki"), signed.signature, signed.chain)


@pytest.mark.parametrize(
    ("body", "who", "verdict"),
    [
        (lambda: advertise(Signed(b"\xc1", b"", ())), "n1", Verdict.MALFORMED),
        (lambda: advertise(withdrawal()), "n1", Verdict.MALFORMED),
        (lambda: advertise(appointment(servlet="n2")), "n1", Verdict.WRONG_HOLDER),  # another's appointment, stolen
        (lambda: advertise(appointment(servlet="n2"), "n2"), "n1", Verdict.WRONG_HOLDER),  # in another's name
        (lambda: advertise(appointment(end=NOW)), "n1", Verdict.EXPIRED),
        (lambda: advertise(appointment(begin=NOW + 31)), "n1", Verdict.NOT_YET),
        (lambda: advertise(appointment(end=NOW + MAX_LIFE)), "n1", Verdict.MALFORMED),
        (lambda: advertise(appointment(), ring_key=key_of("other")), "n1", Verdict.WRONG_PLACE),
        (lambda: advertise(appointment(), epoch=9), "n1", Verdict.UNKNOWN),
        (lambda: advertise(appointment(by="shop")), "n1", Verdict.WRONG_HOLDER),  # forged by another site
        (lambda: advertise(Signed(appointment().payload, b"x" * 70, appointment().chain)), "n1", Verdict.BAD_SIGNATURE),
        (lambda: advertise(tampered(appointment()), ring_key=key_of("w1ki")), "n1", Verdict.BAD_SIGNATURE),
        (lambda: advertise(foreign()), "n1", Verdict.FOREIGN),
    ],
)
def test_what_is_not_right_is_refused_with_its_reason_and_leaves_no_trace(body, who: str, verdict: Verdict) -> None:  # type: ignore[no-untyped-def]
    table = beacon_table()
    assert refused(table, body(), caller(who)).verdict is verdict
    assert table.entries(NOW) == {} and table.poll_timeout() is None


def test_only_the_owner_of_the_key_is_its_beacon() -> None:
    result = refused(beacon_table(owns=False), advertise(appointment()), caller("n1"))
    assert result.verdict is Verdict.WRONG_PLACE and result.retry


def test_a_node_at_a_self_chosen_place_is_refused() -> None:
    who = Caller(Kind.NODE, "n1", b"\1" * 16)
    assert refused(beacon_table(), advertise(appointment()), who).verdict is Verdict.WRONG_HOLDER


def test_a_revoked_site_is_refused() -> None:
    verifier = pki().verifier()
    verifier.revoked = Revoked.of(RevocationList(1, int(NOW), (f"spiffe://{DOMAIN}/site/wiki",), ()))
    table = BeaconTable(verifier, EpochSecrets([SECRET]), lambda _key: True, Random(1))
    assert refused(table, advertise(appointment()), caller("n1")).verdict is Verdict.REVOKED


def test_an_old_epoch_cannot_reinstate_a_burned_servlet() -> None:
    table = beacon_table()
    old, new = appointment(servlet="n1", epoch=5), appointment(servlet="n2", epoch=6)
    table.advertise(advertise(old, "n1"), caller("n1"), NOW)
    table.advertise(advertise(new, "n2"), caller("n2"), NOW + 1)
    assert refused(table, advertise(old, "n1"), caller("n1"), NOW + 2).verdict is Verdict.REPLAYED
    # ... nor when every entry has expired: epochs are remembered for as long as the old word could be valid.
    table.handle_timeout(NOW + 100)
    assert table.entries(NOW + 100) == {}
    assert refused(table, advertise(old, "n1"), caller("n1"), NOW + 101).verdict is Verdict.REPLAYED


def test_a_servlet_that_a_rotation_leaves_behind_is_refused_without_its_name() -> None:
    """Whom a retry may help is not named in logs: each rotation would write down who was a servlet."""
    table = beacon_table()
    old, new = appointment(servlet="n1", epoch=5), appointment(servlet="n2", epoch=6)
    table.advertise(advertise(old, "n1"), caller("n1"), NOW)
    table.advertise(advertise(new, "n2"), caller("n2"), NOW + 1)
    outgoing = refused(table, advertise(old, "n1"), caller("n1"), NOW + 2)
    assert outgoing.verdict is Verdict.REPLAYED and outgoing.retry
    stranger = refused(table, advertise(appointment(servlet="n3", epoch=5), "n3"), caller("n3"), NOW + 2)
    assert stranger.verdict is Verdict.REPLAYED and not stranger.retry


def test_a_forged_high_epoch_does_not_lock_the_site_out() -> None:
    table = beacon_table()
    refused(table, advertise(appointment(epoch=10**9, by="shop")), caller("n1"))
    table.advertise(advertise(appointment(epoch=5)), caller("n1"), NOW)


def test_old_and_new_overlap_for_a_grace_with_the_new_first() -> None:
    table = beacon_table()
    table.advertise(advertise(appointment(servlet="n1", epoch=5), "n1"), caller("n1"), NOW)
    table.advertise(advertise(appointment(servlet="n2", epoch=6), "n2"), caller("n2"), NOW + 5)
    assert table.entries(NOW + 19) == {"wiki": (node("n2"), node("n1"))}
    assert table.entries(NOW + 21) == {"wiki": (node("n2"),)}


def test_several_servlets_of_one_epoch_stand_beside_each_other() -> None:
    table = beacon_table()
    for name in ("n1", "n2", "n3"):
        table.advertise(advertise(appointment(servlet=name), name), caller(name), NOW)
    assert set(table.entries(NOW)["wiki"]) == {node("n1"), node("n2"), node("n3")}


def test_an_older_version_of_the_same_appointment_is_a_replay() -> None:
    table = beacon_table()
    table.advertise(advertise(appointment(end=NOW + 700)), caller("n1"), NOW)
    assert refused(table, advertise(appointment(end=NOW + 600)), caller("n1")).verdict is Verdict.REPLAYED


def test_a_servlet_may_withdraw_itself_but_nobody_else() -> None:
    table = beacon_table()
    table.advertise(advertise(appointment()), caller("n1"), NOW)
    table.withdraw(Withdraw("wiki", 5), caller("n2"), NOW)
    table.withdraw(Withdraw("wiki", 4), caller("n1"), NOW)  # a late message of an earlier epoch
    table.withdraw(Withdraw("wiki", 5), Caller(Kind.NODE, "n1", b"\1" * 16), NOW)
    assert table.entries(NOW)
    table.withdraw(Withdraw("wiki", 5), caller("n1"), NOW)
    assert table.entries(NOW) == {}


def test_a_signed_withdrawal_keeps_a_servlet_out_whoever_brings_it() -> None:
    table = beacon_table()
    table.advertise(advertise(appointment()), caller("n1"), NOW)
    table.withdraw(Withdraw("wiki", 0, withdrawal()), caller("n2"), NOW)
    assert table.entries(NOW) == {}
    assert refused(table, advertise(appointment()), caller("n1")).verdict is Verdict.REVOKED
    table.advertise(advertise(appointment(epoch=6)), caller("n1"), NOW)  # a new word of the site outranks it


def test_an_advertisement_may_bring_withdrawals_of_others() -> None:
    table = beacon_table()
    table.advertise(advertise(appointment(servlet="n2"), "n2"), caller("n2"), NOW)
    table.advertise(advertise(appointment(servlet="n1"), "n1", out=[withdrawal("n2")]), caller("n1"), NOW)
    assert table.entries(NOW) == {"wiki": (node("n1"),)}


@pytest.mark.parametrize(
    ("statement", "verdict"),
    [
        (lambda: withdrawal(by="shop"), Verdict.WRONG_HOLDER),
        (lambda: withdrawal(site="shop"), Verdict.WRONG_HOLDER),
        (lambda: withdrawal(end=NOW), Verdict.EXPIRED),
        (lambda: withdrawal(end=NOW + 10 * MAX_LIFE), Verdict.MALFORMED),
        (lambda: appointment(), Verdict.MALFORMED),
    ],
)
def test_a_false_withdrawal_is_refused(statement, verdict: Verdict) -> None:  # type: ignore[no-untyped-def]
    table = beacon_table()
    table.advertise(advertise(appointment()), caller("n1"), NOW)
    with pytest.raises(Refused) as info:
        table.withdraw(Withdraw("wiki", 0, statement()), caller("n2"), NOW)
    assert info.value.verdict is verdict
    assert table.entries(NOW)


def test_both_epochs_of_keys_are_taken_around_a_change() -> None:
    coming = EpochSecret(2, int(NOW) + 20, b"t" * 32)
    table = beacon_table(secrets=EpochSecrets([SECRET, coming]))
    for secret in (SECRET, coming):
        table.advertise(advertise(appointment(), ring_key=key_of(secret=secret), epoch=secret.epoch), caller("n1"), NOW)
    late = advertise(appointment(), epoch=1)
    table.advertise(late, caller("n1"), NOW + 79)
    assert refused(table, late, caller("n1"), NOW + 81).verdict is Verdict.UNKNOWN


def test_access_points_may_ask_for_servlets_but_for_a_bounded_time() -> None:
    table = beacon_table()
    with pytest.raises(Refused) as info:
        table.query(ServletsQuery("wiki"), caller("n9"), NOW)
    assert info.value.verdict is Verdict.UNKNOWN and info.value.retry
    table.advertise(advertise(appointment()), caller("n1"), NOW)
    answer = table.query(ServletsQuery("wiki"), caller("n9"), NOW + 5)
    assert answer.servlets == (node("n1"),) and answer.ttl == 25
    for outsider in (Caller(Kind.USER, "ann"), Caller(Kind.SITE, "wiki"), Caller(Kind.ADMIN, "root")):
        with pytest.raises(Refused, match="only nodes"):
            table.query(ServletsQuery("wiki"), outsider, NOW)


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polder.overlay.beacon.MAX_SITES", 1)
    monkeypatch.setattr("polder.overlay.beacon.MAX_SERVLETS", 1)
    table = beacon_table()
    table.advertise(advertise(appointment()), caller("n1"), NOW)
    assert refused(table, advertise(appointment(servlet="n2"), "n2"), caller("n2")).verdict is Verdict.BUSY
    other = advertise(appointment("shop"), ring_key=key_of("shop"))
    assert refused(table, other, caller("n1")).verdict is Verdict.BUSY
    table.handle_timeout(NOW + MAX_LIFE + 1)
    assert table.poll_timeout() is None, "forgotten when no old appointment can be valid any more"


class Beacons(RuleBasedStateMachine):
    """Random advertisements, replays, withdrawals and time, against the rules written as one sentence each."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.table = beacon_table()
        self.highest = 0
        self.withdrawn: dict[str, int] = {}
        self.accepted: dict[str, tuple[int, float]] = {}
        self.sent: list[tuple[str, int, Signed]] = []

    @initialize()
    def warm(self) -> None:
        holder("site", "wiki")

    @rule(servlet=st.sampled_from(["n1", "n2", "n3"]), step=st.integers(0, 1))
    def appointed_servlet(self, servlet: str, step: int) -> None:
        epoch = max(1, self.highest + step)
        self.sent.append((servlet, epoch, appointment(servlet=servlet, epoch=epoch, end=NOW + 5000)))
        self._advertise(*self.sent[-1])

    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        if self.sent:
            self._advertise(*data.draw(st.sampled_from(self.sent)))

    @rule(servlet=st.sampled_from(["n1", "n2", "n3"]))
    def burn(self, servlet: str) -> None:
        self.table.withdraw(Withdraw("wiki", 0, withdrawal(servlet, self.highest or 1, end=NOW + 9000)), caller("n9"), self.now)
        self.withdrawn[servlet] = max(self.withdrawn.get(servlet, 0), self.highest or 1)
        self.accepted.pop(servlet, None)

    @rule(seconds=st.sampled_from([1.0, 10.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.table.handle_timeout(self.now)

    def _advertise(self, servlet: str, epoch: int, signed: Signed) -> None:
        allowed = epoch >= self.highest and epoch > self.withdrawn.get(servlet, 0)
        try:
            self.table.advertise(advertise(signed, servlet), caller(servlet), self.now)
        except Refused as refusal:
            assert not allowed, refusal
            assert refusal.verdict in {Verdict.REPLAYED, Verdict.REVOKED}
            return
        assert allowed
        if epoch > self.highest:
            self.accepted = {s: (e, min(until, self.now + 15)) for s, (e, until) in self.accepted.items()}
        self.highest = epoch
        self.accepted[servlet] = (epoch, self.now + 30)

    @invariant()
    def exactly_the_accepted_are_held_newest_first(self) -> None:
        held = [member.name for member in self.table.entries(self.now).get("wiki", ())]
        live = {servlet: epoch for servlet, (epoch, until) in self.accepted.items() if until > self.now}
        assert sorted(held) == sorted(live)
        assert [live[name] for name in held] == sorted(live.values(), reverse=True)


TestBeacons = Beacons.TestCase
TestBeacons.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


def test_heirs_are_named_to_servlets_and_take_the_owners_word() -> None:
    heirs = (node("h1"), node("h2"))
    owner = BeaconTable(pki().verifier(), EpochSecrets([SECRET]), lambda _key: True, Random(1), heirs=lambda: heirs)
    assert owner.advertise(advertise(appointment()), caller("n1"), NOW).heirs == heirs
    heir = beacon_table(owns=False)
    to_heir = msgspec.structs.replace(advertise(appointment()), heir=True)
    assert heir.advertise(to_heir, caller("n1"), NOW).heirs == (), "heirs have none"
    assert heir.entries(NOW) == {"wiki": (node("n1"),)}
    with pytest.raises(Refused) as info:
        heir.advertise(msgspec.structs.replace(to_heir, ring_key=b"\0" * 16), caller("n1"), NOW)
    assert info.value.verdict is Verdict.WRONG_PLACE, "not a beacon key at all"
