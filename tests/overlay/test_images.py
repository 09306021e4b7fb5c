"""What roles hand to the process that takes their place: it says the same, and goes on where the old one was."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec

from polder.model import Member
from polder.model.ring_messages import Rumour
from polder.overlay.access import AccessImage
from polder.overlay.beacon import BeaconImage
from polder.overlay.servlet import ServletImage
from polder.overlay.site import SiteImage
from polder.ring import Chord, ChordConfig
from polder.ring.onehop import OneHop, OneHopConfig
from polder.ring.router import RingImage, Send
from polder.ring.table import standing
from tests.overlay import test_together as together

MEMBERS = sorted((Member.of(f"n{n}", n * (1 << 120), f"127.0.0.1:{7000 + n}") for n in range(1, 9)), key=lambda m: m.ring_id)


def passed(image: Any, kind: Any) -> Any:
    """As it arrives in the next process."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(image), type=kind)


def test_a_chord_node_goes_on_as_the_member_that_it_was() -> None:
    tables = list(standing(MEMBERS, 4))
    old = Chord(MEMBERS[2], ChordConfig(), Random(1))
    assert old.image() is None, "it is no member yet"
    old.settled(tables[2], 10.0)
    new = Chord(MEMBERS[2], ChordConfig(), Random(2))
    new.resume(passed(old.image(), RingImage), 500.0)
    assert new.joined
    assert (new.successors(), new.members()) == (old.successors(), old.members())
    for key in range(0, 1 << 128, 1 << 122):
        assert new.owns(key) == old.owns(key)
        assert new.next_hops(key) == old.next_hops(key)
    due = new.poll_timeout()
    assert due is not None and 500.0 <= due < 510.0, "it keeps the ring right by its own clock"
    new.handle_timeout(due)
    assert any(isinstance(out, Send) for out in iter(new.poll_transmit, None))


def test_a_one_hop_node_goes_on_without_a_rumour_of_its_death() -> None:
    old = OneHop(MEMBERS[0], OneHopConfig(), Random(1))
    assert old.image() is None
    image = RingImage(rumours=tuple(Rumour(member, 7, member != MEMBERS[3]) for member in MEMBERS), version=7)
    old.resume(image, 1.0)
    new = OneHop(MEMBERS[0], OneHopConfig(), Random(2))
    new.resume(passed(old.image(), RingImage), 2.0)
    assert new.joined
    assert new.members() == old.members()
    assert len(new.members()) == len(MEMBERS) - 2
    assert passed(new.image(), RingImage).version == 7, "no new version: nobody has to hear of anything"


def test_roles_say_the_same_after_they_passed_to_the_next_process() -> None:
    world = together.World(together.FAST)
    world.run(together.NOW + 60, watch=False)
    for turn in range(1, 5):
        now = world.now
        for place in world.nodes.values():

            def said(place: together.Place = place, now: float = now) -> tuple[Any, ...]:
                servlet = place.servlet
                return place.beacons.entries(now), servlet.deliveries(), servlet.ready(), place.access.ways(now)

            before = said()
            place.beacons.resume(passed(place.beacons.image(), BeaconImage))
            place.servlet.resume(passed(place.servlet.image(), ServletImage))
            place.access.resume(passed(place.access.image(), AccessImage))
            assert said() == before
        site = world.site
        told = site.stages(), site.admitted(), site.epoch, site.rotate_at, site.cut()
        site.resume(passed(site.image(), SiteImage))
        assert (site.stages(), site.admitted(), site.epoch, site.rotate_at, site.cut()) == told
        # Every process has been replaced, in the middle of whatever it did: there is a way at every half second after it.
        world.run(together.NOW + 60 + 7.5 * turn)
