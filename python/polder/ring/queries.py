"""``Queries``: what a node has asked and what it is asked while it cannot answer.

Two ways to ask. ``send``: any number at once, for what changes no state that others read. ``ask``: one at a time, for what does;
it is repeated after silence, and while it lasts, the state queries of others wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from polder.model import Member
from polder.model.ring_messages import Busy, RingAnswer, RingRequest
from polder.ring.config import ChordConfig
from polder.ring.router import Reply, Send

Then = Callable[[RingAnswer | None, float], None]
"""Takes the answer, or ``None`` for silence, and the time."""


@dataclass(slots=True)
class _Query:
    to: Member
    message: RingRequest
    then: Then
    patient: bool
    request_id: int = -1
    failures: int = 0
    busies: int = 0
    resend_at: float | None = None


@dataclass(slots=True)
class _Delayed:
    request: RingRequest
    reply_to: int
    deadline: float


class Queries:
    """Requests on their way, the one outstanding query, and the queries of others that wait for its end."""

    __slots__ = ("_config", "_delayed", "_me", "_next_id", "_on_silence", "_pending", "_query", "_rng", "impostors", "out")

    def __init__(self, me: Member, config: ChordConfig, rng: Random, on_silence: Callable[[Member, float], None]) -> None:
        self._on_silence = on_silence
        self.out: deque[Send | Reply] = deque()
        self._me = me
        self._config = config
        self._rng = rng
        self._next_id = 0
        self.impostors: list[Member] = []
        self._pending: dict[int, tuple[Member, Then]] = {}
        self._query: _Query | None = None
        self._delayed: dict[bytes, _Delayed] = {}

    @property
    def busy(self) -> bool:
        """Whether the one outstanding query is out, hence this node's state undefined for others."""
        return self._query is not None

    def send(self, to: Member, message: RingRequest, then: Then) -> None:
        """Ask beside the rule of one: for pings, lookups and notices."""
        self._next_id += 1
        self._pending[self._next_id] = (to, then)
        self.out.append(Send(to, message, self._next_id))

    def ask(self, to: Member, message: RingRequest, then: Then, *, patient: bool = False, failures: int = 0) -> None:
        """Ask the one outstanding query. ``then`` gets ``None`` for death, ``Busy``, or the answer.

        ``failures``: how often ``to`` was silent already, asked by other means.

        A member must not insist when it is told ``Busy``: were each to wait for its successor, all would wait for ever, round the
        ring. It ends the operation, answers those that wait for itself, and begins again later. Only a joiner, for whom nobody
        waits, may be ``patient``.
        """
        assert self._query is None, "one outstanding query at most"
        self._query = _Query(to, message, then, patient, failures=failures)
        self._transmit(self._query)

    def abandon(self) -> None:
        """Forget the outstanding query; its answer will be ignored."""
        if self._query is not None:
            self._pending.pop(self._query.request_id, None)
            self._query = None

    def awaited(self, request_id: int) -> Member | None:
        """Who was asked by that request, while its outcome is open."""
        return self._pending.get(request_id, (None,))[0]

    def settle(self, request_id: int, answer: RingAnswer | None, now: float) -> bool:
        """Hand an outcome to whoever waits for it; ``False`` if nobody does (given up, answered twice, never asked)."""
        to, then = self._pending.pop(request_id, (None, None))
        if to is None or then is None:
            return False
        if answer is not None and (answer.sender.ring_id != to.ring_id or answer.sender.name != to.name):
            # The link proved who answered; an answer in another's name is a lie, and worth as much as silence.
            self.impostors.append(to)
            answer = None
        then(answer, now)
        return True

    def delay(self, request: RingRequest, reply_to: int, now: float) -> None:
        """Keep a state query until the operation ends. One per asker: an older one of the same asker is told ``Busy``."""
        older = self._delayed.pop(request.sender.ring_id, None)
        if older is not None:
            self.out.append(Reply(older.reply_to, Busy(self._me)))
        if len(self._delayed) >= self._config.delayed_limit:
            self.out.append(Reply(reply_to, Busy(self._me)))
            return
        deadline = now + self._config.hold * (0.5 + self._rng.random() / 2)
        self._delayed[request.sender.ring_id] = _Delayed(request, reply_to, deadline)

    def take_delayed(self) -> list[tuple[RingRequest, int]]:
        """The queries that waited, to be answered now."""
        taken = [(delayed.request, delayed.reply_to) for delayed in self._delayed.values()]
        self._delayed.clear()
        return taken

    def handle_timeout(self, now: float) -> None:
        """Repeat what is due; tell those that waited too long."""
        query = self._query
        if query is not None and query.resend_at is not None and query.resend_at <= now:
            self._transmit(query)
        for ring_id, delayed in tuple(self._delayed.items()):
            if delayed.deadline <= now:
                del self._delayed[ring_id]
                self.out.append(Reply(delayed.reply_to, Busy(self._me)))

    def poll_timeout(self) -> float | None:
        """When ``handle_timeout`` has something to do."""
        times = [delayed.deadline for delayed in self._delayed.values()]
        if self._query is not None and self._query.resend_at is not None:
            times.append(self._query.resend_at)
        return min(times, default=None)

    def _transmit(self, query: _Query) -> None:
        query.resend_at = None
        self.send(query.to, query.message, self._outcome)
        query.request_id = self._next_id

    def _outcome(self, answer: RingAnswer | None, now: float) -> None:
        query = self._query
        assert query is not None
        if answer is None:
            query.failures += 1
            again = query.failures < self._config.attempts
        else:
            # A sign of life: failures that came before were loss, not death.
            query.failures = 0
            query.busies += 1
            again = query.patient and isinstance(answer, Busy) and query.busies < self._config.busy_limit
        if answer is None:
            self._on_silence(query.to, now)
        if again:
            query.resend_at = now + self._config.retry_after * (0.5 + self._rng.random())
            return
        self._query = None
        query.then(answer, now)
