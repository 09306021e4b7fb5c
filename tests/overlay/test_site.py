"""The site's role: the safe order of every change, told step by step (traps 3 to 5)."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from polder.model import Appointment, Member, Signed, decode, encode
from polder.model.overlay_messages import Appoint, Appointed, Delivery, Dismiss, Done, Transport, Withdrawal
from polder.overlay import CallOut, Moved, SiteConfig, SiteRole, Stage
from polder.overlay.checks import MAX_LIFE, SKEW, check_times
from tests.overlay.support import NOW, node

CONFIG = SiteConfig(servlets=2, rotate_every=None, overlap=15.0, drain=30.0)


def signer(record: msgspec.Struct) -> Signed:
    """The signature itself is ``test_together``'s affair."""
    return Signed(encode(record), b"", ())


def deliver(member: Member, key: int, slot: int) -> Delivery:
    return Delivery(Transport.GRE, "198.51.100.7", key, f"fd00::{slot + 2}", "fd00::1", 1400, ((80, 80),))


def role(config: SiteConfig = CONFIG, names: str = "n1 n2 n3 n4 n5 n6", seed: int = 1) -> SiteRole:
    one = SiteRole("wiki", config, signer, deliver, Random(seed))
    one.set_pool([node(name) for name in names.split()], NOW)
    return one


def calls(one: SiteRole) -> list[CallOut]:
    out = []
    while (call := one.poll_call()) is not None:
        out.append(call)
    return out


def appointment_in(call: CallOut) -> Appointment:
    assert call.method == "appoint" and isinstance(call.body, Appoint)
    return decode(call.body.appointment.payload, Appointment)


def answer(one: SiteRole, now: float, ready: bool = True, beacons: int = 3) -> list[CallOut]:
    """Let time work, answer every appointment and dismissal; what was asked."""
    one.handle_timeout(now)
    asked = calls(one)
    for call in asked:
        assert call.to is not None
        one.answered(call.request_id, call.to, Appointed(ready, beacons) if call.method == "appoint" else Done(), now)
    return asked


def settled(config: SiteConfig = CONFIG, **more: object) -> SiteRole:
    one = role(config, **more)  # type: ignore[arg-type]
    one.filter_applied(one.filter_version, NOW)
    answer(one, NOW)
    assert one.serving() == config.servlets
    return one


def test_nobody_is_appointed_before_the_filter_admits_him() -> None:
    one = role()
    assert set(one.stages().values()) == {Stage.ADMITTING} and len(one.admitted()) == 2
    one.handle_timeout(NOW + 60)
    assert calls(one) == []
    one.filter_applied(one.filter_version - 1, NOW)  # an older rule set
    one.handle_timeout(NOW)
    assert calls(one) == []
    one.filter_applied(one.filter_version, NOW)
    one.handle_timeout(NOW)
    asked = calls(one)
    assert {call.to for call in asked} == {a.member for a in one.admitted()}
    for call, admitted in zip(asked, one.admitted(), strict=True):
        assert isinstance(call.body, Appoint) and call.body.delivery == deliver(admitted.member, admitted.key, admitted.slot)
        word = appointment_in(call)
        assert (word.site, word.servlet, word.servlet_ring_id) == ("wiki", call.to.name, call.to.ring_id)  # type: ignore[union-attr]
        check_times(word, NOW - SKEW)
        check_times(word, NOW + SKEW)


def test_keys_slots_and_servlets_are_drawn_apart() -> None:
    admitted = role(SiteConfig(servlets=5)).admitted()
    assert len({a.key for a in admitted}) == len({a.slot for a in admitted}) == len({a.member for a in admitted}) == 5
    assert {a.member for a in role(seed=1).admitted()} != {a.member for a in role(seed=2).admitted()}


def test_a_servlet_serves_only_when_it_can_carry_and_a_beacon_knows_it() -> None:
    one = role()
    one.filter_applied(one.filter_version, NOW)
    for ready, beacons in ((False, 0), (True, 0), (False, 2)):
        answer(one, one.poll_timeout() or NOW, ready, beacons)
        assert one.serving() == 0
    answer(one, one.poll_timeout() or NOW)
    answer(one, one.poll_timeout() or NOW)
    assert one.serving() == 2


def test_heartbeats_repeat_the_appointment_and_renew_it_at_half_its_life() -> None:
    one = settled(SiteConfig(servlets=1, rotate_every=None, life=100.0))
    now, words = NOW, set()
    while now < NOW + 120:
        now = one.poll_timeout() or now
        for call in answer(one, now):
            word = appointment_in(call)
            check_times(word, now)
            assert word.not_after - now >= 49
            words.add((word.epoch, word.not_after))
    assert len({epoch for epoch, _ in words}) == 1 and len(words) == 3


def test_a_rotation_goes_filter_ready_advertise_drain_withdraw() -> None:
    one = settled()
    old = {a.member.name for a in one.admitted()}
    first_epoch = one.epoch
    assert one.rotate(NOW + 10)
    new = {a.member.name for a in one.admitted()} - old
    assert len(new) == 2 and {one.stages()[name] for name in new} == {Stage.ADMITTING}
    assert not one.rotate(NOW + 10), "one rotation at a time"
    # 1. the filter, 2. ready, 3. advertised; until then the old ones serve as before, in their old epoch
    assert all(appointment_in(call).epoch == first_epoch for call in answer(one, NOW + 20))
    one.filter_applied(one.filter_version, NOW + 20)
    answer(one, NOW + 20, ready=False, beacons=0)
    assert one.serving() == 2
    answer(one, NOW + 22)
    assert one.serving() == 4 and one.epoch > first_epoch
    # 4. after the overlap the old ones are dismissed, and still admitted while they drain
    asked = answer(one, NOW + 22 + 15)
    gone = [call for call in asked if call.method == "dismiss"]
    assert {call.to.name for call in gone if call.to} == old
    assert all(call.body == Dismiss("wiki", first_epoch, 30.0) for call in gone)
    assert {a.member.name for a in one.admitted()} == old | new
    assert {a.until for a in one.admitted() if a.member.name in old} == {NOW + 67}
    # 5. then the rule goes
    version = one.filter_version
    answer(one, NOW + 67)
    assert {a.member.name for a in one.admitted()} == new and one.filter_version > version
    assert one.exposed == old | new


def test_rotation_needs_somebody_else() -> None:
    one = settled(names="n1 n2")
    assert not one.rotate(NOW) and one.serving() == 2


def test_who_drains_may_come_back_under_the_same_rule() -> None:
    one = settled(SiteConfig(servlets=1, rotate_every=None, overlap=1.0, drain=100.0), names="n1 n2")
    (first,) = one.admitted()
    one.rotate(NOW)
    one.filter_applied(one.filter_version, NOW)
    answer(one, NOW)
    answer(one, NOW + 1)
    assert one.stages()[first.member.name] is Stage.DRAINING
    assert one.rotate(NOW + 2)
    back = next(a for a in one.admitted() if a.member == first.member)
    assert (back.key, back.slot, back.until) == (first.key, first.slot, None)
    answer(one, NOW + 2)
    assert one.stages()[first.member.name] is Stage.SERVING


def test_rotation_comes_by_itself_with_jitter() -> None:
    one = settled(SiteConfig(servlets=1, rotate_every=100.0, overlap=1.0, drain=1.0))
    seen: list[str] = []
    now = NOW
    while now < NOW + 1000:
        now = one.poll_timeout() or now
        answer(one, now)
        one.filter_applied(one.filter_version, now)
        seen += [event.servlet for event in iter(one.poll_event, None) if event.what == Stage.SERVING]
    assert 7 <= len(seen) <= 13


def test_a_burned_servlet_is_out_at_once_and_for_good() -> None:
    one = settled()
    victim, other = (a.member.name for a in one.admitted())
    version, epoch = one.filter_version, one.epoch
    assert one.burn(victim, NOW + 5)
    assert victim not in {a.member.name for a in one.admitted()} and one.filter_version > version
    one.filter_applied(one.filter_version, NOW + 5)
    asked = answer(one, NOW + 5)
    told = [call for call in asked if call.method == "appoint"]
    assert {call.to.name for call in told if call.to} >= {other}
    for call in told:
        assert isinstance(call.body, Appoint)
        (word,) = (decode(signed.payload, Withdrawal) for signed in call.body.withdrawals)
        assert (word.servlet, word.epoch) == (victim, epoch)
        assert word.not_after >= NOW + CONFIG.life, "remembered longer than any appointment of the burned one lives"
        assert appointment_in(call).epoch > epoch
    for _ in range(20):
        one.rotate(NOW + 10)
        one.filter_applied(one.filter_version, NOW + 10)
        answer(one, NOW + 10)
    assert victim not in {a.member.name for a in one.admitted()}
    assert not one.burn("n99", NOW)
    answer(one, NOW + 3 * MAX_LIFE)
    later = [call.body for call in answer(one, NOW + 3 * MAX_LIFE + 10) if isinstance(call.body, Appoint)]
    assert later and not any(body.withdrawals for body in later)


def test_silence_of_a_servlet_brings_another_and_a_new_epoch() -> None:
    one = settled()
    victim = one.admitted()[0].member
    epoch, now = one.epoch, NOW
    while one.stages().get(victim.name) is Stage.SERVING:
        now = one.poll_timeout() or now
        one.handle_timeout(now)
        for call in calls(one):
            assert call.to is not None
            if call.to == victim:
                one.failed(call.request_id, 0, "no answer", now)
            else:
                one.answered(call.request_id, call.to, Appointed(True, 3), now)
    assert now < NOW + 15 and one.epoch > epoch
    assert Moved(victim.name, "dead") in list(iter(one.poll_event, None))
    one.filter_applied(one.filter_version, now)
    for call in answer(one, now):
        assert call.method == "dismiss" or appointment_in(call).epoch == one.epoch
    assert one.serving() == 2


def test_a_servlet_whose_link_breaks_is_asked_at_once_and_replaced() -> None:
    one = settled(SiteConfig(servlets=2, rotate_every=None))
    name = one.admitted()[0].member.name
    one.unreachable(name, NOW + 1)
    assert one.poll_timeout() == NOW + 1
    one.handle_timeout(NOW + 1)
    (call,) = [call for call in calls(one) if call.to is not None and call.to.name == name]
    one.failed(call.request_id, 0, "refused", NOW + 1)
    one.handle_timeout(NOW + 1)
    assert one.stages()[name] is Stage.DRAINING
    assert len([stage for stage in one.stages().values() if stage is not Stage.DRAINING]) == 2


def test_a_servlet_that_answers_after_its_link_broke_stays() -> None:
    one = settled(SiteConfig(servlets=2, rotate_every=None))
    name = one.admitted()[0].member.name
    one.unreachable(name, NOW + 1)
    one.handle_timeout(NOW + 1)
    (call,) = [call for call in calls(one) if call.to is not None and call.to.name == name]
    assert call.to is not None
    one.answered(call.request_id, call.to, Appointed(True, 3), NOW + 1)
    assert one.stages()[name] is Stage.SERVING


def test_who_did_not_answer_is_drawn_last() -> None:
    one = role(SiteConfig(servlets=2, rotate_every=None), names="")
    for name in ("n1", "n2", "n3"):
        one.unreachable(name, NOW)
    one.set_pool([node(f"n{i}") for i in range(1, 6)], NOW + 1)
    assert {a.member.name for a in one.admitted()} == {"n4", "n5"}


def test_two_lost_heartbeats_are_no_death() -> None:
    one = settled()
    now, asked = NOW, dict.fromkeys((a.member.name for a in one.admitted()), 0)
    while now < NOW + 200:
        now = one.poll_timeout() or now
        one.handle_timeout(now)
        for call in calls(one):
            assert call.to is not None
            asked[call.to.name] += 1
            if asked[call.to.name] % 3:
                one.failed(call.request_id, 0, "lost", now)
            else:
                one.answered(call.request_id, call.to, Appointed(True, 3), now)
                one.failed(call.request_id, 0, "a second outcome is ignored", now)
    assert "dead" not in {event.what for event in iter(one.poll_event, None)}
    assert one.serving() == 2 and min(asked.values()) > 30


def test_epochs_survive_forgetting_because_they_follow_the_clock() -> None:
    one = settled()
    again = SiteRole("wiki", CONFIG, signer, deliver, Random(9))
    again.set_pool([node("n1")], NOW + 1000)
    assert again.epoch > one.epoch
    remembered = SiteRole("wiki", CONFIG, signer, deliver, Random(9), last_epoch=int(NOW) + 10**6)
    remembered.set_pool([node("n1"), node("n2")], NOW)
    remembered.rotate(NOW)
    assert remembered.epoch >= int(NOW) + 10**6


def turn(one: SiteRole, now: float) -> bool:
    """A rotation to its end, for a role without overlap and drain."""
    begun = one.rotate(now)
    for later in (0, 1, 2):
        one.filter_applied(one.filter_version, now + later)
        answer(one, now + later)
    return begun


QUICK = SiteConfig(servlets=1, rotate_every=None, overlap=0.0, drain=0.0)


def test_exposure_is_bounded_and_rotation_goes_on_among_those_who_know() -> None:
    one = settled(replace(QUICK, exposure_max=3))
    seen = set()
    for round_ in range(40):
        assert turn(one, NOW + round_ * 10)
        seen |= {a.member.name for a in one.admitted()}
    assert len(one.exposed) == 3 and seen == one.exposed


def test_exposure_outlives_a_restart_and_a_moved_edge_begins_anew() -> None:
    one = SiteRole("wiki", replace(QUICK, exposure_max=2), signer, deliver, Random(1), exposed=("n1", "n9"))
    one.set_pool([node(name) for name in ("n1", "n2", "n3")], NOW)
    assert {a.member.name for a in one.admitted()} == {"n1"}, "n9 knows it too, though it is gone"
    one.moved()
    assert one.exposed == {"n1"}
    one.filter_applied(one.filter_version, NOW)
    answer(one, NOW)
    assert turn(one, NOW + 10) and len(one.exposed) == 2


def test_the_bound_gives_way_only_when_nobody_who_knows_is_left() -> None:
    one = settled(replace(QUICK, servlets=2, exposure_max=4), names="n1 n2 n3 n4 n5 n6 n7 n8")
    for round_ in range(9):
        turn(one, NOW + round_ * 10)
    known = sorted(one.exposed)
    assert len(known) == 4
    for count, name in enumerate(known, 1):
        one.burn(name, NOW + 200)
        one.filter_applied(one.filter_version, NOW + 200)
        answer(one, NOW + 200)
        assert len(one.exposed) == 4 + (count == 4)
    told = [event for event in iter(one.poll_event, None) if event.what == "overexposed"]
    assert [event.servlet for event in told] == [a.member.name for a in one.admitted()] and len(told) == 1


def draining(open_streams: dict[str, int], drain_max: float) -> tuple[SiteRole, str]:
    """A role one of whose servlets has been dismissed at NOW + 1, and that one's name."""
    config = SiteConfig(servlets=1, rotate_every=None, overlap=0.0, drain=10.0, drain_max=drain_max)
    one = SiteRole("wiki", config, signer, deliver, Random(1), carried=lambda name: open_streams.get(name, 0))
    one.set_pool([node("n1"), node("n2")], NOW)
    one.filter_applied(one.filter_version, NOW)
    answer(one, NOW)
    (first,) = one.admitted()
    one.rotate(NOW)
    one.filter_applied(one.filter_version, NOW)
    answer(one, NOW)
    answer(one, NOW + 1)
    assert one.stages()[first.member.name] is Stage.DRAINING
    return one, first.member.name


def test_a_way_stays_open_for_the_streams_on_it() -> None:
    streams: dict[str, int] = {}
    one, old = draining(streams, 3600.0)
    streams[old] = 2
    now = NOW + 1
    while now < NOW + 120:
        now = one.poll_timeout() or now
        (rule,) = (a for a in one.admitted() if a.member.name == old)
        assert rule.until is not None and rule.until > now, "the rule is prolonged before it ends"
        assert not [call for call in answer(one, now) if call.to and call.to.name == old], "nothing new is asked of it"
    streams[old] = 0
    while old in one.stages():
        now = one.poll_timeout() or now
        asked = answer(one, now)
    assert now < NOW + 140 and one.cut() == frozenset()
    assert [call.body for call in asked if call.to and call.to.name == old] == [Dismiss("wiki", asked[0].body.epoch)]  # type: ignore[attr-defined]
    assert [event.what for event in iter(one.poll_event, None)][-1] == "gone"


def test_but_not_for_ever() -> None:
    streams: dict[str, int] = {}
    one, old = draining(streams, 60.0)
    streams[old] = 1
    now = NOW + 1
    while old in one.stages():
        now = one.poll_timeout() or now
        answer(one, now)
    assert now == NOW + 61 and one.cut() == {old}
    assert Moved(old, "cut") in list(iter(one.poll_event, None))
    one.rotate(now)
    assert old in one.stages() and one.cut() == frozenset(), "drawn again it starts afresh"


def test_burning_cuts_what_is_open() -> None:
    one = settled()
    victim = one.admitted()[0].member.name
    one.burn(victim, NOW + 1)
    assert one.cut() == {victim}


def test_a_moved_servlet_gets_a_new_rule() -> None:
    one = settled(names="n1 n2")
    version = one.filter_version
    moved = Member("n1", node("n1").ring_id, "203.0.113.9:7443")
    one.set_pool([moved, node("n2")], NOW)
    assert moved in {a.member for a in one.admitted()} and one.filter_version == version + 1


@pytest.mark.parametrize("wanted", [3, 5])
def test_a_small_pool_gives_what_it_has(wanted: int) -> None:
    one = role(SiteConfig(servlets=wanted), names="n1 n2")
    assert len(one.admitted()) == 2
    one.set_pool([node(f"n{i}") for i in range(1, 9)], NOW + 1)
    assert len(one.admitted()) == wanted


class Sites(RuleBasedStateMachine):
    """Rotations, burns, deaths and a lagging filter at random; the order must hold whatever happens."""

    @initialize(seed=st.integers(0, 999))
    def begin(self, seed: int) -> None:
        self.now = NOW
        self.streams: dict[str, int] = {}
        config = SiteConfig(servlets=2, rotate_every=40.0, overlap=5.0, drain=10.0, drain_max=50.0, exposure_max=6)
        self.one = SiteRole("wiki", config, signer, deliver, Random(seed), carried=lambda name: self.streams.get(name, 0))
        self.one.set_pool([node(f"n{i}") for i in range(1, 9)], NOW)
        self.end: dict[str, float] = {}
        self.applied: set[str] = set()
        self.mute: set[str] = set()
        self.burned: set[str] = set()
        self.lag = False
        self.epochs: list[int] = []

    @rule(seconds=st.sampled_from([0.0, 1.0, 5.0, 20.0]))
    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (due := self.one.poll_timeout()) is not None and due <= until:
            self.now = max(self.now, due)
            self._work()
        self.now = until
        self._work()

    @rule()
    def rotate(self) -> None:
        self.one.rotate(self.now)

    @rule(name=st.sampled_from(["n1", "n2", "n3"]))
    def burn(self, name: str) -> None:
        if len(self.burned | {name}) <= 2:
            self.one.burn(name, self.now)
            self.burned.add(name)

    @rule(name=st.sampled_from(["n4", "n5", "n6"]))
    def fall_silent_or_speak(self, name: str) -> None:
        self.mute ^= {name}

    @rule(name=st.sampled_from([f"n{i}" for i in range(1, 9)]), count=st.integers(0, 2))
    def streams_open_and_end(self, name: str, count: int) -> None:
        if self.one.stages().get(name) in {Stage.SERVING, Stage.DRAINING} or not count:
            self.streams[name] = count

    @rule()
    def filter_lags_or_not(self) -> None:
        self.lag = not self.lag

    def _work(self) -> None:
        before = self.one.stages()
        self.one.handle_timeout(self.now)
        for name in before.keys() - self.one.stages().keys():
            assert before[name] is Stage.DRAINING
            if self.streams.get(name):
                assert name in self.one.cut() and self.now >= self.end[name] + 50.0, "cut before its time"
        for name, stage in self.one.stages().items():
            if stage is Stage.DRAINING and before.get(name) is not Stage.DRAINING:
                self.end[name] = self.now
        for name in self.one.cut():
            self.streams.pop(name, None)
        if not self.lag:
            self.applied = {a.member.name for a in self.one.admitted()}
            self.one.filter_applied(self.one.filter_version, self.now)
        for call in calls(self.one):
            assert call.to is not None
            if call.method == "appoint":
                assert call.to.name in self.applied, "appointed before the filter admits it"
                assert call.to.name not in self.burned
                self.epochs.append(appointment_in(call).epoch)
            if call.to.name in self.mute:
                self.one.failed(call.request_id, 0, "silent", self.now)
            else:
                self.one.answered(call.request_id, call.to, Appointed(True, 1) if call.method == "appoint" else Done(), self.now)

    @invariant()
    def who_is_not_told_to_go_is_admitted(self) -> None:
        admitted = {a.member.name: a for a in self.one.admitted()}
        assert len({a.slot for a in admitted.values()}) == len(admitted)
        assert not set(admitted) & self.burned
        for name, stage in self.one.stages().items():
            assert name in admitted
            assert (admitted[name].until is not None) == (stage is Stage.DRAINING)

    @invariant()
    def few_ever_know_the_way_in(self) -> None:
        left = self.one.exposed - self.burned
        assert len(self.one.exposed) <= 6 or not left - set(self.one.stages())

    @invariant()
    def enough_are_in_place_while_the_pool_allows(self) -> None:
        staying = [s for s in self.one.stages().values() if s is not Stage.DRAINING]
        assert len(staying) >= 1

    def teardown(self) -> None:
        if hasattr(self, "one"):
            self.lag, self.mute = False, set()
            self.wait(200.0)
            assert self.one.serving() >= 2


TestSites = Sites.TestCase
TestSites.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_a_renewed_certificate_signs_every_appointment_again() -> None:
    """In the same epoch, at once, and valid for longer than before: the old signature ends with the old certificate."""
    one = settled()
    before = {call.to.name: appointment_in(call) for call in answer(one, NOW + 60.0) if call.to is not None}
    one.renewed(NOW + 61.0)
    after = {call.to.name: appointment_in(call) for call in answer(one, NOW + 61.0) if call.to is not None}
    assert set(after) == {name for name, stage in one.stages().items() if stage is Stage.SERVING} == set(before)
    assert all(after[name].epoch == before[name].epoch and after[name].not_after > before[name].not_after for name in after)
