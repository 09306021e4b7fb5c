"""The servlet's role: whom it obeys, whom it tells, when it stops."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polder.model import Refused, Verdict
from polder.model.overlay_messages import (
    Advertise,
    Advertised,
    Appoint,
    Appointed,
    Delivery,
    Dismiss,
    EpochSecret,
    Transport,
    Withdraw,
)
from polder.overlay import CallOut, ServletRole, beacon_keys
from polder.overlay.checks import MAX_LIFE
from tests.overlay.support import (
    DELIVERY,
    NOW,
    SECRET,
    appoint,
    appointment,
    caller,
    key_of,
    node,
    servlet_role,
    site_caller,
    withdrawal,
)


def calls(role: ServletRole) -> list[CallOut]:
    out = []
    while (call := role.poll_call()) is not None:
        out.append(call)
    return out


def serving(role: ServletRole, now: float = NOW) -> list[CallOut]:
    """Appointed by wiki and ready; its advertisements."""
    role.appoint(appoint(appointment()), site_caller("wiki"), now)
    role.set_ready("wiki", True, now)
    role.handle_timeout(now)
    return calls(role)


def test_nothing_is_advertised_before_the_way_stands() -> None:
    role = servlet_role()
    assert role.appoint(appoint(appointment()), site_caller("wiki"), NOW) == Appointed(False, 0)
    role.handle_timeout(NOW)
    assert calls(role) == [] and role.ready() == frozenset()
    assert role.deliveries() == {"wiki": DELIVERY} and role.take_change()
    role.set_ready("wiki", True, NOW)
    assert role.poll_timeout() == NOW
    role.handle_timeout(NOW)
    out = calls(role)
    assert [(call.method, call.to, call.ring_key) for call in out] == [
        ("advertise", None, int.from_bytes(key_of(index=i), "big")) for i in range(3)
    ]
    assert isinstance(out[0].body, Advertise) and out[0].body.member == node("n1") and out[0].body.key_epoch == 1


def test_the_site_hears_how_many_beacons_took_it() -> None:
    role = servlet_role()
    for index, call in enumerate(serving(role)):
        assert role.appoint(appoint(appointment()), site_caller("wiki"), NOW) == Appointed(True, index)
        role.answered(call.request_id, node(f"b{index}"), Advertised(30.0), NOW)
    assert role.appoint(appoint(appointment()), site_caller("wiki"), NOW).beacons == 3
    assert role.appoint(appoint(appointment()), site_caller("wiki"), NOW + 31).beacons == 0, "not refreshed: forgotten"


def test_advertisements_come_every_period_with_jitter_and_sooner_after_a_failure() -> None:
    role = servlet_role()
    first = serving(role)
    for index, call in enumerate(first[1:]):
        role.answered(call.request_id, node(f"b{index}"), Advertised(30.0), NOW)
    role.failed(first[0].request_id, 0, "no answer", NOW)
    due = role.poll_timeout()
    assert due is not None and NOW < due <= NOW + 2.25
    role.handle_timeout(due)
    (again,) = calls(role)
    assert again.ring_key == first[0].ring_key
    role.answered(again.request_id, node("b"), Advertised(30.0), due)
    due = role.poll_timeout()
    assert due is not None and NOW + 7.5 <= due <= NOW + 12.5 + 2.25


@pytest.mark.parametrize(
    ("body", "who", "verdict"),
    [
        (lambda: appoint(appointment()), caller("n2"), Verdict.WRONG_HOLDER),  # a node speaks for a site
        (lambda: appoint(appointment()), site_caller("shop"), Verdict.WRONG_HOLDER),
        (lambda: appoint(appointment("shop")), site_caller("wiki"), Verdict.WRONG_HOLDER),
        (lambda: appoint(appointment(servlet="n2")), site_caller("wiki"), Verdict.WRONG_HOLDER),
        (lambda: appoint(appointment(end=NOW)), site_caller("wiki"), Verdict.EXPIRED),
        (lambda: appoint(appointment(begin=NOW + 100)), site_caller("wiki"), Verdict.NOT_YET),
        (lambda: appoint(appointment(end=NOW + 2 * MAX_LIFE)), site_caller("wiki"), Verdict.MALFORMED),
        (lambda: appoint(appointment(by="shop")), site_caller("wiki"), Verdict.WRONG_HOLDER),
        (lambda: appoint(withdrawal()), site_caller("wiki"), Verdict.MALFORMED),
    ],
)
def test_false_appointments_are_refused(body, who, verdict: Verdict) -> None:  # type: ignore[no-untyped-def]
    role = servlet_role()
    with pytest.raises(Refused) as info:
        role.appoint(body(), who, NOW)
    assert info.value.verdict is verdict
    assert role.deliveries() == {} and not role.take_change()


def test_an_older_appointment_is_a_replay() -> None:
    role = servlet_role()
    role.appoint(appoint(appointment(epoch=6)), site_caller("wiki"), NOW)
    with pytest.raises(Refused) as info:
        role.appoint(appoint(appointment(epoch=5)), site_caller("wiki"), NOW)
    assert info.value.verdict is Verdict.REPLAYED


def gre(inner: str = "fd00::1", outer: str = "198.51.100.7", key: int = 7) -> Delivery:
    return Delivery(Transport.GRE, outer, key, "fd00::2", inner, 1400, ((80, 80),))


def tcp(inner: str) -> Delivery:
    return Delivery(Transport.TCP, inner_remote=inner, ports=((80, 80),))


@pytest.mark.parametrize(
    "delivery",
    [
        tcp("127.0.0.1"), tcp("::1"), tcp("::ffff:127.0.0.1"), tcp("10.1.2.3"), tcp("169.254.169.254"), tcp("0.0.0.0"),
        tcp("224.0.0.1"), tcp("192.168.1.1"), tcp("fd00::1"), tcp("fe80::1"), tcp("255.255.255.255"), tcp("localhost"),
        tcp("wiki.test"), tcp(""), gre(inner="127.0.0.1"), gre(outer="127.0.0.1"), gre(inner="169.254.169.254"),
        gre(outer="224.0.0.5"), gre(outer=""), gre(key=1 << 32),
        Delivery(Transport.DIALOUT, ports=((0, 80),)), Delivery(Transport.DIALOUT, ports=((80, 70000),)),
    ],
)  # fmt: skip
def test_a_site_cannot_use_its_servlet_to_reach_the_servlets_own_network(delivery: Delivery) -> None:
    role = servlet_role()
    with pytest.raises(Refused) as info:
        role.appoint(appoint(appointment(), delivery), site_caller("wiki"), NOW)
    assert info.value.verdict in {Verdict.DENIED, Verdict.MALFORMED}
    assert role.deliveries() == {}


@pytest.mark.parametrize(
    "delivery", [gre(), gre("10.9.9.1"), tcp("203.0.114.9"), Delivery(Transport.DIALOUT, ports=((80, 8080),))]
)
def test_what_sites_need_is_accepted(delivery: Delivery) -> None:
    servlet_role().appoint(appoint(appointment(), delivery), site_caller("wiki"), NOW)


def test_in_a_laboratory_local_origins_may_be_allowed() -> None:
    for inner in ("127.0.0.1", "::1", "10.1.2.3"):
        servlet_role(local=True).appoint(appoint(appointment(), tcp(inner)), site_caller("wiki"), NOW)


def test_secrets_of_a_delivery_are_not_printed() -> None:
    text = repr(appoint(appointment(), gre(key=123456789))) + repr(Appoint)
    assert "123456789" not in text and "198.51" not in text


def test_dismissal_withdraws_at_once_and_carries_on_while_it_drains() -> None:
    role = servlet_role()
    out = serving(role)
    for index, call in enumerate(out):
        role.answered(call.request_id, node(f"b{index}"), Advertised(30.0), NOW)
    role.dismiss(Dismiss("wiki", 5, 20.0), site_caller("wiki"), NOW + 1)
    assert [(call.method, call.to, call.body) for call in calls(role)] == [
        ("withdraw", node(f"b{index}"), Withdraw("wiki", 5)) for index in range(3)
    ]
    role.handle_timeout(NOW + 20)
    assert calls(role) == [] and "wiki" in role.deliveries()
    assert role.poll_timeout() == NOW + 21
    role.handle_timeout(NOW + 21)
    assert role.deliveries() == {} and role.take_change()


def test_only_the_site_dismisses_and_only_what_it_knew() -> None:
    role = servlet_role()
    serving(role)
    for who in (site_caller("shop"), caller("n2")):
        with pytest.raises(Refused):
            role.dismiss(Dismiss("wiki", 5), who, NOW)
    role.dismiss(Dismiss("wiki", 4), site_caller("wiki"), NOW)  # of an earlier epoch: late
    assert role.poll_timeout() is not None and "wiki" in role.deliveries() and calls(role) == []


def test_an_appointment_ends_by_itself() -> None:
    role = servlet_role()
    for call in serving(role):
        role.answered(call.request_id, node("b"), Advertised(30.0), NOW)
    role.handle_timeout(NOW + 600)
    assert role.deliveries() == {}
    assert {call.method for call in calls(role)} == {"withdraw"}


def test_an_advertisement_that_comes_too_late_is_taken_back() -> None:
    role = servlet_role()
    first, *_ = serving(role)
    role.dismiss(Dismiss("wiki", 5, 20.0), site_caller("wiki"), NOW)
    role.answered(first.request_id, node("b0"), Advertised(30.0), NOW + 1)
    assert [(call.method, call.to) for call in calls(role)] == [("withdraw", node("b0"))]


def test_when_a_key_changes_hands_the_old_beacon_is_told() -> None:
    role = servlet_role()
    first, *_ = serving(role)
    role.answered(first.request_id, node("old"), Advertised(30.0), NOW)
    role.handle_timeout(NOW + 12.5)
    again = next(call for call in calls(role) if call.ring_key == first.ring_key)
    role.answered(again.request_id, node("new"), Advertised(30.0), NOW + 12.5)
    assert [(call.method, call.to) for call in calls(role)] == [("withdraw", node("old"))]


def test_a_way_that_falls_is_withdrawn_and_a_new_one_advertised_at_once() -> None:
    role = servlet_role()
    for call in serving(role):
        role.answered(call.request_id, node("b"), Advertised(30.0), NOW)
    role.set_ready("wiki", False, NOW + 1)
    assert {call.method for call in calls(role)} == {"withdraw"}
    role.handle_timeout(NOW + 11)
    assert calls(role) == []
    role.set_ready("wiki", True, NOW + 12)
    role.handle_timeout(NOW + 12)
    assert len(calls(role)) == 3


def test_another_delivery_must_be_made_ready_anew() -> None:
    role = servlet_role()
    serving(role)
    assert role.ready() == {"wiki"}
    assert not role.appoint(appoint(appointment(), gre(key=99)), site_caller("wiki"), NOW).ready
    assert role.ready() == frozenset() and role.deliveries()["wiki"].key == 99


def test_a_node_with_several_keys_counts_once_and_spare_keys_find_others() -> None:
    role = servlet_role()
    for call in serving(role):
        role.answered(call.request_id, node("b"), Advertised(30.0), NOW)
    assert role.appoint(appoint(appointment()), site_caller("wiki"), NOW).beacons == 1
    told = 3
    while role.appoint(appoint(appointment()), site_caller("wiki"), NOW).beacons < 3:
        role.handle_timeout(NOW)
        (call,) = calls(role)
        assert call.ring_key == int.from_bytes(beacon_keys(SECRET.secret, "wiki", 9)[told], "big")
        told += 1
        role.answered(call.request_id, node(f"b{told}"), Advertised(30.0), NOW)
    assert told == 5
    role.handle_timeout(NOW)
    assert calls(role) == []


def test_a_new_epoch_is_advertised_at_once_and_counted_anew() -> None:
    role = servlet_role()
    for index, call in enumerate(serving(role)):
        role.answered(call.request_id, node(f"b{index}"), Advertised(30.0), NOW)
    assert role.appoint(appoint(appointment(epoch=6)), site_caller("wiki"), NOW + 1) == Appointed(True, 0)
    role.handle_timeout(NOW + 1)
    assert len(calls(role)) == 3


def test_withdrawals_of_others_travel_with_the_advertisements() -> None:
    role = servlet_role()
    serving(role)
    word = withdrawal("n2")
    role.appoint(appoint(appointment(), out=[word]), site_caller("wiki"), NOW + 1)
    role.handle_timeout(NOW + 1)
    bodies = [call.body for call in calls(role)]
    assert len(bodies) == 3 and all(isinstance(body, Advertise) and body.withdrawals == (word,) for body in bodies)


def test_the_coming_epochs_beacons_hear_of_it_before_access_points_ask_them() -> None:
    role = servlet_role()
    coming = EpochSecret(2, int(NOW) + 35, b"t" * 32)
    role._secrets.learn([coming])
    serving(role)
    told: dict[int, float] = {}
    now = NOW
    while now < NOW + 120:
        due = role.poll_timeout()
        assert due is not None
        now = max(now, due)
        role.handle_timeout(now)
        for call in calls(role):
            role.answered(call.request_id, node("b"), Advertised(30.0), now)
            assert call.ring_key is not None
            told.setdefault(call.ring_key, now)
    for key in beacon_keys(coming.secret, "wiki"):
        assert told[int.from_bytes(key, "big")] < coming.not_before


@given(st.lists(st.sampled_from(["appoint", "ready", "fall", "dismiss", "time", "answer", "fail"]), max_size=30), st.randoms())
@settings(max_examples=60, deadline=None)
def test_whatever_happens_only_a_ready_live_appointment_is_advertised(steps: list[str], rng) -> None:  # type: ignore[no-untyped-def]
    role, now = servlet_role(), NOW
    ready = appointed = False
    open_calls: list[CallOut] = []
    for step in steps:
        now += rng.choice([0.0, 1.0, 9.0])
        match step:
            case "appoint":
                role.appoint(appoint(appointment(end=NOW + 5000)), site_caller("wiki"), now)
                appointed = True
            case "ready" | "fall":
                role.set_ready("wiki", step == "ready", now)
                ready = step == "ready" and "wiki" in role.deliveries()  # also while it drains
            case "dismiss":
                role.dismiss(Dismiss("wiki", 5, 3.0), site_caller("wiki"), now)
                appointed = False
            case "answer" | "fail" if open_calls:
                call = open_calls.pop(rng.randrange(len(open_calls)))
                if step == "answer":
                    role.answered(call.request_id, node("b"), Advertised(30.0), now)
                else:
                    role.failed(call.request_id, 503, "busy", now)
        role.handle_timeout(now)
        if "wiki" not in role.deliveries():
            ready = False
        out = [call for call in calls(role) if call.method == "advertise"]
        assert not out or (ready and appointed)
        open_calls += out


def test_a_drained_way_stands_until_the_site_says_that_nothing_is_open() -> None:
    role = servlet_role()
    serving(role)
    role.dismiss(Dismiss("wiki", 5, 30.0), site_caller("wiki"), NOW + 1)
    role.handle_timeout(NOW + 31)
    assert role.deliveries() == {} and role.standing() == {"wiki": DELIVERY} and role.take_change()
    with pytest.raises(Refused):
        role.dismiss(Dismiss("wiki", 9), site_caller("shop"), NOW + 40)
    role.dismiss(Dismiss("wiki", 4), site_caller("wiki"), NOW + 40)
    assert role.standing() == {"wiki": DELIVERY}, "an older word"
    role.dismiss(Dismiss("wiki", 5), site_caller("wiki"), NOW + 40)
    assert role.standing() == {} and role.take_change()


def test_a_way_does_not_stand_for_ever_nor_after_burning_and_a_new_appointment_takes_it_over() -> None:
    role = servlet_role()
    serving(role)
    role.dismiss(Dismiss("wiki", 5, 30.0), site_caller("wiki"), NOW)
    role.handle_timeout(NOW + 30)
    due = role.poll_timeout()
    assert due is not None
    role.handle_timeout(due)
    assert role.standing() == {} and role.poll_timeout() is None
    serving(role, NOW + 31)
    role.dismiss(Dismiss("wiki", 5), site_caller("wiki"), NOW + 32)
    role.handle_timeout(NOW + 32)
    assert role.standing() == {}, "burned: at once"
    serving(role, NOW + 33)
    role.dismiss(Dismiss("wiki", 5, 1.0), site_caller("wiki"), NOW + 33)
    role.handle_timeout(NOW + 34)
    role.appoint(appoint(appointment(epoch=6)), site_caller("wiki"), NOW + 35)
    assert role.standing() == role.deliveries() == {"wiki": DELIVERY}


def test_heirs_are_told_and_leave_with_the_beacons() -> None:
    role = servlet_role()
    heir = node("h1")
    first, *others = serving(role)
    role.answered(first.request_id, node("b0"), Advertised(30.0, (heir,)), NOW)
    (told,) = calls(role)
    assert (told.to, told.method) == (heir, "advertise")
    assert isinstance(told.body, Advertise) and told.body.heir and told.body.ring_key == key_of()
    role.answered(told.request_id, heir, Advertised(30.0), NOW)
    assert role.appoint(appoint(appointment()), site_caller("wiki"), NOW).beacons == 1, "an heir is no beacon"
    for call in others:
        role.failed(call.request_id, 0, "no answer", NOW)
    role.set_ready("wiki", False, NOW)
    assert {(call.to, call.method) for call in calls(role)} == {(node("b0"), "withdraw"), (heir, "withdraw")}


def test_an_heir_that_answers_too_late_is_taken_back() -> None:
    role = servlet_role()
    first = serving(role)[0]
    role.answered(first.request_id, node("b0"), Advertised(30.0, (node("h1"),)), NOW)
    (told,) = calls(role)
    role.set_ready("wiki", False, NOW)
    calls(role)
    role.answered(told.request_id, node("h1"), Advertised(30.0), NOW)
    assert [(call.to, call.method) for call in calls(role)] == [(node("h1"), "withdraw")]


def test_a_dead_beacons_key_is_advertised_anew_at_once() -> None:
    role = servlet_role()
    for index, call in enumerate(serving(role)):
        role.answered(call.request_id, node(f"b{index}"), Advertised(30.0), NOW)
    role.unreachable("b1", NOW)
    due = role.poll_timeout()
    assert due is not None and due <= NOW + 1
    role.handle_timeout(due)
    assert [call.ring_key for call in calls(role)] == [int.from_bytes(key_of(index=1), "big")]
