"""Datagrams read as messages (grammars: RFC 2205 §3.1.3 to §3.1.9; unknown objects: §3.10).

Malformed messages are refused with a plain ``RsvpError``. A message that is sound but cannot be accepted for one object, of an unknown
class say, raises ``Unacceptable`` with what could be read of it, so that the error goes where the RFC sends it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from polder.rsvp.adspec import Adspec
from polder.rsvp.errors import Code, RsvpError
from polder.rsvp.intserv import Tspec
from polder.rsvp.messages import (
    Ack,
    Body,
    Bundled,
    Flow,
    IntegrityChallenge,
    IntegrityResponse,
    Message,
    Path,
    PathErr,
    PathTear,
    Resv,
    ResvConf,
    ResvErr,
    ResvTear,
    Srefresh,
)
from polder.rsvp.objects import (
    AdspecObject,
    Challenge,
    ErrorSpec,
    Fate,
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
    Spoiled,
    Style,
    StyleObject,
    TimeValues,
    Unknown,
    Value,
    fate,
)
from polder.rsvp.reading import value_of
from polder.rsvp.wire import REFRESH_REDUCTION, Datagram, Raw, Type, messages

_T = TypeVar("_T")


class Unacceptable(RsvpError):
    """A message of which one object is not acceptable. ``message`` is the rest of it, ``None`` when the rest is not enough."""

    def __init__(self, error: RsvpError, message: Message | None) -> None:
        super().__init__(error.why, error.code, error.value)
        self.message = message


class _Objects:
    """The values of a message: taken one by one, what is left over at the end is an error."""

    def __init__(self, raws: tuple[Raw, ...]) -> None:
        self.problem: RsvpError | None = None
        self.extra: tuple[Raw, ...] = ()
        self._values: list[Value] = []
        for raw in raws:
            value = value_of(raw)
            match value:
                case Unknown():
                    self._unknown(raw)
                case Spoiled(error=error) if error.code is None:
                    raise error
                case Spoiled(error=error):
                    self.problem = self.problem or error
                case _:
                    self._values.append(value)

    def _unknown(self, raw: Raw) -> None:
        match fate(raw.class_num):
            case Fate.REJECT:
                why = f"objects of class {raw.class_num} are not known here"
                self.problem = self.problem or RsvpError(why, Code.UNKNOWN_CLASS, raw.class_num << 8 | raw.ctype)
            case Fate.FORWARD:
                self.extra += (raw,)
            case Fate.IGNORE:
                pass

    def maybe(self, kind: type[_T]) -> _T | None:
        """The only object of a kind, or none."""
        found = [each for each in self._values if isinstance(each, kind)]
        if len(found) > 1:
            raise RsvpError(f"{len(found)} objects {kind.__name__} where one belongs")
        self._values = [each for each in self._values if not isinstance(each, kind)]
        return found[0] if found else None

    def one(self, kind: type[_T]) -> _T:
        """The only object of a kind."""
        found = self.maybe(kind)
        if found is None:
            raise self.problem or RsvpError(f"an object {kind.__name__} is missing")
        return found

    def all(self, kind: type[_T]) -> tuple[_T, ...]:
        """Every object of a kind."""
        found = tuple(each for each in self._values if isinstance(each, kind))
        self._values = [each for each in self._values if not isinstance(each, kind)]
        return found

    def policy(self) -> tuple[bytes, ...]:
        """Bodies of POLICY_DATA."""
        return tuple(each.body for each in self.all(PolicyObject))

    def style(self) -> Style:
        """The style, which the descriptors behind it belong to."""
        style = self.one(StyleObject).style
        if style is None:
            raise RsvpError("the reservation style is not known", Code.UNKNOWN_STYLE)
        return style

    def flows(self, style: Style, *, complete: bool) -> tuple[Flow, ...]:
        """Flow descriptors in their order; ``complete``: a request stands in each (tears may leave it out)."""
        found: list[Flow] = []
        request: FlowspecObject | None = None
        senders: list[FilterSpec] = []

        def close() -> None:
            if request is not None or senders:
                found.append(Flow(request.flowspec if request else None, tuple(each.sender for each in senders)))

        ordered = [each for each in self._values if isinstance(each, FlowspecObject | FilterSpec)]
        self._values = [each for each in self._values if not isinstance(each, FlowspecObject | FilterSpec)]
        for value in ordered:
            if isinstance(value, FlowspecObject):
                if style == Style.FF and request is not None and not senders:
                    raise RsvpError("a FLOWSPEC without its FILTER_SPEC")
                if style != Style.FF or senders:
                    close()
                    senders = []
                request = value
            else:
                if style == Style.FF and senders:
                    close()
                    senders = []
                senders.append(value)
        close()
        return _checked(style, found, complete=complete and self.problem is None)

    def none_left(self) -> None:
        """Raise for objects that do not belong here. NULL may stand anywhere."""
        for each in self._values:
            if type(each).__name__ != "Null":
                raise RsvpError(f"an object {type(each).__name__} does not belong into this message")


def _checked(style: Style, flows: list[Flow], *, complete: bool) -> tuple[Flow, ...]:
    wanted = {Style.WF: (0, 0), Style.FF: (1, 1), Style.SE: (1, 1 << 16)}[style]
    for flow in flows:
        if not wanted[0] <= len(flow.senders) <= wanted[1]:
            raise RsvpError(f"a flow descriptor of style {style.name} with {len(flow.senders)} senders")
        if complete and flow.flowspec is None:
            raise RsvpError("a flow descriptor without its FLOWSPEC")
    if complete and not flows:
        raise RsvpError("a reservation without a flow descriptor")
    if style != Style.FF and len(flows) > 1:
        raise RsvpError(f"{len(flows)} flow descriptors in style {style.name}, which has one")
    return tuple(flows)


def read(datagram: Datagram) -> Message:
    """A message; raises ``RsvpError``, or ``Unacceptable`` when somebody is to be told. INTEGRITY was taken off before."""
    objects = _Objects(datagram.objects)
    message_id, acks = objects.maybe(MessageId), objects.all(MessageIdAck)
    if datagram.rest and datagram.header.type != Type.BUNDLE:
        raise RsvpError(f"{len(datagram.rest)} bytes behind the message")
    body = _body(datagram, objects)
    objects.none_left()
    message = Message(body, message_id, acks, bool(datagram.header.flags & REFRESH_REDUCTION), datagram.header.ttl)
    if objects.problem is not None:
        raise Unacceptable(objects.problem, message)
    return message


def _body(datagram: Datagram, o: _Objects) -> Body:
    reader = _READERS.get(datagram.header.type)
    if reader is not None:
        return reader(o)
    if datagram.header.type == Type.BUNDLE:
        return Bundled(messages(datagram))
    raise RsvpError(f"messages of type {datagram.header.type} are not known here")


def _path(o: _Objects) -> Path:
    session, hop, period = o.one(Session), o.one(Hop), o.one(TimeValues).period_ms
    sender, tspec, adspec = o.one(SenderTemplate).sender, o.one(SenderTspec).tspec, o.maybe(AdspecObject)
    return Path(session, hop, period, sender, tspec, adspec.adspec if adspec else None, o.policy(), o.extra)


def _resv(o: _Objects) -> Resv:
    session, hop, period, style = o.one(Session), o.one(Hop), o.one(TimeValues).period_ms, o.style()
    flows = o.flows(style, complete=True)
    return Resv(session, hop, period, style, flows, o.maybe(ResvConfirm), o.maybe(Scope), o.policy(), o.extra)


def _resv_err(o: _Objects) -> ResvErr:
    session, hop, error, style = o.one(Session), o.one(Hop), o.one(ErrorSpec), o.style()
    return ResvErr(session, hop, error, style, o.flows(style, complete=False), o.maybe(Scope), o.policy(), o.extra)


def _resv_tear(o: _Objects) -> ResvTear:
    session, hop, style = o.one(Session), o.one(Hop), o.style()
    return ResvTear(session, hop, style, o.flows(style, complete=False), o.maybe(Scope), o.extra)


def _resv_conf(o: _Objects) -> ResvConf:
    session, error, confirm, style = o.one(Session), o.one(ErrorSpec), o.one(ResvConfirm), o.style()
    return ResvConf(session, error, confirm, style, o.flows(style, complete=False), o.extra)


def _descriptor(o: _Objects) -> tuple[Sender | None, Tspec | None, Adspec | None]:
    """A sender descriptor, of which errors and tears may leave parts out."""
    template, tspec, adspec = o.maybe(SenderTemplate), o.maybe(SenderTspec), o.maybe(AdspecObject)
    return template.sender if template else None, tspec.tspec if tspec else None, adspec.adspec if adspec else None


_READERS: dict[int, Callable[[_Objects], Body]] = {
    Type.PATH: _path,
    Type.RESV: _resv,
    Type.PATH_ERR: lambda o: PathErr(o.one(Session), o.one(ErrorSpec), *_descriptor(o), o.policy(), o.extra),
    Type.PATH_TEAR: lambda o: PathTear(o.one(Session), o.one(Hop), *_descriptor(o), o.extra),
    Type.RESV_ERR: _resv_err,
    Type.RESV_TEAR: _resv_tear,
    Type.RESV_CONF: _resv_conf,
    Type.ACK: lambda o: Ack(),
    Type.SREFRESH: lambda o: Srefresh(o.all(MessageIdList) + o.all(SourceList)),
    Type.INTEGRITY_CHALLENGE: lambda o: IntegrityChallenge(o.one(Challenge)),
    Type.INTEGRITY_RESPONSE: lambda o: IntegrityResponse(o.one(Challenge)),
}
