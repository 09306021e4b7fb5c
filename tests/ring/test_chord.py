"""Chord, told as conversations. Traps 46 to 51 of the notes each have their test here or in ``test_simulator``."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from polder.model import Kind, Refused, Verdict
from polder.model import ring_messages as m
from polder.model.overlay_messages import Caller
from polder.ring import Chord, ChordConfig, Joined, LookupDone, LookupFailed, Misbehaved
from tests.ring.conversation import CONFIG, Conversation, member, members


def test_a_joiner_walks_to_its_predecessor_and_takes_its_list() -> None:
    talk = Conversation("m")
    talk.machine.join([member("a")], 0.0)
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
    talk = Conversation("m")
    talk.machine.join([member("a")], 0.0)
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
    talk = Conversation("m")
    talk.machine.join([member("a")], 0.0)
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
    talk = Conversation("m")
    talk.machine.join([member("a")], 0.0)
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
    talk = Conversation("m")
    talk.machine.join([member("a")], 0.0)
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
    talk = Conversation("m")
    talk.machine.join([member("g")], 0.0)
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


def test_nobody_is_adopted_who_did_not_answer() -> None:
    talk = Conversation("a").settled("z", "c e")
    talk.tick()
    talk.says("""
        >> c: neighbours?
        << c replies neighbours pred=b e g i
        >> b: successors?
        == list c e g                        # b is hearsay
        << silence from b
        << 1 s
        >> b: successors?
        << silence from b
        == list c e g
        >> c: notify
    """)
    talk = Conversation("a").settled("z", "c e")
    talk.tick()
    talk.says("""
        >> c: neighbours?
        << c replies neighbours pred=b e g i
        >> b: successors?
        << b replies successors c e g
        == list b c e
        >> b: notify
        >> b: neighbours?                    # is there somebody between?
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


def test_busy_is_a_sign_of_life_and_ends_the_operation() -> None:
    talk = Conversation("a").settled("z", "c e g")
    for _ in range(30):
        talk.machine._predecessor_heard_at = talk.now
        talk.tick()
        talk.says("""
            >> c: neighbours?
            << c replies busy
            == list c e g
            == idle                          # else all would wait for each other, round the ring
        """)
    assert not [event for event in talk.events if isinstance(event, Misbehaved)]


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


def test_state_queries_wait_for_the_end_of_an_operation_but_pings_do_not() -> None:
    talk = Conversation("a").settled("z", "c e")
    talk.tick()
    talk.says("""
        >> c: neighbours?
        << z: neighbours?
        << y: successors?
        << x: ping
        >> reply 3: pong
        << x: find b
        >> reply 4: found c e final
        << x: find d                         # not for us to say: c may know somebody between
        >> reply 5: found c
        << z: notify
        >> reply 6: pong
        << c replies neighbours pred=a e g
        >> c: notify
        >> reply 1: neighbours pred=z c e g   # the new state, not the old
        >> reply 2: successors c e g
    """)


def test_who_waits_too_long_is_told_busy_and_one_asker_waits_once() -> None:
    talk = Conversation("a").settled("z", "c e")
    talk.tick()
    talk.says("""
        >> c: neighbours?
        << z: neighbours?
        << z: neighbours?
        >> reply 1: busy
        << 0.6 s
        >> reply 2: busy
        << c replies neighbours pred=a e
        >> c: notify
    """)


def test_more_than_the_limit_are_told_busy_at_once() -> None:
    talk = Conversation("a", replace(CONFIG, delayed_limit=1)).settled("z", "c e")
    talk.tick()
    talk.says("""
        >> c: neighbours?
        << z: neighbours?
        << y: neighbours?
        >> reply 2: busy
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


@pytest.mark.parametrize(
    "caller",
    [
        Caller(Kind.NODE, "b", member("c").ring_id),  # a self-chosen place
        Caller(Kind.NODE, "c", member("b").ring_id),  # another's name
        Caller(Kind.NODE, "b", None),
        Caller(Kind.SITE, "b", member("b").ring_id),
        Caller(Kind.USER, "b", None),
    ],
)
def test_a_sender_at_another_place_than_its_certificate_says_is_refused(caller: Caller) -> None:
    talk = Conversation("a").settled("z", "c e")
    with pytest.raises(Refused) as refused:
        talk.machine.handle(m.Notify(member("b")), caller, 1, 0.0)
    assert refused.value.verdict is Verdict.WRONG_PLACE
    assert talk.machine.predecessor == member("z")
    talk.says("== idle")


def test_an_answer_in_the_name_of_another_is_worth_as_much_as_silence() -> None:
    talk = Conversation("a").settled("z", "c e")
    talk.tick()
    talk.says("""
        >> c: neighbours?
        << c replies neighbours pred=a e g as=b
        >> e: ping
        << e replies pong
        == list c e
        << 0.5 s
        >> c: neighbours?
        << c replies neighbours pred=a e g as=b
        == list e
        >> e: neighbours?
    """)
    assert {event.member.name for event in talk.events if isinstance(event, Misbehaved)} == {"c"}


def test_an_answer_of_the_wrong_kind_is_misbehaviour_not_a_crash() -> None:
    talk = Conversation("a").settled("z", "c e g")
    talk.tick()
    talk.says("""
        >> c: neighbours?
        << c replies pong
        == list e g
        >> e: neighbours?
    """)
    assert [event.member.name for event in talk.events if isinstance(event, Misbehaved)] == ["c"]


def test_an_answer_given_up_or_given_twice_is_ignored() -> None:
    talk = Conversation("a").settled("z", "c e")
    talk.tick()
    talk.says("""
        >> c: neighbours?
        << c replies neighbours pred=a e
        >> c: notify
    """)
    before = talk.machine.table.changes
    talk.machine.answered(1, m.Neighbours(member("c"), member("b"), members(["x"])), talk.now)
    talk.machine.failed(99, talk.now)
    assert talk.machine.table.changes == before


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


def test_a_finger_is_adopted_only_after_it_answered() -> None:
    talk = Conversation("a", replace(CONFIG, finger_every=1.0))
    talk.settled("z", "b c d")
    talk.machine._stabilise_at = talk.machine._reunite_at = None
    for _ in range(3):  # the exponents below the reach of the list are skipped
        assert talk.machine._finger_at is not None
        talk.now = talk.machine._finger_at
        talk.machine.handle_timeout(talk.now)
        talk._collect()
        if talk._said:
            break
    talk.says("""
        >> d: find e
        << d replies found f g final
        >> f: ping
    """)
    assert not talk.machine.table.fingers
    talk.says("<< f replies pong")
    assert set(talk.machine.table.fingers.values()) == {member("f")}


def test_a_member_that_moved_is_corrected_by_its_own_word() -> None:
    talk = Conversation("a").settled("z", "c e")
    moved = m.Member("c", member("c").ring_id, "192.0.2.9:1")
    talk.machine.handle(m.Ping(moved), Caller(Kind.NODE, "c", moved.ring_id), 1, 0.0)
    assert talk.machine.successors()[0].address == "192.0.2.9:1"


def test_a_one_hop_neighbour_is_told_what_is_wrong() -> None:
    talk = Conversation("a").settled("z", "c e")
    with pytest.raises(Refused, match="set the same router"):
        talk.machine.handle(m.Gossip(member("b"), (), b""), Caller(Kind.NODE, "b", member("b").ring_id), 1, 0.0)
