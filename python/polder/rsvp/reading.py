"""Objects read: from bytes to values, without a guess (formats: RFC 2205 appendix A, 2747 §2.1 and §4.3, 2961 §4.2 to §5.3)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import ip_address

from polder.rsvp import intserv
from polder.rsvp.adspec import Adspec
from polder.rsvp.errors import Code, RsvpError
from polder.rsvp.objects import (
    Address,
    AdspecObject,
    Challenge,
    Class,
    ErrorSpec,
    FilterSpec,
    FlowspecObject,
    Hop,
    Integrity,
    MessageId,
    MessageIdAck,
    MessageIdList,
    Null,
    Object,
    PolicyObject,
    ResvConfirm,
    Scope,
    Sender,
    SenderTemplate,
    SenderTspec,
    Session,
    SourceList,
    Spoiled,
    StyleObject,
    TimeValues,
    Unknown,
    Value,
)
from polder.rsvp.wire import Raw

_LENGTH = {1: 4, 2: 16}


def _addressed(body: bytes, ctype: int, behind: int) -> tuple[Address, bytes]:
    """An address of the family that the C-Type names, and exactly ``behind`` bytes after it."""
    if ctype not in _LENGTH:
        raise RsvpError(f"type {ctype} is not known", Code.UNKNOWN_CTYPE)
    length = _LENGTH[ctype]
    if len(body) != length + behind:
        raise RsvpError(f"{len(body)} bytes, and {length + behind} belong there")
    return ip_address(body[:length]), body[length:]


def _session(ctype: int, body: bytes) -> Session:
    address, rest = _addressed(body, ctype, 4)
    protocol, flags, port = struct.unpack("!BBH", rest)
    return Session(address, protocol, port, flags)


def _hop(ctype: int, body: bytes) -> Hop:
    address, rest = _addressed(body, ctype, 4)
    return Hop(address, int.from_bytes(rest, "big"))


def _words(ctype: int, body: bytes, count: int, known: tuple[int, ...] = (1,)) -> tuple[int, ...]:
    if ctype not in known:
        raise RsvpError(f"type {ctype} is not known", Code.UNKNOWN_CTYPE)
    if len(body) != 4 * count:
        raise RsvpError(f"{len(body)} bytes, and {4 * count} belong there")
    return struct.unpack(f"!{count}I", body)


def _time(ctype: int, body: bytes) -> TimeValues:
    return TimeValues(*_words(ctype, body, 1))


def _error(ctype: int, body: bytes) -> ErrorSpec:
    address, rest = _addressed(body, ctype, 4)
    return ErrorSpec(address, *struct.unpack("!BBH", rest))


def _scope(ctype: int, body: bytes) -> Scope:
    length = _LENGTH.get(ctype)
    if length is None:
        raise RsvpError(f"type {ctype} is not known", Code.UNKNOWN_CTYPE)
    if not body or len(body) % length:
        raise RsvpError(f"{len(body)} bytes of addresses of {length}")
    return Scope(tuple(ip_address(body[at : at + length]) for at in range(0, len(body), length)))


def _style(ctype: int, body: bytes) -> StyleObject:
    (word,) = _words(ctype, body, 1)
    return StyleObject(word & 0xFF_FFFF, word >> 24)


def _sender(ctype: int, body: bytes) -> Sender:
    if ctype == 3:
        address, rest = _addressed(body, 2, 4)
        return Sender(address, int.from_bytes(rest, "big"), True)
    address, rest = _addressed(body, ctype, 4)
    unused, port = struct.unpack("!HH", rest)
    if unused:
        raise RsvpError("bits that must be zero are not")
    return Sender(address, port)


def _intserv(ctype: int) -> None:
    if ctype != 2:
        raise RsvpError(f"type {ctype} is not known", Code.UNKNOWN_CTYPE)


def _flowspec(ctype: int, body: bytes) -> FlowspecObject:
    _intserv(ctype)
    return FlowspecObject(intserv.read_flowspec(body))


def _tspec(ctype: int, body: bytes) -> SenderTspec:
    _intserv(ctype)
    return SenderTspec(intserv.read_sender(body))


def _adspec(ctype: int, body: bytes) -> AdspecObject:
    _intserv(ctype)
    return AdspecObject(Adspec.read(body))


def _policy(ctype: int, body: bytes) -> PolicyObject:
    if ctype != 1:
        raise RsvpError(f"type {ctype} is not known", Code.UNKNOWN_CTYPE)
    return PolicyObject(body)


def _confirm(ctype: int, body: bytes) -> ResvConfirm:
    return ResvConfirm(_addressed(body, ctype, 0)[0])


def _integrity(ctype: int, body: bytes) -> Integrity:
    if ctype != 1:
        raise RsvpError(f"type {ctype} is not known", Code.UNKNOWN_CTYPE)
    if len(body) < 20:
        raise RsvpError(f"{len(body)} bytes, and at least 20 belong there")
    return Integrity(body[0], int.from_bytes(body[2:8], "big"), int.from_bytes(body[8:16], "big"), body[16:])


def _challenge(ctype: int, body: bytes) -> Challenge:
    if ctype != 1:
        raise RsvpError(f"type {ctype} is not known", Code.UNKNOWN_CTYPE)
    if len(body) < 12:
        raise RsvpError(f"{len(body)} bytes, and at least 12 belong there")
    return Challenge(int.from_bytes(body[2:8], "big"), body[8:])


def _message_id(ctype: int, body: bytes) -> MessageId:
    word, number = _words(ctype, body, 2)
    return MessageId(word >> 24, word & 0xFF_FFFF, number)


def _ack(ctype: int, body: bytes) -> MessageIdAck:
    word, number = _words(ctype, body, 2, (1, 2))
    return MessageIdAck(word & 0xFF_FFFF, number, ctype == 2, word >> 24)


def _list(ctype: int, body: bytes) -> MessageIdList | SourceList:
    if ctype not in {1, 2, 3, 4, 5}:
        raise RsvpError(f"type {ctype} is not known", Code.UNKNOWN_CTYPE)
    if len(body) < 8:
        raise RsvpError(f"{len(body)} bytes: a list has a head and at least one entry")
    word = int.from_bytes(body[:4], "big")
    flags, epoch = word >> 24, word & 0xFF_FFFF
    if ctype == 1:
        return MessageIdList(flags, epoch, struct.unpack(f"!{len(body) // 4 - 1}I", body[4:]))
    length = 4 if ctype in {2, 4} else 16
    size = 4 + length * (2 if ctype > 3 else 1)
    if (len(body) - 4) % size:
        raise RsvpError(f"{len(body) - 4} bytes of entries of {size}")
    entries = []
    for at in range(4, len(body), size):
        number = int.from_bytes(body[at : at + 4], "big")
        source = ip_address(body[at + 4 : at + 4 + length])
        destination = ip_address(body[at + 4 + length : at + size]) if ctype > 3 else None
        entries.append((number, source, destination))
    return SourceList(flags, epoch, tuple(entries))


_READERS: dict[int, Callable[[int, bytes], Object]] = {
    Class.NULL: Null,
    Class.SESSION: _session,
    Class.HOP: _hop,
    Class.INTEGRITY: _integrity,
    Class.TIME_VALUES: _time,
    Class.ERROR_SPEC: _error,
    Class.SCOPE: _scope,
    Class.STYLE: _style,
    Class.FLOWSPEC: _flowspec,
    Class.FILTER_SPEC: lambda ctype, body: FilterSpec(_sender(ctype, body)),
    Class.SENDER_TEMPLATE: lambda ctype, body: SenderTemplate(_sender(ctype, body)),
    Class.SENDER_TSPEC: _tspec,
    Class.ADSPEC: _adspec,
    Class.POLICY_DATA: _policy,
    Class.RESV_CONFIRM: _confirm,
    Class.MESSAGE_ID: _message_id,
    Class.MESSAGE_ID_ACK: _ack,
    Class.MESSAGE_ID_LIST: _list,
    Class.CHALLENGE: _challenge,
}


def value_of(raw: Raw) -> Value:
    """What an object says. Never raises: what cannot be read is ``Spoiled``, what is not known ``Unknown``."""
    reader = _READERS.get(raw.class_num)
    if reader is None:
        return Unknown(raw)
    try:
        return reader(raw.ctype, raw.body)
    except RsvpError as error:
        code = error.code if error.code is not None else None
        value = raw.class_num << 8 | raw.ctype if code == Code.UNKNOWN_CTYPE else error.value
        return Spoiled(raw, RsvpError(f"object {Class(raw.class_num).name}: {error.why}", code, value))
    except struct.error as error:
        return Spoiled(raw, RsvpError(f"object {Class(raw.class_num).name}: {error}"))
