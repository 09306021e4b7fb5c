"""Messages of every kind: strategies for hypothesis, one fixed example of each, and capture files around them."""

from __future__ import annotations

import math
import struct
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path as File

from hypothesis import strategies as st

from polder.rsvp import messages as m
from polder.rsvp.adspec import Adspec
from polder.rsvp.adspec import Hop as Link
from polder.rsvp.intserv import Flowspec, Rspec, Tspec, single
from polder.rsvp.ip import Packet
from polder.rsvp.objects import (
    Challenge,
    ErrorSpec,
    Hop,
    MessageId,
    MessageIdAck,
    MessageIdList,
    ResvConfirm,
    Scope,
    Sender,
    Session,
    SourceList,
    Style,
)
from polder.rsvp.policy_data import Element, PolicyData, pack_bundle, whole
from polder.rsvp.wire import Raw

u8, u16, u24, u32 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 24, 32))
floats = st.floats(min_value=1, max_value=float(2**45), width=32)
addresses = st.one_of(st.integers(1, (1 << 32) - 2).map(IPv4Address), st.integers(1, (1 << 128) - 2).map(IPv6Address))
sessions = st.builds(Session, addresses, u8, u16, u8)
hops = st.builds(Hop, addresses, u32)
senders = st.one_of(
    st.builds(Sender, addresses, u16),
    st.builds(Sender, st.integers(1, (1 << 128) - 2).map(IPv6Address), u32, st.just(True)),
)
tspecs = st.builds(Tspec, floats, floats, st.one_of(floats, st.just(math.inf)), u32, u32)
flowspecs = st.builds(Flowspec, tspecs, st.one_of(st.none(), st.builds(Rspec, floats, u32)))
errors = st.builds(ErrorSpec, addresses, u8, u8, u16)
elements = st.builds(Element, st.integers(0, 0xFFFF), st.binary(max_size=40))
policies = st.lists(
    st.builds(PolicyData, st.just(()), st.lists(elements, max_size=3).map(tuple)).map(PolicyData.pack), max_size=2
).map(tuple)
extras = st.lists(
    st.builds(Raw, st.integers(0xC0, 0xFF), u8, st.integers(0, 5).flatmap(lambda n: st.binary(min_size=4 * n, max_size=4 * n))),
    max_size=2,
).map(tuple)
links = st.builds(Link, floats, st.integers(68, 65535), u16, u16, u16)
adspecs = st.lists(links, max_size=3).map(lambda hops: _composed(hops))
scopes = st.one_of(
    st.none(),
    st.lists(st.integers(1, (1 << 32) - 2).map(IPv4Address), min_size=1, max_size=4).map(lambda each: Scope(tuple(each))),
)


def _composed(hops: list[Link]) -> Adspec:
    adspec = Adspec.start()
    for hop in hops:
        adspec = adspec.onward(hop)
    return adspec


@st.composite
def styled(draw: st.DrawFn, *, complete: bool) -> tuple[Style, tuple[m.Flow, ...]]:
    """A style with flow descriptors that fit it."""
    style = draw(st.sampled_from(Style))
    request = flowspecs if complete else st.one_of(st.none(), flowspecs)
    if style == Style.WF:
        return style, (m.Flow(draw(flowspecs)),)
    if style == Style.SE:
        return style, (m.Flow(draw(request), tuple(draw(st.lists(senders, min_size=1, max_size=4)))),)
    count = draw(st.integers(1, 3))
    if not complete and draw(st.booleans()):
        return style, tuple(m.Flow(None, (draw(senders),)) for _ in range(count))
    return style, tuple(m.Flow(draw(flowspecs), (draw(senders),)) for _ in range(count))


@st.composite
def bodies(draw: st.DrawFn) -> m.Body:
    """Any message but bundles."""
    session, hop, extra = draw(sessions), draw(hops), draw(extras)
    match draw(st.integers(0, 10)):
        case 0:
            rest = (draw(senders), draw(tspecs), draw(st.one_of(st.none(), adspecs)), draw(policies))
            return m.Path(session, hop, draw(u32), *rest, extra)
        case 1:
            style, flows = draw(styled(complete=True))
            confirm = draw(st.one_of(st.none(), st.builds(ResvConfirm, addresses)))
            return m.Resv(session, hop, draw(u32), style, flows, confirm, draw(scopes), draw(policies), extra)
        case 2:
            return m.PathErr(session, draw(errors), draw(senders), draw(tspecs), None, draw(policies), extra)
        case 3:
            style, flows = draw(styled(complete=False))
            return m.ResvErr(session, hop, draw(errors), style, flows, draw(scopes), draw(policies), extra)
        case 4:
            return m.PathTear(session, hop, draw(st.one_of(st.none(), senders)), extra=extra)
        case 5:
            style, flows = draw(styled(complete=False))
            return m.ResvTear(session, hop, style, flows, draw(scopes), extra)
        case 6:
            style, flows = draw(styled(complete=False))
            return m.ResvConf(session, draw(errors), ResvConfirm(draw(addresses)), style, flows, extra)
        case 7:
            return m.Ack()
        case 8:
            numbers = draw(st.lists(u32, min_size=1, max_size=5).map(tuple))
            sources = draw(
                st.lists(st.tuples(u32, st.integers(1, 9).map(IPv4Address), st.none()), min_size=1, max_size=3).map(tuple)
            )
            return m.Srefresh((MessageIdList(draw(u8), draw(u24), numbers), SourceList(draw(u8), draw(u24), sources)))
        case 9:
            return m.IntegrityChallenge(Challenge(draw(st.integers(0, (1 << 48) - 1)), draw(st.binary(min_size=4, max_size=4))))
        case _:
            return m.IntegrityResponse(Challenge(draw(st.integers(0, (1 << 48) - 1)), draw(st.binary(min_size=8, max_size=8))))


all_messages = st.builds(
    m.Message,
    bodies(),
    st.one_of(st.none(), st.builds(MessageId, u8, u24, u32)),
    st.lists(st.builds(MessageIdAck, u24, u32, st.booleans(), u8), max_size=3).map(tuple),
    st.booleans(),
    u8,
)

A, B, R = IPv4Address("192.0.2.1"), IPv4Address("198.51.100.9"), IPv4Address("192.0.2.254")
SESSION, SENDER, OTHER = Session(B, 17, 5004), Sender(A, 6000), Sender(IPv4Address("192.0.2.2"), 6000)
TSPEC = Tspec(2_500_000.0, 64_000.0, single(5e6), 128, 1500)
ADSPEC = Adspec.start().onward(Link(3_125_000.0, 1500, 900, 1500, 60)).onward(Link(1_250_000.0, 1400, 100, 3000, 10))
CONTROLLED, GUARANTEED = Flowspec(TSPEC), Flowspec(TSPEC, Rspec(3_000_000.0, 20))
POLICY = (whole(pack_bundle([b"KeyNote-Version: 2\n" * 3, b"Authorizer: POLICY\n"])),)


def one_of_each() -> dict[str, m.Message]:
    """A fixed example of every message and every object, by name."""
    hop, error = Hop(R, 3), ErrorSpec(R, 1, 1, 2)
    se, ff, wf = Style.SE, Style.FF, Style.WF
    known = MessageId(1, 0xABCDE, 7)
    acks = (MessageIdAck(0xABCDE, 6), MessageIdAck(0xABCDE, 9, True))
    bodies = {
        "path": m.Path(SESSION, hop, 30_000, SENDER, TSPEC, ADSPEC),
        "path-plain": m.Path(SESSION, hop, 30_000, SENDER, TSPEC),
        "resv-ff": m.Resv(SESSION, hop, 30_000, ff, (m.Flow(CONTROLLED, (SENDER,)), m.Flow(GUARANTEED, (OTHER,)))),
        "resv-se": m.Resv(SESSION, hop, 30_000, se, (m.Flow(GUARANTEED, (SENDER, OTHER)),), ResvConfirm(B)),
        "resv-wf": m.Resv(SESSION, hop, 30_000, wf, (m.Flow(CONTROLLED),), None, Scope((A, OTHER.address))),
        "resv-policy": m.Resv(SESSION, hop, 30_000, ff, (m.Flow(CONTROLLED, (SENDER,)),), policy=POLICY),
        "path-err": m.PathErr(SESSION, error, SENDER, TSPEC),
        "resv-err": m.ResvErr(SESSION, hop, error, se, (m.Flow(CONTROLLED, (SENDER,)),)),
        "path-tear": m.PathTear(SESSION, hop, SENDER, TSPEC),
        "resv-tear": m.ResvTear(SESSION, hop, ff, (m.Flow(CONTROLLED, (SENDER,)),)),
        "resv-conf": m.ResvConf(SESSION, ErrorSpec(R, 0, 0, 0), ResvConfirm(B), ff, (m.Flow(CONTROLLED, (SENDER,)),)),
        "srefresh": m.Srefresh((MessageIdList(0, 0xABCDE, (1, 2, 3)),)),
        "ack": m.Ack(),
    }
    found = {name: m.Message(body) for name, body in bodies.items()}
    found["ack"] = m.Message(m.Ack(), acks=acks, reduces=True)
    found["path-numbered"] = m.Message(bodies["path"], known, acks, True)
    found["srefresh-numbered"] = m.Message(bodies["srefresh"], known, (), True)
    found["bundle"] = m.Message(m.Bundled((found["path"].pack(), found["ack"].pack())), reduces=True)
    found["challenge"] = m.Message(m.IntegrityChallenge(Challenge(77, b"12345678")))
    found["response"] = m.Message(m.IntegrityResponse(Challenge(77, b"12345678")))
    return found


def write_capture(path: File, messages: list[bytes]) -> None:
    """A pcap file of raw IPv4 packets, one message each."""
    data = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)
    for number, message in enumerate(messages):
        packet = Packet(A, B, 64, True, message).pack()
        data += struct.pack("<IIII", 1_700_000_000 + number, 0, len(packet), len(packet)) + packet
    path.write_bytes(data)


def captured(path: File) -> list[bytes]:
    """IP payloads of protocol 46 in a capture file (pcap, or pcapng with its simplest blocks), as far as they were captured."""
    data = path.read_bytes()
    if data[:4] == b"\x0a\x0d\x0d\x0a":
        frames = list(_blocks(data))
    else:
        order = "<" if data[:4] in {b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1"} else ">"
        link = struct.unpack_from(order + "I", data, 20)[0] & 0xFFFF
        frames, at = [], 24
        while at + 16 <= len(data):
            (kept,) = struct.unpack_from(order + "I", data, at + 8)
            frames.append((link, data[at + 16 : at + 16 + kept]))
            at += 16 + kept
    found = []
    for link, frame in frames:
        tagged = link == 1 and frame[12:14] == b"\x81\x00"
        ip = frame[{1: 18 if tagged else 14, 9: 4, 101: 0, 113: 16}[link] :]
        if len(ip) >= 20 and ip[0] >> 4 == 4 and ip[9] == 46:
            length = struct.unpack_from("!H", ip, 2)[0]
            found.append(ip[(ip[0] & 15) * 4 :][: max(0, length - (ip[0] & 15) * 4)])
    return found


def _blocks(data: bytes):
    at, link = 0, 1
    while at + 12 <= len(data):
        kind, size = struct.unpack_from("<II", data, at)
        if kind == 1:
            (link,) = struct.unpack_from("<H", data, at + 8)
        elif kind == 6:
            (kept,) = struct.unpack_from("<I", data, at + 20)
            yield link, data[at + 28 : at + 28 + kept]
        at += size
