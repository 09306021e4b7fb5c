"""HTTP/2 frames and heads made by hand (RFC 9113 §4.1, RFC 7541), because no client library sends what attackers send."""

from __future__ import annotations

import struct

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CANCEL = struct.pack(">I", 8)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def text(value: bytes) -> bytes:
    """A string literal without Huffman coding, shorter than 16 KiB (RFC 7541 §5.2)."""
    if len(value) < 127:
        return bytes([len(value)]) + value
    rest, out = len(value) - 127, bytearray([127])
    while rest >= 128:
        out.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*out, rest]) + value


def connect(target: bytes) -> bytes:
    """The head of a CONNECT; fields may follow."""
    return b"\x02" + text(b"CONNECT") + b"\x01" + text(target)


def get(host: bytes, path: bytes) -> bytes:
    """The head of a GET of ``http://host path``."""
    return b"\x82\x86\x01" + text(host) + b"\x04" + text(path)


def field(name: bytes, value: bytes) -> bytes:
    """A field without indexing."""
    return b"\x00" + text(name) + text(value)


def settings(**values: int) -> bytes:
    """SETTINGS; names as in RFC 9113 §6.5.2, lower case."""
    numbers = {"header_table_size": 1, "enable_push": 2, "max_concurrent_streams": 3, "initial_window_size": 4}
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", numbers[name], value) for name, value in values.items()))


def window(stream: int, bytes_: int) -> bytes:
    """WINDOW_UPDATE."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", bytes_))
