"""Messages as meanings: what a PATH, RESV and the others say (grammars: RFC 2205 §3.1.3 to §3.1.9, RFC 2961 §3 to §5, 2747 §4.3).

``polder.rsvp.grammar`` reads them from a ``Datagram``; ``datagram`` writes them. Order is as the grammars recommend, readers take any
order that is not ambiguous.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from polder.rsvp.adspec import Adspec
from polder.rsvp.intserv import Flowspec, Tspec
from polder.rsvp.objects import (
    Address,
    AdspecObject,
    Challenge,
    ErrorSpec,
    FilterSpec,
    FlowspecObject,
    Hop,
    MessageId,
    MessageIdAck,
    MessageIdList,
    PolicyObject,
    ResvConfirm,
    Scope,
    Sender,
    SenderTemplate,
    SenderTspec,
    Session,
    SourceList,
    Style,
    StyleObject,
    TimeValues,
    raw_of,
)
from polder.rsvp.wire import REFRESH_REDUCTION, Datagram, Header, Raw, Type


@dataclass(frozen=True, slots=True)
class Flow:
    """A flow descriptor: what is asked for, and for which senders (none with WF). Tears may leave the request out."""

    flowspec: Flowspec | None
    senders: tuple[Sender, ...] = ()


@dataclass(frozen=True, slots=True)
class Path:
    """A sender announces itself along the way that its data will go."""

    session: Session
    hop: Hop
    period_ms: int
    sender: Sender
    tspec: Tspec
    adspec: Adspec | None = None
    policy: tuple[bytes, ...] = ()
    extra: tuple[Raw, ...] = ()


@dataclass(frozen=True, slots=True)
class Resv:
    """A receiver's request, hop by hop back along that way."""

    session: Session
    hop: Hop
    period_ms: int
    style: Style
    flows: tuple[Flow, ...]
    confirm: ResvConfirm | None = None
    scope: Scope | None = None
    policy: tuple[bytes, ...] = ()
    extra: tuple[Raw, ...] = ()


@dataclass(frozen=True, slots=True)
class PathErr:
    """An error goes back to the sender."""

    session: Session
    error: ErrorSpec
    sender: Sender | None = None
    tspec: Tspec | None = None
    adspec: Adspec | None = None
    policy: tuple[bytes, ...] = ()
    extra: tuple[Raw, ...] = ()


@dataclass(frozen=True, slots=True)
class ResvErr:
    """An error goes on to the receivers."""

    session: Session
    hop: Hop
    error: ErrorSpec
    style: Style
    flows: tuple[Flow, ...]
    scope: Scope | None = None
    policy: tuple[bytes, ...] = ()
    extra: tuple[Raw, ...] = ()


@dataclass(frozen=True, slots=True)
class PathTear:
    """A sender ends."""

    session: Session
    hop: Hop
    sender: Sender | None = None
    tspec: Tspec | None = None
    adspec: Adspec | None = None
    extra: tuple[Raw, ...] = ()


@dataclass(frozen=True, slots=True)
class ResvTear:
    """A reservation ends."""

    session: Session
    hop: Hop
    style: Style
    flows: tuple[Flow, ...]
    scope: Scope | None = None
    extra: tuple[Raw, ...] = ()


@dataclass(frozen=True, slots=True)
class ResvConf:
    """A reservation was probably made (RFC 2205 §2.6: no guarantee)."""

    session: Session
    error: ErrorSpec
    confirm: ResvConfirm
    style: Style
    flows: tuple[Flow, ...]
    extra: tuple[Raw, ...] = ()


@dataclass(frozen=True, slots=True)
class Ack:
    """Nothing but acknowledgements (RFC 2961 §4.1)."""


@dataclass(frozen=True, slots=True)
class Srefresh:
    """State named by numbers that is to be refreshed (RFC 2961 §5)."""

    lists: tuple[MessageIdList | SourceList, ...]


@dataclass(frozen=True, slots=True)
class Bundled:
    """Several messages in one (RFC 2961 §3)."""

    parts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class IntegrityChallenge:
    """ "Say that again, with this": asks for a sender's current sequence number (RFC 2747 §4.3)."""

    challenge: Challenge


@dataclass(frozen=True, slots=True)
class IntegrityResponse:
    """The answer."""

    challenge: Challenge


Body = (
    Path
    | Resv
    | PathErr
    | ResvErr
    | PathTear
    | ResvTear
    | ResvConf
    | Ack
    | Srefresh
    | Bundled
    | IntegrityChallenge
    | IntegrityResponse
)


def addresses(body: Body) -> Iterator[Address]:
    """Every address that a body names: all of one IP version, or it means nothing."""
    if isinstance(body, Path | PathErr | PathTear):
        yield from () if body.sender is None else (body.sender.address,)
    if isinstance(body, Resv | ResvErr | ResvTear | ResvConf):
        yield from (sender.address for flow in body.flows for sender in flow.senders)
    if isinstance(body, Resv | ResvErr | ResvTear) and body.scope is not None:
        yield from body.scope.addresses
    if isinstance(body, Path | Resv | ResvErr | PathTear | ResvTear):
        yield body.hop.address
    if isinstance(body, PathErr | ResvErr | ResvConf):
        yield body.error.address
    if isinstance(body, Resv | ResvConf) and body.confirm is not None:
        yield body.confirm.receiver
    if isinstance(body, Path | Resv | PathErr | ResvErr | PathTear | ResvTear | ResvConf):
        yield body.session.destination


@dataclass(frozen=True, slots=True)
class Message:
    """A body with what RFC 2961 adds to any message. ``reduces``: its sender understands RFC 2961; ``ttl`` as the header says."""

    body: Body
    message_id: MessageId | None = None
    acks: tuple[MessageIdAck, ...] = ()
    reduces: bool = False
    ttl: int = field(default=64, compare=False)

    def datagram(self) -> Datagram:
        """As objects, without INTEGRITY, which ``polder.rsvp.integrity`` puts in front."""
        kind, objects = _objects(self.body)
        first: list[Raw] = [raw_of(each) for each in self.acks]
        if self.message_id:
            first.append(raw_of(self.message_id))
        flags = REFRESH_REDUCTION if self.reduces else 0
        rest = b"".join(self.body.parts) if isinstance(self.body, Bundled) else b""
        return Datagram(Header(kind, flags, self.ttl), (*first, *objects), rest)

    def pack(self) -> bytes:
        """The bytes, with a checksum."""
        return self.datagram().seal()


def _sender_objects(sender: Sender | None, tspec: Tspec | None, adspec: Adspec | None) -> list[Raw]:
    found = []
    if sender is not None:
        found.append(SenderTemplate(sender).raw())
    if tspec is not None:
        found.append(SenderTspec(tspec).raw())
    if adspec is not None:
        found.append(AdspecObject(adspec).raw())
    return found


def flow_objects(style: Style, flows: Iterable[Flow]) -> list[Raw]:
    """STYLE and the flow descriptors behind it (RFC 2205 §3.1.4)."""
    found = [StyleObject(style).raw()]
    for flow in flows:
        if flow.flowspec is not None:
            found.append(FlowspecObject(flow.flowspec).raw())
        found += [FilterSpec(sender).raw() for sender in flow.senders]
    return found


def _policy(bodies: tuple[bytes, ...]) -> list[Raw]:
    return [PolicyObject(each).raw() for each in bodies]


def _some(*values: Scope | ResvConfirm | None) -> list[Raw]:
    return [each.raw() for each in values if each is not None]


def _objects(body: Body) -> tuple[Type, list[Raw]]:
    """The type of a message and its objects in the order of its grammar."""
    match body:
        case Path():
            head = [body.session.raw(), body.hop.raw(), TimeValues(body.period_ms).raw(), *_policy(body.policy)]
            return Type.PATH, [*head, *body.extra, *_sender_objects(body.sender, body.tspec, body.adspec)]
        case Resv():
            head = [body.session.raw(), body.hop.raw(), TimeValues(body.period_ms).raw()]
            middle = [*_some(body.confirm, body.scope), *_policy(body.policy), *body.extra]
            return Type.RESV, [*head, *middle, *flow_objects(body.style, body.flows)]
        case PathErr():
            head = [body.session.raw(), body.error.raw(), *_policy(body.policy), *body.extra]
            return Type.PATH_ERR, [*head, *_sender_objects(body.sender, body.tspec, body.adspec)]
        case ResvErr():
            head = [body.session.raw(), body.hop.raw(), body.error.raw(), *_some(body.scope), *_policy(body.policy)]
            return Type.RESV_ERR, [*head, *body.extra, *flow_objects(body.style, body.flows)]
        case PathTear():
            head = [body.session.raw(), body.hop.raw(), *body.extra]
            return Type.PATH_TEAR, [*head, *_sender_objects(body.sender, body.tspec, body.adspec)]
        case ResvTear():
            head = [body.session.raw(), body.hop.raw(), *_some(body.scope), *body.extra]
            return Type.RESV_TEAR, [*head, *flow_objects(body.style, body.flows)]
        case ResvConf():
            head = [body.session.raw(), body.error.raw(), body.confirm.raw(), *body.extra]
            return Type.RESV_CONF, [*head, *flow_objects(body.style, body.flows)]
        case Srefresh():
            return Type.SREFRESH, [each.raw() for each in body.lists]
        case IntegrityChallenge() | IntegrityResponse():
            asked = isinstance(body, IntegrityChallenge)
            return Type.INTEGRITY_CHALLENGE if asked else Type.INTEGRITY_RESPONSE, [body.challenge.raw()]
        case Ack() | Bundled():
            return Type.BUNDLE if isinstance(body, Bundled) else Type.ACK, []
