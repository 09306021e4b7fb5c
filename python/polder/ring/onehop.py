"""``OneHop``: everybody knows everybody. The second ``Router``: for small overlays, where one look-up beats log2 N calls.

Membership spreads as rumours. Every ``gossip_every`` seconds a node tells its successor and a few random members what is new,
and gets their news; a digest over all living members shows whether two tables differ, and then the whole is exchanged
(anti-entropy). The successor is asked in every round, so each member is watched by one node; who does not answer ``attempts``
times is rumoured dead. A rumour about one member carries a version that only this member raises: it contradicts its own death
by a higher one. A node that comes back learns its last version from the table that it is given, and begins above it.

Unlike Chord it believes second-hand that a member exists, so it is for overlays whose operators trust each other's nodes; whoever
is dialled still has to prove his name and place by certificate.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, log2
from random import Random

from polder.model import Member, Refused, Verdict
from polder.model.overlay_messages import Caller
from polder.model.ring_messages import (
    Find,
    Found,
    Gossip,
    Gossiped,
    Leaving,
    Meet,
    NotJoined,
    Ping,
    Pong,
    RingAnswer,
    RingRequest,
    Rumour,
)
from polder.ring.router import (
    Changed,
    Event,
    Hops,
    Joined,
    LookupDone,
    LookupFailed,
    Misbehaved,
    Reply,
    RingImage,
    Send,
)
from polder.ring.table import ALTERNATIVES


@dataclass(frozen=True)
class OneHopConfig:
    """Knobs; times in seconds."""

    gossip_every: float = 1.0
    """A dead member is known everywhere within about ``attempts`` deadlines and log2 N of these."""
    fanout: int = 2
    """Random members told in each round, beside the successor."""
    attempts: int = 2
    """Failures in a row that count as death."""
    retry_after: float = 0.25
    reunite_every: float = 15.0
    """One contact or dead member is tried so often, to mend a split."""
    join_retry: float = 1.0
    found_after: float = 15.0
    """As in Chord: who finds no living member begins alone, if it is the lowest of those it hears."""
    forget_after: float = 600.0
    """The dead are remembered so long, so that an old rumour does not raise them."""
    rumours: int = 64
    """In one message; 100 bytes each."""
    table: int = 4096
    """Members told at once when tables differ."""


@dataclass(slots=True)
class _News:
    rumour: Rumour
    left: int


class OneHop:
    """The machine of one node; implements ``Router``."""

    def __init__(self, me: Member, config: OneHopConfig, rng: Random) -> None:
        self.me = me
        self.config = config
        self.joined = False
        self._rng = rng
        self._rumours: dict[bytes, Rumour] = {}
        self._died_at: dict[bytes, float] = {}
        self._failures: dict[bytes, int] = {}
        self._retry: dict[bytes, float] = {}
        self._news: dict[bytes, _News] = {}
        self._order: list[bytes] = []
        self._digest = b""
        self._version = 0
        self._contacts: dict[bytes, Member] = {}
        self._untried: list[Member] = []
        self._outsiders: set[bytes] = set()
        self._since = 0.0
        self._pending: dict[int, tuple[Member, bool]] = {}
        self._next_id = 0
        self._lookups = 0
        self._out: deque[Send | Reply] = deque()
        self._events: deque[Event] = deque()
        self._join_at: float | None = None
        self._gossip_at: float | None = None
        self._reunite_at: float | None = None

    # What others ask of a Router

    def owns(self, key: int) -> bool:
        """Whether this node owns ``key``."""
        return self.joined and self._from(key)[0] == self.me.ring_id

    def next_hops(self, key: int) -> Hops:
        """The owner itself, and its heirs."""
        if not self.joined or self.owns(key):
            return Hops(None, self.successors()[:ALTERNATIVES])
        heirs = [self._rumours[ring_id].member for ring_id in self._from(key)[: 1 + ALTERNATIVES] if ring_id != self.me.ring_id]
        return Hops(heirs[0], tuple(heirs[1:]))

    def successors(self) -> tuple[Member, ...]:
        """The four living members behind this one."""
        behind = [ring_id for ring_id in self._from(int(self.me.id) + 1) if ring_id != self.me.ring_id]
        return tuple(self._rumours[ring_id].member for ring_id in behind[:4])

    def warm(self) -> tuple[Member, ...]:
        """The successors; others are dialled on demand."""
        return self.successors()

    def members(self) -> tuple[Member, ...]:
        """Every other living member, nearest first."""
        behind = [ring_id for ring_id in self._from(int(self.me.id) + 1) if ring_id != self.me.ring_id]
        return tuple(self._rumours[ring_id].member for ring_id in behind)

    def lookup(self, key: int, now: float) -> int:
        """The answer is known; the event is there at once."""
        self._lookups += 1
        if self.joined:
            members = tuple(self._rumours[ring_id].member for ring_id in self._from(key)[: 1 + ALTERNATIVES])
            self._events.append(LookupDone(self._lookups, key, members, 0))
        else:
            self._events.append(LookupFailed(self._lookups, key, "this node is not a member yet"))
        return self._lookups

    # Birth, joining, leaving

    def found(self, now: float) -> None:
        """Begin alone."""
        self._become_member(now)

    def image(self) -> RingImage | None:
        """What the process that takes this one's place needs; ``None``: this node is no member."""
        if not self.joined:
            return None
        return RingImage(contacts=tuple(self._contacts.values()), rumours=tuple(self._rumours.values()), version=self._version)

    def resume(self, image: RingImage, now: float) -> None:
        """Go on as the member whose ``image`` it is. The version stays: nobody has heard of a death."""
        self._contacts.update((m.ring_id, m) for m in image.contacts)
        self._rumours = {rumour.member.ring_id: rumour for rumour in image.rumours}
        self._died_at = {ring_id: now for ring_id, rumour in self._rumours.items() if not rumour.alive}
        self.joined, self._version = True, image.version
        self._arrange()
        self._gossip_at = now + self._jitter(self.config.gossip_every)
        self._reunite_at = now + self._jitter(self.config.reunite_every)
        self._events.append(Joined())

    def join(self, contacts: Iterable[Member], now: float) -> None:
        """Join through any of ``contacts``; goes on trying."""
        self._contacts.update((m.ring_id, m) for m in contacts if m.ring_id != self.me.ring_id)
        if not self.joined and self._join_at is None and not self._pending:
            self._since = now
            self._join_at = now

    def leave(self, now: float) -> None:
        """Tell some members; they tell the others."""
        if self.joined:
            gone = Rumour(self.me, self._version, False)
            for member in self._choose():
                self._send(member, Gossip(self.me, (gone,), self._digest))
        self.joined = False
        self._join_at = self._gossip_at = self._reunite_at = None
        self._events.append(Changed())

    # Inputs

    def handle(self, request: RingRequest, caller: Caller, reply_to: int, now: float) -> None:
        """A request came in. Raises ``Refused`` when its sender is not who the certificate says."""
        if not caller.is_member(request.sender):
            who = request.sender.name
            raise Refused(Verdict.WRONG_PLACE, f"{caller.kind} {caller.name} speaks for {who} at a place that is not its own")
        match request:
            case _ if not self.joined:
                self._reply(reply_to, NotJoined(self.me))
            case Ping() | Leaving() | Meet():
                self._reply(reply_to, Pong(self.me))
            case Find():
                heirs = self._from(int.from_bytes(request.key, "big"))[: 1 + ALTERNATIVES]
                self._reply(reply_to, Found(self.me, True, tuple(self._rumours[ring_id].member for ring_id in heirs)))
            case Gossip():
                self._merge(request.rumours, now)
                self._alive(request.sender)
                whole = request.full or request.digest != self._digest
                self._reply(reply_to, Gossiped(self.me, self._table() if whole else self._take_news(), self._digest))
            case _:
                raise Refused(
                    Verdict.DENIED, "this node runs the one-hop ring, the caller Chord: set the same router on all nodes"
                )

    def answered(self, request_id: int, answer: RingAnswer, now: float) -> None:
        """The answer to a ``Send``."""
        to, whole = self._pending.pop(request_id, (None, False))
        if to is None:
            return
        if answer.sender.ring_id != to.ring_id or answer.sender.name != to.name:
            self._events.append(Misbehaved(to, "answered in the name of another"))
            self._unreached(to, now)
            return
        match answer:
            case Gossiped():
                self._merge(answer.rumours, now)
                self._alive(answer.sender)
                if not self.joined and self._join_at is None:
                    self._become_member(now)
                elif self.joined and answer.digest != self._digest and not whole:
                    # It lacks what we know: tell it all, once.
                    self._send(to, Gossip(self.me, self._table(), self._digest), whole=True)
            case NotJoined():
                self._outsiders.add(to.ring_id)
                self._unreached(to, now)
            case _:
                self._alive(answer.sender)

    def failed(self, request_id: int, now: float) -> None:
        """No answer came."""
        to, _ = self._pending.pop(request_id, (None, False))
        if to is not None:
            self._unreached(to, now)

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        if self._join_at is not None and self._join_at <= now:
            self._try_join(now)
        for ring_id in [r for r, at in self._retry.items() if at <= now]:
            del self._retry[ring_id]
            if ring_id in self._rumours and self._rumours[ring_id].alive:
                self._send(self._rumours[ring_id].member, Ping(self.me))
        if self._gossip_at is not None and self._gossip_at <= now:
            self._gossip_at = now + self._jitter(self.config.gossip_every)
            news = self._take_news()
            for member in self._choose():
                self._send(member, Gossip(self.me, news, self._digest))
            self._forget(now)
        if self._reunite_at is not None and self._reunite_at <= now:
            self._reunite(now)

    # Outputs

    def poll_transmit(self) -> Send | Reply | None:
        """What to send, until ``None``."""
        return self._out.popleft() if self._out else None

    def poll_event(self) -> Event | None:
        """What happened, until ``None``."""
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        """When to call ``handle_timeout``."""
        times = [self._join_at, self._gossip_at, self._reunite_at, *self._retry.values()]
        return min((t for t in times if t is not None), default=None)

    # Joining

    def _become_member(self, now: float) -> None:
        self.joined = True
        held = self._rumours.get(self.me.ring_id)
        self._version = held.version + 1 if held else 1
        self._tell(Rumour(self.me, self._version, True))
        self._arrange()
        self._gossip_at = now
        self._reunite_at = now + self._jitter(self.config.join_retry)
        self._join_at = None
        self._events.append(Joined())

    def _try_join(self, now: float) -> None:
        self._join_at = None
        if not self._untried:
            silent = now - self._since >= self.config.found_after
            if silent and all(self.me.ring_id < other for other in self._outsiders):
                self._become_member(now)
                return
            self._outsiders.clear()
            self._untried = list(self._contacts.values())
            self._rng.shuffle(self._untried)
        if self._untried:
            self._send(self._untried.pop(), Gossip(self.me, (), b"", True))
        else:
            self._join_at = now + self._jitter(self.config.join_retry)

    def _reunite(self, now: float) -> None:
        """Try somebody who is not in the table of the living: gossip with it joins the two tables."""
        alone = len(self._order) < 2
        self._reunite_at = now + self._jitter(self.config.join_retry if alone else self.config.reunite_every)
        lost = [m for ring_id, m in self._contacts.items() if ring_id not in self._order]
        lost += [self._rumours[ring_id].member for ring_id in self._died_at if ring_id in self._rumours]
        if lost:
            self._send(self._rng.choice(lost), Gossip(self.me, self._table(), self._digest, True))

    # Rumours

    def _merge(self, rumours: Iterable[Rumour], now: float) -> None:
        for rumour in rumours:
            ring_id = rumour.member.ring_id
            held = self._rumours.get(ring_id)
            if ring_id == self.me.ring_id:
                if self.joined and (rumour.version > self._version or not rumour.alive):
                    self._version = max(self._version, rumour.version) + 1
                    self._tell(Rumour(self.me, self._version, True))
                elif not self.joined and rumour.version > (held.version if held else -1):
                    self._rumours[ring_id] = rumour
            elif held is None or (rumour.version, not rumour.alive) > (held.version, not held.alive):
                if held is None and not rumour.alive:
                    continue  # forgotten by us, or never known
                self._tell(rumour)
                if not rumour.alive:
                    self._died_at[ring_id] = now
        self._arrange()

    def _tell(self, rumour: Rumour) -> None:
        """Believe a rumour, and pass it on often enough for all to hear it: some times log2 of the members."""
        ring_id = rumour.member.ring_id
        self._rumours[ring_id] = rumour
        if rumour.alive:
            self._died_at.pop(ring_id, None)
        self._failures.pop(ring_id, None)
        self._news[ring_id] = _News(rumour, 3 * ceil(log2(len(self._rumours) + 2)))

    def _alive(self, member: Member) -> None:
        self._failures.pop(member.ring_id, None)
        self._retry.pop(member.ring_id, None)

    def _unreached(self, member: Member, now: float) -> None:
        if not self.joined:
            self._join_at = now if self._untried else now + self._jitter(self.config.join_retry)
            return
        rumour = self._rumours.get(member.ring_id)
        if rumour is None or not rumour.alive:
            return
        self._failures[member.ring_id] = self._failures.get(member.ring_id, 0) + 1
        if self._failures[member.ring_id] >= self.config.attempts:
            self._died_at[member.ring_id] = now
            self._tell(Rumour(rumour.member, rumour.version, False))
            self._arrange()
        else:
            self._retry[member.ring_id] = now + self._jitter(self.config.retry_after)

    def _take_news(self) -> tuple[Rumour, ...]:
        told = sorted(self._news.values(), key=lambda news: -news.left)[: self.config.rumours]
        for news in told:
            news.left -= 1
            if news.left <= 0:
                del self._news[news.rumour.member.ring_id]
        return tuple(news.rumour for news in told)

    def _table(self) -> tuple[Rumour, ...]:
        rumours = list(self._rumours.values())
        if len(rumours) > self.config.table:
            rumours = self._rng.sample(rumours, self.config.table)
        return tuple(rumours)

    def _forget(self, now: float) -> None:
        for ring_id in [r for r, at in self._died_at.items() if at + self.config.forget_after <= now]:
            del self._died_at[ring_id]
            self._rumours.pop(ring_id, None)

    def _arrange(self) -> None:
        """Order of the living, and the digest over them: equal tables, equal digests."""
        order = sorted(ring_id for ring_id, rumour in self._rumours.items() if rumour.alive)
        digest = hashlib.blake2b(digest_size=8)
        for ring_id in order:
            rumour = self._rumours[ring_id]
            digest.update(ring_id + rumour.version.to_bytes(8, "big") + rumour.member.address.encode())
        if (order, digest.digest()) != (self._order, self._digest):
            self._order, self._digest = order, digest.digest()
            self._events.append(Changed())

    def _from(self, key: int) -> list[bytes]:
        """Ring ids of the living, clockwise, beginning with the owner of ``key``."""
        place = bisect_left(self._order, (key % (1 << 128)).to_bytes(16, "big"))
        return self._order[place:] + self._order[:place]

    # Sending

    def _choose(self) -> list[Member]:
        others = self.members()
        far = others[1:]
        return [*others[:1], *self._rng.sample(far, min(self.config.fanout, len(far)))]

    def _send(self, to: Member, message: RingRequest, *, whole: bool = False) -> None:
        self._next_id += 1
        self._pending[self._next_id] = (to, whole)
        self._out.append(Send(to, message, self._next_id))

    def _reply(self, reply_to: int, answer: RingAnswer) -> None:
        self._out.append(Reply(reply_to, answer))

    def _jitter(self, period: float) -> float:
        return period * (0.75 + self._rng.random() / 2)
