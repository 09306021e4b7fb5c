"""Floods inside one HTTP/2 connection of an enrolled user: each ends that connection, and costs nobody else anything.

Frames are made by hand (RFC 9113 §4.1), because no client library sends these.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.conftest import World
from tests.e2e.test_access_point import counters
from tests.e2e.test_no_open_relay import ask, user_context

DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY, CONTINUATION = 0, 1, 3, 4, 7, 9
END_STREAM, END_HEADERS = 1, 4
CONNECT = b"\x42\x07CONNECT\x41\x0cwiki.test:80"
"""HPACK: ``:method`` and ``:authority`` as literals (the first enters the dynamic table)."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


@contextmanager
def greeted(world: World) -> Iterator[ssl.SSLSocket]:
    """An HTTP/2 connection of ann to node n1, after the greeting."""
    host, _, port = world.overlay.nodes["n1"].hello["address"].rpartition(":")
    context = user_context(world.overlay.state("user-ann"), "ann")
    context.set_alpn_protocols(["h2"])
    with socket.create_connection((host, int(port)), timeout=60) as raw, context.wrap_socket(raw) as tls:
        tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0))
        yield tls


def sent_until_cut(tls: ssl.SSLSocket, frames: Iterator[bytes]) -> int:
    """Send until the node takes no more; returns how many frames it took."""
    taken = 0
    try:
        for each in frames:
            tls.sendall(each)
            taken += 1
    except OSError:
        pass
    return taken


def heard(tls: ssl.SSLSocket, until: int = -1) -> dict[int, bytes]:
    """Kind → payload of the last such frame, until one of kind ``until`` or the end of the connection."""
    frames, seen = {}, b""
    while until not in frames:
        try:
            piece = tls.recv(65536)
        except OSError:
            piece = b""
        seen += piece
        while len(seen) >= 9 and len(seen) >= 9 + (length := int.from_bytes(seen[:3], "big")):
            frames[seen[3]] = seen[9 : 9 + length]
            seen = seen[9 + length :]
        if not piece:
            break
    return frames


def still_serves(world: World) -> None:
    """Another connection of the same user is served."""
    assert b" 200 " in ask(world, b"CONNECT wiki.test:80 HTTP/1.1\r\nHost: wiki.test:80\r\n\r\n")


def continuations() -> Iterator[bytes]:
    """A head that never ends (CVE-2024-27316 and its kin)."""
    yield frame(HEADERS, 0, 1, CONNECT)
    for _ in range(100_000):
        yield frame(CONTINUATION, 0, 1, b"\x00\x01x\x01y")


def empty_continuations() -> Iterator[bytes]:
    """The same without a byte in it."""
    yield frame(HEADERS, 0, 1, CONNECT)
    for _ in range(100_000):
        yield frame(CONTINUATION, 0, 1)


def made_resets() -> Iterator[bytes]:
    """Streams that the node itself must reset, by our fault (MadeYouReset, CVE-2025-8671)."""
    for number in range(1, 200_001, 2):
        yield frame(HEADERS, END_HEADERS | END_STREAM, number, CONNECT) + frame(DATA, 0, number, b"after the end")


def rapid_resets() -> Iterator[bytes]:
    """CVE-2023-44487."""
    for number in range(1, 200_001, 2):
        yield frame(HEADERS, END_HEADERS, number, CONNECT) + frame(RST_STREAM, 0, number, b"\0\0\0\x08")


def header_bombs() -> Iterator[bytes]:
    """4 KiB in the dynamic table, told again by one byte each: heads of a megabyte in a kilobyte (the HTTP/2 bomb)."""
    length = 4000
    filling = b"\x40\x01x\x7f" + bytes([0x80 | (length - 127) & 0x7F, (length - 127) >> 7]) + b"y" * length
    for number in range(1, 20_001, 2):
        yield frame(HEADERS, END_HEADERS, number, CONNECT + filling + b"\xbe" * 1000)


def test_frames_made_by_hand_are_understood(world: World) -> None:
    with greeted(world) as tls:
        tls.sendall(frame(HEADERS, END_HEADERS, 1, CONNECT))
        assert heard(tls, until=HEADERS)[HEADERS].startswith(b"\x88"), "status 200"


@pytest.mark.parametrize("flood", [continuations, empty_continuations, made_resets, rapid_resets, header_bombs])
def test_a_flood_ends_its_own_connection(world: World, flood: Callable[[], Iterator[bytes]]) -> None:
    before = counters(world)["front_requests"]
    with greeted(world) as tls:
        taken = sent_until_cut(tls, flood())
        last = heard(tls).get(GOAWAY)
    assert last is not None or taken < 9_000, "the node took it all"  # its word may be lost with the reset that follows
    assert last is None or int.from_bytes(last[4:8], "big") != 0, "it says what is wrong"
    if flood in (continuations, empty_continuations, header_bombs):
        assert counters(world)["front_requests"] == before, "no head was taken"
    still_serves(world)
