"""Chord, told as conversations: stabilising, rectifying, reuniting, looking up. Traps 46 to 51 of the papers' notes have their tests
in the three ``test_chord`` files and in ``test_simulator``."""

from __future__ import annotations

from dataclasses import replace

from polder.model import Kind
from polder.model import ring_messages as m
from polder.model.overlay_messages import Caller
from polder.ring import LookupDone, LookupFailed
from tests.ring.conversation import CONFIG, Conversation, member, members


def test_stabilisation_learns_and_notifies() -> None:
    talk = Conversation("a").settled("z", "c e")
    talk.tick()
    talk.says("""
        >> c: neighbours?
        << c replies neighbours pred=a e g i
        == list c e g                        # r = 3
        >> c: notify
        << c replies pong
        == idle
    """)


def test_silence_is_death_only_when_it_repeats() -> None:
    talk = Conversation("a").settled("z", "c e g")
    talk.tick()
    talk.says("""
        >> c: neighbours?
        << silence from c
        >> e: ping                           # those who may be next, meanwhile
        >> g: ping
        == list c e g
        << e replies pong
        << g replies pong
        << 0.5 s
        >> c: neighbours?
        << silence from c
        == list e g
        >> e: neighbours?
        << e replies neighbours pred=c g i
        == list e g i
        >> e: notify                         # e still believes in c; we have just seen it silent
    """)


def test_those_who_died_together_are_given_up_together() -> None:
    talk = Conversation("a").settled("z", "c e g")
    talk.tick()
    talk.says("""
        >> c: neighbours?
        << silence from c
        >> e: ping
        >> g: ping
        << silence from e
        >> e: ping
        << silence from e
        << g replies pong
        << 0.5 s
        >> c: neighbours?
        << silence from c
        == list g                            # e, silent twice, is not waited for again
        >> g: neighbours?
    """)


def test_a_failure_of_long_ago_does_not_count() -> None:
    talk = Conversation("a", replace(CONFIG, suspect_for=5.0)).settled("z", "c e g")
    talk.tick()
    talk.says("""
        >> c: neighbours?
        << silence from c
        >> e: ping
        >> g: ping
        << silence from e
        >> e: ping
        << silence from e
        << silence from g
        >> g: ping
        << g replies pong
        << 0.5 s
        >> c: neighbours?
        << c replies neighbours pred=a e g
        >> c: notify
        << c replies pong
    """)
    talk.now += 6
    talk.machine._predecessor_heard_at = talk.now
    talk.tick()
    talk.says("""
        >> c: neighbours?
        << silence from c
        >> e: ping
        >> g: ping
        << silence from e
        >> e: ping
        << 0.5 s
        >> c: neighbours?
        << silence from c
        == list e g
        >> e: neighbours?                    # silent once of late, and so asked once
        << silence from e                    # the second ping
        << silence from e
        == list g
        >> g: neighbours?
    """)


def test_a_predecessor_that_asks_no_more_is_pinged_and_makes_room_at_once() -> None:
    talk = Conversation("m").settled("f", "p r")
    talk.machine._predecessor_heard_at = -100.0
    talk.tick()
    talk.says("""
        >> p: neighbours?
        >> f: ping
        << p replies neighbours pred=m r t
        >> p: notify
        << silence from f
        >> f: ping
        << silence from f
        == pred f                            # nobody has come in its place
        << d: notify
        >> reply 1: pong
        == pred d
    """)


def test_failures_are_forgotten_when_an_answer_comes() -> None:
    talk = Conversation("a").settled("z", "c")
    for _ in range(5):
        talk.machine._predecessor_heard_at = talk.now
        talk.tick()
        talk.says("""
            >> c: neighbours?
            << silence from c
            << 0.5 s
            >> c: neighbours?
            << c replies neighbours pred=a
            >> c: notify
            << c replies pong
            == list c
        """)


def test_rectify_takes_the_nearer_and_replaces_only_the_dead() -> None:
    talk = Conversation("m").settled("c", "p r")
    talk.says("""
        << f: notify
        >> reply 1: pong
        == pred f                            # nearer
        << d: notify
        >> reply 2: pong
        >> f: ping                           # farther: only if f is dead
        == pred f
        << f replies pong
        == pred f
        << d: notify
        >> reply 3: pong
        >> f: ping
        << silence from f
        << 0.5 s
        >> f: ping
        << silence from f
        == pred d
    """)


def test_a_restarted_predecessor_that_is_no_member_counts_as_dead() -> None:
    talk = Conversation("m").settled("f", "p r")
    talk.says("""
        << d: notify
        >> reply 1: pong
        >> f: ping
        << f replies not-joined
        == pred d
    """)


def test_no_list_ever_holds_the_node_itself() -> None:
    talk = Conversation("a").settled("b", "b")
    talk.tick()
    talk.says("""
        >> b: neighbours?
        << b replies neighbours pred=a a b
        == list b                            # trap 48: a list that comes round ends
        >> b: notify
    """)


def test_a_node_that_lost_all_successors_turns_to_its_predecessor() -> None:
    talk = Conversation("m").settled("f", "p")
    talk.tick()
    talk.says("""
        >> p: neighbours?
        << silence from p
        << 0.5 s
        >> p: neighbours?
        << silence from p
        == list
        >> f: successors?
        << f replies successors m
        == list f
        >> f: notify
        >> f: neighbours?
    """)


def test_reunion_adopts_a_nearer_successor_seen_through_a_stranger_once_it_answers() -> None:
    talk = Conversation("a", replace(CONFIG, reunite_every=5.0))
    talk.machine._remember([member("q")])
    talk.settled("z", "e g")
    assert talk.machine._reunite_at is not None
    talk.machine._stabilise_at = None
    talk.now = talk.machine._reunite_at
    talk.machine.handle_timeout(talk.now)
    talk._collect()
    talk.says("""
        >> q: find a                         # one step behind our own place
        << q replies found c e g final
        >> c: successors?
        == list e g
        << c replies successors e g
        == list c e g
        >> c: notify
        >> c: neighbours?
    """)


def test_who_met_another_ring_adopts_from_it_or_passes_it_on() -> None:
    talk = Conversation("a", CONFIG).settled("z", "e g")
    talk.says("""
        << g: ping
        >> reply 1: pong
    """)
    talk.machine.handle(m.Meet(member("g"), member("q")), Caller(Kind.NODE, "g", member("g").ring_id), 2, talk.now)
    talk._collect()
    talk.says("""
        >> reply 2: pong
        >> q: find a
        << q replies found k q final         # in q's ring k follows us; in ours e does: k's place is elsewhere
        >> e: meet
        == list e g
    """)
    talk.now += 1
    talk.machine.handle(m.Meet(member("g"), member("q")), Caller(Kind.NODE, "g", member("g").ring_id), 3, talk.now)
    talk._collect()
    talk.says("""
        >> reply 3: pong
        >> q: find a
        << q replies found c q final
        >> c: successors?
        << c replies successors q
        == list c q
        >> c: notify
        >> c: neighbours?
    """)


def test_lookups_answer_from_the_list_walk_by_the_best_and_fail_with_a_reason() -> None:
    talk = Conversation("a").settled("z", "c e g")
    talk.machine.lookup(member("b").id, talk.now)
    talk.machine.lookup(member("a").id, talk.now)
    talk._collect()
    done = [event for event in talk.events if isinstance(event, LookupDone)]
    assert [[each.name for each in event.members] for event in done] == [["c", "e", "g"], ["a", "c", "e", "g"]]
    number = talk.machine.lookup(member("t").id, talk.now)
    talk._collect()
    talk.says("""
        >> g: find t
        << g replies found p k final
    """)
    assert LookupDone(number, member("t").id, members(["p", "k"]), 1) in talk.events
    talk.machine.lookup(member("t").id, talk.now)
    talk._collect()
    talk.says("""
        >> g: find t
        << g replies found p k b             # b is behind g: no progress, never asked
        >> p: find t
        << silence from p
        >> k: find t
        << k replies not-joined
        >> e: find t
        << silence from e
        >> c: find t
        << silence from c
        >> z: find t                         # behind the key, but better than nobody
        << silence from z
    """)
    assert isinstance(talk.events[-1], LookupFailed)
