"""``Sessions``: carries out what ``Planes`` decides: asks access points for tickets and hands them to the engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from polder.engine import CallFailed, Engine
from polder.model import Member, Refused, Signed, decode
from polder.model.spread_messages import Issued, Redundancy, RelayList, node_number
from polder.overlay.planes import Ask, Planes, Seen, Use
from polder.shell.clock import monotonic, wall
from polder.shell.tasks import Tasks
from polder.snapshot.spread import MemberList, Prefer, RelayMember, UserTicket

log = logging.getLogger("polder.spread")

_LOOK = 1.0
"""Seconds between looks at what sessions are like."""

_LAG = 8 * 3600
"""Seconds by which a ticket's list of relays may be older than another that was seen: nodes ask the authority at different times."""

Opens = Callable[[Signed, float], RelayList]
RawCall = Callable[[Member, str, bytes], Awaitable[bytes]]


class Sessions:
    """``points``: access points, the best first; ``call``: a control call, raw; ``opens``: verifies a list of relays."""

    def __init__(
        self, engine: Callable[[], Engine], tasks: Tasks, points: Callable[[], tuple[Member, ...]], call: RawCall, opens: Opens
    ) -> None:
        self._engine, self._tasks, self._points, self._call, self._open = engine, tasks, points, call, opens
        self._issued_at = 0
        self._planes = Planes(auto=True)
        self._redundancy = Redundancy(0.5)

    def configure(self, plane: str, redundancy: Redundancy) -> None:
        """Another choice of plane or redundancy; sessions take the latter with their next ticket."""
        self._planes.configure(auto=plane == "auto")
        self._redundancy = redundancy
        self._pump()

    def wanted(self, host: str, port: int) -> None:
        """Tunnels go to a target without a session."""
        self._planes.wanted(host, port, monotonic())
        self._pump()

    def session(self, site: str, up: bool, reason: str) -> None:
        """A session came up, or is over."""
        if up:
            log.info("tunnels go over relays now", extra={"site": site})
        else:
            log.info("a session over relays is over", extra={"site": site, "reason": reason})
        self._planes.session(site, up=up, now=monotonic())
        self._pump()

    async def forever(self) -> None:
        """One look: judge sessions, renew tickets."""
        now = monotonic()
        for seen in self._engine().sessions():
            # While a tunnel carries the session its round trip says nothing of relays.
            over = seen.rtt_us / 1e6 if seen.carrier == "relays" else 0.0
            self._planes.measured(Seen(seen.site, over, seen.tunnel_rtt_us / 1e6, seen.failed), now)
        self._planes.handle_timeout(now)
        self._pump()
        await asyncio.sleep(_LOOK)

    def describe(self) -> list[dict[str, Any]]:
        """For ``polder paths``."""
        found: list[dict[str, Any]] = msgspec.to_builtins(self._engine().sessions())
        return found

    def _pump(self) -> None:
        while (out := self._planes.poll()) is not None:
            if isinstance(out, Use):
                self._engine().spread(Prefer(out.site, out.on))
            else:
                self._tasks.once("ticket", self._ask(out))

    async def _ask(self, ask: Ask) -> None:
        body = {"host": ask.host, "port": ask.port, "renews": ask.renews, "redundancy": self._redundancy}
        for point in self._points()[:3]:
            try:
                answer = await self._call(point, "ticket", msgspec.msgpack.encode(body))
                issued = decode(answer, Issued)
            except (CallFailed, ValueError) as error:
                log.debug("no ticket", extra={"access_point": point.name, "error": str(error)})
                continue
            if self._use(ask, issued):
                return
        self._planes.refused(ask, monotonic())
        self._pump()

    def _relays(self, signed: Signed) -> RelayList | None:
        """What a ticket brought, if the authority signed it and it is not much older than what was seen before."""
        try:
            listed = self._open(signed, wall())
        except Refused as refused:
            log.warning("a ticket's list of relays was refused", extra={"why": str(refused), "verdict": str(refused.verdict)})
            return None
        if listed.issued_at < self._issued_at - _LAG:
            log.warning("a ticket came with an old list of relays", extra={"older_by_s": self._issued_at - listed.issued_at})
            return None
        self._issued_at = max(self._issued_at, listed.issued_at)
        return listed

    def _use(self, ask: Ask, issued: Issued) -> bool:
        ticket, listed = issued.ticket, self._relays(issued.relays)
        if listed is None or listed.version != ticket.members:
            return False
        members = MemberList(listed.version, tuple(RelayMember(node_number(m), m.address) for m in listed.relays))
        life = ticket.terms.starts + ticket.terms.lasts - issued.now / 1e6
        prefer = self._planes.prefers(issued.site, renewed=issued.renewed)
        order = UserTicket(
            issued.site, issued.hosts, issued.ports, issued.pin, issued.now, ticket, members,
            self._redundancy, issued.renewed, prefer,
        )  # fmt: skip
        try:
            self._engine().spread(order)
        except ValueError as error:
            log.warning("a ticket could not be used", extra={"error": str(error)})
            return False
        self._planes.issued(ask, issued.site, ticket.session, life, renewed=issued.renewed, now=monotonic())
        return True
