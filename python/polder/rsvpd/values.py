"""What commands and applications say to the daemon at its socket, and what they hear (frames: ``polder.pdp.frames``)."""

from __future__ import annotations

from typing import Any

from polder.pdp.frames import Frame

MOST_SHOWN = 1 << 26
"""Bytes of an answer: all state of a full router is some MiB."""


class Show(Frame, frozen=True, tag="show"):
    """Ask for all state."""


class Shown(Frame, frozen=True, tag="shown"):
    """State as plain facts."""

    facts: dict[str, Any]


class Flow(Frame, frozen=True):
    """A session and its traffic: rates in bytes/s of IP packets, sizes in bytes."""

    destination: str
    protocol: int
    port: int
    rate: float
    bucket: float
    peak: float
    min_unit: int
    max_packet: int


class Announce(Frame, frozen=True, tag="announce"):
    """This connection's application sends: announced until the connection ends."""

    flow: Flow
    source: str
    source_port: int


class Reserve(Frame, frozen=True, tag="reserve"):
    """It receives, and wants a reservation until the connection ends. ``style`` WF, FF or SE; ``senders`` as (address, port).

    ``served`` asks for guaranteed service at that rate; ``bundle`` holds credentials (``polder.rsvp.policy_data.pack_bundle``).
    """

    flow: Flow
    style: str
    senders: tuple[tuple[str, int], ...]
    served: float | None = None
    bundle: bytes = b""


class Told(Frame, frozen=True, tag="told"):
    """What happened. ``kind``: announced, waiting (for the sender), path, path-gone, asked, confirmed, resv-error, path-error, refused.

    ``by``: the router that found the error; ``in_place``: what was reserved before stands on.
    """

    kind: str
    reason: str = ""
    code: int = 0
    value: int = 0
    by: str = ""
    in_place: bool = False
    hops: int = 0
    bandwidth: float = 0.0


Asked = Show | Announce | Reserve
Answer = Shown | Told
