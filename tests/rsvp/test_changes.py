"""Other settings while state stands, traffic control that refuses, strangers that make a node remember or repeat; IPv6's headers."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.rsvp import grammar
from polder.rsvp import messages as m
from polder.rsvp.errors import RsvpError
from polder.rsvp.intserv import Flowspec
from polder.rsvp.ip import Packet
from polder.rsvp.node import Node
from polder.rsvp.objects import ErrorSpec, Hop, Scope, Sender, Session, Style
from polder.rsvp.outlet import Where
from polder.rsvp.state import Config, Install, Interface, Send
from polder.rsvp.wire import messages, split
from tests.rsvp.examples import SENDER, SESSION, TSPEC, A, B, R
from tests.rsvp.net import Net, chain
from tests.rsvp.test_network import announce, ask, established, gone, kinds, reserved
from tests.rsvp.test_parts import node

SIX, FAR = IPv6Address("2001:db8::1"), IPv6Address("2001:db8:1::9")


def configure(net: Net, name: str, **changes: object) -> None:
    """Other settings of a node, and of its links ``policy`` or ``capacity``."""
    box = net.boxes[name]
    links = {key: value for key, value in changes.items() if key in {"policy", "capacity"}}
    box.config = replace(box.config, **{key: value for key, value in changes.items() if key not in links})  # type: ignore[arg-type]
    box.interfaces = {index: replace(each, **links) for index, each in box.interfaces.items()}  # type: ignore[arg-type]
    net.do(name, lambda node: node.configure(box.config, box.interfaces, {}, net.now))


def test_another_period_and_another_rate_lose_nothing() -> None:
    net = established(chain(3))
    asked = net.ledger.asked
    for name in ("r2", "sender"):
        configure(net, name, period=120.0)
    configure(net, "r2", capacity=1.0)
    net.run(1000)
    assert reserved(net), "a longer period is told to neighbours before it is kept, and what was granted stands on a smaller link"
    assert net.ledger.asked == asked
    ask(net, replace(Flowspec(TSPEC), tspec=replace(TSPEC, rate=TSPEC.rate + 1)))
    net.until(lambda: "resv-error" in kinds(net, "receiver"))
    assert reserved(net)
    gone(net)


def test_a_link_that_needs_a_decision_from_now_on_asks_for_what_stands() -> None:
    net = established(chain(2, policy=False))
    assert net.ledger.asked == 0
    configure(net, "r1", policy=True)
    net.run(1)
    assert net.ledger.asked == 1
    assert reserved(net), "its credentials had come with the request"
    gone(net)


def test_a_link_that_needs_a_decision_from_now_on_ends_what_has_no_credentials() -> None:
    net = chain(2, policy=False)
    announce(net)
    net.until(lambda: "path" in kinds(net, "receiver"))
    flow = m.Flow(Flowspec(TSPEC), (Sender(IPv4Address("198.18.0.1"), 6000),))
    session = Session(IPv4Address("198.18.9.9"), 17, 5004)
    net.do("receiver", lambda node: node.reserve(session, Style.FF, (flow,), net.now))
    net.until(lambda: reserved(net))
    configure(net, "r1", policy=True)
    net.until(lambda: "resv-error" in kinds(net, "receiver"))
    net.until(lambda: not net.boxes["r1"].installed)
    gone(net)


def test_a_link_whose_traffic_control_refuses_promises_nothing() -> None:
    net = chain(3)
    broken = net.boxes["r2"]
    announce(net)
    net.until(lambda: "path" in kinds(net, "receiver"))
    take = broken.node.take

    def failing() -> list[object]:
        actions = take()
        for action in actions:
            if isinstance(action, Install):
                net._later(0.01, lambda handle=action.handle: net.do("r2", lambda node: node.failed(handle, net.now)))  # type: ignore[misc]
        return list(actions)

    net.install = 1e9  # nothing comes into force by itself
    broken.node.take = failing  # type: ignore[assignment,method-assign]
    ask(net)
    net.until(lambda: "resv-error" in kinds(net, "receiver"))
    error = net.boxes["receiver"].events[-1].error
    assert error is not None
    assert (error.code, error.flags & ErrorSpec.IN_PLACE) == (22, 0)
    assert "confirmed" not in kinds(net, "receiver")
    net.do("receiver", lambda node: node.release(session_of(net), net.now))
    net.run(5)
    assert not any(box.installed for box in net.boxes.values())


def session_of(net: Net) -> Session:
    return net.boxes["receiver"].node.paths[0].session


def test_errors_of_strangers_are_neither_remembered_nor_repeated() -> None:
    box = node()
    for number in range(200):
        session = replace(SESSION, port=1 + number)
        error = m.ResvErr(session, Hop(A, 1), ErrorSpec(A, 0, 1, 2), Style.FF, (m.Flow(Flowspec(TSPEC), (Sender(A, number),)),))
        box.receive(Packet(A, B, 64, False, m.Message(error).pack()), 1, 0.0)
        bad = m.Path(session, Hop(IPv4Address("192.0.2.9"), 1), 30_000, SENDER, replace(TSPEC, rate=0.0))
        box.receive(Packet(A, B, 64, True, m.Message(bad).pack()), 1, 0.0)
        request = m.Resv(session, Hop(A, 1), 30_000, Style.FF, (m.Flow(Flowspec(TSPEC), (SENDER,)),))
        box.receive(Packet(A, B, 64, False, m.Message(request).pack()), 1, 0.0)
    assert box.counts["unfounded"] == 200
    answers = [action for action in box.take() if isinstance(action, Send)]
    assert len(answers) == 400, "one answer to each message that can be answered"
    assert box.leftovers() == 0
    assert box.deadline() is None


def test_a_message_that_fits_no_datagram_takes_no_other_with_it() -> None:
    box = node()
    outlet, where = box._outlet, Where(1, R, A)
    outlet.capable(A, reduces=True)
    many = tuple(m.Flow(Flowspec(TSPEC), (Sender(B, number),)) for number in range(1500))
    for flows, scope in ((many, None), (many[:1], Scope((SIX,) * 4096)), (many[:1], None)):
        outlet.once(m.ResvTear(SESSION, Hop(R, 1), Style.FF, flows, scope), where, 0.0, reliable=False)
    outlet.flush(0.0)
    (send,) = [action for action in box.take() if isinstance(action, Send)]
    (part,) = [grammar.read(split(each)) for each in messages(split(send.data))]
    assert isinstance(part.body, m.ResvTear)
    assert part.body.flows == many[:1]
    assert box.counts["too-large"] == 2


def test_messages_with_addresses_of_both_versions_mean_nothing() -> None:
    box = node()
    for session, hop, sender in (
        (SESSION, Hop(SIX), SENDER),
        (SESSION, Hop(A), Sender(SIX, 1)),
        (Session(FAR, 17, 1), Hop(SIX), Sender(SIX, 1)),
    ):
        box.receive(Packet(A, B, 64, True, m.Message(m.Path(session, hop, 30_000, sender, TSPEC)).pack()), 1, 0.0)
    assert box.counts["rsvperror"] == 3
    assert box.paths == []


def test_a_node_speaks_of_itself_with_the_address_of_the_sessions_version() -> None:
    box = node()
    box._book.interfaces[1] = replace(box._book.interfaces[1], other=SIX)
    path = m.Path(Session(SIX, 17, 5004), Hop(FAR, 4), 30_000, Sender(FAR, 6000), TSPEC)
    box.receive(Packet(FAR, SIX, 64, True, m.Message(path).pack()), 2, 0.0)
    sends = [action for action in box.take() if isinstance(action, Send)]
    (onward,) = [grammar.read(split(send.data)).body for send in sends if send.interface == 1]
    assert isinstance(onward, m.Path)
    assert onward.hop == Hop(SIX, 1)


def test_a_way_over_a_device_without_an_address_carries_nothing_until_it_has_one() -> None:
    interfaces = {n: Interface(n, IPv4Address(f"192.0.2.{n}"), 1e7) for n in (1, 2)}
    box = Node(Config(), interfaces, lambda to, source: (3,), random.Random(1))
    path = m.Path(SESSION, Hop(A, 1), 30_000, SENDER, TSPEC)
    box.receive(Packet(SENDER.address, SESSION.destination, 64, True, m.Message(path).pack()), 1, 0.0)
    assert (box.counts["no-address"], len(box.paths), box.take()) == (1, 1, [])
    interfaces[3] = Interface(3, IPv4Address("192.0.2.3"), 1e7)
    box.configure(Config(), interfaces, {}, 1.0)
    (onward,) = [action for action in box.take() if isinstance(action, Send)]
    assert (onward.interface, onward.destination) == (3, SESSION.destination)
    while (at := box.deadline()) is not None:
        box.tick(at)
    assert box.leftovers() == 0


def test_ipv6_packets_come_back_whole_or_in_pieces() -> None:
    for alert in (True, False):
        packet = Packet(SIX, FAR, 9, alert, b"\x1fmessage" * 10)
        data = packet.pack()
        assert (data[0] >> 4, data[6]) == (6, 0 if alert else 46)
        assert Packet.read6(data, FAR, SIX, 1) == packet
        assert Packet.read6(packet.payload, SIX, FAR, 9) == replace(packet, alert=False), "as it comes where it was for this host"
        long = replace(packet, payload=bytes([0x10]) + bytes(range(250)) * 12)
        pieces = long.pieces(1400, 7)
        skip = 40 + 8 * alert + 8
        assert all(len(piece) <= 1400 for piece in pieces)
        assert b"".join(piece[skip:] for piece in pieces) == long.payload
        heads = [int.from_bytes(piece[skip - 6 : skip - 4], "big") for piece in pieces]
        assert [head & 1 for head in heads] == [1] * (len(pieces) - 1) + [0]
        assert [head & ~7 for head in heads] == [sum(len(p) - skip for p in pieces[:n]) for n in range(len(pieces))]
        with pytest.raises(RsvpError, match="fragment"):
            Packet.read6(pieces[1], SIX, FAR, 9)


@given(st.binary(max_size=120))
def test_ipv6_packets_of_strangers_are_read_or_refused(data: bytes) -> None:
    for each in (data, b"\x60" + data, b"\x60" + bytes(5) + data):
        try:
            found = Packet.read6(each, SIX, FAR, 3)
        except RsvpError:
            continue
        assert each.endswith(found.payload) or found.payload in each
