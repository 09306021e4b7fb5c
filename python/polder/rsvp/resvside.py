"""Receivers' side of a node: requests checked, judged, merged, passed on, installed (RFC 2205 §2.2 to §2.6, §3.5; RFC 2209 §2)."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from polder.model.reservations import Ask, Verdict
from polder.rsvp import intserv, merging
from polder.rsvp import messages as m
from polder.rsvp.errors import Admission, Code, Policy, RsvpError, explain
from polder.rsvp.intserv import Flowspec
from polder.rsvp.objects import Address, ErrorSpec, Hop, ResvConfirm, Sender, Session, Style
from polder.rsvp.outlet import Outlet, Where
from polder.rsvp.policy_data import Bundles
from polder.rsvp.questions import ask_for, said, spoken
from polder.rsvp.seen import Seen
from polder.rsvp.settling import Settler
from polder.rsvp.state import (
    LOCAL,
    Blockade,
    Book,
    Event,
    Question,
    Request,
    ResvKey,
    ResvState,
    SessionKey,
)
from polder.rsvp.wire import Raw


class ResvSide:
    """See the module."""

    def __init__(self, book: Book, outlet: Outlet, seen: Seen, settler: Settler) -> None:
        self._book = book
        self._outlet = outlet
        self._seen = seen
        self._settler = settler
        self._bundles = Bundles(book.config.bundle_bytes)
        self._last_ticket = 0

    def reserve(
        self, session: Session, style: Style, flows: tuple[m.Flow, ...], policy: tuple[bytes, ...], confirm: bool, now: float
    ) -> None:
        """A receiver on this host asks. Raises ``RsvpError`` when it is plain here already that it cannot be."""
        rounded = tuple(replace(flow, flowspec=_rounded(flow.flowspec)) for flow in flows)
        own = session.destination  # which is where others confirm to
        body = m.Resv(session, Hop(own, LOCAL), round(self._book.config.period * 1000), style, rounded, policy=policy)
        problems = self._take(replace(body, confirm=ResvConfirm(own) if confirm else None), LOCAL, now)
        if problems:
            raise problems[0][0]

    def release(self, session: Session, now: float) -> None:
        """A receiver on this host ends."""
        for state in self._book.reservations_of(session.key()):
            if state.key[1] == LOCAL:
                self._settler.drop(state.key)
        self._settler.settle(session.key(), now)

    def receive(self, body: m.Resv, message: m.Message, interface: int, now: float) -> None:
        """A RESV of a next hop. ``interface``: where it came in, and by the handle that it returns, where data go out."""
        out = body.hop.handle if body.hop.handle in self._book.interfaces else interface
        session = body.session.key()
        names = [("resv", self._key(session, out, body, flow)) for flow in body.flows]
        if message.message_id and any(self._seen.stale(body.hop.address, message.message_id, name) for name in names):
            self._book.counts["stale"] += 1
            return
        for error, flow in self._take(body, out, now):
            self.refuse(body, flow, out, error, now)
        if message.message_id:
            known = [name for name in names if name[1] in self._book.reservations]
            self._seen.note(body.hop.address, message.message_id, known)

    def _take(self, body: m.Resv, out: int, now: float) -> list[tuple[RsvpError, m.Flow]]:
        """Each flow by itself: one that cannot be does not harm the others."""
        session, problems = body.session.key(), []
        for flow in body.flows:
            try:
                taken = self._flow(body, flow, out, now)
            except RsvpError as error:
                problems.append((error, flow))
                continue
            if body.confirm is not None:
                taken.confirm = body.confirm.receiver
        self._settler.settle(session, now)
        return problems

    def _flow(self, body: m.Resv, flow: m.Flow, out: int, now: float) -> ResvState:
        assert flow.flowspec is not None
        session = body.session.key()
        paths = [path for path in self._book.paths_of(session) if out in path.out]
        if not paths:
            raise RsvpError(explain(Code.NO_PATH, 0), Code.NO_PATH)
        senders = tuple(sender for sender in flow.senders if any(path.sender == sender for path in paths))
        if body.style != Style.WF and len(senders) < len(flow.senders):
            raise RsvpError(explain(Code.NO_SENDER, 0), Code.NO_SENDER)
        if any(state.wanted.style != body.style for state in self._book.reservations_of(session)):
            raise RsvpError(explain(Code.CONFLICTING_STYLE, 0), Code.CONFLICTING_STYLE)
        flow.flowspec.check()
        request = Request(body.session, body.style, flow.flowspec, senders, body.scope, body.policy, body.extra)
        key, period = self._key(session, out, body, flow), body.period_ms / 1000
        state = self._admitted(key, request, now)
        state.period = period
        if out != LOCAL:
            self._book.timers.set(("resv", key), now + self._book.config.lifetime(period))
        return state

    def _admitted(self, key: ResvKey, request: Request, now: float) -> ResvState:
        """The state with the request in it, after admission control; a policy question may be open then."""
        old = self._book.reservations.get(key)
        if old is not None and old.wanted == request:
            return old
        if old is None and len(self._book.reservations) >= self._book.config.most_reservations:
            self._book.counts["over-reservations"] += 1
            raise RsvpError("no more reservations can be kept here", Code.SYSTEM)
        state = ResvState(key, request) if old is None else replace(old, wanted=request)
        self._book.put_reservation(state)
        try:
            if key[1] != LOCAL:
                self._room(key, request)
            self._judge(state, old, now)
        except RsvpError:
            if old is None:
                self._settler.drop(key)
            else:
                self._book.put_reservation(old)
            raise
        return state

    def _room(self, key: ResvKey, request: Request) -> None:
        """Admission control against the link's capacity (RFC 2211 §5, RFC 2212 §5)."""
        interface = self._book.interfaces[key[1]]
        if request.flowspec.tspec.max_packet > interface.mtu:
            raise RsvpError(explain(Code.ADMISSION, Admission.MTU), Code.ADMISSION, Admission.MTU)
        traffic = merging.traffic(self._book, key[0], granted=False).values()
        wanted = sum(each.flowspec.rate for each in traffic if each.interface == key[1])
        if wanted > self._book.free(key[1], key[0]):
            self._book.counts["over-capacity"] += 1
            raise RsvpError(explain(Code.ADMISSION, Admission.BANDWIDTH), Code.ADMISSION, Admission.BANDWIDTH)

    def _judge(self, state: ResvState, old: ResvState | None, now: float) -> None:
        """Ask the policy decision point where the link needs its word and it has not decided just this already (trap: a refresh is no
        new payment).
        """
        interface = self._book.interfaces.get(state.key[1])
        if interface is None or not interface.policy:
            state.granted = state.wanted
            return
        bundle = self._bundles.find(state.wanted.policy) or b""
        if old is not None and old.wanted.same_but_policy(state.wanted) and old.bundle == bundle:
            if state.granted is not None:
                state.granted = state.wanted
            return
        state.bundle = bundle
        self._question(state, ask_for(self._book.config.name, interface.link, state, installed=False))

    def _question(self, state: ResvState, ask: Ask) -> None:
        self._last_ticket += 1
        self._book.tickets.pop(state.ticket, None)
        state.ticket = self._last_ticket
        self._book.tickets[state.ticket] = state.key
        self._book.actions.append(Question(state.ticket, ask))
        if state.granted is None:
            state.ask = ask

    def decided(self, ticket: int, verdict: Verdict, again: float | None, now: float) -> None:
        """The policy decision point's answer; ``again``: when to ask anew, on this machine's clock."""
        key = self._book.tickets.pop(ticket, None)
        state = self._book.reservations.get(key) if key is not None else None
        if key is None or state is None or state.ticket != ticket:
            return
        if verdict.accepted:
            interface = self._book.interfaces[key[1]]
            state.ask = ask_for(self._book.config.name, interface.link, state, installed=True)
            state.granted = state.wanted
            if again is not None:
                self._book.timers.set(("decision", key), again)
            self._settler.settle(key[0], now)
            return
        self._book.counts["refused-by-policy"] += 1
        body, wanted = self._as_message(state), state.wanted
        standing = state.granted is not None and state.granted != wanted
        if standing and state.granted is not None:
            state.wanted = state.granted
        else:
            self._settler.drop(key)
        code = verdict.code or Policy.REJECTED
        error = RsvpError(verdict.reason, Code.POLICY, code)
        self.refuse(body, m.Flow(wanted.flowspec, wanted.senders), key[1], error, now, said(verdict.reason))
        self._book.confirmations.pop(key[0], None)
        self._settler.settle(key[0], now)

    def decide_again(self, key: ResvKey, now: float) -> None:
        """A decision has come to its end: credentials expire in the middle of a flow."""
        state = self._book.reservations.get(key)
        interface = self._book.interfaces.get(key[1])
        if interface is None or not interface.policy:
            return
        if state is not None and state.granted is not None and state.ticket not in self._book.tickets:
            self._question(state, ask_for(self._book.config.name, interface.link, state, installed=True))

    def judge_anew(self, interfaces: set[int], now: float) -> None:
        """These links need the policy decision point's word from now on: it is asked for what was granted without."""
        for key, state in self._book.reservations.items():
            if key[1] in interfaces and state.granted is not None:
                with contextlib.suppress(RsvpError):  # a hash of what nobody kept: refused as missing, and sent whole again
                    state.bundle = self._bundles.find(state.granted.policy) or b""
                self._book.timers.set(("decision", key), now)

    def refuse(self, body: m.Resv, flow: m.Flow, out: int, error: RsvpError, now: float, extra: tuple[Raw, ...] = ()) -> None:
        """Tell the next hop, and by it the receiver; ``InPlace`` when what it had before stands on."""
        if error.code is None:
            return
        own = body.session.destination if out == LOCAL else self._book.interfaces[out].own(body.hop.address)
        kept = self._book.reservations.get(self._key(body.session.key(), out, body, flow))
        spec = ErrorSpec(own, ErrorSpec.IN_PLACE if kept is not None and kept.granted is not None else 0, error.code, error.value)
        if out == LOCAL:
            sender = flow.senders[0] if flow.senders else None
            self._book.actions.append(
                Event("resv-error", body.session, sender, flowspec=flow.flowspec, error=spec, reason=error.why)
            )
            return
        told = m.ResvErr(body.session, Hop(own, out), spec, body.style, (flow,), body.scope, (), extra)
        # Again and again only where there is a session: anybody can name any hop.
        self._outlet.once(told, Where(out, own, body.hop.address), now, reliable=body.session.key() in self._book.by_session)

    def failed(self, session: SessionKey, handle: int, now: float) -> None:
        """Traffic control refused: the requests that it was for end, and who asked is told (RFC 2205 appendix B, code 22)."""
        error = RsvpError(explain(Code.TRAFFIC_CONTROL_SYSTEM, 0), Code.TRAFFIC_CONTROL_SYSTEM)
        names = [key for key, (number, _) in self._book.installed.get(session, {}).items() if number == handle]
        for state in self._book.reservations_of(session):
            if (session, state.key[1], state.key[3]) in names:
                self._settler.drop(state.key)
                body, flow = self._as_message(state), m.Flow(state.wanted.flowspec, state.wanted.senders)
                self.refuse(body, flow, state.key[1], error, now)
        self._book.confirmations.pop(session, None)
        self._settler.settle(session, now)

    def tear(self, body: m.ResvTear, interface: int, now: float) -> None:
        """A next hop takes reservations back; for the senders that it names, where it names some."""
        out = body.hop.handle if body.hop.handle in self._book.interfaces else interface
        session, gone = body.session.key(), {sender for flow in body.flows for sender in flow.senders}
        for state in self._book.reservations_of(session):
            if state.key[1:3] != (out, body.hop.address):
                continue
            left = tuple(sender for sender in state.wanted.senders if sender not in gone)
            if body.style == Style.SE and left and gone:
                state.wanted = replace(state.wanted, senders=left)
                if state.granted is not None:
                    state.granted = replace(state.granted, senders=tuple(s for s in state.granted.senders if s not in gone))
            elif not gone or state.wanted.style == Style.WF or not left:
                self._settler.drop(state.key)
        self._settler.settle(session, now)

    def error(self, body: m.ResvErr, now: float) -> None:
        """A RESVERR goes on to those who are to blame; admission failures hold their requests back for a while (RFC 2205 §3.5)."""
        session, config = body.session.key(), self._book.config
        reason = spoken(body.extra) or explain(body.error.code, body.error.value)
        if all(path.hop.address != body.hop.address for path in self._book.paths_of(session)):
            self._book.counts["unfounded"] += 1
            return
        for flow in body.flows:
            senders: tuple[Sender | None, ...] = flow.senders if body.style == Style.FF else (None,)
            if body.error.code == Code.ADMISSION and flow.flowspec is not None:
                for sender in {None, *(path.sender for path in self._book.paths_of(session))}.intersection(senders):
                    name = (session, body.hop.address, sender)
                    self._book.blockades[name] = Blockade(flow.flowspec, now + config.blockade * config.period)
                    self._book.timers.set(("blockade", name), now + config.blockade * config.period)
            for state in self._book.reservations_of(session):
                wanted = state.wanted
                concerned = not flow.senders or not wanted.senders or set(flow.senders) & set(wanted.senders)
                if concerned and (flow.flowspec is None or not intserv.smaller(wanted.flowspec, flow.flowspec)):
                    self._pass_on(body, flow, state, reason, now)
        self._settler.settle(session, now)

    def _pass_on(self, body: m.ResvErr, flow: m.Flow, state: ResvState, reason: str, now: float) -> None:
        out, next_hop = state.key[1], state.key[2]
        self._book.confirmations.pop(state.key[0], None)
        if out == LOCAL:
            sender = flow.senders[0] if flow.senders else None
            event = Event("resv-error", body.session, sender, flowspec=flow.flowspec, error=body.error, reason=reason)
            self._book.actions.append(event)
            return
        own = self._book.interfaces[out].own(next_hop)
        told = m.ResvErr(body.session, Hop(own, out), body.error, body.style, (flow,), body.scope, body.policy, body.extra)
        self._outlet.once(told, Where(out, own, next_hop), now)

    def confirmed(self, body: m.ResvConf, out: tuple[int, ...], now: float) -> None:
        """A RESVCONF on its way to a receiver: it waits here while this node's own decision is open or not yet in force, and ends here
        when that was no, so that it says the truth (RFC 2205 §2.6 would let it pass).
        """
        states = [state for state in self._book.reservations_of(body.session.key()) if state.key[1] in out]
        if not states:
            self._book.counts["unfounded"] += 1
            return
        if not self._book.settled(body.session.key()):
            waiting = self._book.confirmations.setdefault(body.session.key(), [])
            if len(waiting) < 16:
                waiting.append(body)
            return
        for index in out:
            if index == LOCAL:
                self._book.actions.append(Event("confirmed", body.session, flowspec=_first(body.flows)))
            else:
                where = Where(index, self._book.interfaces[index].own(body.confirm.receiver), body.confirm.receiver, True)
                self._outlet.once(body, where, now)

    def waiting(self, session: SessionKey) -> list[m.ResvConf]:
        """Confirmations that may go on now."""
        if session not in self._book.confirmations or not self._book.settled(session):
            return []
        return self._book.confirmations.pop(session)

    def unblock(self, name: tuple[SessionKey, Address, Sender | None], now: float) -> None:
        """A blockade ends."""
        self._book.blockades.pop(name, None)
        self._settler.settle(name[0], now)

    def expire(self, key: ResvKey, now: float) -> None:
        """No refresh came for the lifetime."""
        if key in self._book.reservations:
            self._book.counts["reservations-expired"] += 1
            self._settler.drop(key)
            self._settler.settle(key[0], now)

    def refreshed(self, key: ResvKey, now: float) -> None:
        """A summary named it."""
        state = self._book.reservations[key]
        self._book.timers.set(("resv", key), now + self._book.config.lifetime(state.period))

    def _as_message(self, state: ResvState) -> m.Resv:
        """Its request as it came, for answers."""
        flow = m.Flow(state.wanted.flowspec, state.wanted.senders)
        hop = Hop(state.key[2], state.key[1])
        return m.Resv(state.wanted.session, hop, 0, state.wanted.style, (flow,), None, state.wanted.scope)

    def _key(self, session: SessionKey, out: int, body: m.Resv, flow: m.Flow) -> ResvKey:
        return session, out, body.hop.address, flow.senders[0] if body.style == Style.FF and flow.senders else None


def _first(flows: tuple[m.Flow, ...]) -> Flowspec | None:
    return flows[0].flowspec if flows else None


def _rounded(flowspec: Flowspec | None) -> Flowspec | None:
    """As the other side will read it."""
    if flowspec is None:
        return None
    rspec = flowspec.rspec
    return Flowspec(flowspec.tspec.rounded(), replace(rspec, rate=intserv.single(rspec.rate)) if rspec else None)
