"""Addresses inside the tunnels of a site: nobody routes them, so they need no registry, only no collision.

One IPv6 unique local prefix (RFC 4193 §3.1) per site, drawn from the site's own secret: the gateway is ``::1``, a
servlet's 64 low bits follow from its name. Two sites that meet at one servlet collide with probability 2^-56; an outsider
cannot compute the addresses. Where a host has no IPv6, 198.18.0.0/15 (RFC 2544; never on the Internet) is used in the same way.
"""

from __future__ import annotations

import hashlib
import hmac
from ipaddress import IPv4Address, IPv6Address, ip_address

_V4_BASE = int(IPv4Address("198.18.0.0"))


def gateway(secret: bytes, site: str, family: int = 6) -> str:
    """Inner address of the site's gateway; ``secret`` is the site's, at least 16 bytes."""
    if family == 6:
        return str(IPv6Address(_prefix(secret, site) | 1))
    return str(ip_address(_v4_prefix(secret, site) | 1))


def servlet(secret: bytes, site: str, name: str, family: int = 6) -> str:
    """Inner address of servlet ``name`` towards that site."""
    low = int.from_bytes(_digest(secret, "servlet", site, name)[:8], "big")
    if family == 6:
        return str(IPv6Address(_prefix(secret, site) | (low if low > 1 else low + 2)))
    return str(ip_address(_v4_prefix(secret, site) | (2 + low % 253)))


def prefix(secret: bytes, site: str, family: int = 6) -> str:
    """The network that the gateway routes into its tunnel."""
    if family == 6:
        return f"{IPv6Address(_prefix(secret, site))}/64"
    return f"{IPv4Address(_v4_prefix(secret, site))}/24"


def _digest(secret: bytes, *parts: str) -> bytes:
    if len(secret) < 16:
        raise ValueError("the site's secret has at least 16 bytes")
    return hmac.new(secret, "\0".join(("polder-inner/1", *parts)).encode(), hashlib.sha256).digest()


def _prefix(secret: bytes, site: str) -> int:
    return (0xFD << 120) | int.from_bytes(_digest(secret, "prefix", site)[:7], "big") << 64


def _v4_prefix(secret: bytes, site: str) -> int:
    return _V4_BASE | int.from_bytes(_digest(secret, "prefix", site)[:2], "big") % 512 << 8
