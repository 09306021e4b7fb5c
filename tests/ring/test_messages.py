"""Ring messages: whatever is put in comes out, and nothing else is taken for one."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.model import Member, encode
from polder.model import ring_messages as m

places = st.binary(min_size=16, max_size=16)
someone = st.builds(Member, name=st.text(max_size=20), ring_id=places, address=st.text(max_size=30))
some = st.lists(someone, max_size=8).map(tuple)
rumours = st.lists(st.builds(m.Rumour, someone, st.integers(0, 2**63 - 1), st.booleans()), max_size=5).map(tuple)
requests = st.one_of(
    st.builds(m.GetBestPredecessor, someone, places, st.lists(places, max_size=4).map(tuple)),
    *(st.builds(kind, someone) for kind in (m.GetSuccessors, m.GetNeighbours, m.Notify, m.Ping, m.Leaving)),
    st.builds(m.Find, someone, places),
    st.builds(m.Meet, someone, someone),
    st.builds(m.Gossip, someone, rumours, st.binary(max_size=8), st.booleans()),
)
answers = st.one_of(
    st.builds(m.BestPredecessor, someone, someone),
    st.builds(m.Successors, someone, some),
    st.builds(m.Neighbours, someone, st.none() | someone, some),
    *(st.builds(kind, someone) for kind in (m.Pong, m.Busy, m.NotJoined)),
    st.builds(m.Found, someone, st.booleans(), some),
    st.builds(m.Gossiped, someone, rumours, st.binary(max_size=8)),
)


@given(requests)
def test_requests_survive_the_wire(request_: m.RingRequest) -> None:
    assert m.decode_request(encode(request_)) == request_


@given(answers)
def test_answers_survive_the_wire(answer: m.RingAnswer) -> None:
    assert m.decode_answer(encode(answer)) == answer


@given(requests, answers)
def test_a_request_is_no_answer_and_an_answer_no_request(request_: m.RingRequest, answer: m.RingAnswer) -> None:
    for decoder, message in ((m.decode_answer, request_), (m.decode_request, answer)):
        with pytest.raises(ValueError, match="not a message of the ring"):
            decoder(encode(message))


@given(requests.map(encode), st.data())
def test_damaged_bytes_are_refused_or_another_message_never_a_crash(body: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(ValueError):
        m.decode_request(body[:cut])
    place, value = data.draw(st.integers(0, len(body) - 1)), data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        m.decode_request(body[:place] + bytes([value]) + body[place + 1 :])


@given(st.binary(max_size=300))
def test_noise_is_refused(body: bytes) -> None:
    for decoder in (m.decode_request, m.decode_answer):
        with pytest.raises(ValueError):
            decoder(body)


def test_places_have_16_bytes_and_lists_an_end() -> None:
    sender = Member.of("a", 1, "x")
    for bad in (
        m.Find(sender, b"short"),
        m.Find(Member("a", b"short", "x"), bytes(16)),
        m.GetBestPredecessor(sender, bytes(16), (bytes(16),) * 33),
    ):
        with pytest.raises(ValueError):
            m.decode_request(encode(bad))
    with pytest.raises(ValueError):
        m.decode_answer(encode(m.Successors(sender, (sender,) * 65)))
    with pytest.raises(ValueError):
        m.decode_request(msgspec.msgpack.encode({"type": "ping", "sender": sender, "more": 1}))
