"""Senders' side of a node: announcements taken, kept, passed on, torn down (RFC 2205 §2.3, §3.6; RFC 2209 §2)."""

from __future__ import annotations

from collections.abc import Callable

from polder.rsvp import messages as m
from polder.rsvp.adspec import Adspec
from polder.rsvp.errors import Code, RsvpError
from polder.rsvp.intserv import Tspec
from polder.rsvp.objects import Address, ErrorSpec, Hop, Sender, Session
from polder.rsvp.outlet import Outlet, Where
from polder.rsvp.seen import Seen
from polder.rsvp.state import LOCAL, Book, Event, PathKey, PathState

Routes = Callable[[Address, Address], tuple[int, ...]]
"""Interfaces on which data from a source leave for a destination; ``LOCAL`` among them when this host is the destination."""
Settle = Callable[..., None]


class PathSide:
    """See the module."""

    def __init__(self, book: Book, outlet: Outlet, seen: Seen, routes: Routes, settle: Settle) -> None:
        self._book = book
        self._outlet = outlet
        self._seen = seen
        self._routes = routes
        self._settle = settle

    def announce(self, session: Session, sender: Sender, tspec: Tspec, adspec: Adspec | None, ttl: int, now: float) -> None:
        """A sender on this host begins, or changes what it sends. Raises ``RsvpError`` for traffic that cannot be."""
        tspec = tspec.rounded()
        tspec.check()
        self._room((session.key(), sender))
        own = self._book.own_address(session.destination)
        state = PathState(session, sender, tspec, adspec, (), (), Hop(own), LOCAL, ttl + 1, self._book.config.period)
        state.out = self._routes(session.destination, sender.address)
        self._book.put_path(state)
        self._forward(state, now)
        self._settle(session.key(), now)

    def withdraw(self, session: Session, sender: Sender, now: float) -> None:
        """A sender on this host ends."""
        key = (session.key(), sender)
        if key in self._book.paths and self._book.paths[key].iif == LOCAL:
            self._end(key, now, tell=True)

    def receive(self, body: m.Path, message: m.Message, iif: int, ttl: int, now: float) -> None:
        """A PATH. ``ttl``: what the packet had left."""
        key: PathKey = (body.session.key(), body.sender)
        if message.message_id and self._seen.stale(body.hop.address, message.message_id, ("path", key)):
            self._book.counts["stale"] += 1
            return
        old = self._book.paths.get(key)
        try:
            self._check(body, old)
        except RsvpError as error:
            self.refuse(body, iif, error, now)
            return
        out = self._routes(body.session.destination, body.sender.address)
        if iif in out or (old is not None and old.iif == LOCAL):
            self._book.counts["looped"] += 1
            return
        adspec = body.adspec
        if adspec is not None and message.ttl != ttl:
            adspec = adspec.not_served()
        period = body.period_ms / 1000
        state = PathState(body.session, body.sender, body.tspec, adspec, body.policy, body.extra, body.hop, iif, ttl, period, out)
        self._book.put_path(state)
        self._book.timers.set(("path", key), now + self._book.config.lifetime(period))
        if message.message_id:
            self._seen.note(body.hop.address, message.message_id, [("path", key)])
        if old is not None:
            self._leave(key, set(old.out) - set(out))
        self._forward(state, now, fresh=old is None or _told(old) != _told(state))
        if old is None or old != state:
            self._settle(key[0], now)

    def refuse(self, body: m.Path, iif: int, error: RsvpError, now: float) -> None:
        """Tell the previous hop, and by it the sender; again and again only one that has state here, since anybody can name any hop."""
        if error.code is None or iif == LOCAL:
            return
        own = self._book.interfaces[iif].own(body.hop.address)
        told = m.PathErr(body.session, ErrorSpec(own, 0, error.code, error.value), body.sender, body.tspec)
        known = (body.session.key(), body.sender) in self._book.paths
        self._outlet.once(told, Where(iif, own, body.hop.address), now, reliable=known)

    def tear(self, body: m.PathTear, now: float) -> None:
        """A PATH is taken back: only by the hop from which it came (RFC 2205 §3.1.5), and as strictly checked as it was."""
        for path in self._book.paths_of(body.session.key()):
            if path.hop.address == body.hop.address and path.iif != LOCAL and body.sender in {None, path.sender}:
                self._end(path.key(), now, tell=True)

    def error(self, body: m.PathErr, now: float) -> None:
        """A PATHERR goes back towards its sender; it changes nothing on the way (RFC 2205 §3.1.7)."""
        for path in self._book.paths_of(body.session.key()):
            if body.sender not in {None, path.sender}:
                continue
            if path.iif == LOCAL:
                self._book.actions.append(Event("path-error", path.session, path.sender, error=body.error))
            else:
                where = Where(path.iif, self._book.interfaces[path.iif].own(path.hop.address), path.hop.address)
                self._outlet.once(body, where, now)

    def expire(self, key: PathKey, now: float) -> None:
        """No refresh came for the lifetime."""
        if key in self._book.paths:
            self._book.counts["paths-expired"] += 1
            self._end(key, now, tell=True)

    def refreshed(self, key: PathKey, now: float) -> None:
        """A summary named it."""
        path = self._book.paths[key]
        self._book.timers.set(("path", key), now + self._book.config.lifetime(path.period))

    def rerouted(self, now: float) -> None:
        """Routes changed somewhere: look again in a while, when they have settled (RFC 2205 §3.6, W)."""
        for key, path in self._book.paths.items():
            if self._routes(path.session.destination, path.sender.address) != path.out:
                self._book.timers.set(("repair", key), now + self._book.config.repair_wait)

    def repair(self, key: PathKey, now: float) -> None:
        """Local repair: announce on the new way at once. The old way's state ends by itself: a tear sent there could meet the new."""
        path = self._book.paths.get(key)
        if path is None:
            return
        out = self._routes(path.session.destination, path.sender.address)
        if out == path.out:
            return
        self._leave(key, set(path.out) - set(out))
        if path.iif in out:
            self._end(key, now, tell=False)
            return
        path.out = out
        self._book.counts["repaired"] += 1
        self._forward(path, now, fresh=True)
        self._settle(key[0], now)

    def say_anew(self, path: PathState, now: float) -> None:
        """Announce it with this node's present settings, where these make a difference."""
        self._forward(path, now, fresh=False)

    def _room(self, key: PathKey) -> None:
        if key not in self._book.paths and len(self._book.paths) >= self._book.config.most_paths:
            self._book.counts["over-paths"] += 1
            raise RsvpError("no more senders can be kept here", Code.SYSTEM)

    def _check(self, body: m.Path, old: PathState | None) -> None:
        body.tspec.check()
        if old is not None:
            return
        self._room((body.session.key(), body.sender))
        destination, protocol, port = body.session.key()
        if self._book.ports[destination, protocol, port != 0]:
            raise RsvpError("port 0 beside others", Code.CONFLICTING_DESTINATION_PORTS)
        for path in self._book.paths_of(body.session.key()):
            if path.sender.address == body.sender.address and (path.sender.port == 0) != (body.sender.port == 0):
                raise RsvpError("sender's port 0 beside others", Code.CONFLICTING_SENDER_PORTS)

    def _forward(self, path: PathState, now: float, *, fresh: bool = True) -> None:
        """Pass it on where it says something new; refreshes are the outlet's (RFC 2205 §3.3: changes go on at once)."""
        for index in path.out:
            if index == LOCAL:
                if fresh:
                    self._book.actions.append(Event("path", path.session, path.sender, path.tspec, path.adspec))
                continue
            if path.ttl <= 1:
                self._book.counts["ttl-ended"] += 1
                continue
            interface = self._book.interfaces.get(index)  # none: a device without an address
            if interface is None or (own := interface.own(path.session.destination)).is_unspecified:
                self._book.counts["no-address"] += 1
                continue
            adspec = path.adspec.onward(interface.adds()) if path.adspec else None
            hop, period = Hop(own, index), round(self._book.config.period * 1000)
            body = m.Path(path.session, hop, period, path.sender, path.tspec, adspec, path.policy, path.extra)
            key = ("path", path.key(), index)
            if self._outlet.said(key) != body:
                where = Where(index, path.sender.address, path.session.destination, True, path.ttl - 1)
                self._outlet.state(key, body, where, now)

    def _leave(self, key: PathKey, interfaces: set[int]) -> None:
        for index in interfaces:
            self._outlet.forget(("path", key, index))

    def _end(self, key: PathKey, now: float, *, tell: bool) -> None:
        path = self._book.drop_path(key)
        assert path is not None
        self._seen.drop(("path", key))
        self._book.timers.cancel(("repair", key))
        for index in path.out:
            if index == LOCAL:
                self._book.actions.append(Event("path-gone", path.session, path.sender))
            elif tell and self._outlet.said(("path", key, index)) is not None:
                own = self._book.interfaces[index].own(path.session.destination)
                body = m.PathTear(path.session, Hop(own, index), path.sender, path.tspec)
                where = Where(index, path.sender.address, path.session.destination, True, max(path.ttl - 1, 1))
                self._outlet.once(body, where, now)
        self._leave(key, set(path.out) - {LOCAL})
        self._settle(key[0], now, torn=None if path.iif == LOCAL else (path.hop.address, path.iif))


def _told(path: PathState) -> tuple[object, ...]:
    """What an application hears of a sender."""
    return path.tspec, path.adspec, path.out
