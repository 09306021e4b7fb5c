"""The IP header around a message: raw protocol 46, with Router Alert where the routers on the way are to look (RFC 2113, RFC 2205 §3.3)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from polder.rsvp.errors import RsvpError

PROTOCOL = 46
_HEADER = struct.Struct("!BBHHHBBH4s4s")
_ROUTER_ALERT = b"\x94\x04\x00\x00"
"""Option 148, length 4, value 0: every router examines the packet (RFC 2113 §2.1)."""
_MORE = 0x2000
_DSCP_CS6 = 0xC0
"""Network control: what floods the link does not come before it where a router looks at the class (RFC 4594 §3.1)."""


@dataclass(frozen=True, slots=True)
class Packet:
    """An IPv4 packet that carries a message."""

    source: IPv4Address
    destination: IPv4Address
    ttl: int
    alert: bool
    payload: bytes

    def pack(self) -> bytes:
        """Header and payload in one piece."""
        return self._piece(self.payload, 0, 0)

    def pieces(self, mtu: int, number: int) -> list[bytes]:
        """The packet in fragments that fit ``mtu``: a kernel that is given headers does not cut (raw(7), IP_HDRINCL), and credentials can
        be longer than a packet. ``number`` tells packets apart, 1 to 65535; the option is in each, as its copied flag demands.
        """
        room = (mtu - _HEADER.size - (len(_ROUTER_ALERT) if self.alert else 0)) & ~7
        if len(self.payload) <= room:
            return [self.pack()]
        found = []
        for at in range(0, len(self.payload), room):
            more = _MORE if at + room < len(self.payload) else 0
            found.append(self._piece(self.payload[at : at + room], more | at // 8, number))
        return found

    def _piece(self, payload: bytes, fragment: int, number: int) -> bytes:
        """The checksum is filled, so that what is written into a capture is right; the kernel fills it anyway."""
        options = _ROUTER_ALERT if self.alert else b""
        words = (_HEADER.size + len(options)) // 4
        length = words * 4 + len(payload)

        def header(total: int) -> bytes:
            fields = (0x40 | words, _DSCP_CS6, length, number, fragment, self.ttl, PROTOCOL, total)
            return _HEADER.pack(*fields, self.source.packed, self.destination.packed) + options

        zero = header(0)
        total = ~(sum(struct.unpack(f"!{len(zero) // 2}H", zero)) % 0xFFFF) & 0xFFFF
        return header(total) + payload

    @classmethod
    def read(cls, data: bytes) -> Packet:
        """What a raw socket gives; raises ``RsvpError``. A packet that carries Router Alert among other options counts as alerted."""
        if len(data) < _HEADER.size or data[0] >> 4 != 4:
            raise RsvpError(f"{len(data)} bytes are no IPv4 packet")
        first, _, length, _, fragment, ttl, protocol, _, source, destination = _HEADER.unpack_from(data)
        behind = (first & 15) * 4
        if behind < _HEADER.size or behind > len(data) or protocol != PROTOCOL:
            raise RsvpError(f"an IPv4 packet of protocol {protocol} with a header of {behind} bytes")
        if fragment & 0x3FFF:
            raise RsvpError("a fragment: one message is one datagram")
        end = length if behind <= length <= len(data) else len(data)
        alert = _ROUTER_ALERT[:2] in data[_HEADER.size : behind]
        return cls(IPv4Address(source), IPv4Address(destination), ttl, alert, data[behind:end])
