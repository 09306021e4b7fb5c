"""Arithmetic of services, policy data, keys, timers; and a node that strangers talk to."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polder.rsvp import grammar, intserv
from polder.rsvp import messages as m
from polder.rsvp.adspec import Adspec
from polder.rsvp.adspec import Hop as Link
from polder.rsvp.errors import RsvpError, explain
from polder.rsvp.integrity import Guard, Key, Refused
from polder.rsvp.intserv import Flowspec, Rspec, Service, Tspec
from polder.rsvp.ip import Packet
from polder.rsvp.node import Node
from polder.rsvp.objects import ErrorSpec, Hop, Sender, Session
from polder.rsvp.policy_data import Bundles, Element, PolicyData, by_hash, pack_bundle, unpack_bundle, whole
from polder.rsvp.questions import said, spoken
from polder.rsvp.state import LOCAL, Config, Interface, Send
from polder.rsvp.timers import Timers
from polder.rsvp.wire import Raw, split
from tests.rsvp.examples import (
    SENDER,
    SESSION,
    TSPEC,
    A,
    B,
    R,
    all_messages,
    captured,
    elements,
    flowspecs,
    one_of_each,
    write_capture,
)

good = st.builds(
    Tspec,
    st.integers(1, 10**9).map(float),
    st.integers(1500, 10**9).map(float),
    st.integers(10**9, 10**12).map(float),
    st.integers(1, 100),
    st.integers(100, 1500),
)
requests = st.builds(
    Flowspec, good, st.one_of(st.none(), st.builds(Rspec, st.integers(10**9, 10**12).map(float), st.integers(0, 99)))
)


@given(requests, requests, requests)
def test_merging_is_a_least_upper_bound(a: Flowspec, b: Flowspec, c: Flowspec) -> None:
    both = intserv.merged(a, b)
    assert both == intserv.merged(b, a)
    assert intserv.covers(both, a)
    assert intserv.covers(both, b)
    assert intserv.merged(both, c) == intserv.merged(a, intserv.merged(b, c))
    assert intserv.merged(a, a) == a
    low = intserv.least(a, b)
    assert low.rate <= min(a.rate, b.rate)
    if intserv.covers(c, a) and intserv.covers(c, b):
        assert intserv.covers(c, both)
    assert not intserv.smaller(a, a)


@given(good, good)
def test_what_is_installed_carries_what_request_and_sender_both_allow(asked: Tspec, sent: Tspec) -> None:
    fitted = intserv.shaped(Flowspec(asked), sent).tspec

    def most(tspec: Tspec, seconds: float) -> float:
        return min(tspec.peak * seconds, tspec.bucket + tspec.rate * seconds)

    for seconds in (0.0, 1e-6, 1e-3, 1.0, 1e3):
        both = min(most(asked, seconds), most(sent, seconds))
        assert most(fitted, seconds) >= both * (1 - 1e-9)
    assert fitted.rate == min(asked.rate, sent.rate)
    assert fitted.max_packet == min(asked.max_packet, sent.max_packet)


@given(good, st.integers(0, 10**5), st.integers(0, 10**5))
def test_a_rate_keeps_the_delay_that_it_was_computed_for(tspec: Tspec, c: int, d: int) -> None:
    for delay in (0.2, 0.5, 3.0):
        try:
            rate = intserv.rate_for_delay(tspec, delay, c, d)
        except RsvpError:
            assert intserv.queueing_delay(tspec, intserv.LARGEST_RATE, c, d) > delay
            continue
        assert intserv.queueing_delay(tspec, rate, c, d) <= delay
        assert rate >= tspec.rate


def test_the_delay_bound_is_the_rfcs() -> None:
    tspec = Tspec(1e6, 10_000.0, 4e6, 64, 1500)
    # (b-M)/R · (p-R)/(p-r) + (M+C)/R + D with R = 2e6, C = 1000 bytes, D = 300 us
    wanted = 8500 / 2e6 * 2e6 / 3e6 + 2500 / 2e6 + 300e-6
    assert math.isclose(intserv.queueing_delay(tspec, 2e6, 1000, 300), wanted)
    assert math.isclose(intserv.queueing_delay(tspec, 5e6, 1000, 300), 2500 / 5e6 + 300e-6)
    assert math.isclose(intserv.queueing_delay(replace(tspec, peak=math.inf), 2e6), 10_000 / 2e6)


@pytest.mark.parametrize(
    "tspec",
    [
        Tspec(0.5, 1e4),
        Tspec(2e6, 1e4, 1e6),
        Tspec(1e14, 1e4),
        Tspec(1e6, 0.0),
        Tspec(1e6, 1e4, min_unit=0),
        Tspec(1e6, 1e4, min_unit=2000, max_packet=1500),
        Tspec(math.inf, 1e4),
    ],
)
def test_traffic_that_cannot_be_is_refused(tspec: Tspec) -> None:
    with pytest.raises(RsvpError) as caught:
        tspec.check()
    assert (caught.value.code, caught.value.value) == (21, 4)


@given(flowspecs)
def test_what_is_checked_is_also_written(flowspec: Flowspec) -> None:
    assert intserv.read_flowspec(flowspec.pack()) == flowspec


def test_an_adspec_adds_up() -> None:
    adspec = Adspec.start()
    for hop in (Link(1e6, 1500, 100, 1500, 10), Link(5e5, 1400, 50, 3000, 20), Link(9e6, 9000, 1, 0, 1)):
        adspec = adspec.onward(hop)
    assert [adspec.number(1, n) for n in (4, 6, 8, 10)] == [3, 5e5, 151, 1400]
    assert [adspec.number(Service.GUARANTEED, n) for n in (133, 134, 135, 136)] == [4500, 31, 4500, 31]
    assert not adspec.fragments[0].broken
    assert adspec.not_served().fragments[0].broken
    assert Adspec.read(adspec.not_served().pack()) == adspec.not_served()


@given(
    st.lists(elements, max_size=5),
    st.lists(st.builds(Raw, st.just(5), st.just(1), st.binary(min_size=4, max_size=4)), max_size=2),
)
def test_policy_data_comes_back(found: list[Element], options: list[Raw]) -> None:
    policy = PolicyData(tuple(options), tuple(found))
    assert PolicyData.read(policy.pack()) == policy


def test_the_last_element_of_a_type_lives_and_an_empty_one_deletes() -> None:
    policy = PolicyData(elements=(Element(1, b"a"), Element(2, b"b"), Element(1, b"c"), Element(2, b"")))
    assert policy.live() == {1: b"c"}


@given(st.binary(max_size=80))
def test_policy_data_of_strangers_is_refused_in_words(data: bytes) -> None:
    try:
        PolicyData.read(data).live()
    except RsvpError as error:
        assert (error.code, error.value) == (2, 11)


def test_bundles_are_known_by_hash_while_there_is_room() -> None:
    first, second = pack_bundle([b"a" * 600]), pack_bundle([b"b" * 600])
    bundles = Bundles(1000)
    assert bundles.find([whole(first)]) == first
    assert bundles.find([by_hash(first)]) == first
    assert bundles.find([whole(second)]) == second
    with pytest.raises(RsvpError) as caught:
        bundles.find([by_hash(first)])
    assert (caught.value.code, caught.value.value) == (2, 14)
    assert bundles.find([]) is None
    assert len(bundles) == 1


def test_bundles_are_bounded() -> None:
    with pytest.raises(RsvpError, match="at most 16"):
        pack_bundle([b""] * 17)
    with pytest.raises(RsvpError, match="at most"):
        pack_bundle([bytes(20_000)])
    with pytest.raises(RsvpError):
        unpack_bundle(b"\xdd\xff\xff\xff\xff")
    assert unpack_bundle(pack_bundle([b"one", b"two"])) == (b"one", b"two")


def test_words_travel_and_hold_no_control_characters() -> None:
    assert spoken(said("refused: the check expired yesterday")) == "refused: the check expired yesterday"
    assert spoken(said("a\x1b[2Jb")) == "a[2Jb"
    assert spoken(said("é" * 300)) == "é" * 100
    assert spoken(()) == ""
    assert explain(13, 0x1701) == "a router does not know objects of class 23, type 1"
    assert explain(1, 2) == "the link has not that much bandwidth left"
    assert explain(99, 5) == "error 99, value 5"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 50), st.booleans()), max_size=200))
def test_timers_give_each_key_once_at_its_last_time(steps: list[tuple[int, int, bool]]) -> None:
    timers, wanted = Timers(), {}
    for key, at, cancel in steps:
        if cancel:
            timers.cancel(key)
            wanted.pop(key, None)
        else:
            timers.set(key, at)
            wanted[key] = at
    assert timers.next() == min(wanted.values(), default=None)
    due = list(timers.due(25))
    assert sorted(due) == sorted(key for key, at in wanted.items() if at <= 25)
    assert [wanted[key] for key in due] == sorted(wanted[key] for key in due)
    assert len(timers) == len(wanted) - len(due)


def guards() -> tuple[Guard, Guard]:
    keys = (Key(5, b"s" * 32),)
    return Guard(keys, b"c" * 16, 10**15, 0.0), Guard(keys, b"d" * 16, 10**15, 0.0)


def synchronised() -> tuple[Guard, Guard]:
    ours, theirs = guards()
    path = one_of_each()["path"].datagram()
    first = ours.seal(path, 1.0)
    assert theirs.open(first, A, 1.0)[0] == []
    _, answer = theirs.open(first, A, 1.0)
    assert answer is not None
    challenge = theirs.seal(answer[1].datagram(), 1.0)
    _, response = ours.open(challenge, B, 1.1)
    assert response is not None
    found, _ = theirs.open(ours.seal(response[1].datagram(), 1.1), answer[0], 1.2)
    assert [grammar.read(each).body for each in found] == [grammar.read(path).body]
    return ours, theirs


def test_a_held_message_is_believed_after_the_challenge_and_once() -> None:
    ours, theirs = synchronised()
    path = one_of_each()["path"].datagram()
    data = ours.seal(path, 2.0)
    assert len(theirs.open(data, A, 2.0)[0]) == 1
    with pytest.raises(Refused, match="again"):
        theirs.open(data, A, 2.0)


def test_messages_may_overtake_each_other_within_the_window() -> None:
    ours, theirs = synchronised()
    path = one_of_each()["path"].datagram()
    sealed = [ours.seal(path, 3.0) for _ in range(40)]
    late = sealed.pop(0)
    for data in [*reversed(sealed[:20]), *sealed[20:]]:
        assert len(theirs.open(data, A, 3.0)[0]) == 1
    with pytest.raises(Refused, match="older"):
        theirs.open(late, A, 3.0)


@given(st.data())
def test_no_changed_byte_is_believed(data: st.DataObject) -> None:
    ours, theirs = guards()
    sealed = bytearray(ours.seal(data.draw(st.sampled_from(list(one_of_each().values()))).datagram(), 1.0))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= 1 << data.draw(st.integers(0, 7))
    if sealed[1] == 25:
        return
    try:
        found, answer = theirs.open(bytes(sealed), A, 1.0)
    except RsvpError:
        return
    assert 2 <= at < 4, "only the checksum is not covered: it is computed after the digest"
    assert found == [] or answer is None


def test_two_keys_are_live_while_one_replaces_the_other() -> None:
    old, new = Key(1, b"o" * 32), Key(2, b"n" * 32)
    sender, receiver = Guard((old,), b"", 10**15, 0.0), Guard((old, new), b"", 10**15, 0.0)
    path = one_of_each()["path"].datagram()
    assert receiver.open(sender.seal(path, 1.0), A, 1.0)[1] is not None
    sender.replace_keys((new, old))
    assert receiver.open(sender.seal(path, 2.0), A, 2.0)[1] is not None
    receiver.replace_keys((new,))
    sender.replace_keys((old,))
    with pytest.raises(Refused, match="key 1"):
        receiver.open(sender.seal(path, 3.0), A, 3.0)


def node(**changes: object) -> Node:
    config = Config(most_paths=4, most_reservations=4)
    interfaces = {1: Interface(1, R, 1e7), 2: Interface(2, IPv4Address("198.51.100.1"), 1e7)}
    return Node(config, interfaces, lambda to, source: (2,) if to == B else (1,), random.Random(1))


@settings(max_examples=40)
@given(st.lists(st.one_of(all_messages.map(m.Message.pack), st.binary(max_size=60)), max_size=8), st.booleans())
def test_a_node_survives_whatever_comes(data: list[bytes], alert: bool) -> None:
    box = node()
    for number, each in enumerate(data):
        box.receive(Packet(A, B, 64, alert, each), 1 + number % 2, float(number))
        for action in box.take():
            if isinstance(action, Send):
                grammar.read(split(action.data))
    while (at := box.deadline()) is not None:
        assert at < 10_000
        box.tick(at)
    assert box.leftovers() == 0


def test_an_object_of_an_unknown_class_is_reported_to_its_sender() -> None:
    box = node()
    datagram = m.Message(m.Path(SESSION, Hop(A, 9), 30_000, SENDER, TSPEC)).datagram()
    odd = replace(datagram, objects=(*datagram.objects, Raw(0x55, 1, b"abcd"))).seal()
    box.receive(Packet(A, B, 64, True, odd), 1, 0.0)
    (send,) = [action for action in box.take() if isinstance(action, Send)]
    body = grammar.read(split(send.data)).body
    assert isinstance(body, m.PathErr)
    assert (body.error, send.destination) == (ErrorSpec(R, 0, 13, 0x5501), A)


def test_a_neighbour_that_does_not_know_numbers_is_spoken_to_without() -> None:
    box = node()
    box.receive(Packet(A, B, 64, True, m.Message(m.Path(SESSION, Hop(A, 9), 30_000, SENDER, TSPEC)).pack()), 1, 0.0)
    first = [action for action in box.take() if isinstance(action, Send)]
    assert grammar.read(split(first[0].data)).message_id is not None
    refused = m.PathErr(SESSION, ErrorSpec(IPv4Address("198.51.100.2"), 0, 13, 23 << 8 | 1), SENDER, TSPEC)
    box.receive(Packet(IPv4Address("198.51.100.2"), IPv4Address("198.51.100.1"), 64, False, m.Message(refused).pack()), 2, 1.0)
    again = [grammar.read(split(action.data)) for action in box.take() if isinstance(action, Send) and action.destination == B]
    assert [each.message_id for each in again] == [None]


def test_state_is_bounded_and_ends_with_a_forged_period_too() -> None:
    box = node()
    for port in range(10):
        path = m.Path(replace(SESSION, port=port + 1), Hop(A, 9), 0xFFFFFFFF, SENDER, TSPEC)
        box.receive(Packet(A, B, 64, True, m.Message(path).pack()), 1, 0.0)
    assert len(box.paths) == 4
    assert box.counts["over-paths"] == 6
    box.take()
    while (at := box.deadline()) is not None and at < 10_000:
        box.tick(at)
    assert box.leftovers() == 0, "a sender may not pin state by announcing that it refreshes once in 49 days"


def test_ports_that_contradict_are_reported() -> None:
    box = node()
    found = []
    for session, sender in (
        (SESSION, SENDER),
        (replace(SESSION, port=0), SENDER),
        (SESSION, Sender(A, 0)),
        (SESSION, Sender(A, 6001)),
    ):
        box.receive(Packet(A, B, 64, True, m.Message(m.Path(session, Hop(A, 9), 30_000, sender, TSPEC)).pack()), 1, 0.0)
        bodies = [grammar.read(split(action.data)).body for action in box.take() if isinstance(action, Send)]
        found.append([body.error.code for body in bodies if isinstance(body, m.PathErr)])
    assert found == [[], [7], [8], []]


def test_a_tear_of_somebody_else_changes_nothing() -> None:
    box = node()
    box.receive(Packet(A, B, 64, True, m.Message(m.Path(SESSION, Hop(A, 9), 30_000, SENDER, TSPEC)).pack()), 1, 0.0)
    forged = m.Message(m.PathTear(SESSION, Hop(IPv4Address("192.0.2.66"), 9), SENDER)).pack()
    box.receive(Packet(A, B, 64, True, forged), 1, 1.0)
    assert len(box.paths) == 1
    box.receive(Packet(A, B, 64, True, m.Message(m.PathTear(SESSION, Hop(A, 9), SENDER)).pack()), 1, 1.0)
    assert box.paths == []


def test_a_host_without_numbers_is_refreshed_as_the_first_rfc_says() -> None:
    config = Config(reduce=False)
    box = Node(config, {1: Interface(1, A)}, lambda to, source: (1,), random.Random(3))
    box.announce(Session(B, 17, 5004), Sender(A, 6000), TSPEC, 0.0)
    times = [0.0]
    box.take()
    while len(times) < 200:
        at = box.deadline()
        assert at is not None
        box.tick(at)
        times.append(at)
        assert [type(action) for action in box.take()] == [Send]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert 15 <= min(gaps) < 17
    assert 43 < max(gaps) <= 45


def test_ip_packets_come_back_and_fragments_are_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    packet = Packet(A, B, 9, True, one_of_each()["ack"].pack())
    assert Packet.read(packet.pack()) == packet
    assert Packet.read(replace(packet, alert=False).pack()) == replace(packet, alert=False)
    data = bytearray(packet.pack())
    data[6] = 0x20
    with pytest.raises(RsvpError, match="fragment"):
        Packet.read(bytes(data))
    long = replace(packet, payload=bytes(range(256)) * 20)
    pieces = long.pieces(1500, 7)
    assert [len(piece) for piece in pieces] == [1496, 1496, 1496, 728]
    assert [int.from_bytes(piece[6:8], "big") for piece in pieces] == [0x2000, 0x20B8, 0x2170, 0x228 | 0]
    assert b"".join(piece[24:] for piece in pieces) == long.payload
    assert packet.pieces(1500, 7) == [packet.pack()]
    write_capture(tmp_path / "x.pcap", [packet.payload])
    assert captured(tmp_path / "x.pcap") == [packet.payload]
    assert LOCAL == 0
