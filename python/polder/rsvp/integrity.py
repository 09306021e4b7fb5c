"""INTEGRITY: nobody forges or replays messages between neighbours (RFC 2747, 3097), with HMAC-SHA-256 in place of MD5.

A sender is known by its RSVP_HOP, or by the packet's source where the message has none. Sequence numbers are microseconds of wall time,
so that they grow over restarts. The receiver remembers the last 32 per sender and key and takes none twice, and none older than those;
when it knows no sequence number, after its own restart say, it challenges, and holds what came meanwhile.
"""

from __future__ import annotations

import hashlib
import hmac
from bisect import insort
from collections import OrderedDict
from dataclasses import dataclass, field, replace

from polder.rsvp.errors import RsvpError
from polder.rsvp.messages import IntegrityChallenge, IntegrityResponse, Message
from polder.rsvp.objects import Address, Challenge, Class, Hop, Integrity
from polder.rsvp.reading import value_of
from polder.rsvp.wire import Datagram, Type, split

WINDOW = 32
_DIGEST = 32
_MOST_PEERS = 1024
_MOST_HELD = 8
_COOKIE = 16
_SLACK_S = 2.0
"""How long a held message may have been on its way."""


class Refused(RsvpError):
    """A message that is not to be believed. ``why`` is for the log; nothing goes back to its sender."""


@dataclass(frozen=True, slots=True)
class Key:
    """A shared secret with its number (48 bits). Two may be live at once while one replaces the other (RFC 2747 §5)."""

    number: int
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.number < 1 << 48 or len(self.secret) < 16:
            raise RsvpError("a key has a number of 48 bits and a secret of at least 16 bytes")


@dataclass(slots=True)
class _Peer:
    floor: int = -1
    seen: list[int] = field(default_factory=list)
    known: bool = False
    held: list[bytes] = field(default_factory=list)
    since: float = 0.0

    def take(self, sequence: int) -> bool:
        """Whether it is new; remembers it (RFC 2747 §4.2: out of order within the window, never twice). The window counts messages, not
        numbers, since numbers that are times have gaps.
        """
        full = len(self.seen) >= WINDOW
        if sequence <= self.floor or sequence in self.seen or (full and sequence < self.seen[0]):
            return False
        insort(self.seen, sequence)
        if len(self.seen) > WINDOW:
            self.floor = self.seen.pop(0)
        return True


class Guard:
    """The keys of one interface and what is known of neighbours there. ``keys``: the first signs, all verify."""

    def __init__(self, keys: tuple[Key, ...], cookie_secret: bytes, wall_us: int, now: float) -> None:
        """``wall_us``: wall time in microseconds at ``now``; ``cookie_secret``: random bytes of this process."""
        self._keys = {key.number: key for key in keys}
        self._first = keys[0]
        self._secret = cookie_secret
        self._offset = wall_us - int(now * 1e6)
        self._last = 0
        self._peers: OrderedDict[tuple[Address, int], _Peer] = OrderedDict()

    def replace_keys(self, keys: tuple[Key, ...]) -> None:
        """Other keys from now on; windows of keys that stay are kept."""
        self._keys = {key.number: key for key in keys}
        self._first = keys[0]
        self._peers = OrderedDict((name, peer) for name, peer in self._peers.items() if name[1] in self._keys)

    def seal(self, datagram: Datagram, now: float) -> bytes:
        """The message with INTEGRITY right behind the header. Challenges go without (RFC 2747 §4.3)."""
        if datagram.header.type == Type.INTEGRITY_CHALLENGE:
            return datagram.seal()
        self._last = max(self._last + 1, int(now * 1e6) + self._offset)
        mark = Integrity(Integrity.HANDSHAKE, self._first.number, self._last, bytes(_DIGEST))
        zero = replace(datagram, objects=(mark.raw(), *datagram.objects), header=replace(datagram.header, checksum=0))
        body = zero.pack()
        signed = replace(mark, digest=_digest(self._first, body)).raw()
        return replace(zero, objects=(signed, *datagram.objects)).seal()

    def open(self, data: bytes, source: Address, now: float) -> tuple[list[Datagram], tuple[Address, Message] | None]:
        """The messages that may be believed now, without INTEGRITY, and what to send back to whom. Raises ``Refused``."""
        datagram = split(data)
        if datagram.header.type == Type.INTEGRITY_CHALLENGE:
            return [], (source, self._answer(datagram))
        mark = value_of(datagram.objects[0]) if datagram.objects else None
        if not isinstance(mark, Integrity):
            raise Refused("a message without INTEGRITY on a link that has keys")
        key = self._keys.get(mark.key)
        if key is None:
            raise Refused(f"key {mark.key} is not known here")
        if not _right(key, mark, data):
            raise Refused("a digest that is not right")
        sender = _sender(datagram, source)
        peer = self._peer(sender, key.number)
        plain = replace(datagram, objects=datagram.objects[1:])
        if datagram.header.type == Type.INTEGRITY_RESPONSE:
            return self._synchronised(plain, peer, mark, sender, now), None
        if not peer.known and mark.flags & Integrity.HANDSHAKE:
            peer.since = peer.since if peer.held else now
            peer.held = [*peer.held, data][-_MOST_HELD:]
            return [], (sender, Message(IntegrityChallenge(Challenge(key.number, self._cookie(sender, key.number)))))
        if not peer.known:
            peer.floor = mark.sequence - 1  # it answers no challenges: the first number is believed (RFC 2747 §4.1)
        if not peer.take(mark.sequence):
            raise Refused(f"sequence number {mark.sequence} again, or older than the last {WINDOW}")
        peer.known = True
        return [plain], None

    def _peer(self, sender: Address, key: int) -> _Peer:
        """What is known of a sender. Only who has the key gets here, so the bound is on neighbours, not on strangers."""
        name = (sender, key)
        peer = self._peers.setdefault(name, _Peer())
        self._peers.move_to_end(name)
        while len(self._peers) > _MOST_PEERS:
            self._peers.popitem(last=False)
        return peer

    def _cookie(self, sender: Address, key: int) -> bytes:
        return hmac.digest(self._secret, sender.packed + key.to_bytes(6, "big"), hashlib.sha256)[:_COOKIE]

    def _answer(self, datagram: Datagram) -> Message:
        challenge = value_of(datagram.objects[0]) if len(datagram.objects) == 1 else None
        if not isinstance(challenge, Challenge) or challenge.key not in self._keys or len(challenge.cookie) > 64:
            raise Refused("a challenge that asks for nothing of ours")
        return Message(IntegrityResponse(challenge))

    def _synchronised(self, plain: Datagram, peer: _Peer, mark: Integrity, sender: Address, now: float) -> list[Datagram]:
        challenge = value_of(plain.objects[0]) if len(plain.objects) == 1 else None
        wanted = self._cookie(sender, mark.key)
        if not isinstance(challenge, Challenge) or not hmac.compare_digest(challenge.cookie, wanted):
            raise Refused("an answer to a challenge that was not made")
        if peer.known:
            raise Refused("an answer that nobody waits for")
        held, peer.held = peer.held, []
        # What was held was sent since about the first of it came; what is older is a replay of days before this node's start.
        peer.floor, peer.known = mark.sequence - int((now - peer.since + _SLACK_S) * 1e6), True
        found = []
        for data in held:
            datagram = split(data)
            if peer.take(_mark(data).sequence):
                found.append(replace(datagram, objects=datagram.objects[1:]))
        peer.take(mark.sequence)
        return found


def _mark(data: bytes) -> Integrity:
    value = value_of(split(data).objects[0])
    assert isinstance(value, Integrity)
    return value


def _digest(key: Key, data: bytes) -> bytes:
    return hmac.digest(key.secret, data, hashlib.sha256)


def _right(key: Key, mark: Integrity, data: bytes) -> bool:
    if len(mark.digest) != _DIGEST:
        return False
    start = 8 + 4 + 16
    zero = data[:2] + b"\0\0" + data[4:start] + bytes(_DIGEST) + data[start + _DIGEST :]
    return hmac.compare_digest(mark.digest, _digest(key, zero))


def _sender(datagram: Datagram, source: Address) -> Address:
    """Who sent it: the first RSVP_HOP, else the packet's source (RFC 2747 §3)."""
    for raw in datagram.objects:
        if raw.class_num == Class.HOP:
            hop = value_of(raw)
            if isinstance(hop, Hop):
                return hop.address
    return source
