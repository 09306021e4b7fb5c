"""A message as bytes: common header, objects, checksum (RFC 2205 §3.1). Nothing is lost: every object keeps its bytes.

``split`` never guesses: what it cannot read to the end is raised with all that was read and all that was left.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from polder.rsvp.errors import RsvpError

HEADER = struct.Struct("!BBHBBH")
OBJECT = struct.Struct("!HBB")
VERSION = 1
REFRESH_REDUCTION = 0x01
"""Flag of the header: this node understands RFC 2961 (§2)."""
MAX_MESSAGE = 65_515
"""One message is one datagram (RFC 2205 §3.1): 65,535 bytes less the smallest IPv4 header."""


class Type(IntEnum):
    """Message types (RFC 2205 §3.1, 2961 §3, 3097 §2)."""

    PATH = 1
    RESV = 2
    PATH_ERR = 3
    RESV_ERR = 4
    PATH_TEAR = 5
    RESV_TEAR = 6
    RESV_CONF = 7
    BUNDLE = 12
    ACK = 13
    SREFRESH = 15
    HELLO = 20
    INTEGRITY_CHALLENGE = 25
    INTEGRITY_RESPONSE = 26


@dataclass(frozen=True, slots=True)
class Header:
    """The common header. ``ttl``: the IP TTL it was sent with; ``checksum`` as received, 0 when none was computed."""

    type: int
    flags: int = 0
    ttl: int = 64
    checksum: int = 0
    reserved: int = 0
    version: int = VERSION

    def pack(self, length: int, checksum: int | None = None) -> bytes:
        """Eight bytes."""
        first = self.version << 4 | self.flags
        return HEADER.pack(first, self.type, self.checksum if checksum is None else checksum, self.ttl, self.reserved, length)


@dataclass(frozen=True, slots=True)
class Raw:
    """One object as it stands in a message: class number, C-Type, and the bytes behind its four-byte header."""

    class_num: int
    ctype: int
    body: bytes

    def pack(self) -> bytes:
        """The object's bytes; its length is a multiple of four (RFC 2205 §3.1.2). Raises ``RsvpError`` for one that is too long."""
        if len(self) > MAX_MESSAGE:
            raise RsvpError(f"an object of {len(self)} bytes does not fit one datagram of {MAX_MESSAGE}")
        return OBJECT.pack(4 + len(self.body), self.class_num, self.ctype) + self.body

    def __len__(self) -> int:
        return 4 + len(self.body)


@dataclass(frozen=True, slots=True)
class Datagram:
    """One message in parts. A bundle's ``rest`` are whole messages (RFC 2961 §3); elsewhere ``rest`` is what could not be read.

    ``length``: what the header says, when that is not the number of bytes there are.
    """

    header: Header
    objects: tuple[Raw, ...] = ()
    rest: bytes = b""
    length: int | None = None

    def __len__(self) -> int:
        """Bytes of the whole message, whether they fit a datagram or not."""
        return HEADER.size + sum(map(len, self.objects)) + len(self.rest)

    def pack(self) -> bytes:
        """The bytes as they were, or with the checksum that the header carries."""
        body = pack_objects(self.objects) + self.rest
        return self.header.pack(self.length if self.length is not None else HEADER.size + len(body)) + body

    def seal(self) -> bytes:
        """The bytes with length and checksum computed."""
        body = pack_objects(self.objects) + self.rest
        length = HEADER.size + len(body)
        if length > MAX_MESSAGE:
            raise RsvpError(f"a message of {length} bytes does not fit one datagram of {MAX_MESSAGE}")
        data = self.header.pack(length, 0) + body
        return data[:2] + struct.pack("!H", checksum(data)) + data[4:]


class Malformed(RsvpError):
    """Bytes that are no message. ``part`` is what was read, with everything else in ``part.rest``; ``None``: not even a header."""

    def __init__(self, why: str, data: bytes, part: Datagram | None = None) -> None:
        super().__init__(why)
        self.data = data
        self.part = part


def pack_objects(objects: Iterable[Raw]) -> bytes:
    """Objects one behind the other."""
    return b"".join([each.pack() for each in objects])


def checksum(data: bytes) -> int:
    """The Internet checksum of a message whose checksum field is zero (RFC 1071); never 0, which means absent."""
    if len(data) % 2:
        data += b"\0"
    total = int.from_bytes(data, "big") % 0xFFFF if any(data) else 0xFFFF
    return (~total & 0xFFFF) or 0xFFFF


def sound(data: bytes) -> bool:
    """Whether a message's checksum is right, or absent."""
    told = int.from_bytes(data[2:4], "big")
    return told == 0 or checksum(data[:2] + b"\0\0" + data[4:]) % 0xFFFF == told % 0xFFFF


def split(data: bytes) -> Datagram:
    """Take a message apart; raises ``Malformed``. The checksum is not looked at (``sound`` does), so that captures can be read."""
    if len(data) < HEADER.size:
        raise Malformed(f"{len(data)} bytes are no RSVP message: its header alone has {HEADER.size}", data)
    first, kind, total, ttl, reserved, length = HEADER.unpack_from(data)
    header = Header(kind, first & 0x0F, ttl, total, reserved, first >> 4)
    objects: list[Raw] = []
    told = None if length == len(data) else length

    def bad(why: str, at: int) -> Malformed:
        return Malformed(why, data, Datagram(header, tuple(objects), data[at:], told))

    if header.version != VERSION:
        raise bad(f"RSVP version {header.version} is not known, only {VERSION}", HEADER.size)
    at = HEADER.size
    while at < len(data):
        if kind == Type.BUNDLE and data[at] >> 4 == VERSION and _looks_like_message(data, at):
            break
        if len(data) - at < OBJECT.size:
            raise bad(f"{len(data) - at} bytes at the end are no object", at)
        size, class_num, ctype = OBJECT.unpack_from(data, at)
        if size < OBJECT.size or size % 4:
            raise bad(f"object of class {class_num} at byte {at} has length {size}: a multiple of 4 from 4 on is possible", at)
        if at + size > len(data):
            raise bad(f"object of class {class_num} at byte {at} has {size} bytes, and {len(data) - at} are left", at)
        objects.append(Raw(class_num, ctype, bytes(data[at + OBJECT.size : at + size])))
        at += size
    if told is not None:
        raise bad(f"the header says {length} bytes, and there are {len(data)}", at)
    return Datagram(header, tuple(objects), bytes(data[at:]))


def _looks_like_message(data: bytes, at: int) -> bool:
    """In a bundle sub-messages follow the objects; an object that began with a length of 4,096 and more would be ambiguous, but what
    may stand there (INTEGRITY, acknowledgements) is shorter (RFC 2961 §3.2).
    """
    if len(data) - at < HEADER.size:
        return False
    return int(HEADER.unpack_from(data, at)[5]) >= HEADER.size


def messages(bundle: Datagram) -> tuple[bytes, ...]:
    """The sub-messages of a bundle; raises ``Malformed``. Bundles in bundles are not allowed (RFC 2961 §3)."""
    found: list[bytes] = []
    data, at = bundle.rest, 0
    while at < len(data):
        if len(data) - at < HEADER.size:
            raise Malformed(f"{len(data) - at} bytes at the end of a bundle are no message", data, bundle)
        _, kind, _, _, _, length = HEADER.unpack_from(data, at)
        if length < HEADER.size or length % 4 or at + length > len(data):
            raise Malformed(
                f"message {len(found) + 1} of a bundle has length {length}, {len(data) - at} bytes are left", data, bundle
            )
        if kind == Type.BUNDLE:
            raise Malformed("a bundle in a bundle", data, bundle)
        found.append(data[at : at + length])
        at += length
    return tuple(found)
