"""The one-hop ring's own affairs: rumours, versions, digests."""

from __future__ import annotations

from random import Random

from polder.model import Kind, Member
from polder.model import ring_messages as m
from polder.model.overlay_messages import Caller
from polder.ring import Changed, OneHop, OneHopConfig, Reply, Send
from tests.ring.net import Net
from tests.ring.test_router import agree, grown, onehop


def member(letter: str) -> Member:
    return Member.of(letter, ord(letter) << 120, f"{letter}:1")


def lone(letter: str = "a") -> OneHop:
    one = OneHop(member(letter), OneHopConfig(), Random(1))
    one.found(0.0)
    return one


def tell(one: OneHop, by: str, *rumours: m.Rumour, digest: bytes = b"") -> m.Gossiped:
    """Gossip from ``by``; the answer."""
    sender = member(by)
    one.handle(m.Gossip(sender, rumours, digest), Caller(Kind.NODE, by, sender.ring_id), 1, 0.0)
    reply = next(output for output in iter(one.poll_transmit, None) if isinstance(output, Reply))
    assert isinstance(reply.message, m.Gossiped)
    return reply.message


def names(one: OneHop) -> list[str]:
    return [each.name for each in one.members()]


def test_a_higher_version_wins_and_death_wins_at_equal_ones() -> None:
    one = lone()
    tell(one, "b", m.Rumour(member("b"), 1, True), m.Rumour(member("c"), 5, True))
    assert names(one) == ["b", "c"]
    tell(one, "b", m.Rumour(member("c"), 4, False))
    assert names(one) == ["b", "c"], "old news"
    tell(one, "b", m.Rumour(member("c"), 5, False))
    assert names(one) == ["b"]
    tell(one, "b", m.Rumour(member("c"), 5, True))
    assert names(one) == ["b"], "an old rumour does not raise the dead"
    tell(one, "b", m.Rumour(member("c"), 6, True))
    assert names(one) == ["b", "c"]
    tell(one, "b", m.Rumour(member("z"), 1, False))
    assert names(one) == ["b", "c"]


def test_a_node_contradicts_its_own_death() -> None:
    one = lone()
    answer = tell(one, "b", m.Rumour(member("a"), 9, False))
    own = next(r for r in answer.rumours if r.member.name == "a")
    assert own.alive and own.version == 10


def test_equal_tables_have_equal_digests_and_different_ones_are_told_in_full() -> None:
    one, two = lone("a"), lone("b")
    everything = [m.Rumour(member(letter), 1, True) for letter in "abcd"]
    first = tell(one, "c", *everything)
    second = tell(two, "c", *everything)
    assert first.digest == second.digest
    assert {r.member.name for r in first.rumours} == set("abcd"), "the asker's digest differed"
    for _ in range(40):
        tell(one, "c", digest=first.digest)
    assert tell(one, "c", digest=first.digest).rumours == (), "old news is told no more"


def test_changes_are_announced_and_silence_is_not() -> None:
    one = lone()
    list(iter(one.poll_event, None))
    tell(one, "b", m.Rumour(member("b"), 1, True))
    assert [type(e) for e in iter(one.poll_event, None)] == [Changed]
    tell(one, "b", m.Rumour(member("b"), 1, True))
    assert list(iter(one.poll_event, None)) == []


def test_one_failure_is_followed_by_a_question_and_the_second_by_death() -> None:
    one = lone()
    tell(one, "b", m.Rumour(member("b"), 1, True))
    one.handle_timeout(1.0)
    (gossip,) = [o for o in iter(one.poll_transmit, None) if isinstance(o, Send)]
    one.failed(gossip.request_id, 1.0)
    assert names(one) == ["b"]
    due = one.poll_timeout()
    assert due is not None and due <= 1.4
    one.handle_timeout(due)
    ping = next(o for o in iter(one.poll_transmit, None) if isinstance(o, Send) and isinstance(o.message, m.Ping))
    one.failed(ping.request_id, due)
    assert names(one) == [] and one.owns(12345)


def test_news_reaches_everybody_in_few_rounds() -> None:
    net = grown(onehop, 40)
    net.kill("n7")
    began = net.now
    net.settle(lambda: agree(net), 60)
    assert net.now - began < 15


def test_the_long_dead_are_forgotten() -> None:
    net = Net(lambda me, rng: OneHop(me, OneHopConfig(forget_after=20.0), rng), 3)
    net.grow(5)
    net.settle(lambda: agree(net))
    net.kill("n2")
    net.run(60)
    for router in net.living():
        assert isinstance(router, OneHop)
        assert len(router._rumours) == 4 and not router._died_at
