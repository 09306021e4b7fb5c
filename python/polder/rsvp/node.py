"""A node of RSVP: host or router, without I/O. It takes packets, routes, decisions and time; ``take`` gives what it wants done."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sized
from typing import cast

from polder.model.reservations import Verdict
from polder.rsvp import grammar
from polder.rsvp import messages as m
from polder.rsvp.adspec import Adspec
from polder.rsvp.errors import RsvpError
from polder.rsvp.integrity import Guard
from polder.rsvp.intserv import Tspec
from polder.rsvp.ip import Packet
from polder.rsvp.objects import Address, MessageId, Sender, Session, SourceList, Style
from polder.rsvp.outlet import Outlet, Where
from polder.rsvp.pathside import PathSide, Routes
from polder.rsvp.resvside import ResvSide
from polder.rsvp.seen import Seen
from polder.rsvp.settling import Settler
from polder.rsvp.state import Action, Book, Config, Interface, PathKey, PathState, ResvKey, ResvState, SessionKey
from polder.rsvp.wire import Malformed, sound, split


class Node:
    """See the module. ``routes`` says where data for a destination leave; ``guards`` hold the keys of interfaces that have some.

    No call raises for what strangers sent: it is counted in ``counts``.
    """

    def __init__(
        self,
        config: Config,
        interfaces: Mapping[int, Interface],
        routes: Routes,
        rng: random.Random,
        guards: Mapping[int, Guard] | None = None,
    ) -> None:
        self._book = Book(config, dict(interfaces))
        self._routes = routes
        self._guards = dict(guards or {})
        self._seen = Seen()
        self._outlet = Outlet(self._book, rng, self._guards)
        self._settler = Settler(self._book, self._outlet, self._seen)
        self._resv = ResvSide(self._book, self._outlet, self._seen, self._settler)
        self._path = PathSide(self._book, self._outlet, self._seen, routes, self._settler.settle)

    @property
    def counts(self) -> Counter[str]:
        """What happened so far, by name."""
        return self._book.counts

    @property
    def paths(self) -> list[PathState]:
        """Senders that are known."""
        return [*self._book.paths.values()]

    @property
    def reservations(self) -> list[ResvState]:
        """Reservations that next hops asked for."""
        return [*self._book.reservations.values()]

    def deadline(self) -> float | None:
        """When ``tick`` is to be called next."""
        return self._book.timers.next()

    def leftovers(self) -> int:
        """State of every kind, for tests that look for leaks: 0 in a node that has forgotten everything."""
        book = self._book
        kept: tuple[Sized, ...] = (
            book.paths,
            book.reservations,
            book.blockades,
            book.installed,
            book.handles,
            book.pending,
            book.ports,
            book.freed,
            book.tickets,
            book.confirmations,
            book.by_session,
        )
        held = sum(len(sessions) for sessions in book.held.values())
        return sum(len(each) for each in kept) + held + len(self._outlet) + len(self._seen) + len(book.timers)

    def held(self, interface: int) -> float:
        """Bytes/s of a link that are reserved or asked for."""
        return sum(self._book.held.get(interface, {}).values())

    def announce(
        self, session: Session, sender: Sender, tspec: Tspec, now: float, adspec: Adspec | None = None, ttl: int = 63
    ) -> None:
        """An application here sends, or sends otherwise than before. Raises ``RsvpError``."""
        self._path.announce(session, sender, tspec, Adspec.start() if adspec is None else adspec, ttl, now)
        self._outlet.flush(now)

    def withdraw(self, session: Session, sender: Sender, now: float) -> None:
        """It ends."""
        self._path.withdraw(session, sender, now)
        self._outlet.flush(now)

    def reserve(
        self,
        session: Session,
        style: Style,
        flows: tuple[m.Flow, ...],
        now: float,
        policy: tuple[bytes, ...] = (),
        confirm: bool = True,
    ) -> None:
        """An application here wants a reservation for what it receives, or another one. Raises ``RsvpError``."""
        self._resv.reserve(session, style, flows, policy, confirm, now)
        self._outlet.flush(now)

    def release(self, session: Session, now: float) -> None:
        """It wants it no longer."""
        self._resv.release(session, now)
        self._outlet.flush(now)

    def decided(self, ticket: int, verdict: Verdict, again: float | None, now: float) -> None:
        """The policy decision point has answered a ``Question``; ``again`` is when to ask anew, on this clock."""
        session = key[0] if (key := self._book.tickets.get(ticket)) else None
        self._resv.decided(ticket, verdict, again, now)
        if session is not None:
            self._let_confirmations_go(session, now)
        self._outlet.flush(now)

    def installed(self, handle: int, now: float) -> None:
        """An ``Install`` is in force, or is known not to be: confirmations that wait for it may go."""
        session = self._book.in_force(handle)
        if session is not None:
            self._settler.settle(session, now)
            self._let_confirmations_go(session, now)
        self._outlet.flush(now)

    def failed(self, handle: int, now: float) -> None:
        """An ``Install`` cannot be done: who asked for it is told, and nothing is promised."""
        session = self._book.in_force(handle)
        if session is not None:
            self._resv.failed(session, handle, now)
        self._outlet.flush(now)

    def configure(self, config: Config, interfaces: Mapping[int, Interface], guards: Mapping[int, Guard], now: float) -> None:
        """Other settings, links or keys from now on. State stands, so a link that is gone is remembered: state may name it. Where the
        policy decision point's word is demanded from now on, it is asked for what stands there.
        """
        book = self._book
        known = {index for index, each in book.interfaces.items() if each.policy}
        book.config = config
        book.interfaces.update(interfaces)
        self._guards.clear()
        self._guards.update(guards)
        self._resv.judge_anew({index for index, each in interfaces.items() if each.policy} - known, now)
        for path in self.paths:
            self._path.say_anew(path, now)
        for session in [*book.by_session]:
            self._settler.settle(session, now)
        self._outlet.flush(now)

    def rerouted(self, now: float) -> None:
        """Routes of this host have changed."""
        self._path.rerouted(now)

    def receive(self, packet: Packet, interface: int, now: float) -> None:
        """A packet came in on an interface of ours."""
        self._book.counts["received"] += 1
        try:
            self._open(packet, interface, now)
        except (RsvpError, Malformed) as error:
            self._book.counts[type(error).__name__.lower()] += 1
        self._outlet.flush(now)

    def tick(self, now: float) -> None:
        """Do what is due."""
        for key in self._book.timers.due(now):
            self._due(cast(tuple[str, object], key), now)
        self._outlet.flush(now)

    def take(self) -> list[Action]:
        """What is to be done now, in order."""
        actions, self._book.actions = self._book.actions, []
        return actions

    def _open(self, packet: Packet, interface: int, now: float) -> None:
        if interface not in self._book.interfaces:
            raise RsvpError("not an interface of ours")
        guard = self._guards.get(interface)
        if guard is None:
            if not sound(packet.payload):
                raise RsvpError("the checksum is wrong")
            self._read(packet.payload, packet, interface, now)
            return
        datagrams, answer = guard.open(packet.payload, packet.source, now)
        if answer is not None:
            neighbour, message = answer
            where = Where(interface, self._book.interfaces[interface].own(neighbour), neighbour)
            self._outlet.once(message.body, where, now, reliable=False)
        for datagram in datagrams:
            self._read(datagram.pack(), packet, interface, now)

    def _read(self, data: bytes, packet: Packet, interface: int, now: float) -> None:
        try:
            message = grammar.read(split(data))
        except grammar.Unacceptable as error:
            self._report(error, interface, now)
            raise
        if isinstance(message.body, m.Bundled):
            for part in message.body.parts:
                self._read(part, packet, interface, now)
            return
        self._take(message, packet, interface, now)

    def _report(self, error: grammar.Unacceptable, interface: int, now: float) -> None:
        """Whoever sent an object that cannot be accepted is told (RFC 2205 §3.10)."""
        body = error.message.body if error.message else None
        plain = RsvpError(error.why, error.code, error.value)
        if isinstance(body, m.Path):
            self._path.refuse(body, interface, plain, now)
        elif isinstance(body, m.Resv):
            for flow in body.flows:
                self._resv.refuse(body, flow, interface, plain, now)

    def _take(self, message: m.Message, packet: Packet, interface: int, now: float) -> None:
        body = message.body
        if any(address.version != packet.source.version for address in m.addresses(body)):
            raise RsvpError("addresses of both IP versions in one message")
        neighbour = body.hop.address if isinstance(body, m.Path | m.Resv | m.PathTear | m.ResvTear | m.ResvErr) else packet.source
        self._outlet.capable(neighbour, reduces=message.reduces)
        for ack in message.acks:
            self._outlet.acknowledged(ack, packet.source, now)
        if message.message_id and message.message_id.flags & 1:
            self._outlet.acknowledge(interface, neighbour, message.message_id)
        match body:
            case m.Path():
                self._path.receive(body, message, interface, packet.ttl, now)
            case m.Resv():
                self._resv.receive(body, message, interface, now)
            case m.PathTear():
                self._path.tear(body, now)
            case m.ResvTear():
                self._resv.tear(body, interface, now)
            case m.PathErr():
                self._outlet.not_understood(interface, body.error.code, body.error.value, now)
                self._path.error(body, now)
            case m.ResvErr():
                self._outlet.not_understood(interface, body.error.code, body.error.value, now)
                self._resv.error(body, now)
            case m.ResvConf():
                self._resv.confirmed(body, self._routes(body.confirm.receiver, packet.source), now)
            case m.Srefresh():
                self._summary(body, packet.source, interface, now)
            case _:
                pass

    def _summary(self, body: m.Srefresh, source: Address, interface: int, now: float) -> None:
        for each in body.lists:
            if isinstance(each, SourceList):
                continue  # numbers of multicast sources: nobody here sends them, and what is not known is sent whole
            for number in each.numbers:
                keys = self._seen.find(source, each.epoch, number)
                for key in keys:
                    kind, name = cast(tuple[str, object], key)
                    if kind == "path":
                        self._path.refreshed(cast(PathKey, name), now)
                    else:
                        self._resv.refreshed(cast(ResvKey, name), now)
                if not keys:
                    self._outlet.acknowledge(interface, source, MessageId(0, each.epoch, number), known=False)

    def _due(self, key: tuple[str, object], now: float) -> None:
        kind, name = key[0], key[1]
        match kind:
            case "refresh":
                self._outlet.refresh(name, now)
            case "summary":
                self._outlet.summarise(*cast(tuple[int, Address], name), now)
            case "retry":
                self._outlet.retry(cast(int, name), now)
            case "path":
                self._path.expire(cast(PathKey, name), now)
            case "resv":
                self._resv.expire(cast(ResvKey, name), now)
            case "repair":
                self._path.repair(cast(PathKey, name), now)
            case "blockade":
                self._resv.unblock(cast(tuple[SessionKey, Address, Sender | None], name), now)
            case "decision":
                self._resv.decide_again(cast(ResvKey, name), now)

    def _let_confirmations_go(self, session: SessionKey, now: float) -> None:
        for body in self._resv.waiting(session):
            self._resv.confirmed(body, self._routes(body.confirm.receiver, body.confirm.receiver), now)
