"""``BeaconTable``: the role of a beacon. Which servlets carry to which sites, by what the sites signed, as soft state (trap 6).

What lets a burned servlet stay out (trap 5): a servlet can only advertise itself, only with the site's signed appointment, only
while no higher epoch of that site has been seen, and not after the site's signed withdrawal. Epochs are remembered for as long as
an old appointment could be valid, also when no servlet is left.

When a higher epoch appears, servlets of the older one are kept, behind the new ones, for one period and a half: that is the
overlap which a rotation needs (trap 3). They cannot prolong it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random

from polder.model import Appointment, Kind, Member, Refused, Signed, Verdict, Verifier
from polder.model.overlay_messages import (
    Advertise,
    Advertised,
    Caller,
    Done,
    ServletsAnswer,
    ServletsQuery,
    Withdraw,
)
from polder.overlay.checks import MAX_LIFE, check_servlet, check_signer, check_times, open_withdrawal, opened
from polder.overlay.secrets import EpochSecrets

PERIOD = 10.0
"""Seconds between a servlet's advertisements, before jitter."""

PERIODS = 3
"""An entry lives this many periods: two lost in a row are survived (trap 6)."""

GRACE = 1.5 * PERIOD
"""Seconds for which servlets of an older epoch stay beside newer ones: one period and its jitter, and the message's way."""

DIRECT_TTL = 30.0
"""Seconds for which an access point in mode ``direct`` may know a servlet (trap 2): as long as the entry itself would live."""

HEIRS = 1
"""Nodes behind each beacon that are told too. B beacons and one heir of each are B + 1 different nodes at least: B of them may die
at one moment."""

MAX_HEIRS = 8

MAX_SITES = 16_384
MAX_SERVLETS = 32
MAX_WITHDRAWALS = 32


@dataclass(slots=True)
class _Entry:
    member: Member
    epoch: int
    not_after: float
    expires: float
    order: float


@dataclass(slots=True)
class _Site:
    """``forget_at``: until then the highest epoch must be remembered. ``withdrawn``: servlet → (epoch, until when)."""

    epoch: int = 0
    forget_at: float = 0.0
    entries: dict[str, _Entry] = field(default_factory=dict)
    withdrawn: dict[str, tuple[int, float]] = field(default_factory=dict)


BeaconImage = dict[str, _Site]
"""A beacon's table, for the process that takes its place."""


class BeaconTable:
    """``owns``: whether this node owns a ring key now (``Router.owns``). ``heirs``: the nodes behind this one that servlets are to
    tell too. ``now`` in Unix seconds.
    """

    def __init__(
        self,
        verifier: Verifier,
        secrets: EpochSecrets,
        owns: Callable[[int], bool],
        rng: Random,
        *,
        heirs: Callable[[], tuple[Member, ...]] = tuple,
        period: float = PERIOD,
    ) -> None:
        self.lifetime = PERIODS * period
        self._heirs = heirs
        self.grace = 1.5 * period
        self._verifier = verifier
        self._secrets = secrets
        self._owns = owns
        self._rng = rng
        self._sites: dict[str, _Site] = {}
        self._changed = False

    # Calls

    def advertise(self, body: Advertise, caller: Caller, now: float) -> Advertised:
        """A servlet advertises itself. Raises ``Refused``: forged, replayed, expired, another's, or not for this beacon."""
        if not caller.is_member(body.member):
            raise Refused(Verdict.WRONG_HOLDER, f"{caller.kind} {caller.name} advertised another node than itself")
        appointment = opened(body.appointment, Appointment)
        check_servlet(appointment, caller.name, caller.ring_id)
        check_times(appointment, now)
        self._check_place(appointment.site, body, now)
        site = self._sites.get(appointment.site)
        self._check_fresh(site, appointment.site, caller.name, appointment.epoch, appointment.not_after)
        check_signer(body.appointment, appointment.site, self._verifier, now)
        # Only now, after the signature, may anything be remembered: forged high epochs would lock the site out.
        site = site or self._new_site(appointment.site)
        for statement in body.withdrawals[:MAX_WITHDRAWALS]:
            self._withdraw_signed(site, appointment.site, statement, now)
        self._check_fresh(site, appointment.site, caller.name, appointment.epoch, appointment.not_after)
        if appointment.epoch > site.epoch:
            site.epoch = appointment.epoch
            for entry in site.entries.values():
                entry.expires = min(entry.expires, now + self.grace)
        site.forget_at = max(site.forget_at, now + MAX_LIFE)
        self._keep(site, body.member, appointment.epoch, float(appointment.not_after), now)
        return Advertised(min(self.lifetime, appointment.not_after - now), () if body.heir else self._heirs()[:MAX_HEIRS])

    def withdraw(self, body: Withdraw, caller: Caller, now: float) -> Done:
        """A servlet takes itself off, or brings the site's signed word about another one. Raises ``Refused``."""
        site = self._sites.get(body.site)
        if body.statement is not None:
            site = site or self._new_site(body.site, keep=False)
            self._withdraw_signed(site, body.site, body.statement, now)
            self._sites[body.site] = site
        elif site is not None and caller.kind is Kind.NODE:
            entry = site.entries.get(caller.name)
            if entry is not None and entry.member.ring_id == caller.ring_id and entry.epoch <= body.epoch:
                del site.entries[caller.name]
                self._changed = True
        return Done()

    def query(self, body: ServletsQuery, caller: Caller, now: float) -> ServletsAnswer:
        """An access point in mode ``direct`` asks for the servlets. Raises ``Refused``."""
        if caller.kind is not Kind.NODE:
            raise Refused(Verdict.DENIED, f"{caller.kind} {caller.name}: only nodes may learn servlets")
        site = self._sites.get(body.site)
        live = [entry for entry in self._in_order(site) if entry.expires > now] if site else []
        if not live:
            raise Refused(Verdict.UNKNOWN, f"no servlet of {body.site} has advertised here", retry=True)
        ttl = min(DIRECT_TTL, max(entry.expires for entry in live) - now)
        return ServletsAnswer(tuple(entry.member for entry in live), ttl)

    # State

    def entries(self, now: float) -> Mapping[str, tuple[Member, ...]]:
        """Site → servlets, newest epoch first."""
        live = {
            name: tuple(entry.member for entry in self._in_order(site) if entry.expires > now)
            for name, site in self._sites.items()
        }
        return {name: members for name, members in live.items() if members}

    def image(self) -> BeaconImage:
        """What the process that takes this one's place goes on with."""
        return self._sites

    def resume(self, image: BeaconImage) -> None:
        """Go on with an ``image``: what the sites signed was checked by who made it."""
        self._sites = image
        self._changed = True

    def take_change(self) -> bool:
        """Whether ``entries`` changed since the last call."""
        changed, self._changed = self._changed, False
        return changed

    def poll_timeout(self) -> float | None:
        """When ``handle_timeout`` has something to do."""
        expiries = [entry.expires for site in self._sites.values() for entry in site.entries.values()]
        idle = [site.forget_at for site in self._sites.values() if not site.entries]
        return min(expiries + idle, default=None)

    def handle_timeout(self, now: float) -> None:
        """Drop what has had its time."""
        for name, site in tuple(self._sites.items()):
            for servlet in [s for s, entry in site.entries.items() if entry.expires <= now]:
                del site.entries[servlet]
                self._changed = True
            if not site.entries and site.forget_at <= now:
                del self._sites[name]

    # Checks and changes

    def _check_place(self, site: str, body: Advertise, now: float) -> None:
        """An heir takes the owner's word for its place: who is told only knows what the site has signed."""
        secret = next((s for s in self._secrets.in_force(now) if s.epoch == body.key_epoch), None)
        if secret is None:
            raise Refused(Verdict.UNKNOWN, f"epoch {body.key_epoch} of the beacon keys is not in force here", retry=True)
        if body.ring_key not in self._secrets.all_keys(secret, site):
            raise Refused(Verdict.WRONG_PLACE, f"that is not a beacon key of {site}")
        if not body.heir and not self._owns(int.from_bytes(body.ring_key, "big")):
            raise Refused(Verdict.WRONG_PLACE, "this node does not own that beacon key: look it up again", retry=True)

    @staticmethod
    def _check_fresh(site: _Site | None, name: str, servlet: str, epoch: int, not_after: float) -> None:
        if site is None:
            return
        withdrawn, _ = site.withdrawn.get(servlet, (0, 0.0))
        if epoch <= withdrawn:
            raise Refused(Verdict.REVOKED, f"{name} has withdrawn this servlet in epoch {withdrawn}")
        held = site.entries.get(servlet)
        if epoch < site.epoch:
            # A servlet that a rotation leaves behind says what it said before until it is dismissed: in good faith, so not by name.
            outgoing = held is not None and held.epoch == epoch
            raise Refused(Verdict.REPLAYED, f"epoch {epoch} of {name} is over: {site.epoch} was seen", retry=outgoing)
        if held is not None and epoch == held.epoch and not_after < held.not_after:
            raise Refused(Verdict.REPLAYED, f"an older appointment of {name} than the one held")

    def _withdraw_signed(self, site: _Site, name: str, statement: Signed, now: float) -> None:
        withdrawal = open_withdrawal(statement, name, self._verifier, now)
        known, _ = site.withdrawn.get(withdrawal.servlet, (0, 0.0))
        if withdrawal.epoch > known:
            site.withdrawn[withdrawal.servlet] = (withdrawal.epoch, float(withdrawal.not_after))
            site.forget_at = max(site.forget_at, float(withdrawal.not_after))
        site.withdrawn = {s: (e, until) for s, (e, until) in site.withdrawn.items() if until > now}
        entry = site.entries.get(withdrawal.servlet)
        if entry is not None and entry.epoch <= withdrawal.epoch:
            del site.entries[withdrawal.servlet]
            self._changed = True

    def _keep(self, site: _Site, member: Member, epoch: int, not_after: float, now: float) -> None:
        expires = min(now + self.lifetime, not_after)
        held = site.entries.get(member.name)
        if held is None and len(site.entries) >= MAX_SERVLETS:
            raise Refused(Verdict.BUSY, f"{MAX_SERVLETS} servlets are known already", retry=True)
        if held is None or held.member != member or held.epoch != epoch:
            self._changed = True
        order = held.order if held else self._rng.random()
        site.entries[member.name] = _Entry(member, epoch, not_after, expires, order)

    def _new_site(self, name: str, keep: bool = True) -> _Site:
        if len(self._sites) >= MAX_SITES:
            raise Refused(Verdict.BUSY, f"this beacon holds {MAX_SITES} sites already", retry=True)
        site = _Site()
        if keep:
            self._sites[name] = site
        return site

    @staticmethod
    def _in_order(site: _Site) -> list[_Entry]:
        return sorted(site.entries.values(), key=lambda entry: (-entry.epoch, entry.order))
