"""Chord, told as conversations: whom a node believes, and how patient it is with others while it is busy itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from polder.model import Kind, Refused, Verdict
from polder.model import ring_messages as m
from polder.model.overlay_messages import Caller
from polder.ring import Misbehaved
from tests.ring.conversation import CONFIG, Conversation, member, members


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
