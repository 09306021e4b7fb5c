"""ADSPEC: what a path offers, composed hop by hop (RFC 2210 §3.3, 2212 §3, 2215 §3)."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace

from polder.rsvp.errors import RsvpError
from polder.rsvp.intserv import Service, single

_HEAD = struct.Struct("!BBH")
_WORD = 4
_BREAK = 0x80
GENERAL = 1
HOPS, BANDWIDTH, LATENCY, MTU = 4, 6, 8, 10
"""General parameters: hops that speak integrated services, bytes/s, microseconds, bytes (RFC 2215 §3.2 to §3.5)."""
C_TOTAL, D_TOTAL, C_SUM, D_SUM = 133, 134, 135, 136
"""Error terms of guaranteed service, in bytes and microseconds: over the path, and since the last point that reshaped (RFC 2212 §4)."""
NO_LATENCY = 0xFFFF_FFFF
"""A latency that nobody knows, and the largest value (RFC 2215 §3.4)."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter as it stands."""

    number: int
    flags: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Fragment:
    """What one service says. ``broken``: a hop on the path does not offer it (the break bit, RFC 2210 §3.3.1)."""

    service: int
    broken: bool = False
    parameters: tuple[Parameter, ...] = ()

    def get(self, number: int) -> bytes | None:
        """A parameter's data."""
        return next((each.data for each in self.parameters if each.number == number), None)

    def with_(self, number: int, data: bytes) -> Fragment:
        """The same with one parameter set."""
        changed = tuple(replace(each, data=data) if each.number == number else each for each in self.parameters)
        if self.get(number) is None:
            changed += (Parameter(number, 0, data),)
        return replace(self, parameters=changed)


@dataclass(frozen=True, slots=True)
class Hop:
    """What one node adds: bandwidth of its outgoing link (bytes/s), latency (microseconds), MTU, error terms C (bytes) and D (us)."""

    bandwidth: float
    mtu: int
    latency: int = 0
    c: int = 0
    d: int = 0


@dataclass(frozen=True, slots=True)
class Adspec:
    """Fragments in their order; the first is the general one. Fragments and parameters that are not known stay as they came."""

    fragments: tuple[Fragment, ...]

    @classmethod
    def start(cls, *services: Service) -> Adspec:
        """What a sender announces: nothing added up yet."""
        general = Fragment(
            GENERAL,
            parameters=(
                Parameter(HOPS, 0, _u32(0)),
                Parameter(BANDWIDTH, 0, struct.pack("!f", math.inf)),
                Parameter(LATENCY, 0, _u32(0)),
                Parameter(MTU, 0, _u32(0xFFFF)),
            ),
        )
        zero = tuple(Parameter(number, 0, _u32(0)) for number in (C_TOTAL, D_TOTAL, C_SUM, D_SUM))
        offered = services or (Service.GUARANTEED, Service.CONTROLLED_LOAD)
        rest = tuple(Fragment(service, parameters=zero if service == Service.GUARANTEED else ()) for service in sorted(offered))
        return cls((general, *rest))

    @classmethod
    def read(cls, body: bytes) -> Adspec:
        """The body of an ADSPEC object; raises ``RsvpError``."""
        if len(body) < _WORD:
            raise RsvpError("an ADSPEC without a header")
        first, _, words = _HEAD.unpack_from(body)
        if first >> 4 or (words + 1) * _WORD != len(body):
            raise RsvpError(f"an ADSPEC of format {first >> 4} and {words} words in {len(body)} bytes")
        fragments, at = [], _WORD
        while at < len(body):
            service, flags, words = _HEAD.unpack_from(body, at)
            end = at + (words + 1) * _WORD
            if end > len(body) or flags & ~_BREAK:
                raise RsvpError(f"an ADSPEC's part for service {service} with {words} words and flags {flags:#x}")
            fragments.append(Fragment(service, bool(flags), _parameters(body[at + _WORD : end])))
            at = end
        if not fragments or fragments[0].service != GENERAL:
            raise RsvpError("an ADSPEC begins with the general parameters (RFC 2210 §3.3.2)")
        return cls(tuple(fragments))

    def pack(self) -> bytes:
        """The body of the object."""
        data = b""
        for fragment in self.fragments:
            inner = b"".join(_HEAD.pack(p.number, p.flags, len(p.data) // _WORD) + p.data for p in fragment.parameters)
            data += _HEAD.pack(fragment.service, _BREAK if fragment.broken else 0, len(inner) // _WORD) + inner
        return _HEAD.pack(0, 0, len(data) // _WORD) + data

    def fragment(self, service: int) -> Fragment | None:
        """What is said of one service."""
        return next((each for each in self.fragments if each.service == service), None)

    def number(self, service: int, parameter: int) -> float | None:
        """A parameter as a number; ``None`` when it is missing or has another size."""
        fragment = self.fragment(service)
        data = fragment.get(parameter) if fragment else None
        if data is None or len(data) != _WORD:
            return None
        if parameter == BANDWIDTH:
            return float(struct.unpack("!f", data)[0])
        return int.from_bytes(data, "big")

    def onward(self, hop: Hop) -> Adspec:
        """After one more hop (composition rules: RFC 2215 §3, 2212 §4): hops and delays add up, bandwidth and MTU are the least."""
        general = self.fragments[0]
        count = min((self.number(GENERAL, HOPS) or 0) + 1, NO_LATENCY)
        bandwidth = min(self.number(GENERAL, BANDWIDTH) or math.inf, hop.bandwidth)
        latency = min((self.number(GENERAL, LATENCY) or 0) + hop.latency, NO_LATENCY)
        mtu = min(self.number(GENERAL, MTU) or hop.mtu, hop.mtu)
        general = general.with_(HOPS, _u32(count)).with_(BANDWIDTH, struct.pack("!f", single(bandwidth)))
        general = general.with_(LATENCY, _u32(latency)).with_(MTU, _u32(mtu))
        return Adspec((general, *(self._served(each, hop) for each in self.fragments[1:])))

    def _served(self, fragment: Fragment, hop: Hop) -> Fragment:
        if fragment.service == Service.GUARANTEED:
            for number, added in ((C_TOTAL, hop.c), (D_TOTAL, hop.d), (C_SUM, hop.c), (D_SUM, hop.d)):
                before = self.number(fragment.service, number) or 0
                fragment = fragment.with_(number, _u32(min(before + added, NO_LATENCY)))
            return fragment
        known = fragment.service == Service.CONTROLLED_LOAD
        return fragment if known else replace(fragment, broken=True)

    def not_served(self) -> Adspec:
        """After a hop that is no RSVP node: nothing that is said holds (the global break bit, RFC 2210 §3.3.1)."""
        return Adspec((replace(self.fragments[0], broken=True), *self.fragments[1:]))


def _u32(value: float) -> bytes:
    return int(value).to_bytes(4, "big")


def _parameters(data: bytes) -> tuple[Parameter, ...]:
    found, at = [], 0
    while at < len(data):
        number, flags, words = _HEAD.unpack_from(data, at)
        end = at + (words + 1) * _WORD
        if end > len(data):
            raise RsvpError(f"an ADSPEC's parameter {number} of {words} words, and {(len(data) - at) // _WORD - 1} are left")
        found.append(Parameter(number, flags, data[at + _WORD : end]))
        at = end
    return tuple(found)
