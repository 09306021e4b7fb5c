"""The IP header around a message: raw protocol 46, with Router Alert where the routers on the way are to look (RFC 2113, RFC 2711,
RFC 2205 §3.3).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from polder.rsvp.errors import RsvpError
from polder.rsvp.objects import Address

PROTOCOL = 46
_HEADER = struct.Struct("!BBHHHBBH4s4s")
_HEADER6 = struct.Struct("!IHBB16s16s")
_FRAGMENT6 = struct.Struct("!BBHI")
_ROUTER_ALERT = b"\x94\x04\x00\x00"
"""Option 148, length 4, value 0: every router examines the packet (RFC 2113 §2.1)."""
_ROUTER_ALERT6 = b"\x05\x02\x00\x01\x01\x00"
"""Option 5, length 2, value 1 (a message of RSVP), and padding to eight bytes with the header's own two (RFC 2711 §2.1)."""
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _TO_DESTINATION = 0, 43, 44, 60
_MORE = 0x2000
_DSCP_CS6 = 0xC0
"""Network control: what floods the link does not come before it where a router looks at the class (RFC 4594 §3.1)."""


@dataclass(frozen=True, slots=True)
class Packet:
    """An IP packet that carries a message; both addresses are of one version."""

    source: Address
    destination: Address
    ttl: int
    alert: bool
    payload: bytes

    def pack(self) -> bytes:
        """Header and payload in one piece."""
        return self._piece6(self.payload, None) if self.source.version == 6 else self._piece(self.payload, 0, 0)

    def pieces(self, mtu: int, number: int) -> list[bytes]:
        """The packet in fragments that fit ``mtu``: a kernel that is given headers does not cut (raw(7), IP_HDRINCL), and credentials can
        be longer than a packet. ``number`` tells packets apart, 1 to 65535; the option is in each, as its copied flag demands, and as
        IPv6 puts it before the fragment's header.
        """
        six = self.source.version == 6
        room = mtu - (_HEADER6.size + 8 * self.alert if six else _HEADER.size + len(_ROUTER_ALERT) * self.alert)
        if len(self.payload) <= room:
            return [self.pack()]
        room = (room - _FRAGMENT6.size if six else room) & ~7
        found = []
        for at in range(0, len(self.payload), room):
            piece, more = self.payload[at : at + room], at + room < len(self.payload)
            if six:
                found.append(self._piece6(piece, _FRAGMENT6.pack(PROTOCOL, 0, at | more, number)))
            else:
                found.append(self._piece(piece, _MORE * more | at // 8, number))
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

    def _piece6(self, payload: bytes, fragment: bytes | None) -> bytes:
        behind = PROTOCOL if fragment is None else _FRAGMENT
        options = bytes((behind, 0)) + _ROUTER_ALERT6 if self.alert else b""
        rest = options + (fragment or b"") + payload
        first = _HOP_BY_HOP if self.alert else behind
        fields = (6 << 28 | _DSCP_CS6 << 20, len(rest), first, self.ttl)
        return _HEADER6.pack(*fields, self.source.packed, self.destination.packed) + rest

    @classmethod
    def read(cls, data: bytes) -> Packet:
        """An IPv4 packet as a raw socket gives it; raises ``RsvpError``. One that carries Router Alert among other options counts as
        alerted.
        """
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

    @classmethod
    def read6(cls, data: bytes, source: IPv6Address, destination: IPv6Address, ttl: int) -> Packet:
        """What a raw socket of IPv6 gives: the message alone where it was for this host, the whole packet where it passes by (then
        its own header holds, not the arguments). Raises ``RsvpError``.
        """
        if not data or data[0] >> 4 != 6:
            return cls(source, destination, ttl, False, data)
        if len(data) < _HEADER6.size:
            raise RsvpError(f"{len(data)} bytes are no IPv6 packet")
        _, length, kind, ttl, own, to = _HEADER6.unpack_from(data)
        at, alert, end = _HEADER6.size, False, min(len(data), _HEADER6.size + length)
        while kind in {_HOP_BY_HOP, _ROUTING, _TO_DESTINATION} and at + 8 <= end:
            alert = alert or (kind == _HOP_BY_HOP and _ROUTER_ALERT6[:4] in data[at + 2 : at + 8])
            kind, at = data[at], at + 8 * (data[at + 1] + 1)
        if kind == _FRAGMENT:
            raise RsvpError("a fragment: one message is one datagram")
        if kind != PROTOCOL or at > end:
            raise RsvpError(f"an IPv6 packet of protocol {kind}")
        return cls(IPv6Address(own), IPv6Address(to), ttl, alert, data[at:end])
