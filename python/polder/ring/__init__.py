"""Chord, and what may replace it: membership and lookup as machines without I/O. See ``docs/design/ring.md``."""

from polder.ring.chord import Chord
from polder.ring.config import ChordConfig
from polder.ring.onehop import OneHop, OneHopConfig
from polder.ring.router import (
    Changed,
    Event,
    Hops,
    Joined,
    LookupDone,
    LookupFailed,
    Misbehaved,
    Reply,
    Router,
    Send,
)

__all__ = [
    "Changed",
    "Chord",
    "ChordConfig",
    "Event",
    "Hops",
    "Joined",
    "LookupDone",
    "LookupFailed",
    "Misbehaved",
    "OneHop",
    "OneHopConfig",
    "Reply",
    "Router",
    "Send",
]
