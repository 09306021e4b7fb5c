"""Places on the ring. The issuer assigns them, so that nobody can settle around a beacon's key (Eclipse)."""

from __future__ import annotations

import random
from collections.abc import Collection

from polder.model import RING_BITS, RingId, distance

_CANDIDATES = 8
"""Draws per place. With 8, the largest arc is about twice the mean instead of ln N times it, and still nobody can foretell it."""


def assign_place(taken: Collection[int], rng: random.Random) -> RingId:
    """A random ring id: of eight draws the one whose nearest neighbour on the ring is farthest away."""
    draws = [rng.getrandbits(RING_BITS) for _ in range(_CANDIDATES)]
    return RingId(max(draws, key=lambda draw: _room(draw, taken)))


def _room(place: int, taken: Collection[int]) -> int:
    return min((min(distance(place, other), distance(other, place)) for other in taken), default=0)
