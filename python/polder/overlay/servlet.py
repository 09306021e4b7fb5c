"""``ServletRole``: the role of a secret servlet. Sites appoint it; it tells the sites' beacons, and only them, and carries.

Life of an appointment here:

    appoint ─▶ held ──ready──▶ advertising, every period to every beacon key ──dismiss / not_after──▶ draining ─▶ standing
                 (the shell has made the tunnel,                              (withdrawn from the beacons; new
                  or the site has dialled in)                                  streams still reach the site)

``standing``: no new streams; the tunnel stands for those that are open, until the site says that there are none.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

import msgspec

from polder.model import Appointment, Member, Refused, Signed, Verdict, Verifier
from polder.model.overlay_messages import (
    Advertise,
    Advertised,
    Appoint,
    Appointed,
    Caller,
    Delivery,
    Dismiss,
    Done,
    Transport,
    Withdraw,
)
from polder.overlay.beacon import MAX_HEIRS, MAX_WITHDRAWALS, PERIOD
from polder.overlay.calls import CallOut
from polder.overlay.checks import check_servlet, check_signer, check_site, check_times, opened
from polder.overlay.secrets import EpochSecrets, enough

MAX_APPOINTMENTS = 4096
MAX_DRAIN = 3600.0
RETRY = 1.5
"""Seconds before an advertisement that failed is tried again: a beacon's successor takes over within a few stabilisations."""

Slot = tuple[int, bytes]
"""Epoch of the beacon keys, and one of the keys."""


@dataclass(slots=True)
class _Holding:
    appointment: Appointment
    signed: Signed
    delivery: Delivery
    withdrawals: tuple[Signed, ...] = ()
    ready: bool = False
    gone_at: float | None = None
    drained: bool = False
    """Whether it goes in good order, with time for what is open."""
    due: dict[Slot, float] = field(default_factory=dict)
    taken: dict[Slot, tuple[Member, int, float]] = field(default_factory=dict)
    """Who took the advertisement, of which epoch, until when it lives there."""
    heirs: dict[bytes, tuple[Member, int, float]] = field(default_factory=dict)
    """The same of beacons' heirs, by ring id."""


ServletImage = dict[str, _Holding]
"""A servlet's appointments, for the process that takes its place."""


class ServletRole:
    """One node's appointments.

    ``now`` in Unix seconds; ``local_origins``: deliveries may go to this machine itself and its neighbours (laboratory).
    """

    def __init__(
        self,
        me: Member,
        verifier: Verifier,
        secrets: EpochSecrets,
        rng: Random,
        *,
        period: float = PERIOD,
        local_origins: bool = False,
    ) -> None:
        self.me = me
        self._verifier = verifier
        self._secrets = secrets
        self._rng = rng
        self._period = period
        self._local_origins = local_origins
        self._held: dict[str, _Holding] = {}
        self._standing: dict[str, tuple[Delivery, int, float]] = {}
        self._calls: deque[CallOut] = deque()
        self._pending: dict[int, tuple[str, Slot, int]] = {}
        self._telling: dict[int, tuple[str, int]] = {}
        self._next_id = 0
        self._changed = False

    # Calls of sites

    def appoint(self, body: Appoint, caller: Caller, now: float) -> Appointed:
        """A site appoints this node, or says so again. Raises ``Refused``."""
        appointment = opened(body.appointment, Appointment)
        check_site(caller, appointment.site)
        check_servlet(appointment, self.me.name, self.me.ring_id)
        check_times(appointment, now)
        held = self._held.get(appointment.site)
        if held is not None and (appointment.epoch, appointment.not_after) < (held.appointment.epoch, held.appointment.not_after):
            raise Refused(Verdict.REPLAYED, f"a newer appointment of {appointment.site} is held already")
        if held is None or held.signed != body.appointment:
            self._check_delivery(body.delivery)
            check_signer(body.appointment, appointment.site, self._verifier, now)
            if held is None and len(self._held) >= MAX_APPOINTMENTS:
                raise Refused(Verdict.BUSY, f"this node carries {MAX_APPOINTMENTS} sites already", retry=True)
        held = self._hold(held, appointment, body, now)
        return Appointed(held.ready, self._beacons(held, now))

    def dismiss(self, body: Dismiss, caller: Caller, now: float) -> Done:
        """A site takes its appointment back. Raises ``Refused``."""
        check_site(caller, body.site)
        held = self._held.get(body.site)
        if held is not None and held.appointment.epoch <= body.epoch:
            self._end(held, now, max(0.0, min(body.drain, MAX_DRAIN)))
        if body.drain <= 0 and self._standing.get(body.site, (None, body.epoch + 1))[1] <= body.epoch:
            del self._standing[body.site]
            self._changed = True
        return Done()

    # What the shell tells and asks

    def set_ready(self, site: str, ready: bool, now: float) -> None:
        """The way to ``site`` stands (tunnel made, or the site's agent dialled in), or fell."""
        held = self._held.get(site)
        if held is None or held.ready == ready:
            return
        held.ready = ready
        self._changed = True
        if ready:
            held.due = dict.fromkeys(held.due, now)
            self._schedule(held, now)
        else:
            self._withdraw(held)

    def unreachable(self, name: str, now: float) -> None:
        """A link to a node failed: if it was a beacon, somebody else is one now, and is told soon."""
        for held in self._held.values():
            for slot, (by, _, _) in held.taken.items():
                if by.name == name and slot in held.due:
                    held.due[slot] = min(held.due[slot], now + RETRY / 2 * self._rng.random())

    def deliveries(self) -> Mapping[str, Delivery]:
        """Site → how to reach it; with those that drain."""
        return {site: held.delivery for site, held in self._held.items()}

    def standing(self) -> Mapping[str, Delivery]:
        """Site → the way that must stand: those of ``deliveries``, and those on which old streams may still be open."""
        return {site: delivery for site, (delivery, _, _) in self._standing.items()} | dict(self.deliveries())

    def ready(self) -> frozenset[str]:
        """Sites to which this servlet can carry now."""
        return frozenset(site for site, held in self._held.items() if held.ready)

    def leave(self) -> None:
        """This node is going: take it off the beacons, so that nobody is sent here any more."""
        for held in self._held.values():
            self._withdraw(held)

    def image(self) -> ServletImage:
        """What the process that takes this one's place goes on with."""
        return self._held

    def resume(self, image: ServletImage) -> None:
        """Go on with an ``image``; ways that were ready stay so until the shell says otherwise."""
        self._held = image
        self._changed = True

    def take_change(self) -> bool:
        """Whether ``deliveries`` or ``ready`` changed since the last call."""
        changed, self._changed = self._changed, False
        return changed

    # Time and calls to beacons

    def handle_timeout(self, now: float) -> None:
        """Advertise what is due, end what has had its time."""
        for site, (_, _, until) in tuple(self._standing.items()):
            if until <= now:
                del self._standing[site]
                self._changed = True
        for site, held in tuple(self._held.items()):
            if held.gone_at is None and now >= held.appointment.not_after:
                self._end(held, now, 0.0)
            if held.gone_at is not None and held.gone_at <= now:
                del self._held[site]
                if held.drained:
                    self._standing[site] = (held.delivery, held.appointment.epoch, now + MAX_DRAIN)
                self._changed = True
                continue
            self._schedule(held, now)
            for slot, due in held.due.items():
                if due <= now:
                    self._advertise(site, held, slot, now)

    def poll_timeout(self) -> float | None:
        """When to call ``handle_timeout``. A change of the key epoch is seen at the next advertisement, well within its lead."""
        times = [due for held in self._held.values() if held.ready and held.gone_at is None for due in held.due.values()]
        times += [held.appointment.not_after if held.gone_at is None else held.gone_at for held in self._held.values()]
        times += [until for _, _, until in self._standing.values()]
        return min(times, default=None)

    def poll_call(self) -> CallOut | None:
        """The next call to make, until ``None``."""
        return self._calls.popleft() if self._calls else None

    def answered(self, request_id: int, by: Member, answer: msgspec.Struct, now: float) -> None:
        """A beacon took it, or an heir."""
        if request_id in self._telling:
            self._told(request_id, by, answer, now)
            return
        site, slot, epoch = self._pending.pop(request_id, ("", (0, b""), 0))
        held = self._held.get(site)
        if held is None or not isinstance(answer, Advertised):
            return
        before = held.taken.get(slot)
        held.taken[slot] = (by, epoch, now + answer.lifetime)
        self._schedule(held, now)
        if held.gone_at is not None or not held.ready or epoch < held.appointment.epoch:
            self._call(by, None, "withdraw", Withdraw(site, epoch))
            return
        if before is not None and before[0].ring_id not in {taken[0].ring_id for taken in held.taken.values()}:
            # The key has a new owner. The old one, if it lives, should not send people here for longer than it must.
            self._call(before[0], None, "withdraw", Withdraw(site, epoch))
        self._tell_heirs(held, slot, answer.heirs)

    def failed(self, request_id: int, status: int, why: str, now: float) -> None:
        """A beacon did not, or would not: soon again, while the other beacons serve."""
        self._telling.pop(request_id, None)
        site, slot, _ = self._pending.pop(request_id, ("", (0, b""), 0))
        held = self._held.get(site)
        if held is not None and slot in held.due:
            held.due[slot] = min(held.due[slot], now + RETRY * (0.5 + self._rng.random()))

    # Inside

    def _hold(self, held: _Holding | None, appointment: Appointment, body: Appoint, now: float) -> _Holding:
        if held is None:
            held = self._held[appointment.site] = _Holding(appointment, body.appointment, body.delivery)
            self._changed = True
        newer = appointment.epoch > held.appointment.epoch or held.gone_at is not None
        if held.delivery != body.delivery:
            # Another tunnel than the one that stands: the shell says when it is ready.
            held.ready = False
            self._withdraw(held)
            self._changed = True
        held.appointment, held.signed, held.delivery = appointment, body.appointment, body.delivery
        if newer or body.withdrawals != held.withdrawals:
            held.due = dict.fromkeys(held.due, now)
        held.withdrawals = body.withdrawals[:MAX_WITHDRAWALS]
        held.gone_at = None
        self._standing.pop(appointment.site, None)
        self._schedule(held, now)
        return held

    def _end(self, held: _Holding, now: float, drain: float) -> None:
        held.gone_at = min(held.gone_at or now + drain, now + drain)
        held.drained = drain > 0
        self._withdraw(held)

    def _withdraw(self, held: _Holding) -> None:
        for by, epoch, _ in (*held.taken.values(), *held.heirs.values()):
            self._call(by, None, "withdraw", Withdraw(held.appointment.site, epoch))
        held.taken.clear()
        held.heirs.clear()

    def _schedule(self, held: _Holding, now: float) -> None:
        """One due time for each beacon key that counts now."""
        held.taken = {slot: taken for slot, taken in held.taken.items() if taken[2] > now}
        held.heirs = {ring_id: taken for ring_id, taken in held.heirs.items() if taken[2] > now}
        slots: list[Slot] = []
        for secret in self._secrets.in_force(now):
            keys = [(secret.epoch, key) for key in self._secrets.all_keys(secret, held.appointment.site)]
            owners = [held.taken[slot][0].ring_id if slot in held.taken else None for slot in keys]
            slots += keys[: enough(owners, self._secrets.count)]
        held.due = {slot: held.due.get(slot, now) for slot in slots}

    def _advertise(self, site: str, held: _Holding, slot: Slot, now: float) -> None:
        if not held.ready or held.gone_at is not None or now < held.appointment.not_before:
            return
        held.due[slot] = now + self._period * (0.75 + self._rng.random() / 2)
        key_epoch, key = slot
        body = Advertise(held.signed, self.me, key, key_epoch, held.withdrawals)
        request = self._call(None, int.from_bytes(key, "big"), "advertise", body)
        self._pending[request] = (site, slot, held.appointment.epoch)

    def _tell_heirs(self, held: _Holding, slot: Slot, heirs: tuple[Member, ...]) -> None:
        """A beacon may die at any moment: whoever owns its key then knows already."""
        key_epoch, key = slot
        owners = {by.ring_id for by, _, _ in held.taken.values()}
        for heir in heirs[:MAX_HEIRS]:
            if heir.ring_id not in owners:
                body = Advertise(held.signed, self.me, key, key_epoch, held.withdrawals, heir=True)
                request = self._call(heir, None, "advertise", body)
                self._telling[request] = (held.appointment.site, held.appointment.epoch)

    def _told(self, request_id: int, by: Member, answer: msgspec.Struct, now: float) -> None:
        site, epoch = self._telling.pop(request_id)
        held = self._held.get(site)
        if held is None or not isinstance(answer, Advertised):
            return
        if held.gone_at is not None or not held.ready or epoch < held.appointment.epoch:
            self._call(by, None, "withdraw", Withdraw(site, epoch))
        else:
            held.heirs[by.ring_id] = (by, epoch, now + answer.lifetime)

    def _call(self, to: Member | None, ring_key: int | None, method: str, body: msgspec.Struct) -> int:
        self._next_id += 1
        self._calls.append(CallOut(self._next_id, to, ring_key, method, body))
        return self._next_id

    @staticmethod
    def _beacons(held: _Holding, now: float) -> int:
        taken = held.taken.values()
        return len({by.ring_id for by, epoch, until in taken if epoch == held.appointment.epoch and until > now})

    def _check_delivery(self, delivery: Delivery) -> None:
        """A site may not use its servlet to reach the servlet's own machine or neighbours (trap 12)."""
        if any(not (0 < asked < 65536 and 0 < inner < 65536) for asked, inner in delivery.ports):
            raise Refused(Verdict.MALFORMED, "ports of a delivery are 1 to 65535")
        if delivery.transport is Transport.DIALOUT:
            return
        try:
            inner = ipaddress.ip_address(delivery.inner_remote)
            outer = ipaddress.ip_address(delivery.outer_remote) if delivery.transport is Transport.GRE else inner
        except ValueError as error:
            raise Refused(Verdict.MALFORMED, f"the delivery has no usable address: {error}") from error
        for address in (inner, outer):
            reserved = address.is_reserved and not address.is_loopback
            if address.is_unspecified or address.is_multicast or address.is_link_local or reserved:
                raise Refused(Verdict.DENIED, f"{address} is not an address to which a servlet carries")
        # Inside a GRE tunnel private addresses are the rule; on open ground they would be the servlet's own neighbours.
        near = inner.is_loopback or outer.is_loopback or (delivery.transport is Transport.TCP and inner.is_private)
        if near and not self._local_origins:
            raise Refused(Verdict.DENIED, f"{inner} is inside of the servlet's own network: use transport dialout or gre")
        if not 0 <= delivery.key < 1 << 32:
            raise Refused(Verdict.MALFORMED, "a GRE key has 32 bits")
