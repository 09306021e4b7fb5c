"""``Planes``: by which plane a user's tunnels go. A forwarder's machine: it asks for tickets, renews them, and judges.

A session is asked for when tunnels go to a site that has none. It is used as soon as it is up, and for as long as it helps: the
round trip over relays may be a little longer than through access points, for relays survive what those do not. Where it is
much longer for half a minute, or tunnels fail, new ones go through access points, until the round trip is good again. What does not come up
is tried ever less often. (A tunnel that is open needs no decision here: its session goes on over another carrier when relays fall silent.)
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

RETRY = 5.0
BLOCKED = 30.0
MOST = 600.0
"""Seconds between attempts: after a refusal, after a session that did not come up; each time twice as long, up to ``MOST``."""
SLOWER, AGAIN, SLACK = 1.5, 1.2, 0.02
"""The round trip over relays may be so much times as long as through access points, and so many seconds more, before it counts as no
help; to be used again it must be below the second."""
WINDOW = 30.0
"""Seconds of which the least round trip counts: a full line makes all of them long, on either plane."""
ASIDE = 60.0
"""Least seconds for which a session that did not help is left aside."""
TARGETS = 1024
"""Targets that are remembered: any name below a wildcard's may be one."""
RENEW = 1 / 3
"""A ticket is renewed when this part of its life is left."""


class Ask(NamedTuple):
    """Ask an access point for a ticket to ``host``:``port``; ``renews``: the session's name."""

    host: str
    port: int
    renews: bytes | None


class Use(NamedTuple):
    """Whether a site's tunnels use its session."""

    site: str
    on: bool


class Seen(NamedTuple):
    """What was measured of a session: round trip over relays and through access points in seconds (0: not known); tunnels that
    failed so far.
    """

    site: str
    over: float
    through: float
    failed: int


@dataclass(slots=True)
class _Target:
    """``asked``: a request is under way; ``site``: whose target it turned out to be."""

    asked: bool = False
    again: float = 0.0
    wait: float = RETRY
    site: str = ""


@dataclass(slots=True)
class _Session:
    """``again``: when another may be asked for, if this one is not up."""

    site: str
    target: tuple[str, int]
    name: bytes
    renew_at: float
    again: float
    up: bool = False
    renewing: bool = False
    used: bool = True
    aside_until: float = 0.0
    failed: int = 0
    least: float = 0.0
    window_ends: float | None = None
    wait: float = BLOCKED


class Planes:
    """``now`` in seconds of any monotonic clock; tickets' lives are told as durations. ``auto``: judge; else always use."""

    def __init__(self, *, auto: bool) -> None:
        self._auto = auto
        self._targets: dict[tuple[str, int], _Target] = {}
        self._sessions: dict[str, _Session] = {}
        self._out: deque[Ask | Use] = deque()

    def poll(self) -> Ask | Use | None:
        """What to do next, until ``None``."""
        return self._out.popleft() if self._out else None

    # Inputs

    def configure(self, *, auto: bool) -> None:
        """Judge from now on, or no more. Sessions stay, and are renewed: tunnels are open over them."""
        self._auto = auto
        for session in self._sessions.values():
            if not auto and not session.used:
                self._turn(session, used=True)

    def wanted(self, host: str, port: int, now: float) -> None:
        """Tunnels go to a target without a session."""
        if (host, port) not in self._targets and len(self._targets) >= TARGETS:
            self._targets = {at: target for at, target in self._targets.items() if target.asked or now < target.again}
            if len(self._targets) >= TARGETS:
                return
        target = self._targets.setdefault((host, port), _Target())
        session = self._sessions.get(target.site)
        if now >= target.again and (session is None or now >= session.again):
            self._begin(host, port)

    def prefers(self, site: str, *, renewed: bool) -> bool:
        """Whether a session is to be used at once when its ticket comes."""
        known = self._sessions.get(site)
        return known.used if renewed and known is not None else True

    def issued(self, asked: Ask, site: str, name: bytes, life: float, *, renewed: bool, now: float) -> None:
        """A ticket came, good for ``life`` seconds."""
        target = self._targets.setdefault((asked.host, asked.port), _Target())
        target.wait, target.site = RETRY, site
        known, renew_at, ends = self._sessions.get(site), now + life * (1 - RENEW), now + life
        if asked.renews is None:
            target.asked = False
        if renewed and known is not None:
            known.name, known.renew_at, known.again, known.renewing = name, renew_at, ends, False
            return
        session = _Session(site, (asked.host, asked.port), name, renew_at, ends)
        if known is not None:
            session.wait = known.wait
        self._sessions[site] = session

    def refused(self, asked: Ask, now: float) -> None:
        """No ticket: later again; a session that could not be carried on is begun anew."""
        if asked.renews is not None:
            for session in self._sessions.values():
                if session.name == asked.renews:
                    session.renewing, session.renew_at = False, now + RETRY
            self._begin(asked.host, asked.port)
            return
        target = self._targets.setdefault((asked.host, asked.port), _Target())
        target.asked = False
        target.again = now + target.wait
        target.wait = min(MOST, 2 * target.wait)

    def session(self, site: str, *, up: bool, now: float) -> None:
        """A session came up, or is over."""
        session = self._sessions.get(site)
        if session is None:
            return
        if up:
            session.up, session.wait = True, BLOCKED
            return
        if session.up:
            session.again = now
        else:
            session.again = now + session.wait
            session.wait = min(MOST, 2 * session.wait)
        session.up = False

    def measured(self, seen: Seen, now: float) -> None:
        """Judge whether a session helps."""
        session = self._sessions.get(seen.site)
        if session is None or not session.up:
            return
        failed, session.failed = seen.failed > session.failed, seen.failed
        if not self._auto:
            return
        if session.used and failed:
            self._leave(session, now)
            return
        if seen.over > 0:
            session.least = min(session.least or seen.over, seen.over)
        if session.window_ends is None:
            session.window_ends = now + WINDOW
        if now < session.window_ends:
            return
        least, session.least, session.window_ends = session.least, 0.0, now + WINDOW
        if session.used and least and seen.through and least > SLOWER * seen.through + SLACK:
            self._leave(session, now)
        elif (
            not session.used
            and now >= session.aside_until
            and (not least or not seen.through or least <= AGAIN * seen.through + SLACK)
        ):
            self._turn(session, used=True)

    def _begin(self, host: str, port: int) -> None:
        target = self._targets.setdefault((host, port), _Target())
        if not target.asked:
            target.asked = True
            self._out.append(Ask(host, port, None))

    def _leave(self, session: _Session, now: float) -> None:
        session.aside_until = now + ASIDE
        self._turn(session, used=False)

    def _turn(self, session: _Session, *, used: bool) -> None:
        session.used, session.window_ends, session.least = used, None, 0.0
        self._out.append(Use(session.site, on=used))

    # Time

    def handle_timeout(self, now: float) -> None:
        """Renew what ends soon. To be called every second or so, as ``measured``."""
        for session in self._sessions.values():
            if session.up and not session.renewing and session.renew_at <= now:
                session.renewing = True
                self._out.append(Ask(*session.target, session.name))
