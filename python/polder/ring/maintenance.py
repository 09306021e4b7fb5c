"""The operations of Chord: join, stabilise, rectify, reunite, and the care of fingers. ``chord.py`` heads the theory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random

from polder.model import RING_BITS, RING_SIZE, Member, between
from polder.model.ring_messages import (
    BestPredecessor,
    Busy,
    Find,
    Found,
    GetBestPredecessor,
    GetNeighbours,
    GetSuccessors,
    Meet,
    Neighbours,
    Notify,
    NotJoined,
    Ping,
    Pong,
    RingAnswer,
    Successors,
)
from polder.ring.config import ChordConfig
from polder.ring.lookup import Lookup
from polder.ring.queries import Queries
from polder.ring.router import Changed, Event, Joined, Misbehaved
from polder.ring.table import Table

_AVOID = 32
_PATIENT = 10


@dataclass(slots=True)
class _Walk:
    """A joiner's way to its predecessor: whom it asked, who did not answer, who lives but is no member either."""

    since: float = 0.0
    way: list[Member] = field(default_factory=list)
    avoid: dict[bytes, None] = field(default_factory=dict)
    outsiders: set[bytes] = field(default_factory=set)


class Maintenance(ABC):
    """State of one node and the operations that keep it right. ``Chord`` gives it its face."""

    def __init__(self, me: Member, config: ChordConfig, rng: Random) -> None:
        if config.successors < 2:
            raise ValueError("a successor list needs at least 2 places: with 1 a single death cuts the ring")
        self.me = me
        self.table = Table(me, config.successors)
        self.config = config
        self.joined = False
        self._rng = rng
        self._queries = Queries(me, config, rng, self._silence)
        self._silent: dict[bytes, tuple[int, float]] = {}
        self._events: deque[Event] = deque()
        self._seen_changes = 0
        self._rectify_with: Member | None = None
        self._candidate: Member | None = None
        self._departed: set[bytes] = set()
        self._want_stabilise = False
        self._walk = _Walk()
        self._contacts: dict[bytes, Member] = {}
        self._lost: dict[bytes, Member] = {}
        self._exponent = 0
        self._first_round = True
        self._lookups = 0
        self._meet_again_at = 0.0
        self._predecessor_heard_at = 0.0
        self._join_at: float | None = None
        self._stabilise_at: float | None = None
        self._finger_at: float | None = None
        self._reunite_at: float | None = None

    # Becoming a member

    def _become_member(self, successors: Iterable[Member], now: float) -> None:
        self.table.set_successors(successors)
        self.joined = True
        self._join_at = None
        self._walk = _Walk()
        self._stabilise_at = now
        self._finger_at = now + self._jitter(self.config.finger_every / _PATIENT)
        self._reunite_at = now + self._jitter(self.config.join_retry)
        self._events.append(Joined())

    def _start_walk(self, now: float) -> None:
        """Ask the next contact for our best predecessor; when all were tried, pause, or found a ring (cold start)."""
        walk = self._walk
        walk.way.clear()
        fresh = [m for ring_id, m in self._contacts.items() if ring_id not in walk.avoid]
        if fresh:
            self._ask_best(self._rng.choice(fresh))
            return
        if now - walk.since >= self.config.found_after and all(self.me.ring_id < other for other in walk.outsiders):
            # Nobody who lives is a member, and we are the lowest: after a power cut somebody has to begin. Should a ring exist
            # that we cannot hear, reunion joins the two later.
            self._become_member((), now)
            return
        walk.avoid.clear()
        walk.outsiders.clear()
        self._join_at = now + self._jitter(self.config.join_retry)

    def _ask_best(self, whom: Member) -> None:
        self._walk.way.append(whom)
        avoid = tuple(self._walk.avoid)[-_AVOID:]
        self._queries.ask(whom, GetBestPredecessor(self.me, self.me.ring_id, avoid), self._walked, patient=True)

    def _walked(self, answer: RingAnswer | None, now: float) -> None:
        asked = self._walk.way[-1]
        match answer:
            case BestPredecessor(member=best) if best.ring_id == asked.ring_id:
                self._queries.ask(asked, GetSuccessors(self.me), self._take_list, patient=True)
            case BestPredecessor(member=best) if between(best.id, asked.id, self.me.id):
                self._ask_best(best)
            case Busy():
                self._join_at = now + self._jitter(self.config.join_retry)
            case _:
                self._step_back(answer, now)

    def _take_list(self, answer: RingAnswer | None, now: float) -> None:
        """The end of the walk: take the predecessor's list, unless it shows that the walk must go on."""
        asked = self._walk.way[-1]
        match answer:
            case Successors(members=members):
                before = [m for m in members if between(m.id, asked.id, self.me.id)]
                nearer = [m for m in before if m.ring_id not in self._walk.avoid]
                if nearer:
                    self._ask_best(nearer[-1])
                    return
                # A list shorter than r has seen the whole ring: behind its end comes the answerer again.
                whole = (*members, asked) if len(members) < self.config.successors else members
                # What is left of ``before`` is dead to us, and lies behind us: as the head of our list it would hide the rest.
                behind = self.table.chop(m for m in whole if m not in before)
                if behind:
                    self._become_member(behind, now)
                    self._stabilise(now)
                else:
                    # Everybody there is in our way or dead to us; some may have come back since.
                    self._walk.avoid.clear()
                    self._join_at = now + self._jitter(self.config.join_retry)
            case Busy():
                self._join_at = now + self._jitter(self.config.join_retry)
            case _:
                self._step_back(answer, now)

    def _step_back(self, answer: RingAnswer | None, now: float) -> None:
        """The last node on the way is no help: avoid it, go on from the one before it."""
        walk = self._walk
        gone = walk.way.pop()
        walk.avoid[gone.ring_id] = None
        if isinstance(answer, NotJoined):
            walk.outsiders.add(gone.ring_id)
        elif answer is not None:
            self._events.append(Misbehaved(gone, f"answered a joiner with {type(answer).__name__}, or led it backwards"))
        if walk.way:
            self._ask_best(walk.way.pop())
        else:
            self._start_walk(now)

    # Stabilise (Zave: stabilizeFromSuccessor, stabilizeFromPredecessor)

    def _next(self, now: float) -> None:
        """Begin the next operation that waits, if none runs; those that waited for us are answered first."""
        while self.joined and not self._queries.busy:
            self._answer_delayed(now)
            if self._departed:
                self._forget_departed()
            elif self._rectify_with is not None:
                candidate, self._rectify_with = self._rectify_with, None
                self._rectify(candidate, now)
            elif self._candidate is not None:
                candidate, self._candidate = self._candidate, None
                self._try_candidate(candidate, now)
            elif self._want_stabilise:
                self._want_stabilise = False
                self._stabilise(now)
            else:
                return

    @abstractmethod
    def _answer_delayed(self, now: float) -> None:
        """Answer the state queries that waited for an operation to end."""

    def _stabilise(self, now: float) -> None:
        """Ask the first successor who precedes it, and for its list; the dead are skipped."""
        while len(self.table.successors) > 1 and self._is_silent(self.table.successors[0], now):
            self._bury(self.table.successors[0], None)
        first = self.table.successors[:1]
        if first:
            failures = self._failures(first[0], now)
            self._queries.ask(first[0], GetNeighbours(self.me), self._stabilised, failures=failures)
        elif self.table.predecessor is not None:
            # A founder learns its first successor by the joiner's notice; a node that lost all successors turns back.
            self._queries.ask(self.table.predecessor, GetSuccessors(self.me), self._turned_back)

    def _stabilised(self, answer: RingAnswer | None, now: float) -> None:
        first = self.table.successors[0]
        match answer:
            case Neighbours(predecessor=theirs, members=members, sender=first):
                self.table.set_successors((first, *members))
                if theirs is None or not self._try_candidate(theirs, now):
                    self._notify()
            case Busy():
                self._stabilise_soon(now)
            case _:
                self._bury(first, answer)
                self._want_stabilise = True
        self._next(now)

    def _stabilise_soon(self, now: float) -> None:
        """The other one was busy: our state is as it was; try again after a pause, and be of use to others meanwhile."""
        soon = now + self._jitter(self.config.retry_after)
        self._stabilise_at = soon if self._stabilise_at is None else min(soon, self._stabilise_at)

    def _try_candidate(self, candidate: Member, now: float) -> bool:
        """Somebody may be nearer than our first successor: only its own answer makes it so. Whether it is asked."""
        if not self._is_nearer(candidate) or self._is_silent(candidate, now):
            return False
        failures = self._failures(candidate, now)
        message = GetSuccessors(self.me)
        self._queries.ask(candidate, message, lambda answer, at: self._tried(candidate, answer, at), failures=failures)
        return True

    def _tried(self, candidate: Member, answer: RingAnswer | None, now: float) -> None:
        match answer:
            case Successors(sender=sender, members=members):
                if self._is_nearer(sender):
                    self.table.set_successors((sender, *members))
                    self._want_stabilise = True  # there may be another one between
            case Busy():
                self._stabilise_soon(now)
            case None | NotJoined():
                pass
            case _:
                self._events.append(Misbehaved(candidate, f"answered a query for its list with {type(answer).__name__}"))
        self._notify()
        self._next(now)

    def _turned_back(self, answer: RingAnswer | None, now: float) -> None:
        last = self.table.predecessor
        if isinstance(answer, Successors) and not self.table.successors:
            self.table.set_successors((answer.sender, *answer.members))
            self._want_stabilise = True
        elif isinstance(answer, Busy):
            self._stabilise_soon(now)
        elif last is not None:
            self._bury(last, answer)
            self.table.set_predecessor(None)
        self._notify()
        self._next(now)

    def _is_nearer(self, member: Member) -> bool:
        first = self.table.successors[:1]
        return member.id != self.me.id and (not first or between(member.id, self.me.id, first[0].id))

    def _notify(self) -> None:
        for first in self.table.successors[:1]:
            self._queries.send(first, Notify(self.me), lambda _answer, _now: None)

    def _bury(self, member: Member, answer: RingAnswer | None) -> None:
        """``member`` is dead, or no member any more, or makes no sense: out of the list, but not out of memory."""
        if answer is not None and not isinstance(answer, NotJoined):
            self._events.append(Misbehaved(member, f"answered stabilisation with {type(answer).__name__}"))
        self.table.set_successors(m for m in self.table.successors if m.ring_id != member.ring_id)
        self._lose(member)

    def _lose(self, member: Member) -> None:
        """``member`` is no use now; it is looked for when rings reunite."""
        self.table.drop_finger(member)
        self._lost.pop(member.ring_id, None)
        self._lost[member.ring_id] = member
        while len(self._lost) > self.config.remembered:
            del self._lost[next(iter(self._lost))]

    def _forget_departed(self) -> None:
        """Who said goodbye leaves the list, unless it is the last one: then its death must be seen, not told."""
        departed, self._departed = self._departed, set()
        left = [m for m in self.table.successors if m.ring_id not in departed]
        if left and self.table.set_successors(left):
            self._want_stabilise = True

    # Rectify

    def _notified(self, by: Member, now: float) -> None:
        held = self._rectify_with
        if held is None or between(by.id, held.id, self.me.id):
            self._rectify_with = by
        self._next(now)

    def _rectify(self, candidate: Member, now: float) -> None:
        """``candidate`` (alive: it spoke) believes to be our predecessor: nearer ones win, dead ones lose."""
        held = self.table.predecessor
        known = held is None or held.ring_id == candidate.ring_id or self._is_silent(held, now)
        if known or held is None or between(candidate.id, held.id, self.me.id):
            self.table.set_predecessor(candidate)
            self._predecessor_heard_at = now
            self._want_stabilise = self._want_stabilise or not self.table.successors
            return
        failures = self._failures(held, now)
        self._queries.ask(held, Ping(self.me), lambda answer, at: self._rectified(candidate, answer, at), failures=failures)

    def _check_predecessor(self, now: float) -> None:
        """It asks us in every period. If it has not, ping it, so that who comes in its place need not wait for us to find out."""
        held = self.table.predecessor
        if held is not None and now - self._predecessor_heard_at > 2.5 * self.config.stabilise_every:
            self._predecessor_heard_at = now
            self._probe(held)

    def _rectified(self, candidate: Member, answer: RingAnswer | None, now: float) -> None:
        if answer is None or isinstance(answer, NotJoined):
            self.table.set_predecessor(candidate)
            self._predecessor_heard_at = now
        self._next(now)

    # Silence. When the first successor is silent, the others are pinged at once: several that died together are given up together

    def _silence(self, member: Member, now: float) -> None:
        failures = self._failures(member, now) + 1
        self._silent[member.ring_id] = (failures, now)
        while len(self._silent) > self.config.remembered:
            del self._silent[next(iter(self._silent))]
        first, *others = self.table.successors or (member,)
        if member.ring_id == first.ring_id and failures == 1:
            for other in others:
                if not self._failures(other, now):
                    self._probe(other)

    def _probe(self, member: Member) -> None:
        self._queries.send(member, Ping(self.me), lambda answer, now: self._probed(member, answer, now))

    def _probed(self, member: Member, answer: RingAnswer | None, now: float) -> None:
        if answer is not None and not isinstance(answer, NotJoined):
            self._silent.pop(member.ring_id, None)
            return
        self._silent[member.ring_id] = (self._failures(member, now) + 1, now)
        if not self._is_silent(member, now):
            self._probe(member)

    def _failures(self, member: Member, now: float) -> int:
        """Failures in a row, of late, without an answer since; fewer than death while asked anew."""
        count, at = self._silent.get(member.ring_id, (0, 0.0))
        return count if now - at < self.config.suspect_for else 0

    def _is_silent(self, member: Member, now: float) -> bool:
        return self._failures(member, now) >= self.config.attempts

    # Reunite: not Zave's; it repairs what false suspicion broke, and adopts under the same rule

    def _reunite(self, now: float) -> None:
        """Look up the place behind us through somebody who is not our neighbour; a nearer successor there is a candidate."""
        alone = not self.table.successors
        self._reunite_at = now + self._jitter(self.config.join_retry if alone else self.config.reunite_every)
        near = {m.ring_id for m in self.table.successors}
        far = [m for m in (*self._contacts.values(), *self._lost.values()) if m.ring_id not in near]
        if far:
            self._begin_lookup((self.me.id + 1) % RING_SIZE, [self._rng.choice(far)], self._met, now)

    def _met(self, lookup: Lookup, now: float) -> None:
        if not lookup.members or not self.joined:
            return
        there = lookup.members[0]
        self._lost.pop(there.ring_id, None)
        first = self.table.successors[:1]
        if self._is_nearer(there):
            self._silent.pop(there.ring_id, None)
            self._candidate = there
            self._next(now)
        elif first and there.ring_id not in {self.me.ring_id, first[0].ring_id}:
            # In one ring it would have been our first successor. The two rings must be joined elsewhere: pass it on, round ours.
            self._queries.send(first[0], Meet(self.me, there), lambda _answer, _now: None)

    def _introduced(self, there: Member, now: float) -> None:
        """Somebody met a member of another ring; at most one introduction in a while is followed."""
        if there.ring_id != self.me.ring_id and now >= self._meet_again_at:
            self._meet_again_at = now + self.config.retry_after
            self._begin_lookup((self.me.id + 1) % RING_SIZE, [there], self._met, now)

    # Fingers: hints (trap 51), yet adopted only after they answered

    def _fix_finger(self, now: float) -> None:
        last = self.table.successors[-1:]
        whole = not last or len(self.table.successors) < self.config.successors
        lowest = RING_BITS if whole else self.table.away(last[0]).bit_length()
        if self._exponent >= RING_BITS or self._exponent < lowest:
            self._first_round = self._first_round and self._exponent < RING_BITS
            self._exponent = lowest
            self._drop_short_fingers(lowest)
        pace = self.config.finger_every / (_PATIENT if self._first_round else 1)
        self._finger_at = now + self._jitter(pace)
        if self._exponent < RING_BITS:
            exponent, target = self._exponent, (self.me.id + (1 << self._exponent)) % RING_SIZE
            self._exponent += 1
            self._begin_wide_lookup(target, lambda lookup, _now: self._found_finger(exponent, lookup), now)

    def _found_finger(self, exponent: int, lookup: Lookup) -> None:
        if not lookup.members:
            return
        owner = lookup.members[0]
        if owner.ring_id == self.me.ring_id:
            self.table.set_finger(exponent, None)
        else:
            self._queries.send(owner, Ping(self.me), lambda answer, _now: self._try_finger(exponent, owner, answer))

    def _try_finger(self, exponent: int, owner: Member, answer: RingAnswer | None) -> None:
        if isinstance(answer, Pong) and self.joined:
            self.table.set_finger(exponent, owner)
            # Fingers of all exponents up to this distance are the same node.
            self._exponent = max(self._exponent, self.table.away(owner).bit_length())
        elif answer is None:
            self.table.drop_finger(owner)

    def _drop_short_fingers(self, lowest: int) -> None:
        for exponent in [k for k in self.table.fingers if k < lowest]:
            self.table.set_finger(exponent, None)

    # Lookups

    def _begin_lookup(self, key: int, start: Iterable[Member], done: Callable[[Lookup, float], None], now: float) -> None:
        """Walk towards ``key``; ``done`` gets the lookup when it has ``members`` or is ``stuck``."""
        self._step_lookup(Lookup(key, start), done, now)

    def _begin_wide_lookup(self, key: int, done: Callable[[Lookup, float], None], now: float) -> None:
        """The same, from our own table: first those that precede the key, at last anybody."""
        lookup = Lookup(key, self.table.preceding(key, 4), self.table.heirs(key))

        def ended(lookup: Lookup, at: float) -> None:
            if not lookup.members:
                lookup.widen(self.table.known())
                self._step_lookup(lookup, done, at)
            else:
                done(lookup, at)

        self._step_lookup(lookup, ended, now)

    def _step_lookup(self, lookup: Lookup, done: Callable[[Lookup, float], None], now: float) -> None:
        if lookup.members or lookup.stuck:
            done(lookup, now)
            return
        whom = lookup.ask()

        def stepped(answer: RingAnswer | None, at: float) -> None:
            if isinstance(answer, Found):
                lookup.answered(answer)
                self._lost.pop(whom.ring_id, None)
            else:
                lookup.failed(whom)
                self._lose(whom)
            self._step_lookup(lookup, done, at)

        self._queries.send(whom, Find(self.me, lookup.key.to_bytes(16, "big")), stepped)

    # Time and change

    def _jitter(self, period: float) -> float:
        return period * (0.75 + self._rng.random() / 2)

    def _note_changes(self) -> None:
        while self._queries.impostors:
            self._events.append(Misbehaved(self._queries.impostors.pop(), "answered in the name of another"))
        if self.table.changes != self._seen_changes:
            self._seen_changes = self.table.changes
            self._events.append(Changed())
