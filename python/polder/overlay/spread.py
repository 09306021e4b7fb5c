"""``SpreadRole``: a node's part in the spread plane. It hands out its keys as a relay, keeps those that others hand out, makes
tickets as a beacon, and expects sessions as a servlet.

The issuer is the beacon: it knows the site's servlets anyhow, access points never learn them, and the node that a user talks to is
not the one that works (trap 9 of the papers' notes). A grant's number is drawn by chance: packets do not tell who issued.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import msgspec

from polder.model import Kind, Member, Refused, Signed, Verdict
from polder.model.overlay_messages import Caller
from polder.model.spread_messages import (
    Expect,
    Granted,
    GrantQuery,
    Issue,
    Issued,
    RelayList,
    Terms,
    Ticket,
    node_number,
)
from polder.overlay.calls import CallOut
from polder.overlay.spread_keys import RelayKeys, issue

RETRY = 5.0
IN_FLIGHT = 32
PACE = 17
"""A session opens 2^17 blocks of numbers a second (``crates/spread/src/ticket.rs``)."""
SETTLE = 15.0
"""Seconds for which tickets still use a relay's keys of the epoch before: a servlet may hear of the new ones so much later than the
beacon, and drops what comes under keys that it does not know. It keeps the old ones for twice as long, however short epochs are, since
a beacon may hear of the new ones as much later than the servlet. Relays take them for a ticket's life longer."""
MAX_SESSIONS = 16_384
"""Sessions whose servlet an issuer remembers, to carry them on."""
SKEW = 2
"""Seconds by which a ticket begins earlier: clocks of relays differ."""


class Listed(NamedTuple):
    """A list of relays, and the authority's word for it."""

    list: RelayList
    signed: Signed


@dataclass(slots=True)
class _Key:
    """What a relay granted, with the time at which it was learned, the newest first."""

    due: float
    running: bool = False
    known: tuple[tuple[float, Granted], ...] = ()

    def learn(self, granted: Granted, now: float) -> None:
        """Keys of another epoch, or of the same again. Those before stay, and those that are not settled yet."""
        if self.known and self.known[0][1].epoch == granted.epoch:
            self.known = ((self.known[0][0], granted), *self.known[1:])
            return
        later = zip(self.known, self.known[1:], strict=False)
        kept = [before for (since, _), before in later if now < since + 2 * SETTLE]
        self.known = ((now, granted), *self.known[:1], *kept)

    def settled(self, now: float) -> Granted | None:
        """The newest that everybody knows; the only ones there are, at the beginning."""
        return next((keys for since, keys in self.known if since + SETTLE <= now), self.known[-1][1] if self.known else None)


class _Placed(NamedTuple):
    servlet: Member
    user: str
    key: bytes
    site: str
    ends: int


class SpreadRole:
    """``now`` in Unix seconds; ``rng`` must be fit for secrets. ``life``: seconds of a ticket."""

    def __init__(self, me: Member, keys: RelayKeys, rng: Random, *, life: int, rate: int = 17) -> None:
        self._me = me
        self._keys = keys
        self._rng = rng
        self._life, self._rate = life, rate
        self._lists: tuple[Listed, ...] = ()
        self._held: dict[bytes, _Key] = {}
        self._running: dict[int, bytes] = {}
        self._calls: deque[CallOut] = deque()
        self._placed: dict[bytes, _Placed] = {}
        self._next_id = 0
        self._changed = False

    # What is known

    @property
    def lists(self) -> tuple[Listed, ...]:
        """The current list of relays, then the previous one."""
        return self._lists

    def set_relays(self, fresh: Listed, now: float) -> bool:
        """Who relays now, by a list that was verified; whether it was taken: one that was issued before what is known is not."""
        if self._lists and fresh.list.issued_at < self._lists[0].list.issued_at:
            return False
        if self._lists and fresh.list.version == self._lists[0].list.version:
            self._lists = (fresh, *self._lists[1:])
            return True
        self._lists = (fresh, *self._lists[:1])
        wanted = {member.ring_id for member in fresh.list.relays}
        self._held = {ring_id: self._held.get(ring_id) or _Key(now) for ring_id in wanted}
        self._changed = True
        return True

    def take_change(self) -> bool:
        """Whether the lists changed since the last call."""
        changed, self._changed = self._changed, False
        return changed

    # Calls of others

    def grant(self, caller: Caller, now: float) -> Granted:
        """As a relay. Raises ``Refused``: nodes only."""
        if caller.kind is not Kind.NODE or caller.ring_id is None:
            raise Refused(Verdict.DENIED, f"{caller.kind} {caller.name}: only members get a relay's keys")
        node = int.from_bytes(caller.ring_id[:8], "big")
        return self._keys.grant(node, self._rng.randbytes(8), now)

    def places(self, body: Issue, caller: Caller, servlets: tuple[Member, ...]) -> tuple[Member, ...]:
        """As a beacon: where the session may end, in the order in which to ask. One that another beacon began, or this one before it
        was started again, is carried on by the servlet that knows it: that judges whose it is.

        Raises ``Refused``: not a node, another's session, no servlet known here.
        """
        if caller.kind is not Kind.NODE:
            raise Refused(Verdict.DENIED, f"{caller.kind} {caller.name}: access points ask for tickets on their users' behalf")
        before = self._placed.get(body.renews) if body.renews else None
        if before is not None:
            if (before.user, before.key, before.site) != (body.user, body.key, body.site):
                raise Refused(Verdict.DENIED, "the session to be carried on is another's")
            if before.servlet not in servlets:
                raise Refused(Verdict.UNKNOWN, "the session to be carried on is not known here; ask for a new one", retry=True)
            return (before.servlet,)
        if not servlets:
            raise Refused(Verdict.BUSY, "no servlet of this site is known here yet", retry=True)
        return tuple(self._rng.sample(servlets, len(servlets)))

    def issue(self, body: Issue, servlet: Member, now: float) -> tuple[Expect, Issued]:
        """As a beacon: what to tell a servlet, and the user's half (its ``pin``, ``hosts`` and ``ports`` are still empty).

        Raises ``Refused``: no relay's keys yet.
        """
        starts = int(now) - SKEW
        lasts = max(0, min(self._life, int(body.not_after - now)) + SKEW)
        terms = Terms(starts, lasts, PACE, self._rate)
        session, key = self._rng.randbytes(16), self._rng.randbytes(32)
        granted = [
            (member, keys)
            for member in (self._lists[0].list.relays if self._lists else ())
            if (held := self._held.get(member.ring_id)) is not None and (keys := held.settled(now)) is not None
        ]
        if not granted:
            raise Refused(Verdict.BUSY, "no relay has answered this node yet; try again shortly", retry=True)
        relays, current = issue(session, key, node_number(servlet), terms, granted), self._lists[0]
        expect = Expect(body.site, session, key, terms, body.user, body.key, body.renews, body.redundancy.bounded())
        ticket = Ticket(session, key, terms, current.list.version, relays)
        return expect, Issued(body.site, (), (), b"", body.renews is not None, int(now * 1e6), ticket, current.signed)

    def placed(self, servlet: Member, expect: Expect, now: float) -> None:
        """As a beacon: the servlet has taken it, and is asked when it is to be carried on."""
        if len(self._placed) >= MAX_SESSIONS:
            self._placed = {name: known for name, known in self._placed.items() if known.ends > now}
        if len(self._placed) < MAX_SESSIONS:
            ends = expect.terms.starts + expect.terms.lasts
            self._placed[expect.session] = _Placed(servlet, expect.user, expect.user_key, expect.site, ends)

    def peer_keys(self) -> tuple[tuple[int, int, bytes], ...]:
        """As a servlet: (relay, epoch, key) of every relay, of this epoch, the one before, and what beacons may still use."""
        numbers = {member.ring_id: node_number(member) for known in self._lists for member in known.list.relays}
        return tuple(
            (numbers[ring_id], granted.epoch, granted.peer_key)
            for ring_id, held in self._held.items()
            for _, granted in held.known
            if ring_id in numbers
        )

    # Time and outcomes

    def handle_timeout(self, now: float) -> None:
        """Ask the relays whose keys are due."""
        for member in self._lists[0].list.relays if self._lists else ():
            held = self._held[member.ring_id]
            if held.due <= now and not held.running and len(self._running) < IN_FLIGHT:
                held.running = True
                self._next_id += 1
                self._running[self._next_id] = member.ring_id
                self._calls.append(CallOut(self._next_id, member, None, "grant", GrantQuery()))

    def poll_timeout(self) -> float | None:
        """When to call ``handle_timeout``."""
        if len(self._running) >= IN_FLIGHT:
            return None
        return min((held.due for held in self._held.values() if not held.running), default=None)

    def poll_call(self) -> CallOut | None:
        """The next call to make, until ``None``."""
        return self._calls.popleft() if self._calls else None

    def answered(self, request_id: int, by: Member, answer: msgspec.Struct, now: float) -> None:
        """A relay gave its keys."""
        held = self._take(request_id)
        if held is None or not isinstance(answer, Granted):
            return
        held.learn(answer, now)
        # Just after the epoch has changed there, spread over some seconds; clocks differ.
        held.due = max(now + 1.0, answer.until + self._rng.uniform(0.5, 5.0))

    def failed(self, request_id: int, status: int, why: str, now: float) -> None:
        """No answer: again soon. What is held stays good for its epoch's grace."""
        held = self._take(request_id)
        if held is not None:
            held.due = now + RETRY * self._rng.uniform(0.5, 1.5)

    # Inside

    def _take(self, request_id: int) -> _Key | None:
        held = self._held.get(self._running.pop(request_id, b""))
        if held is not None:
            held.running = False
        return held
