"""What follows from a session's state is made true: links, previous hops, confirmations (RFC 2205 §2.2, §2.6, §3.3)."""

from __future__ import annotations

from dataclasses import replace

from polder.rsvp import merging
from polder.rsvp import messages as m
from polder.rsvp.objects import Address, ErrorSpec, Hop, ResvConfirm, Style
from polder.rsvp.outlet import Outlet, Where
from polder.rsvp.seen import Seen
from polder.rsvp.state import LOCAL, Book, Event, Install, ResvKey, SessionKey, Uninstall


class Settler:
    """After each change of a session: ``settle``. It compares what should be with what was done, and does the difference."""

    def __init__(self, book: Book, outlet: Outlet, seen: Seen) -> None:
        self._book = book
        self._outlet = outlet
        self._seen = seen
        self._asked: dict[SessionKey, set[tuple[Address, int]]] = {}

    def drop(self, key: ResvKey) -> None:
        """Forget a reservation; ``settle`` does the rest."""
        state = self._book.drop_reservation(key)
        self._seen.drop(("resv", key))
        if state is not None:
            self._book.tickets.pop(state.ticket, None)

    def settle(self, session: SessionKey, now: float, torn: tuple[Address, int] | None = None) -> None:
        """Make everything that follows from a session's state true: what is installed, what is held, what previous hops are asked."""
        self._prune(session)
        self._install(session)
        rates: dict[int, float] = {}
        for each in merging.traffic(self._book, session, granted=False).values():
            rates[each.interface] = rates.get(each.interface, 0) + each.flowspec.rate
        self._book.hold(session, rates)
        changed = self._ask_upstream(session, now, torn)
        self._confirm(session, changed, now)
        if session not in self._book.by_session:
            self._book.confirmations.pop(session, None)
            for name in [name for name in self._book.blockades if name[0] == session]:
                del self._book.blockades[name]
                self._book.timers.cancel(("blockade", name))

    def _prune(self, session: SessionKey) -> None:
        """Reservations for senders that no longer announce themselves on that link end (RFC 2209 §2, PathTear)."""
        paths = self._book.paths_of(session)
        for state in self._book.reservations_of(session):
            here = {path.sender for path in paths if state.key[1] in path.out}
            wanted = state.wanted
            left = tuple(sender for sender in wanted.senders if sender in here)
            if not here or (wanted.style != Style.WF and not left):
                if state.key[1] == LOCAL:
                    continue  # the application asked, and its sender may come back: nothing is sent meanwhile
                self.drop(state.key)
            elif left != wanted.senders and state.key[1] != LOCAL:
                state.wanted = replace(wanted, senders=left)
                if state.granted is not None:
                    state.granted = replace(state.granted, senders=tuple(s for s in state.granted.senders if s in here))

    def _install(self, session: SessionKey) -> None:
        wanted, book = merging.traffic(self._book, session, granted=True), self._book
        had = book.installed.get(session, {})
        for key, (handle, _) in [*had.items()]:
            if key not in wanted:
                book.in_force(handle)
                book.let_go(handle)
                del had[key]
                book.actions.append(Uninstall(handle))
        for key, traffic in wanted.items():
            if key in had and had[key][1] == traffic:
                continue
            handle = had[key][0] if key in had else book.free_handle()
            book.handles[handle] = session
            book.pending.setdefault(session, set()).add(handle)
            book.installed.setdefault(session, had)[key] = (handle, traffic)
            book.actions.append(Install(handle, traffic))
        if not had:
            book.installed.pop(session, None)

    def _ask_upstream(self, session: SessionKey, now: float, torn: tuple[Address, int] | None) -> set[tuple[Address, int]]:
        """Send previous hops what is new for them; returns which."""
        wanted = merging.upstream(self._book, session)
        if not self._book.config.ahead and any(s.granted is None for s in self._book.reservations_of(session)):
            wanted = {}
        asked = self._asked.setdefault(session, set())
        for hop in sorted(asked - wanted.keys(), key=str):
            body = self._outlet.said(("resv", session, *hop))
            self._outlet.forget(("resv", session, *hop))
            asked.discard(hop)
            if isinstance(body, m.Resv) and hop != torn:
                self._untell(body, body.flows, hop, now)
        changed = set()
        for hop, what in wanted.items():
            own, key = self._book.interfaces[hop[1]].own(hop[0]), ("resv", session, *hop)
            path = next(path for path in self._book.paths_of(session) if (path.hop.address, path.iif) == hop)
            back, period = Hop(own, path.hop.handle), round(self._book.config.period * 1000)
            body = m.Resv(path.session, back, period, what.style, what.flows, None, what.scope, what.policy, what.extra)
            old = self._outlet.said(key)
            if old == body:
                continue
            if isinstance(old, m.Resv) and (gone := _gone(old, body)):
                self._untell(old, gone, hop, now)
            confirm = next((s.confirm for s in self._book.reservations_of(session) if s.confirm is not None), None)
            first = replace(body, confirm=ResvConfirm(confirm)) if confirm is not None else None
            asked.add(hop)
            self._outlet.state(key, body, Where(hop[1], own, hop[0]), now, first)
            changed.add(hop)
        if not asked:
            del self._asked[session]
        return changed

    def _untell(self, body: m.Resv, flows: tuple[m.Flow, ...], hop: tuple[Address, int], now: float) -> None:
        own = self._book.interfaces[hop[1]].own(hop[0])
        self._outlet.once(m.ResvTear(body.session, body.hop, body.style, flows, body.scope), Where(hop[1], own, hop[0]), now)

    def _confirm(self, session: SessionKey, changed: set[tuple[Address, int]], now: float) -> None:
        """A request for confirmation went on with what changed; where nothing had to go on, this node answers (RFC 2205 §2.6)."""
        local = any(path.iif == LOCAL for path in self._book.paths_of(session))
        for state in self._book.reservations_of(session):
            if state.confirm is None:
                continue
            if changed and not local:
                state.confirm = None
                continue
            if state.wanted != state.granted or not self._book.settled(session):
                continue
            receiver, state.confirm = state.confirm, None
            out, wanted = state.key[1], state.wanted
            flow = m.Flow(wanted.flowspec, wanted.senders)
            if out == LOCAL:
                self._book.actions.append(Event("confirmed", wanted.session, flowspec=wanted.flowspec))
                continue
            own = self._book.interfaces[out].own(receiver)
            body = m.ResvConf(wanted.session, ErrorSpec(own, 0, 0, 0), ResvConfirm(receiver), wanted.style, (flow,))
            self._outlet.once(body, Where(out, own, receiver, True), now)


def _gone(old: m.Resv, new: m.Resv) -> tuple[m.Flow, ...]:
    """Flows, or senders of a shared flow, that are no longer asked for."""
    if old.style != new.style:
        return old.flows
    left = {sender for flow in new.flows for sender in flow.senders}
    found = []
    for flow in old.flows:
        senders = tuple(sender for sender in flow.senders if sender not in left)
        if senders:
            found.append(m.Flow(flow.flowspec, senders))
    return tuple(found)
