"""``fold``: all verdicts of one shell become one immutable snapshot for its data plane."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from polder.model import Member, RevocationList, Rule, SiteRecord
from polder.snapshot.schema import (
    BeaconEntry,
    Forwarder,
    IdentityMaterial,
    Limits,
    Peer,
    Revocations,
    RingRoute,
    ServletEntry,
    Site,
    Snapshot,
    Spread,
    Tell,
    Told,
    Tracing,
)


@dataclass(frozen=True)
class SiteView:
    """A registered site and the ways to it that this node knows."""

    record: SiteRecord
    beacons: tuple[Member, ...] = ()
    servlets: tuple[Member, ...] = ()
    ring: tuple[tuple[int, Member | None, tuple[Member, ...]], ...] = ()
    """Key index, next hop (``None``: this node owns the key), alternatives."""


@dataclass(frozen=True)
class TcpDelivery:
    """TCP to ``address`` (bound to ``bind``); ``ports`` maps asked port to port there."""

    address: str
    bind: str | None
    ports: tuple[tuple[int, int], ...]
    preface: bool = False
    """Whether a PROXY header with the access point's word about the user goes ahead."""


@dataclass(frozen=True)
class DialOut:
    """Streams on the connection that the site's agent keeps to this node."""


Delivery = TcpDelivery | DialOut


@dataclass(frozen=True)
class Verdicts:
    """What the deciding rooms of one process say at one moment."""

    trust_domain: str
    roots: tuple[bytes, ...]
    identity: IdentityMaterial
    revocations: RevocationList | None = None
    fresh_until: int | None = None
    members: tuple[Member, ...] = ()
    """Further nodes that may be called."""
    warm: frozenset[str] = frozenset()
    """Names of nodes to which a link is kept."""
    sites: tuple[SiteView, ...] = ()
    beacon_for: Mapping[str, tuple[Member, ...]] = field(default_factory=dict)
    """Site → its servlets, where this node is a beacon."""
    servlet_for: Mapping[str, Delivery] = field(default_factory=dict)
    """Site → delivery, where this node is a servlet."""
    limits: Limits = Limits()
    forwarder: Forwarder | None = None
    tracing: Tracing | None = None
    shortcuts: bool = False
    """Whether this node plays several roles for one tunnel though others could."""
    cut: tuple[str, ...] = ()
    """Servlets, by node name or inner address, whose streams to this site's agent end at once."""
    told: Told | None = None
    """How this site's agent tells its origin who the users are."""
    spread: Spread | None = None
    """This node's part in the spread plane."""


def fold(verdicts: Verdicts, version: int) -> Snapshot:
    """The snapshot of ``verdicts``. Deterministic: equal verdicts give equal snapshots."""
    return Snapshot(
        version=version,
        trust_domain=verdicts.trust_domain,
        roots=verdicts.roots,
        identity=verdicts.identity,
        revocations=_revocations(verdicts.revocations, verdicts.fresh_until),
        peers=_peers(verdicts),
        sites=tuple(_site(view) for view in sorted(verdicts.sites, key=lambda view: view.record.site)),
        beacons=tuple(BeaconEntry(site, _names(servlets)) for site, servlets in sorted(verdicts.beacon_for.items())),
        servlets=tuple(ServletEntry(site, _delivery(how)) for site, how in sorted(verdicts.servlet_for.items())),
        limits=verdicts.limits,
        forwarder=verdicts.forwarder,
        tracing=verdicts.tracing,
        shortcuts=verdicts.shortcuts,
        cut=verdicts.cut,
        told=verdicts.told,
        spread=verdicts.spread,
    )


def _revocations(listed: RevocationList | None, fresh_until: int | None) -> Revocations:
    if listed is None:
        return Revocations(fresh_until=fresh_until)
    return Revocations(listed.epoch, listed.identities, listed.keys, fresh_until, listed.issuers)


def _names(members: Iterable[Member]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(member.name for member in members))


def _peers(verdicts: Verdicts) -> tuple[Peer, ...]:
    known: dict[str, Member] = {}
    for members in (_mentioned(verdicts), verdicts.members):
        for member in members:
            known.setdefault(member.name, member)
    return tuple(Peer(m.name, m.ring_id, m.address, m.name in verdicts.warm) for _, m in sorted(known.items()))


def _mentioned(verdicts: Verdicts) -> Iterable[Member]:
    for view in verdicts.sites:
        yield from view.beacons
        yield from view.servlets
        for _, hop, alternatives in view.ring:
            yield from (member for member in (hop, *alternatives) if member)
    for servlets in verdicts.beacon_for.values():
        yield from servlets


def _site(view: SiteView) -> Site:
    record = view.record
    return Site(
        name=record.site,
        hosts=tuple(host.lower() for host in record.hosts),
        ports=record.ports,
        allow=tuple(_rule(rule) for rule in record.allow),
        deny=tuple(_rule(rule) for rule in record.deny),
        mode=str(record.mode),
        beacons=_names(view.beacons),
        servlets=_names(view.servlets),
        ring=tuple(RingRoute(key, hop.name if hop else None, _names(others)) for key, hop, others in view.ring),
        tell=Tell(record.tell.key, record.tell.address) if record.tell else None,
    )


def _rule(rule: Rule) -> Any:
    return "anyone" if rule.kind == "anyone" else {rule.kind: rule.name}


def _delivery(how: Delivery) -> Any:
    if isinstance(how, DialOut):
        return "dialout"
    return {"tcp": {"address": how.address, "bind": how.bind, "ports": how.ports, "preface": how.preface}}
