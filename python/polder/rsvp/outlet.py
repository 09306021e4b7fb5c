"""What goes out: refreshes, numbered and acknowledged messages, summaries, bundles (RFC 2961), sealed where a link has keys.

A *state message* (PATH, RESV) is kept here and sent again by itself; everything else goes once, repeated until acknowledged.
"""

from __future__ import annotations

import random
from collections.abc import Hashable
from dataclasses import dataclass, replace

from polder.rsvp import messages as m
from polder.rsvp.errors import Code, RsvpError
from polder.rsvp.integrity import Guard
from polder.rsvp.objects import Address, Class, MessageId, MessageIdAck, MessageIdList
from polder.rsvp.state import Book, Send
from polder.rsvp.wire import HEADER

_NUMBERS = 1 << 32
_MOST_IN_SUMMARY = 256
_BUNDLE_BYTES = 1400
"""Bundles stay below an Ethernet packet: a lost fragment would lose them all."""


@dataclass(frozen=True, slots=True)
class Where:
    """Which way a message goes."""

    interface: int
    source: Address
    destination: Address
    alert: bool = False
    ttl: int = 64


@dataclass(slots=True)
class _Kept:
    """A state message: what was said last, under which number, and who acknowledged it."""

    body: m.Body
    where: Where
    number: int
    acknowledged: Address | None = None


@dataclass(slots=True)
class _Waiting:
    """A numbered message until it is acknowledged."""

    message: m.Message
    where: Where
    tries: int = 0
    key: Hashable = None


class Outlet:
    """Everything that this node says."""

    def __init__(self, book: Book, rng: random.Random, guards: dict[int, Guard]) -> None:
        self._book = book
        self._rng = rng
        self._guards = guards
        self.epoch = rng.randrange(1 << 24)
        self._number = 0
        self._kept: dict[Hashable, _Kept] = {}
        self._by_number: dict[int, Hashable] = {}
        self._summed: dict[tuple[int, Address], dict[Hashable, None]] = {}
        self._waiting: dict[int, _Waiting] = {}
        self._queue: list[tuple[Where, m.Message]] = []
        self._acks: dict[tuple[int, Address], list[MessageIdAck]] = {}
        self._capable: set[Address] = set()
        self._plain: set[int] = set()

    def __len__(self) -> int:
        """Messages that are kept or waited for: nothing of a node may leak here."""
        return len(self._kept) + len(self._waiting)

    def said(self, key: Hashable) -> m.Body | None:
        """What stands for a key."""
        kept = self._kept.get(key)
        return kept.body if kept else None

    def state(self, key: Hashable, body: m.Body, where: Where, now: float, first: m.Body | None = None) -> None:
        """Say something new, and again and again until ``forget``; ``first`` is said the first time instead."""
        self._unnumber(key)
        number = self._next_number()
        self._kept[key] = kept = _Kept(first or body, where, number)
        self._by_number[number] = key
        self._say(kept, now, key, trigger=True)
        kept.body = body
        self._rearm(key, now)

    def once(self, body: m.Body, where: Where, now: float, *, reliable: bool = True) -> None:
        """Say something that is not kept. ``reliable``: until the neighbour acknowledges it."""
        if reliable and len(self._waiting) >= 2 * (self._book.config.most_paths + self._book.config.most_reservations):
            self._book.counts["over-waiting"] += 1
            reliable = False
        if not (reliable and self._numbers(where.interface)):
            self._send(where, m.Message(body, reduces=self._book.config.reduce))
            return
        number = self._next_number()
        message = m.Message(body, MessageId(MessageId.ACK_DESIRED, self.epoch, number), (), True)
        self._wait(number, _Waiting(message, where), now)
        self._send(where, message)

    def forget(self, key: Hashable) -> None:
        """Let the state message go."""
        self._unnumber(key)
        self._kept.pop(key, None)
        self._book.timers.cancel(("refresh", key))

    def acknowledge(self, interface: int, neighbour: Address, number: MessageId, *, known: bool = True) -> None:
        """Tell the neighbour that its message arrived, or that the state it named is not known here."""
        self._acks.setdefault((interface, neighbour), []).append(MessageIdAck(number.epoch, number.number, not known))

    def capable(self, neighbour: Address, *, reduces: bool) -> None:
        """What a neighbour's header said of RFC 2961 (§2)."""
        if reduces:
            self._capable.add(neighbour)
            if len(self._capable) > 4096:
                self._capable.pop()
        else:
            self._capable.discard(neighbour)

    def acknowledged(self, ack: MessageIdAck, source: Address, now: float) -> None:
        """A neighbour acknowledged, or does not know what a summary named."""
        if ack.epoch != self.epoch:
            return
        waiting = self._waiting.pop(ack.number, None)
        if waiting is not None:
            self._book.timers.cancel(("retry", ack.number))
        key = self._by_number.get(ack.number)
        kept = self._kept.get(key) if key is not None else None
        if kept is None:
            return
        if ack.nack:
            self._alone(key, kept)
            self._rearm(key, now)
            self._book.counts["nacks"] += 1
            self._say(kept, now, key, trigger=True)
        elif source in self._capable and self._numbers(kept.where.interface):
            self._sum_up(key, kept, source, now)

    def not_understood(self, interface: int, code: int, value: int, now: float) -> None:
        """A neighbour rejected MESSAGE_ID: talk to that link without it (RFC 2961 §6)."""
        if code == Code.UNKNOWN_CLASS and value >> 8 == Class.MESSAGE_ID and interface not in self._plain:
            self._plain.add(interface)
            for number in [number for number, waiting in self._waiting.items() if waiting.where.interface == interface]:
                self._book.timers.cancel(("retry", number))
                del self._waiting[number]
            for key, kept in self._kept.items():
                if kept.where.interface == interface:
                    self._alone(key, kept)
                    self.refresh(key, now)

    def refresh(self, key: Hashable, now: float) -> None:
        """A state message that no neighbour has acknowledged is due again, in full."""
        kept = self._kept.get(key)
        if kept is not None:
            self._say(kept, now, key, trigger=False)
            self._rearm(key, now)

    def summarise(self, interface: int, neighbour: Address, now: float) -> None:
        """Refresh everything that a neighbour has acknowledged, by its numbers (RFC 2961 §5); in full where it has unlearnt that."""
        keys = self._summed.get((interface, neighbour), {})
        if neighbour not in self._capable or not self._numbers(interface):
            for key in [*keys]:
                self._alone(key, self._kept[key])
                self.refresh(key, now)
            return
        numbers = [self._kept[key].number for key in keys]
        where = Where(interface, self._book.interfaces[interface].own(neighbour), neighbour)
        for at in range(0, len(numbers), _MOST_IN_SUMMARY):
            named = MessageIdList(0, self.epoch, tuple(numbers[at : at + _MOST_IN_SUMMARY]))
            self._book.counts["summaries"] += 1
            self._send(where, m.Message(m.Srefresh((named,)), reduces=True))
        if numbers:
            self._book.timers.set(("summary", (interface, neighbour)), now + self._jittered())

    def _sum_up(self, key: Hashable, kept: _Kept, neighbour: Address, now: float) -> None:
        """From now on it is refreshed with all else that this neighbour acknowledged: one timer, a few messages."""
        if kept.acknowledged == neighbour:
            return
        self._alone(key, kept)
        kept.acknowledged = neighbour
        name = (kept.where.interface, neighbour)
        self._summed.setdefault(name, {})[key] = None
        self._book.timers.cancel(("refresh", key))
        if self._book.timers.at(("summary", name)) is None:
            self._book.timers.set(("summary", name), now + self._jittered())

    def _alone(self, key: Hashable, kept: _Kept) -> None:
        """Not summed up any longer."""
        if kept.acknowledged is None:
            return
        name = (kept.where.interface, kept.acknowledged)
        kept.acknowledged = None
        group = self._summed[name]
        del group[key]
        if not group:
            del self._summed[name]
            self._book.timers.cancel(("summary", name))

    def retry(self, number: int, now: float) -> None:
        """No acknowledgement came: again, after twice the time, at most so often (RFC 2961 §6: exponential back-off)."""
        waiting = self._waiting.get(number)
        if waiting is None:
            return
        if waiting.tries >= self._book.config.retries:
            del self._waiting[number]
            self._book.counts["unacknowledged"] += 1
            return
        waiting.tries += 1
        self._book.counts["retries"] += 1
        self._book.timers.set(("retry", number), now + self._book.config.first_retry * 2**waiting.tries)
        self._send(waiting.where, waiting.message)

    def flush(self, now: float) -> None:
        """Hand everything over: acknowledgements first, several messages to one neighbour in bundles."""
        for (interface, neighbour), acks in self._acks.items():
            where = Where(interface, self._book.interfaces[interface].own(neighbour), neighbour)
            for at in range(0, len(acks), 100):
                self._queue.insert(0, (where, m.Message(m.Ack(), None, tuple(acks[at : at + 100]), True)))
        self._acks.clear()
        groups: dict[Hashable, list[tuple[Where, m.Message]]] = {}
        for number, (where, message) in enumerate(self._queue):
            together = not where.alert and where.destination in self._capable and self._book.config.reduce
            # With INTEGRITY each goes by itself: others do not expect an object before the messages of a bundle.
            together = together and where.interface not in self._guards
            groups.setdefault((where.interface, where.destination) if together else number, []).append((where, message))
        self._queue.clear()
        for group in groups.values():
            self._hand_over(group, now)

    def _hand_over(self, group: list[tuple[Where, m.Message]], now: float) -> None:
        where = group[0][0]
        parts: list[bytes] = []
        if len(group) > 1:
            sized = [(each, message, message.datagram()) for each, message in group]
            parts = [datagram.seal() for _, _, datagram in sized if len(datagram) <= _BUNDLE_BYTES // 2]
            group = [(each, message) for each, message, datagram in sized if len(datagram) > _BUNDLE_BYTES // 2]
        while parts:
            taken, size = 0, HEADER.size
            while taken < len(parts) and size + len(parts[taken]) <= _BUNDLE_BYTES:
                size += len(parts[taken])
                taken += 1
            self._emit(where, m.Message(m.Bundled(tuple(parts[:taken])), reduces=True), now)
            parts = parts[taken:]
        for each, message in group:
            self._emit(each, message, now)

    def _emit(self, where: Where, message: m.Message, now: float) -> None:
        datagram = replace(message, ttl=where.ttl).datagram()
        guard = self._guards.get(where.interface)
        try:
            data = guard.seal(datagram, now) if guard else datagram.seal()
        except RsvpError:
            self._book.counts["too-large"] += 1
            return
        self._book.counts["sent"] += 1
        self._book.actions.append(Send(where.interface, where.source, where.destination, where.ttl, where.alert, data))

    def _send(self, where: Where, message: m.Message) -> None:
        self._queue.append((where, message))

    def _say(self, kept: _Kept, now: float, key: Hashable, *, trigger: bool) -> None:
        if not self._numbers(kept.where.interface):
            self._send(kept.where, m.Message(kept.body, reduces=self._book.config.reduce))
            return
        message = m.Message(kept.body, MessageId(MessageId.ACK_DESIRED, self.epoch, kept.number), (), True)
        if trigger:
            self._wait(kept.number, _Waiting(message, kept.where, key=key), now)
        self._send(kept.where, message)

    def _wait(self, number: int, waiting: _Waiting, now: float) -> None:
        self._waiting[number] = waiting
        self._book.timers.set(("retry", number), now + self._book.config.first_retry)

    def _numbers(self, interface: int) -> bool:
        return self._book.config.reduce and interface not in self._plain

    def _next_number(self) -> int:
        self._number = (self._number + 1) % _NUMBERS
        return self._number

    def _unnumber(self, key: Hashable) -> None:
        kept = self._kept.get(key)
        if kept is not None:
            self._alone(key, kept)
            self._by_number.pop(kept.number, None)
            self._waiting.pop(kept.number, None)
            self._book.timers.cancel(("retry", kept.number))

    def _rearm(self, key: Hashable, now: float) -> None:
        """Refreshes are spread over half to one and a half periods, so that routers do not fall into step (RFC 2205 §3.7)."""
        self._book.timers.set(("refresh", key), now + self._jittered())

    def _jittered(self) -> float:
        return self._book.config.period * self._rng.uniform(0.5, 1.5)
