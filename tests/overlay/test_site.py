"""The site's role: the safe order of every change, told step by step (traps 3 to 5)."""

from __future__ import annotations

from random import Random

import pytest

from polder.model import decode
from polder.model.overlay_messages import Appoint, Appointed, Dismiss, Withdrawal
from polder.overlay import Moved, SiteConfig, SiteRole, Stage
from polder.overlay.checks import MAX_LIFE, SKEW, check_times
from tests.overlay.site_conversation import CONFIG, answer, appointment_in, calls, deliver, role, settled, signer
from tests.overlay.support import NOW, node


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
    assert {a.member.name for a in one.admitted()} == old | new
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


def test_a_rotation_asked_for_during_another_begins_when_that_ends() -> None:
    one = settled(SiteConfig(servlets=1, rotate_every=None), names="n1 n2 n3 n4")
    assert one.rotate(NOW + 10)
    epoch, places = one.epoch, one.stages()
    assert one.rotate(NOW + 10)
    one.handle_timeout(NOW + 11)
    assert (one.epoch, one.stages()) == (epoch, places), "one at a time"
    due = one.poll_timeout()
    assert due is None or due > NOW + 11, "and nobody is kept busy by the wait"
    one.filter_applied(one.filter_version, NOW + 12)
    answer(one, NOW + 12)
    assert one.poll_timeout() is not None
    one.handle_timeout(NOW + 13)
    assert one.epoch > epoch and Stage.ADMITTING in one.stages().values()
    one.filter_applied(one.filter_version, NOW + 14)
    answer(one, NOW + 14)
    assert one.rotate_at is None, "once"


def test_rotation_needs_somebody_else() -> None:
    one = settled(names="n1 n2")
    assert not one.rotate(NOW) and one.serving() == 2


def test_a_rotation_waits_for_who_is_on_the_way_out_where_there_is_nobody_else() -> None:
    one = settled(SiteConfig(servlets=1, rotate_every=None, overlap=5.0, drain=100.0), names="n1 n2")
    (first,) = one.admitted()
    one.rotate(NOW)
    one.filter_applied(one.filter_version, NOW)
    answer(one, NOW)
    assert one.serving() == 2, "the overlap"
    assert one.rotate(NOW + 1) and one.serving() == 2
    assert one.poll_timeout() > NOW + 1, "and nobody is kept busy by the wait"
    one.handle_timeout(NOW + 6)
    assert one.stages()[first.member.name] is Stage.APPOINTING, "it goes, and comes back"
    answer(one, NOW + 7)
    assert one.stages()[first.member.name] is Stage.SERVING and one.rotate_at is None, "once"


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


@pytest.mark.parametrize("wanted", [3, 5])
def test_a_small_pool_gives_what_it_has(wanted: int) -> None:
    one = role(SiteConfig(servlets=wanted), names="n1 n2")
    assert len(one.admitted()) == 2
    one.set_pool([node(f"n{i}") for i in range(1, 9)], NOW + 1)
    assert len(one.admitted()) == wanted


def test_a_renewed_certificate_signs_every_appointment_again() -> None:
    """In the same epoch, at once, and valid for longer than before: the old signature ends with the old certificate."""
    one = settled()
    before = {call.to.name: appointment_in(call) for call in answer(one, NOW + 60.0) if call.to is not None}
    one.renewed(NOW + 61.0)
    after = {call.to.name: appointment_in(call) for call in answer(one, NOW + 61.0) if call.to is not None}
    assert set(after) == {name for name, stage in one.stages().items() if stage is Stage.SERVING} == set(before)
    assert all(after[name].epoch == before[name].epoch and after[name].not_after > before[name].not_after for name in after)
