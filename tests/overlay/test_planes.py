"""Conversations with the machine that chooses a user's plane."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from polder.overlay.planes import ASIDE, BLOCKED, MOST, RETRY, TARGETS, WINDOW, Ask, Planes, Seen, Use

LIFE = 600.0


def up(*, auto: bool = True) -> Planes:
    """With a session that is up since second 0."""
    planes = Planes(auto=auto)
    planes.wanted("wiki.test", 443, 0.0)
    ask = planes.poll()
    assert ask == Ask("wiki.test", 443, None)
    assert planes.prefers("wiki", renewed=False)
    planes.issued(ask, "wiki", b"one", LIFE, renewed=False, now=0.0)
    planes.session("wiki", up=True, now=0.0)
    return planes


def asks(planes: Planes, now: float) -> bool:
    """Whether what is wanted now is asked for."""
    planes.wanted("wiki.test", 443, now)
    return planes.poll() is not None


def test_one_ticket_is_asked_for_at_a_time() -> None:
    planes = Planes(auto=True)
    for moment in (0.0, 0.1, 5.0):
        planes.wanted("wiki.test", 443, moment)
    assert planes.poll() == Ask("wiki.test", 443, None)
    assert planes.poll() is None


def test_a_site_with_two_ports_has_one_session_and_both_ask_for_another_when_it_is_over() -> None:
    planes = Planes(auto=True)
    wanted: list[Ask] = []
    for port in (80, 443):
        planes.wanted("wiki.test", port, 0.0)
        ask = planes.poll()
        assert isinstance(ask, Ask)
        wanted.append(ask)
    for number, ask in enumerate(wanted):
        planes.issued(ask, "wiki", bytes([number]), LIFE, renewed=False, now=1.0)
    planes.wanted("wiki.test", 80, 2.0)
    planes.wanted("wiki.test", 443, 2.0)
    assert planes.poll() is None, "it begins"
    planes.session("wiki", up=True, now=3.0)
    planes.session("wiki", up=False, now=50.0)
    for port in (80, 443):
        planes.wanted("wiki.test", port, 50.0)
        assert planes.poll() == Ask("wiki.test", port, None)


def test_of_a_session_of_which_nothing_is_heard_another_is_asked_for_when_its_ticket_ends() -> None:
    planes = Planes(auto=True)
    assert asks(planes, 0.0)
    planes.issued(Ask("wiki.test", 443, None), "wiki", b"one", LIFE, renewed=False, now=0.0)
    assert not asks(planes, LIFE - 1) and asks(planes, LIFE)


def test_who_is_refused_asks_ever_less_often() -> None:
    planes, now, waits = Planes(auto=True), 0.0, []
    ask = Ask("wiki.test", 443, None)
    assert asks(planes, now)
    for _ in range(10):
        planes.refused(ask, now)
        refused = now
        while not asks(planes, now):
            now += 1.0
        waits.append(now - refused)
    assert waits[0] == RETRY and waits == sorted(waits) and waits[-1] == MOST


def test_who_is_refused_for_weeks_still_asks() -> None:
    planes = Planes(auto=True)
    for number in range(2000):
        assert asks(planes, number * MOST)
        planes.refused(Ask("wiki.test", 443, None), number * MOST)


def test_names_that_nobody_knows_are_forgotten_when_there_are_many() -> None:
    planes = Planes(auto=True)
    for number in range(TARGETS):
        planes.wanted(f"{number}.wiki.test", 443, 0.0)
    asked = [planes.poll() for _ in range(TARGETS)]
    assert None not in asked and not asks(planes, 0.0), "all under way: one more waits"
    for ask in asked:
        assert isinstance(ask, Ask)
        planes.refused(ask, 1.0)
    assert not asks(planes, 1.0 + RETRY - 0.1) and asks(planes, 1.0 + RETRY)


def renewals(planes: Planes, now: float) -> list[Ask]:
    """What is to be renewed."""
    planes.handle_timeout(now)
    found = []
    while (out := planes.poll()) is not None:
        assert isinstance(out, Ask)
        found.append(out)
    return found


def test_a_ticket_is_renewed_in_time_and_once() -> None:
    planes = up()
    ask = Ask("wiki.test", 443, b"one")
    assert [renewals(planes, now) for now in (399.0, 400.5, 401.0)] == [[], [ask], []]
    assert planes.prefers("wiki", renewed=True)
    planes.issued(ask, "wiki", b"two", LIFE, renewed=True, now=401.0)
    assert [renewals(planes, now) for now in (800.0, 801.5)] == [[], [Ask("wiki.test", 443, b"two")]]


def test_a_session_is_renewed_though_another_plane_was_chosen() -> None:
    planes = up()
    planes.configure(auto=False)
    assert renewals(planes, 401.0) == [Ask("wiki.test", 443, b"one")]


def test_what_was_left_aside_is_used_where_nothing_is_judged_any_more() -> None:
    planes = up()
    assert judged(planes, 1.0, 1, 0.05, 0.05, failed=1) == [Use("wiki", on=False)]
    assert not planes.prefers("wiki", renewed=True) and planes.prefers("wiki", renewed=False)
    planes.configure(auto=False)
    assert planes.poll() == Use("wiki", on=True)
    planes.configure(auto=True)
    assert planes.poll() is None


def test_what_cannot_be_carried_on_is_begun_anew() -> None:
    planes = up()
    planes.handle_timeout(400.5)
    ask = planes.poll()
    assert isinstance(ask, Ask)
    planes.refused(ask, 401.0)
    assert planes.poll() == Ask("wiki.test", 443, None)


def judged(planes: Planes, since: float, seconds: float, over: float, through: float, failed: int = 0) -> list[Use]:
    """What is said while so much is measured every second."""
    said = []
    for second in range(int(seconds)):
        planes.measured(Seen("wiki", over, through, failed), since + second)
        while (out := planes.poll()) is not None:
            assert isinstance(out, Use)
            said.append(out)
    return said


def test_a_failing_session_is_left_aside_at_once_and_used_again_later() -> None:
    planes = up()
    assert judged(planes, 1.0, 20, 0.05, 0.05) == []
    assert judged(planes, 21.0, 1, 0.05, 0.05, failed=1) == [Use("wiki", on=False)]
    assert judged(planes, 22.0, ASIDE - 2, 0.05, 0.05, failed=1) == []
    assert judged(planes, 20.0 + ASIDE, 2 * WINDOW, 0.05, 0.05, failed=1) == [Use("wiki", on=True)]


def test_a_session_that_takes_far_round_is_left_aside_until_it_does_no_more() -> None:
    planes = up()
    assert judged(planes, 1.0, 300, 0.09, 0.05) == [], "a little slower is no reason"
    assert judged(planes, 301.0, 2 * WINDOW, 0.2, 0.05) == [Use("wiki", on=False)]
    assert judged(planes, 400.0, 600, 0.09, 0.05) == [], "between the bounds nothing changes"
    assert judged(planes, 1000.0, 2 * WINDOW, 0.07, 0.05) == [Use("wiki", on=True)]


def test_a_full_line_is_no_reason() -> None:
    planes = up()
    for second in range(200):
        planes.measured(Seen("wiki", 0.05 if second % 20 == 0 else 0.9, 0.05, 0), float(second))
    assert planes.poll() is None


def test_where_nothing_was_measured_through_access_points_relays_stay() -> None:
    assert judged(up(), 0.0, 300, 0.5, 0.0) == []


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 3)), max_size=200))
def test_planes_change_at_most_once_in_a_window(seen: list[tuple[float, float, int]]) -> None:
    planes, changes, failed = up(), list[float](), 0
    for second, (over, through, more) in enumerate(seen):
        failed += more == 3
        planes.measured(Seen("wiki", over, through, failed), float(second))
        while planes.poll() is not None:
            changes.append(float(second))
    assert all(later - earlier >= min(WINDOW, ASIDE) for earlier, later in zip(changes[::2], changes[1::2], strict=False))


def test_where_only_relays_may_be_used_nothing_is_judged() -> None:
    planes = up(auto=False)
    planes.measured(Seen("wiki", 9.0, 0.01, 5), 1.0)
    assert planes.poll() is None
    planes.configure(auto=True)
    assert judged(planes, 2.0, 20, 0.05, 0.05, failed=5) == [], "what failed before does not count"


def test_blocked_datagrams_are_tried_ever_less_often() -> None:
    planes, now, waits = Planes(auto=True), 0.0, []
    for _ in range(4):
        planes.wanted("wiki.test", 443, now)
        ask = planes.poll()
        assert isinstance(ask, Ask)
        planes.issued(ask, "wiki", b"n", LIFE, renewed=False, now=now)
        planes.session("wiki", up=False, now=now)
        failed = now
        while True:
            now += 1.0
            planes.wanted("wiki.test", 443, now)
            if (again := planes.poll()) is not None:
                assert isinstance(again, Ask)
                break
        waits.append(now - failed)
        planes.issued(again, "wiki", b"n", LIFE, renewed=False, now=now)
        planes.session("wiki", up=False, now=now)
        now += 10_000
    assert waits[0] == BLOCKED and waits == sorted(waits) and waits[1] >= 2 * BLOCKED


@given(st.lists(st.tuples(st.integers(0, 7), st.floats(0, 50)), max_size=60))
def test_never_two_requests_for_one_target_at_once(steps: list[tuple[int, float]]) -> None:
    planes, now, open_asks = Planes(auto=True), 0.0, list[Ask]()
    for step, wait in steps:
        now += wait
        match step:
            case 0 | 1:
                planes.wanted("wiki.test", 443, now)
            case 2 if open_asks:
                ask = open_asks.pop()
                planes.issued(ask, "wiki", b"name", LIFE, renewed=ask.renews is not None, now=now)
            case 3 if open_asks:
                planes.refused(open_asks.pop(), now)
            case 4:
                planes.session("wiki", up=True, now=now)
            case 5:
                planes.handle_timeout(now)
            case 6:
                planes.session("wiki", up=False, now=now)
            case _:
                planes.measured(Seen("wiki", 0.1, 0.2, 0), now)
        while (out := planes.poll()) is not None:
            if isinstance(out, Ask):
                open_asks.append(out)
        assert sum(ask.renews is None for ask in open_asks) <= 1
