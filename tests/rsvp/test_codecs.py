"""Messages there and back: ours, strangers' captures, and whatever bytes may come."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.rsvp import grammar
from polder.rsvp import messages as m
from polder.rsvp.errors import Code, RsvpError
from polder.rsvp.objects import Class, Fate, Session, Spoiled, Unknown, fate, raw_of
from polder.rsvp.reading import value_of
from polder.rsvp.wire import Datagram, Header, Malformed, Raw, Type, checksum, sound, split
from tests.rsvp.examples import all_messages, captured, one_of_each

CAPTURES = Path(os.environ.get("POLDER_DATA", "/nonexistent")) / "rsvp"
OWN = Path(__file__).parent / "captures"


@given(all_messages)
def test_a_message_comes_back_as_it_was(message: m.Message) -> None:
    data = message.pack()
    assert sound(data)
    datagram = split(data)
    assert datagram.pack() == data
    again = grammar.read(datagram)
    assert again == message
    assert again.pack() == data


@given(st.binary(max_size=300))
def test_no_bytes_do_harm_and_nothing_is_lost(data: bytes) -> None:
    try:
        datagram = split(data)
    except Malformed as error:
        assert error.data == data
        if error.part is not None:
            assert error.part.pack() == data
        return
    assert datagram.pack() == data
    with pytest.raises(RsvpError):
        grammar.read(datagram)
        raise RsvpError("sound after all")


@given(all_messages, st.data())
def test_a_changed_message_is_read_or_refused(message: m.Message, data: st.DataObject) -> None:
    raw = bytearray(message.pack())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        datagram = split(bytes(raw))
    except Malformed as error:
        assert error.part is None or error.part.pack() == bytes(raw)
        return
    assert datagram.pack() == bytes(raw)
    try:
        again = grammar.read(datagram)
    except RsvpError as error:
        assert error.why
    else:
        assert grammar.read(split(again.pack())) == again


@given(all_messages)
def test_values_are_the_objects_they_came_from(message: m.Message) -> None:
    for raw in message.datagram().objects:
        assert raw_of(value_of(raw)) == raw


@pytest.mark.parametrize("name", sorted(one_of_each()))
def test_the_examples_are_in_the_own_captures(name: str) -> None:
    message = one_of_each()[name]
    stored = bytes.fromhex((OWN / f"{name}.hex").read_text())
    assert message.pack() == stored, "the bytes of a message changed: other implementations would read something else"
    assert grammar.read(split(stored)) == message


def test_captures_of_others_come_back_byte_for_byte() -> None:
    if not CAPTURES.is_dir():
        pytest.skip("the captures of other implementations are not here (POLDER_DATA)")
    seen = whole = 0
    for path in sorted(CAPTURES.glob("*.pcap*")):
        for data in captured(path):
            seen += 1
            try:
                datagram = split(data)
                whole += 1
            except Malformed as error:
                assert error.part is not None, f"{path.name}: {error}"
                datagram = error.part
            assert datagram.pack() == data, path.name
            for raw in datagram.objects:
                value = value_of(raw)
                assert raw_of(value).class_num == raw.class_num
                if not isinstance(value, Unknown | Spoiled):
                    assert raw_of(value) == raw, (path.name, raw)
    assert (seen, whole) == (10, 5)


def test_what_a_capture_says_is_what_tcpdump_says() -> None:
    if not CAPTURES.is_dir():
        pytest.skip("the captures of other implementations are not here (POLDER_DATA)")
    path, _ = (split(each) for each in captured(CAPTURES / "click-rsvp-network1.pcap")[:2])
    session = value_of(path.objects[0])
    assert str(session) == "udp 192.168.11.1 port 2222"
    with pytest.raises(RsvpError, match="parameter 127 of 1280 words"):
        grammar.read(path)  # its sender wrote the length in the wrong byte order
    (hello,) = (split(each) for each in captured(CAPTURES / "rsvp_cap.pcap"))
    assert hello.header.type == Type.HELLO
    assert not sound(captured(CAPTURES / "rsvp_cap.pcap")[0])


def test_unknown_classes_have_the_fate_that_their_bits_say() -> None:
    assert [fate(n) for n in (0x7F, 0x80, 0xBF, 0xC0, 0xFF)] == [
        Fate.REJECT,
        Fate.IGNORE,
        Fate.IGNORE,
        Fate.FORWARD,
        Fate.FORWARD,
    ]
    message = one_of_each()["path"]
    for number, wanted in ((0x55, None), (0x99, ()), (0xD5, (Raw(0xD5, 1, b"abcd"),))):
        datagram = message.datagram()
        odd = Datagram(datagram.header, (*datagram.objects, Raw(number, 1, b"abcd")))
        if wanted is None:
            with pytest.raises(grammar.Unacceptable) as caught:
                grammar.read(odd)
            assert (caught.value.code, caught.value.value) == (Code.UNKNOWN_CLASS, number << 8 | 1)
            assert caught.value.message == message
        else:
            assert grammar.read(odd).body.extra == wanted  # type: ignore[union-attr]


def test_a_known_class_of_an_unknown_type_is_reported() -> None:
    datagram = one_of_each()["path"].datagram()
    odd = Datagram(datagram.header, (Raw(Class.SESSION, 7, bytes(12)), *datagram.objects[1:]))
    with pytest.raises(RsvpError) as caught:
        grammar.read(odd)
    assert (caught.value.code, caught.value.value) == (Code.UNKNOWN_CTYPE, Class.SESSION << 8 | 7)


def test_a_message_without_its_parts_is_refused() -> None:
    for name, message in one_of_each().items():
        datagram = message.datagram()
        for gone in range(len(datagram.objects)):
            objects = datagram.objects[:gone] + datagram.objects[gone + 1 :]
            try:
                again = grammar.read(Datagram(datagram.header, objects, datagram.rest))
            except RsvpError:
                continue
            assert again != message, (name, gone)


def test_the_checksum_is_the_internets() -> None:
    data = Header(Type.ACK).pack(8, 0) + bytes.fromhex("0001f203f4f5f6f7")
    words = struct.unpack(f"!{len(data) // 2}H", data)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert checksum(data) == ~total & 0xFFFF
    whole = data[:2] + struct.pack("!H", checksum(data)) + data[4:]
    assert sound(whole)
    assert not sound(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert sound(data), "zero means that none was computed"


def test_flags_do_not_make_another_session() -> None:
    session = one_of_each()["path"].body.session  # type: ignore[union-attr]
    assert Session(session.destination, session.protocol, session.port, 1).key() == session.key()
