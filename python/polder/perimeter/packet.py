"""The plan's law about one packet, in plain Python: what every rendering must do, and what the tests compare with.

Checks stand in the order of the renderings, cheapest first. The packet is as a router sees it after the kernel has
verified version, lengths and header checksum.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NamedTuple

from polder.perimeter.plan import GRE, GRE_FLAGS_KEY, GRE_PROTOCOLS, Flow, Plan

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
_ACK = 0x10


class Place(StrEnum):
    """Where the filter runs: on a router upstream of the site's narrow link, or on the gateway itself."""

    ROUTER = "router"
    HOST = "host"


class Ruling(StrEnum):
    """What the filter does with a packet, and why."""

    NOT_OURS = "not-ours"
    """It does not go to a protected address: the filter lets it be."""
    GRE = "gre"
    FLOW = "flow"
    TRACKED = "tracked"
    """A flow that passes if connection tracking knows it: begun from inside."""
    TOO_BIG = "too-big"
    """An ICMP message about a packet of ours: passes as far as its rate limit."""
    NEIGHBOUR = "neighbour"
    """IPv6 neighbour discovery on the link of a gateway that filters for itself."""
    SHUT = "shut"

    @property
    def passes(self) -> bool:
        """Whether it passes, rates and tracking permitting."""
        return self is not Ruling.SHUT


class _Packet(NamedTuple):
    source: IPv4Address | IPv6Address
    dest: IPv4Address | IPv6Address
    protocol: int
    hop_limit: int
    whole: bool
    payload: bytes


def rule(plan: Plan, packet: bytes, now: float, place: Place = Place.ROUTER) -> Ruling:
    """What the filter of ``plan`` does at ``now`` (Unix seconds) with ``packet`` (from its IP header on)."""
    p = _parse(packet)
    if p is None:
        return Ruling.SHUT
    family = p.dest.version
    if not any(p.dest in network for network in plan.protected(family)):
        return Ruling.NOT_OURS
    if not p.whole:
        return Ruling.SHUT
    if p.protocol == GRE:
        return _gre(plan, p, now)
    if p.protocol in (TCP, UDP):
        return _flows(plan, p)
    if _too_big(plan, p, now):
        return Ruling.TOO_BIG
    return Ruling.NEIGHBOUR if place is Place.HOST and _neighbour(p) else Ruling.SHUT


def _parse(packet: bytes) -> _Packet | None:
    """Header fields. ``whole`` is false for fragments and IPv4 options; IPv6 extension headers show as ``protocol``."""
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        total = int.from_bytes(packet[2:4], "big")
        fragment = int.from_bytes(packet[6:8], "big") & 0x3FFF
        return _Packet(
            ip_address(packet[12:16]),
            ip_address(packet[16:20]),
            packet[9],
            packet[8],
            packet[0] & 0xF == 5 and fragment == 0,
            packet[20:total],
        )
    if len(packet) >= 40 and packet[0] >> 4 == 6:
        total = 40 + int.from_bytes(packet[4:6], "big")
        return _Packet(ip_address(packet[8:24]), ip_address(packet[24:40]), packet[6], packet[7], True, packet[40:total])
    return None


def _gre(plan: Plan, p: _Packet, now: float) -> Ruling:
    edge = str(p.dest) in plan.edges
    flags, protocol = int.from_bytes(p.payload[0:2], "big"), int.from_bytes(p.payload[2:4], "big")
    if not edge or len(p.payload) < 8 or flags != GRE_FLAGS_KEY or protocol not in GRE_PROTOCOLS:
        return Ruling.SHUT
    known = (str(p.source), int.from_bytes(p.payload[4:8], "big"))
    admitted = any((pair.source, pair.key) == known for pair in plan.live(now, p.dest.version))
    return Ruling.GRE if admitted else Ruling.SHUT


def _flows(plan: Plan, p: _Packet) -> Ruling:
    found = [flow for flow in plan.flows_of(p.dest.version) if _matches(flow, p)]
    if any(not flow.stateful for flow in found):
        return Ruling.FLOW
    return Ruling.TRACKED if found else Ruling.SHUT


def _matches(flow: Flow, p: _Packet) -> bool:
    tcp = flow.protocol == "tcp"
    if p.protocol != (TCP if tcp else UDP) or len(p.payload) < (20 if tcp else 8):
        return False
    source_port, dest_port = int.from_bytes(p.payload[0:2], "big"), int.from_bytes(p.payload[2:4], "big")
    return (
        p.source in ip_network(flow.source)
        and flow.source_port in (None, source_port)
        and flow.dest_port in (None, dest_port)
        and (not flow.established or bool(p.payload[13] & _ACK))
    )


def _neighbour(p: _Packet) -> bool:
    """RFC 4861 §7.1: solicitations and advertisements come from the link, with hop limit 255."""
    return p.protocol == ICMPV6 and p.hop_limit == 255 and len(p.payload) >= 8 and p.payload[0] in (135, 136)


def _too_big(plan: Plan, p: _Packet, now: float) -> bool:
    """RFC 1191 §3, RFC 8201 §4: a router tells of a smaller MTU and quotes our packet, sent to a servlet or a flow."""
    if not plan.too_big_per_s or str(p.dest) not in plan.edges:
        return False
    if p.dest.version == 4:
        told = p.protocol == ICMP and p.payload[:2] == b"\x03\x04"
        quoted, to = p.payload[8:], slice(16, 20)
    else:
        told = p.protocol == ICMPV6 and p.payload[:1] == b"\x02"
        quoted, to = p.payload[8:], slice(24, 40)
    if not told or len(quoted) < to.stop:
        return False
    peer = ip_address(quoted[to])
    return any(peer in network for network in plan.peers(now, p.dest.version))
