"""A token bucket per source: how often strangers may connect to the authority and ask it something."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

BURST = 8
"""Requests at once, as a multiple of the rate per second, and at least this many: an enrolment takes two, a renewal two."""


def source_of(address: str) -> str:
    """The source that is counted: an IPv4 address or an IPv6 /64."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    if mapped is not None:
        return str(mapped)
    return str(ipaddress.ip_network((int(ip) >> 64 << 64, 64))) if ip.version == 6 else str(ip)


class SourceRates:
    """A token bucket per source, at most ``sources`` of them: the longest silent is forgotten first."""

    def __init__(self, rate: float, sources: int) -> None:
        self._rate = rate
        self._burst = max(float(BURST), rate * BURST)
        self._sources = sources
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def admit(self, source: str, now: float) -> float:
        """Take one token; returns 0, or the seconds until there is one."""
        level, since = self._buckets.pop(source, (self._burst, now))
        level = min(self._burst, level + (now - since) * self._rate)
        wait = 0.0 if level >= 1 else (1 - level) / self._rate
        self._buckets[source] = (level - 1 if wait == 0 else level, now)
        if len(self._buckets) > self._sources:
            self._buckets.popitem(last=False)
        return wait
