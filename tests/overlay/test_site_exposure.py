"""How many nodes ever know the way into a site, and how long a dismissed one keeps it."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from polder.model import Member
from polder.model.overlay_messages import Dismiss
from polder.overlay import Moved, SiteConfig, SiteRole, Stage
from tests.overlay.site_conversation import answer, deliver, settled, signer
from tests.overlay.support import NOW, node


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
