"""The objects of RSVP as values: classes 0 to 15 (RFC 2205 appendix A), 23 to 25 (RFC 2961), 64 (RFC 2747).

``polder.rsvp.reading.value_of`` makes a value of an object, ``raw`` the object of a value. A known object whose body is wrong becomes
``Spoiled``, an unknown one ``Unknown``: both keep their bytes, and whoever needs them decides.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv6Address

from polder.rsvp import intserv
from polder.rsvp.adspec import Adspec
from polder.rsvp.errors import RsvpError
from polder.rsvp.wire import Raw

Address = IPv4Address | IPv6Address


class Class(IntEnum):
    """Class numbers."""

    NULL = 0
    SESSION = 1
    HOP = 3
    INTEGRITY = 4
    TIME_VALUES = 5
    ERROR_SPEC = 6
    SCOPE = 7
    STYLE = 8
    FLOWSPEC = 9
    FILTER_SPEC = 10
    SENDER_TEMPLATE = 11
    SENDER_TSPEC = 12
    ADSPEC = 13
    POLICY_DATA = 14
    RESV_CONFIRM = 15
    MESSAGE_ID = 23
    MESSAGE_ID_ACK = 24
    MESSAGE_ID_LIST = 25
    CHALLENGE = 64


class Fate(Enum):
    """What becomes of an object of an unknown class, by the two highest bits of its number (RFC 2205 §3.10)."""

    REJECT = "reject the message and report"
    IGNORE = "ignore and do not forward"
    FORWARD = "ignore, forward and keep in refreshes"


def fate(class_num: int) -> Fate:
    """See ``Fate``."""
    if class_num < 0x80:
        return Fate.REJECT
    return Fate.FORWARD if class_num >= 0xC0 else Fate.IGNORE


class Style(IntEnum):
    """Reservation styles, as the option vector writes them (RFC 2205 §A.7)."""

    WF = 0b10001
    FF = 0b01010
    SE = 0b10010


@dataclass(frozen=True, slots=True)
class Unknown:
    """An object of a class that is not known here."""

    raw: Raw


@dataclass(frozen=True, slots=True)
class Spoiled:
    """An object of a known class that cannot be read: of a type that is not known, or with a wrong body."""

    raw: Raw
    error: RsvpError


@dataclass(frozen=True, slots=True)
class Session:
    """SESSION: where data goes. ``flags`` bit 0: the sender does not police (RFC 2205 §A.1)."""

    destination: Address
    protocol: int
    port: int
    flags: int = 0

    def key(self) -> tuple[Address, int, int]:
        """What makes it this session; flags do not."""
        return self.destination, self.protocol, self.port

    def __str__(self) -> str:
        name = {6: "tcp", 17: "udp"}.get(self.protocol, str(self.protocol))
        return f"{name} {self.destination} port {self.port}"

    def raw(self) -> Raw:
        """The object."""
        body = self.destination.packed + struct.pack("!BBH", self.protocol, self.flags, self.port)
        return Raw(Class.SESSION, _family(self.destination), body)


@dataclass(frozen=True, slots=True)
class Hop:
    """RSVP_HOP: who sent the message, and the handle of the interface (LIH) that it is to hear again."""

    address: Address
    handle: int = 0

    def raw(self) -> Raw:
        """The object."""
        return Raw(Class.HOP, _family(self.address), self.address.packed + struct.pack("!I", self.handle))


@dataclass(frozen=True, slots=True)
class TimeValues:
    """TIME_VALUES: the refresh period in milliseconds."""

    period_ms: int

    def raw(self) -> Raw:
        """The object."""
        return Raw(Class.TIME_VALUES, 1, struct.pack("!I", self.period_ms))


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """ERROR_SPEC: who found what. ``flags``: 1 a reservation is still in place, 2 not guilty (RFC 2205 §A.5)."""

    IN_PLACE = 1
    NOT_GUILTY = 2

    address: Address
    flags: int
    code: int
    value: int

    def raw(self) -> Raw:
        """The object."""
        body = self.address.packed + struct.pack("!BBH", self.flags, self.code, self.value)
        return Raw(Class.ERROR_SPEC, _family(self.address), body)


@dataclass(frozen=True, slots=True)
class Scope:
    """SCOPE: the senders to whom a wildcard reservation goes, so that it does not loop (RFC 2205 §3.4)."""

    addresses: tuple[Address, ...]

    def raw(self) -> Raw:
        """The object; all addresses are of one family."""
        return Raw(Class.SCOPE, _family(self.addresses[0]), b"".join(each.packed for each in self.addresses))


@dataclass(frozen=True, slots=True)
class StyleObject:
    """STYLE. ``vector`` are the 24 bits of options; ``style`` is ``None`` when they are none that is known."""

    vector: int
    flags: int = 0

    @property
    def style(self) -> Style | None:
        """The style."""
        return Style(self.vector & 31) if self.vector & 31 in Style.__members__.values() else None

    def raw(self) -> Raw:
        """The object."""
        return Raw(Class.STYLE, 1, struct.pack("!I", self.flags << 24 | self.vector))


@dataclass(frozen=True, slots=True)
class Sender:
    """A sender: address and port, or flow label (``labelled``, IPv6): of SENDER_TEMPLATE and FILTER_SPEC alike."""

    address: Address
    port: int
    labelled: bool = False

    def __str__(self) -> str:
        return f"{self.address} {'label' if self.labelled else 'port'} {self.port}"

    def raw(self, class_num: int) -> Raw:
        """The object, of class FILTER_SPEC or SENDER_TEMPLATE."""
        if self.labelled:
            return Raw(class_num, 3, self.address.packed + struct.pack("!I", self.port))
        return Raw(class_num, _family(self.address), self.address.packed + struct.pack("!HH", 0, self.port))


@dataclass(frozen=True, slots=True)
class FilterSpec:
    """FILTER_SPEC."""

    sender: Sender

    def raw(self) -> Raw:
        """The object."""
        return self.sender.raw(Class.FILTER_SPEC)


@dataclass(frozen=True, slots=True)
class SenderTemplate:
    """SENDER_TEMPLATE."""

    sender: Sender

    def raw(self) -> Raw:
        """The object."""
        return self.sender.raw(Class.SENDER_TEMPLATE)


@dataclass(frozen=True, slots=True)
class FlowspecObject:
    """FLOWSPEC of integrated services."""

    flowspec: intserv.Flowspec

    def raw(self) -> Raw:
        """The object."""
        return Raw(Class.FLOWSPEC, 2, self.flowspec.pack())


@dataclass(frozen=True, slots=True)
class SenderTspec:
    """SENDER_TSPEC of integrated services."""

    tspec: intserv.Tspec

    def raw(self) -> Raw:
        """The object."""
        return Raw(Class.SENDER_TSPEC, 2, intserv.pack_sender(self.tspec))


@dataclass(frozen=True, slots=True)
class AdspecObject:
    """ADSPEC of integrated services."""

    adspec: Adspec

    def raw(self) -> Raw:
        """The object."""
        return Raw(Class.ADSPEC, 2, self.adspec.pack())


@dataclass(frozen=True, slots=True)
class ResvConfirm:
    """RESV_CONFIRM: the receiver that wants to hear when its reservation stands."""

    receiver: Address

    def raw(self) -> Raw:
        """The object."""
        return Raw(Class.RESV_CONFIRM, _family(self.receiver), self.receiver.packed)


@dataclass(frozen=True, slots=True)
class Integrity:
    """INTEGRITY (RFC 2747 §2.1): ``flags`` bit 0 says that its sender answers challenges; ``key`` has 48 bits."""

    HANDSHAKE = 1

    flags: int
    key: int
    sequence: int
    digest: bytes

    def raw(self) -> Raw:
        """The object."""
        head = struct.pack("!BB", self.flags, 0) + self.key.to_bytes(6, "big") + self.sequence.to_bytes(8, "big")
        return Raw(Class.INTEGRITY, 1, head + self.digest)


@dataclass(frozen=True, slots=True)
class Challenge:
    """CHALLENGE (RFC 2747 §4.3): a cookie that comes back with the current sequence number."""

    key: int
    cookie: bytes

    def raw(self) -> Raw:
        """The object."""
        return Raw(Class.CHALLENGE, 1, struct.pack("!H", 0) + self.key.to_bytes(6, "big") + self.cookie)


@dataclass(frozen=True, slots=True)
class MessageId:
    """MESSAGE_ID (RFC 2961 §4.2): ``flags`` bit 0 asks for an acknowledgement; ``epoch`` has 24 bits."""

    ACK_DESIRED = 1

    flags: int
    epoch: int
    number: int

    def raw(self) -> Raw:
        """The object."""
        return Raw(Class.MESSAGE_ID, 1, struct.pack("!II", self.flags << 24 | self.epoch, self.number))


@dataclass(frozen=True, slots=True)
class MessageIdAck:
    """MESSAGE_ID_ACK, or with ``nack`` MESSAGE_ID_NACK: "I do not know that state" (RFC 2961 §4.3, §5.4)."""

    epoch: int
    number: int
    nack: bool = False
    flags: int = 0

    def raw(self) -> Raw:
        """The object."""
        return Raw(Class.MESSAGE_ID_ACK, 2 if self.nack else 1, struct.pack("!II", self.flags << 24 | self.epoch, self.number))


@dataclass(frozen=True, slots=True)
class MessageIdList:
    """MESSAGE_ID LIST (RFC 2961 §5.1): the state that a summary refresh refreshes. Lists with sources are ``SourceList``."""

    flags: int
    epoch: int
    numbers: tuple[int, ...]

    def raw(self) -> Raw:
        """The object."""
        return Raw(
            Class.MESSAGE_ID_LIST, 1, struct.pack(f"!{1 + len(self.numbers)}I", self.flags << 24 | self.epoch, *self.numbers)
        )


@dataclass(frozen=True, slots=True)
class SourceList:
    """MESSAGE_ID SRC_LIST and MCAST_LIST (RFC 2961 §5.2, §5.3): numbers with their source, and for multicast the destination.

    ``entries``: (number, source, destination or ``None``).
    """

    flags: int
    epoch: int
    entries: tuple[tuple[int, Address, Address | None], ...]

    def raw(self) -> Raw:
        """The object; there is at least one entry."""
        multicast = self.entries[0][2] is not None
        data = struct.pack("!I", self.flags << 24 | self.epoch)
        for number, source, destination in self.entries:
            data += struct.pack("!I", number) + source.packed + (destination.packed if destination else b"")
        return Raw(Class.MESSAGE_ID_LIST, _family(self.entries[0][1]) + (3 if multicast else 1), data)


@dataclass(frozen=True, slots=True)
class Null:
    """NULL: ignored wherever it stands; its type is ignored too."""

    ctype: int
    body: bytes

    def raw(self) -> Raw:
        """The object."""
        return Raw(Class.NULL, self.ctype, self.body)


@dataclass(frozen=True, slots=True)
class PolicyObject:
    """POLICY_DATA as bytes: ``polder.rsvp.policy_data`` reads what is inside, and nodes without policy pass it on unread."""

    body: bytes

    def raw(self) -> Raw:
        """The object."""
        return Raw(Class.POLICY_DATA, 1, self.body)


Object = (
    Null
    | Session
    | Hop
    | Integrity
    | TimeValues
    | ErrorSpec
    | Scope
    | StyleObject
    | FlowspecObject
    | FilterSpec
    | SenderTemplate
    | SenderTspec
    | AdspecObject
    | PolicyObject
    | ResvConfirm
    | MessageId
    | MessageIdAck
    | MessageIdList
    | SourceList
    | Challenge
)
Value = Object | Unknown | Spoiled


def _family(address: Address) -> int:
    """The C-Type that most classes use: 1 IPv4, 2 IPv6."""
    return 1 if address.version == 4 else 2


def raw_of(value: Value) -> Raw:
    """The object of a value."""
    return value.raw if isinstance(value, Unknown | Spoiled) else value.raw()
