"""What every ``Router`` promises, asked of both: Chord and the one-hop ring."""

from __future__ import annotations

from random import Random

import pytest

from polder.model import RING_SIZE, Kind, Member, Refused, Verdict
from polder.model import ring_messages as m
from polder.model.overlay_messages import Caller
from polder.ring import Chord, ChordConfig, Joined, Misbehaved, OneHop, OneHopConfig, Router
from tests.ring.net import Net


def chord(me: Member, rng: Random) -> Router:
    return Chord(me, ChordConfig(stabilise_every=1.0, finger_every=1.0, reunite_every=5.0), rng)


def onehop(me: Member, rng: Random) -> Router:
    return OneHop(me, OneHopConfig(reunite_every=5.0), rng)


routers = pytest.mark.parametrize("make", [chord, onehop])


def grown(make, size: int, seed: int = 1, loss: float = 0.0) -> Net:  # type: ignore[no-untyped-def]
    net = Net(make, seed, loss)
    net.grow(size)
    net.settle(lambda: agree(net))
    return net


def agree(net: Net) -> bool:
    """All are members, know who follows them, and of a sample of keys each is owned by exactly the right one."""
    order = sorted((r.me for r in net.living()), key=lambda each: each.id)
    follows = {me: order[(index + 1) % len(order)] for index, me in enumerate(order)}
    keys = [Random(5).randrange(RING_SIZE) for _ in range(50)]
    return (
        all(r.joined for r in net.living())
        and all((r.successors() or (r.me,))[0] == follows[r.me] for r in net.living())
        and all([r.me for r in net.living() if r.owns(key)] == [net.owner(key)] for key in keys)
    )


def route(net: Net, start: str, key: int) -> list[str]:
    """The way of a request in mode ``ring``."""
    way = [start]
    while (hop := net.routers[way[-1]].next_hops(key).next) is not None:
        way.append(hop.name)
        assert len(way) <= len(net.routers) + 1, "it goes round"
    return way


@routers
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 12, 30])
def test_every_key_has_one_owner_whom_all_lookups_and_all_routes_reach(make, size: int) -> None:  # type: ignore[no-untyped-def]
    net = grown(make, size)
    for _ in range(20):
        key = net.rng.randrange(RING_SIZE)
        start = net.rng.choice(net.living()).me.name
        assert net.lookup(start, key).members[0] == net.owner(key)
        assert route(net, start, key)[-1] == net.owner(key).name
    assert all(any(isinstance(e, Joined) for e in net.events[r.me.name]) for r in net.living())


@routers
def test_names_its_neighbours_in_order_without_itself(make) -> None:  # type: ignore[no-untyped-def]
    net = grown(make, 9)
    order = sorted((r.me for r in net.living()), key=lambda each: each.id)
    net.run(10)  # lists grow by one place in each stabilisation
    for index, me in enumerate(order):
        router = net.routers[me.name]
        behind = order[index + 1 :] + order[:index]
        assert router.successors() == tuple(behind[:4])
        assert set(behind[:4]) <= set(router.members()) and me not in router.members()
        assert set(router.warm()) <= set(router.members())


@routers
def test_deaths_are_noticed_and_heirs_are_those_that_lookups_named(make) -> None:  # type: ignore[no-untyped-def]
    net = grown(make, 12)
    key = net.rng.randrange(RING_SIZE)
    asker = next(r.me.name for r in net.living() if not r.owns(key) and r.me != net.owner(key))
    owner, heir, *_ = net.lookup(asker, key).members
    net.kill(owner.name)
    assert net.owner(key) == heir or heir.name == asker
    net.settle(lambda: agree(net))
    net.run(30)
    assert all(owner not in r.successors() for r in net.living())


@routers
def test_it_lives_with_loss(make) -> None:  # type: ignore[no-untyped-def]
    net = grown(make, 10, seed=4, loss=0.03)
    net.kill("n3")
    net.settle(lambda: agree(net))
    net.add("n3").join([net.routers["n0"].me, net.routers["n5"].me], net.now)
    net.pump("n3")
    net.settle(lambda: agree(net))
    assert len(net.living()) == 10


@routers
def test_who_leaves_is_missed_at_once(make) -> None:  # type: ignore[no-untyped-def]
    net = grown(make, 8)
    net.routers["n4"].leave(net.now)
    net.pump("n4")
    assert not net.routers["n4"].joined and net.routers["n4"].poll_timeout() is None
    net.run(0.5)
    net.kill("n4")
    net.settle(lambda: agree(net), 10.0)


@routers
def test_the_last_one_serves_alone_and_finds_the_others_when_they_return(make) -> None:  # type: ignore[no-untyped-def]
    net = grown(make, 4)
    for name in ("n1", "n2", "n3"):
        net.kill(name)
    net.settle(lambda: agree(net))
    for name in ("n1", "n2", "n3"):
        net.add(name).join([net.routers["n0"].me], net.now)
        net.pump(name)
    net.settle(lambda: agree(net))


@routers
def test_two_rings_that_grew_apart_become_one(make) -> None:  # type: ignore[no-untyped-def]
    net = Net(make, 6)
    for index, name in enumerate(["a0", "a1", "a2", "b0", "b1", "b2"]):
        router = net.add(name)
        if index % 3 == 0:
            router.found(net.now)
        else:
            router.join([net.routers[name[0] + "0"].me], net.now)
        net.pump(name)
        net.run(2)
    net.run(10)
    assert not agree(net)
    net.routers["a1"].join([net.routers["b2"].me], net.now)  # one contact is enough
    net.settle(lambda: agree(net))


@routers
def test_a_place_that_the_certificate_does_not_give_is_refused(make) -> None:  # type: ignore[no-untyped-def]
    net = grown(make, 3)
    router, liar = net.routers["n0"], net.routers["n1"].me
    for caller in (Caller(Kind.NODE, "n1", bytes(16)), Caller(Kind.NODE, "n2", liar.ring_id), Caller(Kind.USER, "n1")):
        for request in (m.Ping(liar), m.Find(liar, bytes(16))):
            with pytest.raises(Refused) as info:
                router.handle(request, caller, 1, net.now)
            assert info.value.verdict is Verdict.WRONG_PLACE
    assert router.poll_transmit() is None


@routers
def test_the_other_ring_is_told_to_agree_on_one(make) -> None:  # type: ignore[no-untyped-def]
    net = grown(make, 2)
    router, peer = net.routers["n0"], net.routers["n1"].me
    foreign = m.Gossip(peer, (), b"") if make is chord else m.GetNeighbours(peer)
    with pytest.raises(Refused, match=r"set (the same|one) router"):
        router.handle(foreign, Caller(Kind.NODE, "n1", peer.ring_id), 1, net.now)


@routers
def test_an_answer_in_anothers_name_is_reported(make) -> None:  # type: ignore[no-untyped-def]
    net = grown(make, 3)
    router = net.routers["n0"]
    while router.poll_transmit() is None:
        net.now = router.poll_timeout() or net.now
        router.handle_timeout(net.now)
    # Every number in use is answered by a stranger.
    stranger = Member.of("x", 1, "x:1")
    for number in range(1, 10_000):
        router.answered(number, m.Pong(stranger), net.now)
    assert any(isinstance(event, Misbehaved) for event in iter(router.poll_event, None))
