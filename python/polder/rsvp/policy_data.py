"""POLICY_DATA: options and policy elements (RFC 2750), and the one element of ours that carries a bundle of credentials.

One element per P-Type lives at a time: a second one replaces the first (RFC 2750 §3.4). So all credentials of a request travel in
one element, as a *bundle*, and after the first time as its hash, which fits one packet.
"""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from polder.rsvp.errors import Code, Policy, RsvpError
from polder.rsvp.wire import OBJECT, Raw, pack_objects

_HEAD = struct.Struct("!HH")
BUNDLE = 53_252
"""P-Type of a bundle: of the private range, 53248 and up (RFC 2750 §7)."""
MAX_ASSERTIONS = 16
MAX_BUNDLE = 16_384
"""Bytes of a bundle: sixteen credentials of 1 KiB; the paper's largest request had 7.6 kB."""
_WHOLE, _HASH = 0, 1


@dataclass(frozen=True, slots=True)
class Element:
    """A policy element: its P-Type and data. Empty data delete what was there (RFC 2750 §3.4)."""

    kind: int
    data: bytes

    def pack(self) -> bytes:
        """With its head, filled up to a multiple of four."""
        return _HEAD.pack(4 + len(self.data), self.kind) + self.data + bytes(-len(self.data) % 4)


@dataclass(frozen=True, slots=True)
class PolicyData:
    """The inside of a POLICY_DATA object: option objects (FILTER_SPEC, SCOPE, RSVP_HOP, INTEGRITY, TIME_VALUES) and elements."""

    options: tuple[Raw, ...] = ()
    elements: tuple[Element, ...] = ()

    def pack(self) -> bytes:
        """The body of the object. The data offset counts from the object's header (RFC 2750 §2)."""
        options = pack_objects(self.options)
        return _HEAD.pack(8 + len(options), 0) + options + b"".join(each.pack() for each in self.elements)

    @classmethod
    def read(cls, body: bytes) -> PolicyData:
        """The body of an object; raises ``RsvpError`` with code 02/11."""
        if len(body) < 4:
            raise _bad("no data offset")
        offset = _HEAD.unpack_from(body)[0] - 4
        if not 4 <= offset <= len(body):
            raise _bad(f"its data begin at byte {offset + 4} of {len(body) + 4}")
        options, at = [], 4
        while at < offset:
            if offset - at < OBJECT.size:
                raise _bad("an option without its head")
            size, class_num, ctype = OBJECT.unpack_from(body, at)
            if size < 4 or size % 4 or at + size > offset:
                raise _bad(f"an option of class {class_num} and {size} bytes, where {offset - at} are left")
            options.append(Raw(class_num, ctype, body[at + 4 : at + size]))
            at += size
        elements: list[Element] = []
        while at < len(body):
            size, kind = _HEAD.unpack_from(body, at) if len(body) - at >= 4 else (0, 0)
            if size < 4 or at + size > len(body):
                raise _bad(f"an element of type {kind} and {size} bytes, where {len(body) - at} are left")
            elements.append(Element(kind, body[at + 4 : at + size]))
            at += size + -size % 4
        return cls(tuple(options), tuple(elements))

    def live(self) -> dict[int, bytes]:
        """Elements by P-Type as a policy decision point sees them: later ones replace, empty ones delete."""
        found: dict[int, bytes] = {}
        for each in self.elements:
            found.pop(each.kind, None)
            if each.data:
                found[each.kind] = each.data
        return found


def _bad(why: str) -> RsvpError:
    return RsvpError(f"POLICY_DATA: {why}", Code.POLICY, Policy.SYNTAX)


def digest(bundle: bytes) -> bytes:
    """The name of a bundle: SHA-256 of its bytes."""
    return hashlib.sha256(bundle).digest()


def pack_bundle(assertions: Sequence[bytes]) -> bytes:
    """Credentials as one bundle; raises ``RsvpError`` for too many."""
    data = msgspec.msgpack.encode([bytes(each) for each in assertions])
    if len(assertions) > MAX_ASSERTIONS or len(data) > MAX_BUNDLE:
        raise _bad(
            f"{len(assertions)} credentials of {len(data)} bytes: at most {MAX_ASSERTIONS} and {MAX_BUNDLE} bytes go along"
        )
    return data


def unpack_bundle(bundle: bytes) -> tuple[bytes, ...]:
    """The credentials of a bundle; raises ``RsvpError`` before anything inside is looked at when there are too many."""
    if len(bundle) > MAX_BUNDLE:
        raise _bad(f"a bundle of {len(bundle)} bytes: {MAX_BUNDLE} at most")
    try:
        found: list[bytes] = msgspec.msgpack.decode(bundle, type=list[bytes])
    except (msgspec.DecodeError, RecursionError) as error:
        raise _bad(f"a bundle that cannot be read: {error}") from error
    if len(found) > MAX_ASSERTIONS:
        raise _bad(f"{len(found)} credentials in a bundle: {MAX_ASSERTIONS} at most")
    return tuple(found)


def whole(bundle: bytes) -> bytes:
    """The body of a POLICY_DATA object that carries a bundle."""
    return PolicyData(elements=(Element(BUNDLE, bytes([_WHOLE]) + bundle),)).pack()


def by_hash(bundle: bytes) -> bytes:
    """The body of one that only names it."""
    return PolicyData(elements=(Element(BUNDLE, bytes([_HASH]) + digest(bundle)),)).pack()


class Bundles:
    """Bundles that were seen whole, by hash, bounded in bytes; what was not used longest goes first.

    A hash decides nothing: the bundle is judged again each time, so remembering one that was refused harms nobody.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._known: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    def add(self, bundle: bytes) -> None:
        """Remember one."""
        name = digest(bundle)
        if name in self._known:
            self._known.move_to_end(name)
            return
        self._known[name] = bundle
        self._bytes += len(bundle)
        while self._bytes > self._most:
            _, gone = self._known.popitem(last=False)
            self._bytes -= len(gone)

    def find(self, policy: Iterable[bytes]) -> bytes | None:
        """The bundle that bodies of POLICY_DATA carry or name; ``None`` when there is no element of ours.

        Raises ``RsvpError``: 02/14 when it is named and not known here, 02/11 when it cannot be read.
        """
        live: dict[int, bytes] = {}
        for body in policy:
            live |= PolicyData.read(body).live()
        data = live.get(BUNDLE)
        if data is None:
            return None
        kind, rest = data[0], data[1:]
        if kind == _WHOLE:
            unpack_bundle(rest)
            self.add(rest)
            return rest
        if kind != _HASH or len(rest) != 32:
            raise _bad(f"an element of ours of form {kind} and {len(rest)} bytes")
        if rest not in self._known:
            raise RsvpError("a bundle is named that is not known here: send it whole", Code.POLICY, Policy.MISSING)
        self._known.move_to_end(rest)
        return self._known[rest]
