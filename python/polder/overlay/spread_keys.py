"""Keys of the spread plane, as ``crates/spread/src/keys.rs`` derives them, and the making of tickets.

HMAC-SHA256 derives, AES-128-GCM seals. ``docs/design/spread.md`` has the tree; ``tests/spread/test_vectors.py`` compares with
the vectors that the native side is held to.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterable

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from polder.model import Member
from polder.model.spread_messages import Granted, Terms, TicketRelay, node_number


def _derive(key: bytes, label: str, part: bytes) -> bytes:
    return hmac.digest(key, label.encode() + part, hashlib.sha256)


def epoch_key(secret: bytes, epoch: int) -> bytes:
    """E: a relay's key of one epoch."""
    return _derive(secret, "polder epoch", struct.pack(">I", epoch))


def grant_key(epoch: bytes, grant: bytes) -> bytes:
    """G: what a relay tells an issuer."""
    return _derive(epoch, "polder grant", grant)


def peer_key(epoch: bytes, node: int) -> bytes:
    """P: what a relay tells a node that may be a servlet."""
    return _derive(epoch, "polder peer", struct.pack(">Q", node))


def issue(
    session: bytes, key: bytes, servlet: int, terms: Terms, granted: Iterable[tuple[Member, Granted]]
) -> tuple[TicketRelay, ...]:
    """The relays' part of a ticket for ``session`` (16 bytes, never used before) under ``key`` (32 bytes)."""
    choice = _derive(key, "polder choice", session)[:16]
    plain = struct.pack(">Q16sIHBB", servlet, choice, terms.starts, terms.lasts, terms.pace, terms.rate)
    relays = []
    for member, grant in granted:
        mac = _derive(grant.grant_key, "polder mac", session)[:16]
        seal = AESGCM(_derive(grant.grant_key, "polder destination", session)[:16])
        destination = seal.encrypt(bytes(12), plain, session)
        relays.append(TicketRelay(node_number(member), member.address, grant.epoch, grant.grant, mac, destination))
    return tuple(relays)


class RelayKeys:
    """A relay's own keys: one secret, epochs of ``period`` seconds, each taken for ``grace`` seconds longer. Unix seconds."""

    def __init__(self, secret: bytes, period: int, grace: int) -> None:
        self._secret, self._period, self._grace = secret, period, grace

    def epochs(self, now: float) -> tuple[tuple[int, bytes, int, int], ...]:
        """(number, key, from, until) of those in force: current, next (clocks differ), older ones within their grace."""
        current = int(now) // self._period
        first = max(0, int(now - self._grace) // self._period)
        live = [current, current + 1, *range(current - 1, first - 1, -1)]
        return tuple((n, epoch_key(self._secret, n), max(0, (n - 1) * self._period), self._end(n)) for n in live)

    def next_change(self, now: float) -> float:
        """When ``epochs`` says something else."""
        current = int(now) // self._period
        ends = [self._end(n) for n in range(max(0, int(now - self._grace) // self._period), current)]
        return min(end for end in (*ends, (current + 1) * self._period) if end > now)

    def _end(self, number: int) -> int:
        return (number + 1) * self._period + self._grace

    def grant(self, node: int, drawn: bytes, now: float) -> Granted:
        """For a node that asks; ``drawn``: eight bytes of chance."""
        current = int(now) // self._period
        key = epoch_key(self._secret, current)
        until = (current + 1) * self._period
        return Granted(current, until, drawn, grant_key(key, drawn), peer_key(key, node))
