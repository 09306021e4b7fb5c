"""What follows from the state of a session: what to ask of previous hops, and what to install (RFC 2205 §2.2, §2.3, §3.5).

Both are computed anew from all that is known after each change, and the difference to what was done before is sent or installed: so
no order of events leaves something behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

from polder.rsvp import intserv
from polder.rsvp.intserv import Flowspec
from polder.rsvp.messages import Flow
from polder.rsvp.objects import Address, Scope, Sender, Style
from polder.rsvp.state import LOCAL, Book, PathState, Request, ResvState, SessionKey, Traffic, TrafficKey
from polder.rsvp.wire import Raw


@dataclass(frozen=True, slots=True)
class Upstream:
    """What a previous hop is asked for."""

    style: Style
    flows: tuple[Flow, ...]
    scope: Scope | None
    policy: tuple[bytes, ...]
    extra: tuple[Raw, ...]


def _serves(state: ResvState, request: Request, path: PathState) -> bool:
    """Whether a reservation is for that sender's data, on the interface where these leave."""
    if state.key[1] not in path.out:
        return False
    if request.style != Style.WF:
        return path.sender in request.senders
    return request.scope is None or path.sender.address in request.scope.addresses


def _unblocked(book: Book, requests: list[Request], session: SessionKey, hop: Address, sender: Sender | None) -> Flowspec:
    """The merged request without those that are held back; when all are, the least of them goes on (RFC 2205 §3.5)."""
    blockade = book.blockades.get((session, hop, sender))
    free = [r for r in requests if blockade is None or intserv.smaller(r.flowspec, blockade.flowspec)]
    if free:
        return reduce(intserv.merged, (r.flowspec for r in free))
    return reduce(intserv.least, (r.flowspec for r in requests))


def upstream(book: Book, session: SessionKey) -> dict[tuple[Address, int], Upstream]:
    """For each previous hop and the interface towards it: what is to be asked. Senders on this host are asked nothing."""
    groups: dict[tuple[Address, int], list[PathState]] = {}
    for path in book.paths_of(session):
        if path.iif != LOCAL:
            groups.setdefault((path.hop.address, path.iif), []).append(path)
    states = [(state, state.wanted) for state in book.reservations_of(session)]
    found = {}
    for (hop, iif), paths in groups.items():
        relevant = [(state, request) for state, request in states if any(_serves(state, request, path) for path in paths)]
        if not relevant:
            continue
        style = relevant[0][1].style
        requests = [request for _, request in relevant]
        flows: tuple[Flow, ...]
        if style == Style.FF:
            flows = tuple(
                Flow(_unblocked(book, mine, session, hop, path.sender), (path.sender,))
                for path in paths
                if (mine := [request for state, request in relevant if _serves(state, request, path)])
            )
        else:
            senders = tuple(p.sender for p in paths if any(_serves(state, request, p) for state, request in relevant))
            merged = _unblocked(book, requests, session, hop, None)
            flows = (Flow(merged, senders if style == Style.SE else ()),)
        scope = None
        if style == Style.WF and (len(groups) > 1 or any(request.scope for request in requests)):
            scope = Scope(tuple(dict.fromkeys(p.sender.address for p in paths if any(_serves(s, r, p) for s, r in relevant))))
        payer = max(requests, key=lambda request: (bool(request.policy), request.flowspec.rate))
        extra = tuple(dict.fromkeys(raw for request in requests for raw in request.extra))
        found[hop, iif] = Upstream(style, flows, scope, payer.policy, extra)
    return found


def traffic(book: Book, session: SessionKey, *, granted: bool) -> dict[TrafficKey, Traffic]:
    """What to install on links: of what was granted, or of everything that is asked for or granted, for admission control."""
    groups: dict[TrafficKey, list[Request]] = {}
    for state in book.reservations_of(session):
        interface = state.key[1]
        if interface == LOCAL:
            continue
        for request in (state.granted,) if granted else (state.granted, state.wanted):
            if request is not None:
                groups.setdefault((session, interface, state.key[3]), []).append(request)
    paths = book.paths_of(session)
    found = {}
    for key, requests in groups.items():
        interface = key[1]
        senders: tuple[Sender, ...] = ()
        mine = [path for path in paths if interface in path.out]
        if requests[0].style != Style.WF:
            asked = {sender for request in requests for sender in request.senders}
            mine = [path for path in mine if path.sender in asked]
            senders = tuple(path.sender for path in mine)
        if mine:
            sent = intserv.sum_of(path.tspec for path in mine)
            merged = reduce(intserv.merged, (request.flowspec for request in requests))
            found[key] = Traffic(interface, requests[0].session, senders, intserv.shaped(merged, sent))
    return found
