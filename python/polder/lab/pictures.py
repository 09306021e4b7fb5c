"""Pictures for the laboratory's page: PNG files of a chosen size, made without any library."""

from __future__ import annotations

import math
import random
import struct
import zlib

WIDTH, HEIGHT = 180, 120
_SKIES = ((236, 201, 150), (186, 214, 235), (214, 190, 214), (246, 224, 181), (170, 200, 214))


def picture(number: int, size: int) -> bytes:
    """A small landscape, different for every ``number``: sky, sea, dike, field. ``size`` bytes exactly (at least 12 KB).

    A comment chunk of noise fills up to the size, so that the transfer cannot be compressed away.
    """
    rng = random.Random(number)
    sky, horizon, phase = _SKIES[number % len(_SKIES)], rng.randint(40, 60), rng.uniform(0, 6.3)
    rows = []
    for y in range(HEIGHT):
        row = bytearray([0])
        for x in range(WIDTH):
            row += bytes(_pixel(x, y, sky, horizon, phase))
        rows.append(bytes(row))
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    body = [_chunk(b"IHDR", head), _chunk(b"IDAT", zlib.compress(b"".join(rows), 9)), _chunk(b"IEND", b"")]
    used = 8 + sum(map(len, body))
    if size >= used + 12:
        body.insert(1, _chunk(b"noIs", rng.randbytes(size - used - 12)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def _pixel(x: int, y: int, sky: tuple[int, int, int], horizon: int, phase: float) -> tuple[int, int, int]:
    dike = horizon + 26 + 6 * math.sin(x / 40 + phase)
    if y < horizon:
        fade = 0.75 + 0.25 * y / horizon
        return int(sky[0] * fade), int(sky[1] * fade), int(sky[2] * fade)
    if y < dike:
        glint = int(14 * math.sin(x / 5 + y * 1.3 + phase))
        return 40 + glint, 108 + glint, 158 + glint
    if y < dike + 6:
        return 92, 120, 70
    stripe = 12 if (x + 2 * y) // 14 % 2 else 0
    return 96 + stripe, 158 + stripe, 84


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
