"""A small overlay's identities, with real certificates and signatures, for the roles."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from random import Random

import msgspec

from polder.model import Appointment, Kind, Member, PathMode, Rule, Signed, SiteRecord, SpiffeId
from polder.model.overlay_messages import Advertise, Appoint, Caller, Delivery, EpochSecret, Transport, Withdrawal
from polder.overlay import BeaconTable, EpochSecrets, ServletRole, beacon_keys
from polder.trust import sign
from tests.support.identities import DOMAIN, NOW, Pki
from tests.support.identities import Member as Holder

SECRET = EpochSecret(1, int(NOW) - 1000, b"s" * 32)
AUTHORITY = SpiffeId(DOMAIN, Kind.ADMIN, "authority")


@cache
def pki() -> Pki:
    """One authority for all tests of this room: keys are dear."""
    return Pki()


@cache
def holder(kind: str, name: str, hosts: tuple[str, ...] = (), life: float = 86_400.0) -> Holder:
    """Somebody's certificate."""
    return pki().member(kind, name, hosts=hosts, life=life)


def node(name: str) -> Member:
    """The node of that name as others know it."""
    return Member(name, name.encode().ljust(16, b"\0")[:16], f"192.0.2.{sum(name.encode()) % 250}:7443")


def caller(name: str) -> Caller:
    """That node, calling."""
    return Caller(Kind.NODE, name, node(name).ring_id)


def site_caller(name: str) -> Caller:
    """That site, calling."""
    return Caller(Kind.SITE, name)


def signed_by(record: msgspec.Struct, kind: str, name: str, hosts: tuple[str, ...] = ()) -> Signed:
    """A record with a signature."""
    who = holder(kind, name, hosts)
    return sign(record, who.key, who.chain)


def appointment(
    site: str = "wiki",
    servlet: str = "n1",
    epoch: int = 5,
    begin: float = NOW - 10,
    end: float = NOW + 600,
    by: str | None = None,
) -> Signed:
    """A site's signed appointment; ``by``: signed by another site."""
    record = Appointment(site, servlet, node(servlet).ring_id, epoch, int(begin), int(end))
    return signed_by(record, "site", by or site)


def withdrawal(servlet: str = "n1", epoch: int = 5, site: str = "wiki", end: float = NOW + 3600, by: str | None = None) -> Signed:
    """A site's signed withdrawal."""
    return signed_by(Withdrawal(site, servlet, epoch, int(end)), "site", by or site)


def key_of(site: str = "wiki", index: int = 0, secret: EpochSecret = SECRET) -> bytes:
    """One beacon key."""
    return beacon_keys(secret.secret, site)[index]


def advertise(
    signed: Signed, servlet: str = "n1", ring_key: bytes | None = None, epoch: int = 1, out: Iterable[Signed] = ()
) -> Advertise:
    """The body of a servlet's call."""
    return Advertise(signed, node(servlet), ring_key or key_of(), epoch, tuple(out))


def beacon_table(owns: bool = True, secrets: EpochSecrets | None = None) -> BeaconTable:
    """A beacon that owns every key, or none."""
    return BeaconTable(pki().verifier(), secrets or EpochSecrets([SECRET]), lambda _key: owns, Random(1))


def servlet_role(name: str = "n1", *, local: bool = False) -> ServletRole:
    """A node's role as servlet."""
    return ServletRole(node(name), pki().verifier(), EpochSecrets([SECRET]), Random(1), local_origins=local)


DELIVERY = Delivery(Transport.GRE, "198.51.100.7", 77, "fd00::2", "fd00::1", 1400, ((80, 8080),))


def appoint(signed: Signed, delivery: Delivery = DELIVERY, out: Iterable[Signed] = ()) -> Appoint:
    """The body of a site's call."""
    return Appoint(signed, delivery, tuple(out))


def record(site: str = "wiki", epoch: int = 1, hosts: tuple[str, ...] = ("wiki.test",), end: float = NOW + 3600) -> SiteRecord:
    """A site's record."""
    return SiteRecord(site, epoch, hosts, (80,), (Rule("group", "staff"),), (), PathMode.BEACON, int(end))
