"""Packets that a filter may meet: admitted ones, and admitted ones with one or two things wrong."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from polder.perimeter import Flow, Pair, Plan

SERVLET4, SERVLET6 = "198.18.5.7", "2001:db8:18:5::7"
OTHER4, OTHER6 = "198.18.5.8", "2001:db8:18:5::8"
EDGE4, EDGE6 = "198.19.1.2", "2001:db8:19:1::2"
SHUT4, SHUT6 = "198.19.2.10", "2001:db8:19:2::10"
FREE4, FREE6 = "198.19.3.3", "2001:db8:19:3::3"
NODES4, NODES6 = "198.18.8.0/21", "2001:db8:18:8::/61"
KEY, OLD_KEY, EXPIRED_KEY = 0x1234ABCD, 0x0BADF00D, 0x0DEADEAD
NOW = 1_700_000_000


def plan(**changes: object) -> Plan:
    """Both families, a rotation under way, an expired pair, answers from nodes, a stateful answer, ssh from one place."""
    pairs = [
        Pair(source, key, NOW + life)
        for source in (SERVLET4, SERVLET6)
        for key, life in ((KEY, 3600), (OLD_KEY, 60), (EXPIRED_KEY, 0))
    ]
    flows = [
        *(Flow(net, "tcp", 7443, why="nodes") for net in (NODES4, NODES6)),
        *(Flow(net, "udp", 53, established=False) for net in ("198.18.4.4/32", "2001:db8:18:4::4/128")),
        *(Flow(net, "tcp", dest_port=22, established=False) for net in ("198.18.4.5/32", "2001:db8:18:4::5/128")),
    ]
    fields: dict[str, object] = {
        "site": "wiki",
        "version": 1,
        "edges": (EDGE4, EDGE6),
        "networks": ("198.19.2.0/24", "2001:db8:19:2::/64"),
        "pairs": tuple(pairs),
        "flows": tuple(flows),
        "too_big_per_s": 1_000_000,
    }
    return Plan(**{**fields, **changes})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Packet:
    """Fields of a packet; ``bytes`` renders them with right lengths and checksums."""

    source: str
    dest: str
    protocol: int
    payload: bytes
    options: bytes = b""
    fragment: int = 0
    extensions: tuple[tuple[int, bytes], ...] = ()
    hop_limit: int = 64
    mark: int = field(default=1, compare=False)

    def bytes(self) -> bytes:
        """The packet from its IP header on."""
        if ip_address(self.dest).version == 4:
            return self._v4()
        chain = [number for number, _ in self.extensions] + [self.protocol]
        body = b"".join(bytes([following]) + rest for (_, rest), following in zip(self.extensions, chain[1:], strict=True))
        body += self.payload
        head = struct.pack("!IHBB", 6 << 28 | self.mark & 0xFFFFF, len(body), chain[0], self.hop_limit)
        return head + ip_address(self.source).packed + ip_address(self.dest).packed + body

    def _v4(self) -> bytes:
        length = 20 + len(self.options)
        head = struct.pack(
            "!BBHHHBBH",
            4 << 4 | length // 4,
            0,
            length + len(self.payload),
            self.mark & 0xFFFF,
            self.fragment,
            self.hop_limit,
            self.protocol,
            0,
        )
        head += ip_address(self.source).packed + ip_address(self.dest).packed + self.options
        return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + self.payload


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


EXTENSIONS = {
    "hop-by-hop": (0, b"\0" + b"\1\4\0\0\0\0"),
    "destination options": (60, b"\0" + b"\1\4\0\0\0\0"),
    "first fragment": (44, b"\0" + struct.pack("!HI", 0 << 3 | 1, 77)),
    "later fragment": (44, b"\0" + struct.pack("!HI", 185 << 3, 77)),
    "atomic fragment": (44, b"\0" + struct.pack("!HI", 0, 77)),
}
"""Number of the header, and its bytes behind the next-header field."""

INNER4 = Packet("198.51.100.1", "198.51.100.2", 17, b"\0\7\0\7\0\10\0\0").bytes()
INNER6 = Packet("fd00::1", "fd00::2", 17, b"\0\7\0\7\0\10\0\0").bytes()


def gre(source: str, dest: str, key: int, inner: bytes = INNER4, flags: int = 0x2000, protocol: int | None = None) -> Packet:
    """A GRE packet; by default one that is right if {source, key} is."""
    kind = protocol if protocol is not None else 0x0800 if inner[0] >> 4 == 4 else 0x86DD
    return Packet(source, dest, 47, struct.pack("!HHI", flags, kind, key) + inner)


def tcp(source: str, dest: str, sport: int, dport: int, flags: int) -> Packet:
    """A bare TCP header with the right checksum: connection tracking looks."""
    head = struct.pack("!HHIIBBHHH", sport, dport, 1, 2, 5 << 4, flags, 1000, 0, 0)
    pseudo = ip_address(source).packed + ip_address(dest).packed + struct.pack("!HH", 6, len(head))
    return Packet(source, dest, 6, head[:16] + struct.pack("!H", _checksum(pseudo + head)) + head[18:])


def udp(source: str, dest: str, sport: int, dport: int) -> Packet:
    """A UDP packet with four bytes."""
    return Packet(source, dest, 17, struct.pack("!HHHH", sport, dport, 12, 0) + b"data")


def too_big(source: str, dest: str, quoted_to: str, kind: int | None = None) -> Packet:
    """ICMP "too big" that quotes a packet of ours to ``quoted_to``."""
    six = ip_address(dest).version == 6
    quoted = Packet(dest, quoted_to, 47, b"\x20\0\x08\0" + b"\0" * 8).bytes()
    head = struct.pack("!BBHI", kind if kind is not None else 2 if six else 3, 0 if six else 4, 0, 1280)
    return Packet(source, dest, 58 if six else 1, head + quoted)


def draw(rng: random.Random) -> Packet:
    """A packet of any kind with none, one or two things wrong."""
    packet = _right(rng, six=rng.random() < 0.5)
    for _ in range(rng.choice((0, 1, 1, 2))):
        packet = _spoil(rng, packet)
    return replace(packet, mark=rng.randrange(1, 1 << 16))


def _right(rng: random.Random, *, six: bool) -> Packet:
    edge = EDGE6 if six else EDGE4
    dest = rng.choice([edge] * 8 + [SHUT6 if six else SHUT4, FREE6 if six else FREE4])
    node = "2001:db8:18:f::1" if six else "198.18.15.200"
    match rng.randrange(8):
        case 0 | 1 | 2 | 3:
            key = rng.choice((KEY, KEY, OLD_KEY, EXPIRED_KEY))
            return gre(SERVLET6 if six else SERVLET4, dest, key, rng.choice((INNER4, INNER6)))
        case 4:
            return tcp(node, dest, 7443, 40000, rng.choice((0x10, 0x12, 0x18, 0x02, 0x14, 0x04, 0x11)))
        case 5:
            return udp("2001:db8:18:4::4" if six else "198.18.4.4", dest, 53, 40000)
        case 6:
            return too_big(
                "2001:db8:18:1::1" if six else "198.18.1.1", dest, rng.choice((SERVLET6, node) if six else (SERVLET4, node))
            )
        case _:
            if six:
                kind = rng.choice((133, 134, 135, 136, 137, 128))
                return Packet("2001:db8:18:1::1", dest, 58, bytes([kind]) + b"\0" * 23, hop_limit=255)
            return tcp("198.18.4.5", dest, 50000, 22, 0x02)


def _spoil(rng: random.Random, packet: Packet) -> Packet:
    six = ip_address(packet.dest).version == 6
    other = [OTHER6, "2001:db8:18:10::1", SERVLET6] if six else [OTHER4, "198.18.16.1", SERVLET4]
    match rng.randrange(8):
        case 0:
            return replace(packet, source=rng.choice(other))
        case 1:
            return replace(packet, protocol=rng.choice((47, 6, 17, 1, 58, 4, 41, 50, 132, 59)))
        case 2 if len(packet.payload) >= 8:
            bit = rng.randrange(64)
            word = int.from_bytes(packet.payload[:8], "big") ^ 1 << bit
            return replace(packet, payload=word.to_bytes(8, "big") + packet.payload[8:])
        case 3:
            return replace(packet, payload=packet.payload[: rng.randrange(len(packet.payload) + 1)])
        case 4:
            return (
                replace(packet, extensions=tuple(rng.choices([*EXTENSIONS.values()], k=rng.choice((1, 1, 2)))))
                if six
                else (replace(packet, options=b"\1" * rng.choice((4, 8, 40))))
            )
        case 5:
            return replace(packet, fragment=rng.choice((0x2000, 185, 0x2000 | 185, 0x4000, 0x8000)))
        case 6:
            return replace(packet, payload=packet.payload[:13] + rng.randbytes(1) + packet.payload[14:])
        case _:
            return replace(packet, hop_limit=rng.choice((254, 255, 64)))
