"""``Directory``: what every node knows of every site, and who is revoked. Self-verifying signed records, spread by gossip.

A record is news if its signature holds and its epoch is higher than the one held; news is pushed to a few peers at once, and
every ``sync_every`` seconds the whole is compared with one peer by a digest (anti-entropy): what a push missed arrives too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import msgspec

from polder.model import Kind, Member, Refused, RevocationList, Signed, SiteRecord, SpiffeId, Verdict, Verifier
from polder.model.overlay_messages import Caller, Held, Sync, Synced
from polder.overlay.calls import CallOut
from polder.overlay.checks import MAX_LIFE, check_signer

REVOCATIONS = "revocations"
SITE = "site/"
FANOUT = 3
SYNC_EVERY = 10.0
MAX_ANSWER = 512 * 1024
"""Bytes of records in one answer: half of what a control call may carry."""
MAX_SITES = 16_384
MAX_HOSTS = 256
MAX_RULES = 4096
MAX_RECORD_LIFE = 31 * MAX_LIFE

_EITHER = msgspec.msgpack.Decoder(SiteRecord | RevocationList)

HostsOf = Callable[[Signed, float], Iterable[str]]
"""DNS names in the certificate that signed; called after the signature was verified."""


@dataclass(frozen=True, slots=True)
class _Record:
    signed: Signed
    rank: int
    value: SiteRecord | RevocationList


def rank(value: SiteRecord | RevocationList) -> int:
    """What must grow. A revocation list of the same epoch, issued later, is news too: it says that nobody else was revoked."""
    return value.epoch << 34 | value.issued_at if isinstance(value, RevocationList) else value.epoch


class Directory:
    """``now`` in Unix seconds; ``authorities``: who may sign revocation lists."""

    def __init__(
        self,
        verifier: Verifier,
        hosts_of: HostsOf,
        authorities: frozenset[SpiffeId],
        rng: Random,
        *,
        sync_every: float = SYNC_EVERY,
        gossips: bool = True,
    ) -> None:
        self._verifier = verifier
        self._hosts_of = hosts_of
        self._authorities = authorities
        self._rng = rng
        self._every = sync_every
        self._records: dict[str, _Record] = {}
        self._owner_of: dict[str, str] = {}
        self._peers: Sequence[Member] = ()
        self._calls: deque[CallOut] = deque()
        self._pending: dict[int, Member] = {}
        self._next_id = 0
        self._sync_at: float | None = 0.0 if gossips else None
        self._changed = False

    # What is known

    def site(self, name: str) -> SiteRecord | None:
        """The record of a site."""
        record = self._records.get(SITE + name)
        return record.value if record and isinstance(record.value, SiteRecord) else None

    def sites(self) -> Mapping[str, SiteRecord]:
        """All records of sites by name."""
        return {r.value.site: r.value for r in self._records.values() if isinstance(r.value, SiteRecord)}

    def revocations(self) -> RevocationList | None:
        """The list in force."""
        record = self._records.get(REVOCATIONS)
        return record.value if record and isinstance(record.value, RevocationList) else None

    def signed(self) -> tuple[Signed, ...]:
        """Everything, to be kept over a restart."""
        return tuple(record.signed for record in self._records.values())

    def take_change(self) -> bool:
        """Whether something became known or fell out since the last call."""
        changed, self._changed = self._changed, False
        return changed

    # News

    def offer(self, signed: Signed, now: float, *, source: str = "", push: bool = True) -> bool:
        """Take a record, and pass it on (``push``) to others than ``source``; whether it was news.

        Raises ``Refused``: forged, foreign, malformed, expired, or claiming a host of others.
        """
        value = self._open(signed)
        name = REVOCATIONS if isinstance(value, RevocationList) else SITE + value.site
        held = self._records.get(name)
        if held is not None and rank(value) <= held.rank:
            return False
        if isinstance(value, RevocationList):
            self._check_revocations(signed, value, now)
        else:
            self._check_site(signed, value, now)
        self._keep(name, _Record(signed, rank(value), value))
        if push:
            self._push(signed, source)
        return True

    def recheck(self, now: float) -> None:
        """Revocations or roots changed: drop what would not be believed any more."""
        for name, record in tuple(self._records.items()):
            if name == REVOCATIONS:
                continue
            try:
                self._verifier(record.signed, now)
            except Refused:
                self._forget(name)

    # Gossip

    def set_peers(self, peers: Sequence[Member]) -> None:
        """With whom to gossip. The first of them is asked at once: a node that knows no site yet refuses everybody."""
        if peers and not self._peers and self._sync_at is not None:
            self._sync_at = 0.0
        self._peers = peers

    def sync(self, body: Sync, caller: Caller, now: float) -> Synced:
        """A peer, or a site that publishes itself, brings and asks. A record that is refused does not harm the others."""
        refusals = []
        for signed in body.records:
            try:
                self.offer(signed, now, source=caller.name)
            except Refused as refused:
                refusals.append(refused)
        if refusals and len(refusals) == len(body.records):
            raise refusals[0]
        if body.held is None:
            return Synced(())
        theirs = {held.name: held.epoch for held in body.held}
        lacking = [name for name in self._visible(caller) if self._records[name].rank > theirs.get(name, -1)]
        wanted = [name for name, epoch in theirs.items() if self._is_news(name, epoch)] if caller.kind is Kind.NODE else []
        records, more = self._fill(lacking)
        return Synced(records, tuple(wanted), more)

    def handle_timeout(self, now: float) -> None:
        """Drop expired records; compare with somebody."""
        for name, record in tuple(self._records.items()):
            if isinstance(record.value, SiteRecord) and record.value.not_after <= now:
                self._forget(name)
        if self._sync_at is not None and self._sync_at <= now:
            self._sync_at = now + self._every * (0.75 + self._rng.random() / 2)
            if self._peers:
                self._ask(self._rng.choice(self._peers))

    def poll_timeout(self) -> float | None:
        """When to call ``handle_timeout``."""
        return self._sync_at

    def poll_call(self) -> CallOut | None:
        """The next call to make, until ``None``."""
        return self._calls.popleft() if self._calls else None

    def answered(self, request_id: int, by: Member, answer: Synced, now: float) -> list[Refused]:
        """A peer's answer; what it brought that was refused, for the log."""
        peer = self._pending.pop(request_id, None)
        refusals = []
        for signed in answer.records:
            try:
                self.offer(signed, now, source=by.name)
            except Refused as refused:
                refusals.append(refused)
        if peer is not None and answer.wanted:
            records, _ = self._fill([name for name in answer.wanted if name in self._records])
            self._call(peer, Sync(None, records))
        if peer is not None and answer.more and not refusals:
            self._ask(peer)
        return refusals

    def failed(self, request_id: int, status: int, why: str, now: float) -> None:
        """No good answer: the next round asks another one."""
        self._pending.pop(request_id, None)

    # Inside

    @staticmethod
    def _open(signed: Signed) -> SiteRecord | RevocationList:
        try:
            value: SiteRecord | RevocationList = _EITHER.decode(signed.payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refused(Verdict.MALFORMED, f"neither a site's record nor a revocation list: {error}") from error
        return value

    def _check_revocations(self, signed: Signed, value: RevocationList, now: float) -> None:
        who = self._verifier(signed, now)
        if who not in self._authorities:
            raise Refused(Verdict.WRONG_HOLDER, f"a revocation list signed by {who}; only the authority may")

    def _check_site(self, signed: Signed, value: SiteRecord, now: float) -> None:
        if value.not_after <= now:
            raise Refused(Verdict.EXPIRED, f"the record of site {value.site} has ended")
        if value.not_after > now + MAX_RECORD_LIFE or len(value.hosts) > MAX_HOSTS:
            raise Refused(Verdict.MALFORMED, f"the record of site {value.site} lives too long, or has too many hosts")
        if len(value.allow) + len(value.deny) > MAX_RULES or not all(0 < port < 65536 for port in value.ports):
            raise Refused(Verdict.MALFORMED, f"the record of site {value.site} has too many rules, or ports that are none")
        check_signer(signed, value.site, self._verifier, now)
        granted = {host.lower() for host in self._hosts_of(signed, now)}
        for host in value.hosts:
            if host.lower() not in granted:
                raise Refused(Verdict.DENIED, f"site {value.site} claims {host}, which its certificate does not name")
            if self._owner_of.get(host.lower(), value.site) != value.site:
                raise Refused(Verdict.DENIED, f"{host} belongs to site {self._owner_of[host.lower()]}, not to {value.site}")
        if SITE + value.site not in self._records and len(self._records) >= MAX_SITES:
            raise Refused(Verdict.BUSY, f"the directory holds {MAX_SITES} sites already", retry=True)

    def _keep(self, name: str, record: _Record) -> None:
        held = self._records.get(name)
        # A list of the same epoch, issued later, says nothing new about anybody.
        same = held is not None and isinstance(held.value, RevocationList) and held.value.epoch == record.value.epoch
        changed = self._changed or not same
        self._forget(name)
        self._records[name] = record
        if isinstance(record.value, SiteRecord):
            self._owner_of.update((host.lower(), record.value.site) for host in record.value.hosts)
        self._changed = changed

    def _forget(self, name: str) -> None:
        record = self._records.pop(name, None)
        if record is not None and isinstance(record.value, SiteRecord):
            for host in record.value.hosts:
                self._owner_of.pop(host.lower(), None)
        self._changed = self._changed or record is not None

    def _visible(self, caller: Caller) -> list[str]:
        """Nodes see all; a site or a user sees itself and the revocation list: access rules of others are not theirs to know."""
        if caller.kind in {Kind.NODE, Kind.ADMIN}:
            return list(self._records)
        return [name for name in self._records if name in {REVOCATIONS, SITE + caller.name}]

    def _is_news(self, name: str, epoch: int) -> bool:
        held = self._records.get(name)
        return (name == REVOCATIONS or name.startswith(SITE)) and (held is None or held.rank < epoch)

    def _fill(self, names: Iterable[str]) -> tuple[tuple[Signed, ...], bool]:
        room = MAX_ANSWER
        records: list[Signed] = []
        for name in sorted(names, key=lambda name: name != REVOCATIONS):
            signed = self._records[name].signed
            room -= len(signed.payload) + len(signed.signature) + sum(map(len, signed.chain)) + 32
            if room < 0 and records:
                return tuple(records), True
            records.append(signed)
        return tuple(records), False

    def _ask(self, peer: Member) -> None:
        held = tuple(Held(name, record.rank) for name, record in self._records.items())
        self._pending[self._call(peer, Sync(held))] = peer

    def _push(self, signed: Signed, source: str) -> None:
        peers = [peer for peer in self._peers if peer.name != source]
        for peer in self._rng.sample(peers, min(FANOUT, len(peers))):
            self._call(peer, Sync(None, (signed,)))

    def _call(self, to: Member, body: Sync) -> int:
        self._next_id += 1
        self._calls.append(CallOut(self._next_id, to, None, "sync", body))
        return self._next_id
