"""``Chord``: the ring as Zave corrected it (arXiv 1502.06461, 1610.01140), in the operational form of verdi-chord.

Theory of operation. A node keeps its predecessor, the first ``r`` successors and some fingers (``Table``). Four operations
change that state: *join*, *stabilise*, *rectify* and *reunite*; each consists of queries that run one at a time. What makes the
ring safe:

* No pointer is adopted before the node behind it has answered, and none ever points to the node itself (trap 48).
* Between sending a query that may change its state and applying the answer, a node's state is undefined. State queries that
  arrive meanwhile wait; those that would wait too long are told ``Busy``, which the asker takes as a sign of life (trap 47).
* Silence counts as death only after ``attempts`` failures in a row (trap 49). What was given up wrongly is found again: every
  node now and then looks itself up through a node outside of its neighbourhood (*reunite*), which zips rings that fell apart.
* ``Ping``, ``Notify`` and ``Find`` are answered at once: they read nothing that others adopt without asking.
* The proof wants at least r + 1 members from birth on (trap 46): ``born``. Smaller overlays work too, because there every list
  holds everybody; what the proof cannot promise them, reunion mends.

Every request is compared with the sender's certificate, because ring ids are the issuer's to give (trap 50).
"""

from __future__ import annotations

from collections.abc import Iterable

from polder.model import Member, Refused, Verdict
from polder.model.overlay_messages import Caller
from polder.model.ring_messages import (
    BestPredecessor,
    Find,
    Found,
    GetBestPredecessor,
    GetSuccessors,
    Gossip,
    Leaving,
    Meet,
    Neighbours,
    Notify,
    NotJoined,
    Ping,
    Pong,
    RingAnswer,
    RingRequest,
    Successors,
)
from polder.ring.lookup import Lookup
from polder.ring.maintenance import Maintenance, _Walk
from polder.ring.router import Changed, Event, Hops, LookupDone, LookupFailed, Reply, RingImage, Send
from polder.ring.table import ALTERNATIVES, Table

__all__ = ["Chord"]


class Chord(Maintenance):
    """The machine of one node; implements ``Router``."""

    @property
    def predecessor(self) -> Member | None:
        """The node before this one, as far as known."""
        return self.table.predecessor

    @property
    def busy(self) -> bool:
        """Whether a query is outstanding, hence the state undefined for others."""
        return self._queries.busy

    def successors(self) -> tuple[Member, ...]:
        """The nodes behind this one, nearest first."""
        return self.table.successors

    def owns(self, key: int) -> bool:
        """Whether this node owns ``key``, as far as it knows."""
        return self.joined and self.table.owns(key)

    def next_hops(self, key: int) -> Hops:
        """Where a request for ``key`` goes from here, from local state alone."""
        return self.table.next_hops(key)

    def warm(self) -> tuple[Member, ...]:
        """Neighbours and fingers."""
        return self.table.known()

    def members(self) -> tuple[Member, ...]:
        """Everybody heard of: neighbours, fingers, contacts; without those believed dead."""
        known = {member.ring_id: member for member in self.table.known()}
        for ring_id, member in self._contacts.items():
            if ring_id not in self._lost:
                known.setdefault(ring_id, member)
        return tuple(sorted(known.values(), key=self.table.away))

    # Birth, joining, leaving

    def found(self, now: float) -> None:
        """Begin a ring of one."""
        self._become_member((), now)
        self._note_changes()

    def born(self, base: Iterable[Member], now: float) -> None:
        """Be one of the pinned members with which a ring begins: at least r + 1, all alive, all given the same list."""
        others = sorted((m for m in base if m.ring_id != self.me.ring_id), key=self.table.away)
        if len(others) < self.config.successors:
            raise ValueError(f"a base has at least {self.config.successors + 1} members, this one {len(others) + 1}")
        self._remember(others)
        self.table.set_predecessor(others[-1])
        self._become_member(others, now)
        self._note_changes()

    def settled(self, table: Table, now: float) -> None:
        """Begin as a member in the middle of a ring that stands: how simulations of large rings start."""
        self.table = table
        self._become_member(table.successors, now)
        self._stabilise_at = now + self.config.stabilise_every * self._rng.random()
        self._finger_at = now + self.config.finger_every * self._rng.random()
        self._reunite_at = now + self.config.reunite_every * self._rng.random()
        self._first_round = False
        self._note_changes()

    def image(self) -> RingImage | None:
        """What the process that takes this one's place needs; ``None``: this node is no member."""
        if not self.joined:
            return None
        table = self.table
        return RingImage(table.successors, table.predecessor, dict(table.fingers), tuple(self._contacts.values()))

    def resume(self, image: RingImage, now: float) -> None:
        """Go on as the member whose ``image`` it is: the neighbours notice nothing."""
        self._remember(image.contacts)
        table = Table(self.me, self.config.successors)
        table.set_successors(image.successors)
        table.set_predecessor(image.predecessor)
        for exponent, member in image.fingers.items():
            table.set_finger(exponent, member)
        self.settled(table, now)

    def join(self, contacts: Iterable[Member], now: float) -> None:
        """Join through any of ``contacts``; goes on trying. Contacts are remembered for healing."""
        self._remember(contacts)
        if not self.joined and self._join_at is None and not self._queries.busy:
            self._walk = _Walk(since=now)
            self._join_at = now

    def leave(self, now: float) -> None:
        """Say goodbye to the neighbours; the node is no member afterwards."""
        for member in self.table.known() if self.joined else ():
            self._queries.send(member, Leaving(self.me), lambda _answer, _now: None)
        self.joined = False
        self._queries.abandon()
        for _, reply_to in self._queries.take_delayed():
            self._reply(reply_to, NotJoined(self.me))
        self.table = Table(self.me, self.config.successors)
        self._seen_changes = 0
        self._rectify_with = self._candidate = None
        self._join_at = self._stabilise_at = self._finger_at = self._reunite_at = None
        self._events.append(Changed())

    def _remember(self, contacts: Iterable[Member]) -> None:
        self._contacts.update((m.ring_id, m) for m in contacts if m.ring_id != self.me.ring_id)

    # Inputs

    def handle(self, request: RingRequest, caller: Caller, reply_to: int, now: float) -> None:
        """A request came in. Raises ``Refused`` when its sender is not who the certificate says."""
        sender = request.sender
        if not caller.is_member(sender):
            why = (
                f"{caller.kind} {caller.name} speaks for {sender.name} at a place of the ring that its certificate does not give"
            )
            raise Refused(Verdict.WRONG_PLACE, why)
        if isinstance(request, Gossip):
            raise Refused(Verdict.DENIED, "this node runs Chord, the caller the one-hop ring: set the same router on all nodes")
        if not self.joined:
            self._reply(reply_to, NotJoined(self.me))
            return
        self.table.refresh(sender)
        self._lost.pop(sender.ring_id, None)
        self._silent.pop(sender.ring_id, None)
        if self.table.predecessor is not None and sender.ring_id == self.table.predecessor.ring_id:
            self._predecessor_heard_at = now
        match request:
            case Ping():
                self._reply(reply_to, Pong(self.me))
            case Find():
                self._reply(reply_to, self._find(int.from_bytes(request.key, "big")))
            case Notify():
                self._reply(reply_to, Pong(self.me))
                self._notified(sender, now)
            case Leaving():
                self._reply(reply_to, Pong(self.me))
                self._departed.add(sender.ring_id)
                self._next(now)
            case Meet():
                self._reply(reply_to, Pong(self.me))
                self._introduced(request.member, now)
            case _ if self._queries.busy:
                self._queries.delay(request, reply_to, now)
            case _:
                self._reply(reply_to, self._state(request))
        self._note_changes()

    def answered(self, request_id: int, answer: RingAnswer, now: float) -> None:
        """The answer to a ``Send``; one that nobody waits for any more is ignored."""
        asked = self._queries.awaited(request_id)
        if asked is not None and asked.ring_id == answer.sender.ring_id and not isinstance(answer, NotJoined):
            self._silent.pop(asked.ring_id, None)
        self._queries.settle(request_id, answer, now)
        self._note_changes()

    def failed(self, request_id: int, now: float) -> None:
        """No answer came to a ``Send`` within the caller's deadline."""
        self._queries.settle(request_id, None, now)
        self._note_changes()

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        self._queries.handle_timeout(now)
        if self._join_at is not None and self._join_at <= now:
            self._join_at = None
            self._start_walk(now)
        if self._stabilise_at is not None and self._stabilise_at <= now:
            self._stabilise_at = now + self._jitter(self.config.stabilise_every)
            self._want_stabilise = True
            self._next(now)
            self._check_predecessor(now)
        if self._finger_at is not None and self._finger_at <= now:
            self._fix_finger(now)
        if self._reunite_at is not None and self._reunite_at <= now:
            self._reunite(now)
        self._note_changes()

    def lookup(self, key: int, now: float) -> int:
        """Ask who owns ``key``; the event with the returned number follows, at once where the local list knows."""
        self._lookups += 1
        number = self._lookups
        local = self._local(key) if self.joined else None
        if local is not None:
            self._events.append(LookupDone(number, key, local, 0))
            return number

        def done(lookup: Lookup, _now: float) -> None:
            if lookup.members:
                self._events.append(LookupDone(number, key, lookup.members, lookup.hops))
            else:
                self._events.append(LookupFailed(number, key, f"nobody of {lookup.hops} nodes asked led to the owner"))

        if self.joined:
            self._begin_wide_lookup(key, done, now)
        else:
            self._begin_lookup(key, self.members(), done, now)
        return number

    # Outputs

    def poll_transmit(self) -> Send | Reply | None:
        """What to send, until ``None``."""
        return self._queries.out.popleft() if self._queries.out else None

    def poll_event(self) -> Event | None:
        """What happened, until ``None``."""
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        """When to call ``handle_timeout``."""
        times = (self._join_at, self._stabilise_at, self._finger_at, self._reunite_at, self._queries.poll_timeout())
        return min((t for t in times if t is not None), default=None)

    # Answers

    def _reply(self, reply_to: int, answer: RingAnswer) -> None:
        self._queries.out.append(Reply(reply_to, answer))

    def _answer_delayed(self, now: float) -> None:
        for request, reply_to in self._queries.take_delayed():
            self._reply(reply_to, self._state(request))

    def _state(self, request: RingRequest) -> RingAnswer:
        """The answer to a state query; only to be made between operations."""
        match request:
            case GetSuccessors():
                return Successors(self.me, self.table.successors)
            case GetBestPredecessor():
                best = self.table.preceding(int.from_bytes(request.key, "big"), len(request.avoid) + 1)
                avoid = set(request.avoid)
                return BestPredecessor(self.me, next((m for m in best if m.ring_id not in avoid), self.me))
            case _:
                return Neighbours(self.me, self.table.predecessor, self.table.successors)

    def _find(self, key: int) -> Found:
        local = self._local(key)
        if local is not None:
            return Found(self.me, True, local)
        heirs = self.table.heirs(key)[: 1 + ALTERNATIVES]
        return Found(self.me, False, tuple(self.table.preceding(key, 1 + ALTERNATIVES)), heirs)

    def _local(self, key: int) -> tuple[Member, ...] | None:
        if self.table.owns(key):
            return (self.me, *self.table.successors[:ALTERNATIVES])
        return self.table.owners(key)[: 1 + ALTERNATIVES] or None
