"""What travels between router, policy decision point and commands: MessagePack with four bytes of length before it."""

from __future__ import annotations

import asyncio
import struct
from typing import Any, TypeVar

import msgspec

from polder.model.reservations import Ask, Verdict

MOST = 1 << 17
"""Bytes of a frame: a bundle of credentials and the rest of a question."""
_LENGTH = struct.Struct("!I")
T = TypeVar("T")


class Frame(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of what travels."""


class Judge(Frame, frozen=True, tag="judge"):
    """A question; ``number`` comes back with the answer. Answers may overtake each other."""

    number: int
    ask: Ask


class Over(Frame, frozen=True, tag="over"):
    """A reservation that was accepted has ended."""

    ask: Ask


class Judged(Frame, frozen=True, tag="judged"):
    """The answer to a ``Judge``."""

    number: int
    verdict: Verdict


class Count(Frame, frozen=True, tag="count"):
    """Ask how often it was decided what; answered on the Unix socket alone."""


class Counted(Frame, frozen=True, tag="counted"):
    """Since the start: accepted, refused, ended, batches, failed, and what ``polder.pdp.server.Counts`` has besides."""

    counts: dict[str, int]


class FrameError(ValueError):
    """The other side does not speak this protocol; the connection is of no more use."""


def pack(value: Any, most: int = MOST) -> bytes:
    """A frame."""
    data = msgspec.msgpack.encode(value)
    if len(data) > most:
        raise FrameError(f"a frame of {len(data)} bytes: {most} at most")
    return _LENGTH.pack(len(data)) + data


def unpack(data: bytes, kind: type[T] | Any) -> T:
    """What a frame says; raises ``FrameError``."""
    try:
        value: T = msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError(f"a frame that cannot be read: {error}") from error
    return value


async def read(reader: asyncio.StreamReader, most: int = MOST) -> bytes | None:
    """The next frame's bytes; ``None`` at the end. Raises ``FrameError``, ``OSError``."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > most:
            raise FrameError(f"a frame of {length} bytes: {most} at most")
        return await reader.readexactly(length)
    except asyncio.IncompleteReadError:
        return None
