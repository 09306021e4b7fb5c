"""Chord, told as conversations: how a node comes into the ring, begins one, or leaves."""

from __future__ import annotations

from random import Random

import pytest

from polder.ring import Chord, ChordConfig, Joined, Misbehaved
from tests.ring.conversation import CONFIG, Conversation, member, members


def test_a_joiner_walks_to_its_predecessor_and_takes_its_list() -> None:
    talk = Conversation("m").joining("a")
    talk.says("""
        << 0 s
        >> a: best-predecessor? m
        << a replies best-predecessor k      # nearer
        >> k: best-predecessor? m
        << k replies best-predecessor k      # its own: the fixpoint
        >> k: successors?
        == outside
        << k replies successors p r t
        == joined
        == list p r t
        == pred
        >> p: neighbours?                    # and stabilises at once
    """)
    assert any(isinstance(event, Joined) for event in talk.events)


def test_a_joiner_goes_round_the_dead_and_keeps_them_out_of_its_list() -> None:
    talk = Conversation("m").joining("a")
    talk.says("""
        << 0 s
        >> a: best-predecessor? m
        << a replies best-predecessor k
        >> k: best-predecessor? m
        << silence from k
        << 1 s
        >> k: best-predecessor? m
        << silence from k                    # twice: dead
        >> a: best-predecessor? m -k
        << a replies best-predecessor a
        >> a: successors?
        << a replies successors k p r        # k precedes us: as head of our list it would hide p and r
        == list p r
        >> p: neighbours?
    """)


def test_a_joiner_to_whom_all_of_a_list_is_dead_begins_anew_instead_of_joining_nobody() -> None:
    talk = Conversation("m").joining("a")
    talk.says("""
        << 0 s
        >> a: best-predecessor? m
        << a replies best-predecessor k
        >> k: best-predecessor? m
        << k replies not-joined
        >> a: best-predecessor? m -k
        << a replies best-predecessor a
        >> a: successors?
        << a replies successors k m k
        == outside
        << 1.5 s
        >> a: best-predecessor? m            # k may have come back since
    """)


def test_a_joiner_is_patient_with_busy_members() -> None:
    talk = Conversation("m").joining("a")
    talk.says("""
        << 0 s
        >> a: best-predecessor? m
        << a replies busy
        << 0.5 s
        >> a: best-predecessor? m
        << a replies best-predecessor a
        >> a: successors?
        << a replies successors
        == list a                            # a knew nobody: behind the end of its list it comes itself
        == joined
        >> a: neighbours?
    """)


def test_a_list_that_shows_somebody_nearer_prolongs_the_walk() -> None:
    talk = Conversation("m").joining("a")
    talk.says("""
        << 0 s
        >> a: best-predecessor? m
        << a replies best-predecessor a
        >> a: successors?
        << a replies successors f k p        # f and k came in meanwhile
        >> k: best-predecessor? m
        == outside
    """)


def test_a_joiner_that_is_led_backwards_goes_elsewhere() -> None:
    talk = Conversation("m").joining("g")
    talk.says("""
        << 0 s
        >> g: best-predecessor? m
        << g replies best-predecessor b      # b does not lie between g and us
    """)
    assert [event.member.name for event in talk.events if isinstance(event, Misbehaved)] == ["g"]
    assert not talk.machine.joined


def test_alone_after_a_cold_start_the_lowest_begins_and_the_others_wait() -> None:
    low, high = Conversation("b"), Conversation("m")
    for talk, other in ((low, "m"), (high, "b")):
        talk.machine.join([member(other)], 0.0)
        for _ in range(100):
            talk.now = talk.machine.poll_timeout() or talk.now
            if talk.now > CONFIG.found_after + 3:
                break
            talk.machine.handle_timeout(talk.now)
            talk._collect()
            if talk._asked:
                talk._said.clear()
                talk._input(f"{other} replies not-joined")
                talk._collect()
    assert low.machine.joined and not high.machine.joined


def test_two_grow_from_one() -> None:
    talk = Conversation("a")
    talk.machine.found(0.0)
    talk._collect()
    talk.says("""
        << 0 s
        << b: best-predecessor? b
        >> reply 1: best-predecessor a
        << b: successors?
        >> reply 2: successors
        << b: neighbours?
        >> reply 3: neighbours pred=-
        << b: notify
        >> reply 4: pong
        == pred b
        >> b: successors?                    # a founder's first successor is its predecessor
        << b replies successors a
        == list b
        >> b: notify
        >> b: neighbours?
    """)


def test_a_founder_needs_r_plus_one_members_where_a_base_is_given() -> None:
    chord = Chord(member("a"), ChordConfig(successors=3), Random(1))
    with pytest.raises(ValueError, match="at least 4 members, this one 3"):
        chord.born(members(["a", "b", "c"]), 0.0)
    chord.born(members(["d", "a", "b", "c"]), 0.0)
    assert [s.name for s in chord.successors()] == ["b", "c", "d"]
    assert chord.predecessor == member("d")
    with pytest.raises(ValueError, match="at least 2 places"):
        Chord(member("a"), ChordConfig(successors=1), Random(1))


def test_a_stranger_to_the_ring_says_so() -> None:
    talk = Conversation("a")
    talk.says("""
        << b: ping
        >> reply 1: not-joined
        << b: neighbours?
        >> reply 2: not-joined
        << b: notify
        >> reply 3: not-joined
        == pred
    """)


def test_who_leaves_says_goodbye_and_is_skipped_unless_it_is_the_last() -> None:
    talk = Conversation("a").settled("z", "c e")
    talk.says("""
        << c: leaving
        >> reply 1: pong
        == list e
        >> e: neighbours?
        << e replies neighbours pred=c
        >> c: successors?
        << c replies not-joined
        >> e: notify
        << e: leaving
        >> reply 2: pong
        == list e
    """)
    talk.machine.leave(talk.now)
    talk._collect()
    talk.says("""
        >> e: leaving
        >> z: leaving
        == outside
    """)
    assert talk.machine.poll_timeout() is None
