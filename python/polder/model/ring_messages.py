"""Messages of the ring (method ``ring``): queries, their answers, and the one-hop ring's gossip.

After ``doc/implementing-zave-chord.md`` of verdi-chord. Every message says who sends it; the receiver compares that
with the
sender's certificate, so a node cannot speak for another place on the ring.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from polder.model.records import Frozen, Member, RingKey

_Few = Annotated[tuple[Member, ...], msgspec.Meta(max_length=64)]


class _Message(Frozen, frozen=True):
    """Base: every message carries its sender."""

    sender: Member


class GetBestPredecessor(_Message, frozen=True, tag="best-predecessor?"):
    """Whom do you know that most closely precedes ``key``, yourself included? The walk of *join*.

    ``avoid``: ring ids that did not answer the asker.
    """

    key: RingKey
    avoid: Annotated[tuple[RingKey, ...], msgspec.Meta(max_length=32)] = ()


class BestPredecessor(_Message, frozen=True, tag="best-predecessor"):
    """Answer: ``member`` may be the answerer itself; then the walk is at its end."""

    member: Member


class GetSuccessors(_Message, frozen=True, tag="successors?"):
    """Your successor list, please."""


class Successors(_Message, frozen=True, tag="successors"):
    """Answer, nearest first, without the answerer.

    Shorter than r: the answerer knows the whole ring, or is new to it.
    """

    members: _Few


class GetNeighbours(_Message, frozen=True, tag="neighbours?"):
    """Your predecessor and your successor list, please (``GetPredAndSuccs`` of verdi-chord)."""


class Neighbours(_Message, frozen=True, tag="neighbours"):
    """Answer."""

    predecessor: Member | None
    members: _Few


class Notify(_Message, frozen=True, tag="notify"):
    """I believe that you are my first successor."""


class Ping(_Message, frozen=True, tag="ping"):
    """Are you there?"""


class Pong(_Message, frozen=True, tag="pong"):
    """Answer to ``Ping`` and ``Notify``."""


class Busy(_Message, frozen=True, tag="busy"):
    """I live, but am in the middle of a query of my own: ask again. Never a sign of death (trap 47)."""


class NotJoined(_Message, frozen=True, tag="not-joined"):
    """I live, but am not (yet, or any more) a member of the ring."""


class Find(_Message, frozen=True, tag="find"):
    """Who owns ``key`` (16 bytes)? One step of an iterative lookup."""

    key: RingKey


class Found(_Message, frozen=True, tag="found"):
    """Answer: the owner and those who would own the key after its death (``final``), or members nearer to it, best first.

    ``heirs``, where not final: whom the answerer's list places behind the key; the owner, should all ``members`` be dead.
    """

    final: bool
    members: _Few
    heirs: _Few = ()


class Leaving(_Message, frozen=True, tag="leaving"):
    """I go. A courtesy: the receiver may skip the wait for a timeout, and checks for itself."""


class Meet(_Message, frozen=True, tag="meet"):
    """``member`` seems to be in another ring than ours, and I am not the one who should link to it: look yourself up there."""

    member: Member


class Rumour(Frozen, frozen=True):
    """What the one-hop ring tells of one member.

    A higher ``version`` overrides; at equal versions ``alive=False`` does.
    """

    member: Member
    version: int
    alive: bool


class Gossip(_Message, frozen=True, tag="gossip"):
    """One-hop ring: a heartbeat with news, and a ``digest`` (8 bytes) of the whole table; ``full`` asks for all of it."""

    rumours: tuple[Rumour, ...]
    digest: bytes
    full: bool = False


class Gossiped(_Message, frozen=True, tag="gossiped"):
    """Answer: news for the asker (everything, when the digests differ)."""

    rumours: tuple[Rumour, ...]
    digest: bytes


RingRequest = GetBestPredecessor | GetSuccessors | GetNeighbours | Notify | Ping | Find | Leaving | Meet | Gossip
RingAnswer = BestPredecessor | Successors | Neighbours | Pong | Busy | NotJoined | Found | Gossiped
RingMessage = RingRequest | RingAnswer

_REQUEST = msgspec.msgpack.Decoder(RingRequest)
_ANSWER = msgspec.msgpack.Decoder(RingAnswer)


def decode_request(data: bytes) -> RingRequest:
    """A request from the body of a ``ring`` call; raises ``ValueError`` for anything else."""
    request: RingRequest = _checked(_REQUEST, data)
    return request


def decode_answer(data: bytes) -> RingAnswer:
    """An answer from the body of an answered ``ring`` call; raises ``ValueError`` for anything else."""
    answer: RingAnswer = _checked(_ANSWER, data)
    return answer


def _checked(decoder: msgspec.msgpack.Decoder[Any], data: bytes) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"not a message of the ring: {error}") from error
