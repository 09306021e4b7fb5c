"""``Router``: what the shells know of a ring, whichever it is; its inputs, outputs and events.

Four verbs, as in quinn-proto: *handle* an input (``handle``, ``answered``, ``failed``, ``handle_timeout``), then *poll* what is
to be sent (``poll_transmit``), what happened (``poll_event``) and when to come back (``poll_timeout``). No clock, no socket, no
randomness of its own: ``now`` (seconds, any monotonic origin) and ``rng`` come from the caller.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import msgspec

from polder.model import Member
from polder.model.overlay_messages import Caller
from polder.model.ring_messages import RingAnswer, RingRequest, Rumour


class RingImage(msgspec.Struct, frozen=True):
    """What a member knows of its ring, for the process that takes its place. A router fills in what it has."""

    successors: tuple[Member, ...] = ()
    predecessor: Member | None = None
    fingers: dict[int, Member] = {}
    contacts: tuple[Member, ...] = ()
    rumours: tuple[Rumour, ...] = ()
    version: int = 0


class Send(NamedTuple):
    """Call ``to`` with ``message``; tell the outcome by ``answered(request_id, …)`` or ``failed(request_id, …)``."""

    to: Member
    message: RingRequest
    request_id: int


class Reply(NamedTuple):
    """Answer the request that came in as ``reply_to``."""

    reply_to: int
    message: RingAnswer


class Joined(NamedTuple):
    """This node is a member of the ring from now on."""


class Changed(NamedTuple):
    """Neighbours, fingers or the range of keys that this node owns have changed: routes are to be made anew."""


class LookupDone(NamedTuple):
    """``members[0]`` owns ``key``; the others would, in this order, after its death. ``hops``: nodes asked."""

    lookup: int
    key: int
    members: tuple[Member, ...]
    hops: int


class LookupFailed(NamedTuple):
    """Nobody that could be reached knows; a retry may help."""

    lookup: int
    key: int
    why: str


class Misbehaved(NamedTuple):
    """``member`` answered what no honest node answers. It was treated like silence; worth a log line."""

    member: Member
    why: str


Event = Joined | Changed | LookupDone | LookupFailed | Misbehaved


class Hops(NamedTuple):
    """Where to go next for a key: ``next`` is ``None`` when this node owns it. ``alternatives`` make progress too, best first."""

    next: Member | None
    alternatives: tuple[Member, ...] = ()


class Router(Protocol):
    """Membership and lookup of one node. Implementations: ``Chord``, ``OneHop``."""

    @property
    def me(self) -> Member:
        """This node."""

    @property
    def joined(self) -> bool:
        """Whether this node is a member of the ring."""

    def found(self, now: float) -> None:
        """Begin a ring of one."""

    def join(self, contacts: Iterable[Member], now: float) -> None:
        """Join through any of ``contacts``; goes on trying until it is ``joined``. Contacts are remembered for healing."""

    def leave(self, now: float) -> None:
        """Say goodbye to the neighbours; the node is no member afterwards."""

    def image(self) -> RingImage | None:
        """What the process that takes this one's place needs to be a member at once; ``None``: this node is none."""

    def resume(self, image: RingImage, now: float) -> None:
        """Go on as the member whose ``image`` it is, with the same name, place and address."""

    def handle(self, request: RingRequest, caller: Caller, reply_to: int, now: float) -> None:
        """A request came in. Raises ``Refused`` when its sender is not who the certificate says."""

    def answered(self, request_id: int, answer: RingAnswer, now: float) -> None:
        """The answer to a ``Send``."""

    def failed(self, request_id: int, now: float) -> None:
        """No answer came to a ``Send`` within the caller's deadline."""

    def handle_timeout(self, now: float) -> None:
        """The moment of ``poll_timeout`` has come."""

    def poll_transmit(self) -> Send | Reply | None:
        """What to send, until ``None``."""

    def poll_event(self) -> Event | None:
        """What happened, until ``None``."""

    def poll_timeout(self) -> float | None:
        """When to call ``handle_timeout``."""

    def lookup(self, key: int, now: float) -> int:
        """Ask who owns ``key``; the event with the returned number follows."""

    def owns(self, key: int) -> bool:
        """Whether this node owns ``key``, as far as it knows."""

    def next_hops(self, key: int) -> Hops:
        """Where a request for ``key`` goes from here (path mode ``ring``), from local state alone."""

    def successors(self) -> tuple[Member, ...]:
        """The nodes behind this one, nearest first."""

    def warm(self) -> tuple[Member, ...]:
        """The nodes to which a link is worth keeping."""

    def members(self) -> tuple[Member, ...]:
        """Every other node that this one has heard of, nearest first."""
