"""``SiteRole``: a site chooses its servlets, keeps them appointed, and changes them without dropping anything (trap 3).

One servlet's place goes through these stages; the order is the whole point:

    ADMITTING    the filter gets its rule first
       │ filter_applied
    APPOINTING   told every ``retry`` seconds, until it can carry and a beacon has taken its advertisement
       │
    SERVING      told every ``heartbeat``; once all of its successors serve too, and the overlap is over:
       │
    DRAINING     dismissed: it leaves the beacons, carries on what is open, and passes the filter, for ``drain`` seconds
       │               … and for as long as streams are open on it, ``drain_max`` at most, without new ones
    gone         out of the filter; what is still open is cut

Every change of the set is a new epoch, told to all that stay, so that a servlet that left (dead, cut off, burned) cannot
advertise itself back in. Epochs grow with the clock, so a site that lost its memory does not fall behind its own past.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import NamedTuple

import msgspec

from polder.model import Appointment, Member, Signed
from polder.model.overlay_messages import Appoint, Appointed, Delivery, Dismiss, Withdrawal
from polder.overlay.beacon import GRACE, MAX_WITHDRAWALS
from polder.overlay.calls import CallOut
from polder.overlay.candidates import Candidates
from polder.overlay.checks import MAX_LIFE, SKEW

LOOK_AHEAD = 2.0
"""Seconds before its end that a rule in the filter is prolonged: filters count whole seconds."""

Signer = Callable[[msgspec.Struct], Signed]
"""Signs with the site's key."""

Carried = Callable[[str], int]
"""How many streams are open now on the way over a servlet, by its name."""

Deliver = Callable[[Member, int, int], Delivery]
"""The private half of an appointment, from the servlet, its 32-bit key and its slot (a small number, free again later)."""


class Stage(StrEnum):
    """Where a servlet's place stands."""

    ADMITTING = "admitting"
    APPOINTING = "appointing"
    SERVING = "serving"
    DRAINING = "draining"


@dataclass(frozen=True)
class SiteConfig:
    """Knobs; times in seconds."""

    servlets: int = 2
    """At once. More survive more deaths; each is one more node that knows the way in."""
    life: float = 7200.0
    """Validity of an appointment; signed anew at half of it."""
    rotate_every: float | None = 3600.0
    """Fresh servlets so often; ``None``: only on demand. Each draw may hit a hostile node (trap 4)."""
    overlap: float = GRACE
    """New servlets serve so long before the old are dismissed: until every beacon has heard of the new."""
    drain: float = 30.0
    """A dismissed servlet still carries, and passes the filter: as long as a shortcut may remember it."""
    drain_max: float = 3600.0
    """So long at most it passes the filter for streams that are still open on it."""
    heartbeat: float = 5.0
    retry: float = 0.5
    failures: int = 3
    """Heartbeats in a row without an answer that count as death."""
    exposure_max: int = 0
    """When so many nodes have learnt the way in, only they are drawn again (0: no bound; trap 4)."""


class Admitted(NamedTuple):
    """One servlet that the filter must let pass."""

    member: Member
    key: int
    slot: int
    until: float | None
    """Unix seconds; ``None``: until further notice."""


class Moved(NamedTuple):
    """For the log: a servlet's place changed. ``what`` is a stage, ``dead``, ``burned``, ``cut`` (gone with streams open),
    ``gone``, or ``overexposed`` (drawn beyond ``exposure_max``, for no other node was left).
    """

    servlet: str
    what: str


@dataclass
class SiteImage:
    """A site's choice of servlets, for the process that takes its agent's place."""

    epoch: int
    filter_version: int
    exposed: set[str]
    pool: dict[str, Member]
    burned: set[str]
    withdrawals: list[tuple[float, Signed]]
    places: dict[str, _Place]
    rotate_at: float | None
    cut: set[str]


@dataclass(slots=True)
class _Place:
    member: Member
    slot: int
    key: int
    stage: Stage = Stage.ADMITTING
    outgoing: bool = False
    leave_at: float | None = None
    epoch: int = 0
    signed: Signed | None = None
    not_after: float = 0.0
    failures: int = 0
    call_at: float | None = None
    calling: bool = False
    end_at: float | None = None
    cut_at: float = 0.0


class SiteRole:
    """``now`` in Unix seconds; ``last_epoch`` and ``exposed``: from before a restart.

    ``rng`` draws servlets and filter keys: shells pass ``SystemRandom``.
    """

    def __init__(
        self,
        site: str,
        config: SiteConfig,
        signer: Signer,
        deliver: Deliver,
        rng: Random,
        *,
        carried: Carried = lambda _servlet: 0,
        last_epoch: int = 0,
        exposed: Iterable[str] = (),
    ) -> None:
        self.site = site
        self.config = config
        self.epoch = last_epoch
        self.filter_version = 0
        """Grows with every change of ``admitted``; the shell confirms by ``filter_applied``."""
        self._signer = signer
        self._deliver = deliver
        self._rng = rng
        self._carried = carried
        self._cut: set[str] = set()
        self._candidates = Candidates(rng, exposed)
        self._withdrawals: list[tuple[float, Signed]] = []
        self._places: dict[str, _Place] = {}
        self._applied = 0
        self._rotate_at: float | None = None
        self._calls: deque[CallOut] = deque()
        self._pending: dict[int, str] = {}
        self._events: deque[Moved] = deque()
        self._next_id = 0

    # What the shell asks

    @property
    def exposed(self) -> set[str]:
        """Every node that ever knew the present way in."""
        return self._candidates.exposed

    def admitted(self) -> tuple[Admitted, ...]:
        """Whom the filter must let pass, now."""
        places = sorted(self._places.values(), key=lambda place: place.slot)
        return tuple(Admitted(place.member, place.key, place.slot, place.end_at) for place in places)

    def stages(self) -> dict[str, Stage]:
        """Servlet → stage."""
        return {name: place.stage for name, place in self._places.items()}

    def serving(self) -> int:
        """How many servlets carry and are known to beacons."""
        return sum(place.stage is Stage.SERVING for place in self._places.values())

    @property
    def rotate_at(self) -> float | None:
        """When fresh servlets are drawn next, Unix seconds; ``None``: not planned."""
        return self._rotate_at

    def cut(self) -> frozenset[str]:
        """Servlets whose streams must end at once: burned ones, and those that had streams open for too long."""
        return frozenset(self._cut)

    def image(self) -> SiteImage:
        """What the process that takes this one's place goes on with."""
        return SiteImage(
            self.epoch,
            self.filter_version,
            self._candidates.exposed,
            self._candidates.pool,
            self._candidates.burned,
            self._withdrawals,
            self._places,
            self._rotate_at,
            self._cut,
        )

    def resume(self, image: SiteImage) -> None:
        """Go on with an ``image``: the same servlets, in their stages; calls that were under way are made again."""
        self.epoch = max(self.epoch, image.epoch)
        self.filter_version = image.filter_version
        known = self._candidates
        known.exposed, known.pool, known.burned = image.exposed, image.pool, image.burned
        self._cut = image.cut
        self._withdrawals, self._places, self._rotate_at = image.withdrawals, image.places, image.rotate_at
        for place in self._places.values():
            place.calling = False

    def configure(self, config: SiteConfig, now: float) -> None:
        """Other knobs from here on. Surplus servlets go with the next rotation; missing ones are drawn at once."""
        paced = config.rotate_every != self.config.rotate_every
        self.config = config
        if paced and self._rotate_at is not None:
            self._rotate_at = None
            self._plan_rotation(now)
        self._fill(now)

    def poll_event(self) -> Moved | None:
        """What happened, until ``None``."""
        return self._events.popleft() if self._events else None

    # What the shell tells

    def set_pool(self, members: Iterable[Member], now: float) -> None:
        """The nodes that may be servlets. Addresses of those in place are corrected."""
        self._candidates.pool = {member.name: member for member in members}
        for place in self._places.values():
            fresh = self._candidates.pool.get(place.member.name)
            if fresh is not None and fresh.ring_id == place.member.ring_id and fresh != place.member:
                place.member = fresh
                self._filter_changed()
        self._fill(now)

    def filter_applied(self, version: int, now: float) -> None:
        """The filter in force admits what ``admitted`` said at ``version``: those new in it may be appointed."""
        self._applied = max(self._applied, version)
        if self._applied < self.filter_version:
            return
        for place in self._places.values():
            if place.stage is Stage.ADMITTING:
                self._move(place, Stage.APPOINTING)
                place.call_at = now

    def moved(self) -> None:
        """The way in is another one now, and only the servlets in place know it: exposure is counted anew."""
        self._candidates.exposed = set(self._places)

    def reached(self, name: str, rtt_us: int) -> None:
        """A link to a node came up, with this round trip in microseconds."""
        self._candidates.reached(name, rtt_us)

    def unreachable(self, name: str, now: float) -> None:
        """A link to a node failed. If it is a servlet it is asked at once, and this one more failure counts as death."""
        self._candidates.silent(name, now)
        place = self._places.get(name)
        if place is not None and place.stage in {Stage.APPOINTING, Stage.SERVING}:
            place.failures = max(place.failures, self.config.failures - 1)
            place.call_at = now

    def rotate(self, now: float) -> bool:
        """Draw fresh servlets; the old go when the new serve. ``False``: there is nobody else.

        One at a time: asked for during another, it begins when who is on the way in serves, or who is on the way out is gone.
        """
        if self._settling():
            self._rotate_at = now
            return True
        old = [place for place in self._places.values() if place.stage is Stage.SERVING and not place.outgoing]
        fresh = self._draw(self.config.servlets, now, again=[n for n, p in self._places.items() if p.stage is Stage.DRAINING])
        if not fresh:
            leaving = [place.leave_at for place in self._places.values() if place.leave_at is not None]
            self._rotate_at = min(leaving, default=self._rotate_at)
            return bool(leaving)
        for place in old[: len(fresh)]:
            place.outgoing = True
        self._new_epoch(now)
        for member in fresh:
            self._place(member, now)
        return True

    def renewed(self, now: float) -> None:
        """The site's certificate was renewed: appointments that carry the old one end with it, so each is signed anew and told."""
        for place in self._places.values():
            if place.signed is not None and place.stage is not Stage.DRAINING:
                place.signed, place.call_at = None, now

    def burn(self, name: str, now: float) -> bool:
        """A servlet is in the enemy's hands: out of the filter at once, out of the beacons by signed word, never drawn again."""
        self._candidates.burned.add(name)
        self._cut.add(name)
        place = self._places.pop(name, None)
        if place is None:
            return False
        not_after = int(now + MAX_LIFE + SKEW)
        statement = self._signer(Withdrawal(self.site, name, max(self.epoch, place.epoch), not_after))
        self._withdrawals = [*self._withdrawals, (float(not_after), statement)][-MAX_WITHDRAWALS:]
        self._events.append(Moved(name, "burned"))
        self._filter_changed()
        self._call(place.member, "dismiss", Dismiss(self.site, self.epoch))
        self._new_epoch(now)
        self._fill(now)
        return True

    def handle_timeout(self, now: float) -> None:
        """Call who is due, end what has drained, rotate when it is time."""
        self._withdrawals = [(until, signed) for until, signed in self._withdrawals if until > now]
        for place in tuple(self._places.values()):
            if place.end_at is not None and self._look_at(place) <= now:
                self._end_or_wait(place, now)
            elif place.leave_at is not None and place.leave_at <= now:
                self._drain(place, now)
            elif place.call_at is not None and place.call_at <= now and not place.calling:
                self._appoint(place, now)
        if self._rotate_at is not None and self._rotate_at <= now and not self._settling():
            self.rotate(now)
            self._plan_rotation(now)
        self._fill(now)

    def poll_timeout(self) -> float | None:
        """When to call ``handle_timeout``."""
        times = [place.leave_at for place in self._places.values()]
        times += [self._look_at(place) for place in self._places.values() if place.end_at is not None]
        times += [place.call_at for place in self._places.values() if not place.calling]
        if not self._settling():
            times.append(self._rotate_at)
        return min((t for t in times if t is not None), default=None)

    def poll_call(self) -> CallOut | None:
        """The next call to make, until ``None``."""
        return self._calls.popleft() if self._calls else None

    def answered(self, request_id: int, by: Member, answer: msgspec.Struct, now: float) -> None:
        """A servlet took its appointment."""
        place = self._called(request_id)
        if place is None or not isinstance(answer, Appointed) or place.stage is Stage.DRAINING:
            return
        place.failures = 0
        self._candidates.answered(place.member.name)
        carries = answer.ready and answer.beacons > 0
        if carries and place.stage is Stage.APPOINTING and place.epoch == self.epoch:
            self._move(place, Stage.SERVING)
            self._check_superseded(now)
        soon = place.stage is Stage.APPOINTING or place.epoch != self.epoch
        place.call_at = now + (self.config.retry if soon else self.config.heartbeat * (0.75 + self._rng.random() / 2))

    def failed(self, request_id: int, status: int, why: str, now: float) -> None:
        """A servlet did not answer, or refused: after some times it counts as dead, and another one is drawn."""
        place = self._called(request_id)
        if place is None or place.stage is Stage.DRAINING:
            return
        place.failures += 1
        place.call_at = now + self.config.retry * (1 + self._rng.random())
        if place.failures >= self.config.failures:
            self._events.append(Moved(place.member.name, "dead"))
            self._candidates.silent(place.member.name, now)
            self._drain(place, now)
            self._new_epoch(now)
            self._fill(now)
            self._check_superseded(now)

    # Inside
    def _fill(self, now: float) -> None:
        """As many places as wanted."""
        kept = [p for p in self._places.values() if p.stage is not Stage.DRAINING and not p.outgoing]
        missing = self.config.servlets - len(kept)
        if missing <= 0 or not self._candidates.pool:
            return
        drawn = self._draw(missing, now) or ([] if kept else self._draw_beyond())
        for member in drawn:
            self._place(member, now)
        if not self.epoch:
            self._new_epoch(now)
        if self._rotate_at is None:
            self._plan_rotation(now)

    def _draw(self, count: int, now: float, again: Collection[str] = ()) -> list[Member]:
        return self._candidates.draw(count, now, self.config.exposure_max, self._places.keys(), again)

    def _draw_beyond(self) -> list[Member]:
        """For nobody who knows the way in is left."""
        drawn = self._candidates.draw_beyond(self._places.keys()) if self.config.exposure_max else []
        self._events.extend(Moved(member.name, "overexposed") for member in drawn)
        return drawn

    def _place(self, member: Member, now: float) -> None:
        self.exposed.add(member.name)
        self._cut.discard(member.name)
        place = self._places.get(member.name)
        if place is not None:
            # It drains, hence its rule is in the filter still, and stays.
            place.end_at, place.failures, place.call_at = None, 0, now
            self._move(place, Stage.APPOINTING)
        else:
            slots = {p.slot for p in self._places.values()}
            slot = next(n for n in range(len(slots) + 1) if n not in slots)
            self._places[member.name] = _Place(member, slot, self._rng.randrange(1, 1 << 32))
            self._events.append(Moved(member.name, Stage.ADMITTING))
        self._filter_changed()

    def _new_epoch(self, now: float) -> None:
        """All that stay learn it at once; beacons keep those of the old epoch for the overlap."""
        self.epoch = max(self.epoch + 1, int(now))
        for place in self._places.values():
            if place.stage is Stage.SERVING and not place.outgoing:
                place.call_at = now

    def _check_superseded(self, now: float) -> None:
        """All successors serve: those that go may go, after the overlap."""
        current = [p for p in self._places.values() if not p.outgoing and p.stage is not Stage.DRAINING]
        if not current or not all(p.stage is Stage.SERVING for p in current):
            return
        for place in self._places.values():
            if place.outgoing and place.leave_at is None:
                place.leave_at = now + self.config.overlap

    def _drain(self, place: _Place, now: float) -> None:
        self._move(place, Stage.DRAINING)
        place.call_at, place.leave_at, place.outgoing = None, None, False
        place.end_at, place.cut_at = now + self.config.drain, now + max(self.config.drain, self.config.drain_max)
        self._call(place.member, "dismiss", Dismiss(self.site, place.epoch, self.config.drain))
        self._filter_changed()

    def _look_at(self, place: _Place) -> float:
        """When to look whether a drained place still carries: while there is time to prolong its rule in the filter."""
        end = place.end_at or 0.0
        early = place.cut_at > end and self._carried(place.member.name) > 0
        return end - min(LOOK_AHEAD, self.config.drain / 2) if early else end

    def _end_or_wait(self, place: _Place, now: float) -> None:
        """A drained place goes, unless streams are open on it and it may wait for them."""
        name = place.member.name
        carries = self._carried(name) > 0
        if carries and now < place.cut_at:
            place.end_at = min(now + max(self.config.drain, 1.0), place.cut_at)
        else:
            del self._places[name]
            if carries:
                self._cut.add(name)
            # The servlet keeps its end of the way for what is open; now it need not any longer.
            self._call(place.member, "dismiss", Dismiss(self.site, place.epoch))
            self._events.append(Moved(name, "cut" if carries else "gone"))
        self._filter_changed()

    def _appoint(self, place: _Place, now: float) -> None:
        # An outgoing servlet keeps its epoch: in the new one it would advertise itself for as long as the new ones do.
        epoch = place.epoch if place.outgoing else self.epoch
        if place.signed is None or place.epoch != epoch or place.not_after - now < self.config.life / 2:
            place.epoch, place.not_after = epoch, now + min(self.config.life, MAX_LIFE - SKEW)
            member = place.member
            # Backdated by the skew that receivers grant, so that it holds at once everywhere.
            times = (int(now - SKEW), int(place.not_after))
            place.signed = self._signer(Appointment(self.site, member.name, member.ring_id, epoch, *times))
        delivery = self._deliver(place.member, place.key, place.slot)
        body = Appoint(place.signed, delivery, tuple(signed for _, signed in self._withdrawals))
        place.calling = True
        self._pending[self._call(place.member, "appoint", body)] = place.member.name

    def _called(self, request_id: int) -> _Place | None:
        place = self._places.get(self._pending.pop(request_id, ""))
        if place is not None:
            place.calling = False
        return place

    def _settling(self) -> bool:
        """Whether servlets are on their way in."""
        return any(place.stage in {Stage.ADMITTING, Stage.APPOINTING} for place in self._places.values())

    def _plan_rotation(self, now: float) -> None:
        every = self.config.rotate_every
        self._rotate_at = None if every is None else now + every * (0.75 + self._rng.random() / 2)

    def _move(self, place: _Place, stage: Stage) -> None:
        place.stage = stage
        self._events.append(Moved(place.member.name, stage))

    def _filter_changed(self) -> None:
        self.filter_version += 1

    def _call(self, to: Member, method: str, body: msgspec.Struct) -> int:
        self._next_id += 1
        self._calls.append(CallOut(self._next_id, to, None, method, body))
        return self._next_id
