"""What the ledger returns, and the small reads and writes inside its transactions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection, Exists, Row, delete, exists, func, insert, select, update

from polder.model import Kind, Refused, SpiffeId, Verdict
from polder.store import tables

Chain = tuple[bytes, ...]


@dataclass(frozen=True)
class Entry:
    """An identity as the authority knows it. ``ring_id`` and ``address`` for nodes; ``life`` in seconds, ``None``: as usual."""

    id: SpiffeId
    groups: tuple[str, ...]
    hosts: tuple[str, ...]
    life: float | None
    ring_id: bytes | None
    address: str | None


@dataclass(frozen=True)
class Issued:
    """A certificate that was made: serial in hexadecimal, leaf and issuer in DER, end of validity in Unix seconds.

    ``issuer``: SHA-256 of the issuer's SubjectPublicKeyInfo.
    """

    serial: str
    chain: Chain
    not_after: float
    issuer: bytes | None = None


@dataclass(frozen=True)
class RevokedRow:
    """One line of the revocation list: an identity or a key."""

    epoch: int
    uri: str | None
    key_hash: bytes | None


Place = Callable[[frozenset[int]], int]
"""Chooses a place on the ring, given those that are taken."""

Issue = Callable[[Entry], Issued]
"""Makes the certificate; may raise, and then nothing has happened."""


def entry_of(row: Row[Any]) -> Entry:
    """An identity from its row."""
    groups, hosts = tuple(json.loads(row.groups)), tuple(json.loads(row.hosts))
    return Entry(SpiffeId.parse(row.uri), groups, hosts, row.life, row.ring_id, row.address)


def find_entry(db: Connection, uri: str) -> Entry | None:
    """The identity of that name, revoked or not."""
    row = db.execute(select(tables.identities).where(tables.identities.c.uri == uri)).first()
    return entry_of(row) if row else None


def save_entry(db: Connection, entry: Entry, now: float) -> None:
    """Insert or update an identity."""
    values = {
        "groups": json.dumps(entry.groups),
        "hosts": json.dumps(entry.hosts),
        "life": entry.life,
        "ring_id": entry.ring_id,
        "address": entry.address,
    }
    table = tables.identities
    changed = db.execute(update(table).where(table.c.uri == str(entry.id)).values(**values))
    if changed.rowcount == 0:
        values |= {"uri": str(entry.id), "kind": str(entry.id.kind), "name": entry.id.name, "created_at": now}
        db.execute(insert(table).values(**values))


def find_token(db: Connection, token_hash: bytes) -> Row[Any]:
    """The invitation; raises ``Refused`` when there never was one."""
    row = db.execute(select(tables.tokens).where(tables.tokens.c.hash == token_hash)).first()
    if row is None:
        raise Refused(Verdict.UNKNOWN, "this authority made no such invitation; check that URL and token belong together")
    return row


def same_again(db: Connection, serial: str, key_hash: bytes) -> Issued:
    """The certificate that a used token was turned into, for the same key only; raises ``Refused``."""
    row = db.execute(select(tables.certificates).where(tables.certificates.c.serial == serial)).one()
    if row.key_hash != key_hash:
        raise Refused(Verdict.USED, "the invitation has been used already, with another key; ask the operator for a new one")
    return Issued(serial, msgspec.msgpack.decode(row.chain, type=Chain), row.not_after, row.issuer)


def record(db: Connection, uri: str, key_hash: bytes, issued: Issued, now: float) -> None:
    """Remember a certificate."""
    values = {"serial": issued.serial, "uri": uri, "key_hash": key_hash, "issued_at": now, "not_after": issued.not_after}
    chain = msgspec.msgpack.encode(issued.chain)
    db.execute(insert(tables.certificates).values(chain=chain, issuer=issued.issuer, **values))


def forget_older(db: Connection, key_hash: bytes, serial: str) -> None:
    """Forget a key's certificates before ``serial``, so that renewals do not fill the disk.

    One stays: what a token was turned into is said again when asked. Revocation names keys, never certificates.
    """
    c, t = tables.certificates, tables.tokens.c
    kept = select(t.serial).where(t.serial.is_not(None))
    db.execute(delete(c).where(c.c.key_hash == key_hash, c.c.serial != serial, c.c.serial.not_in(kept)))


def set_flag(db: Connection, name: str, value: str) -> None:
    """Remember something about the ledger itself."""
    clear_flag(db, name)
    db.execute(insert(tables.meta).values(key=name, value=value))


def has_flag(db: Connection, name: str) -> bool:
    """Whether ``set_flag`` was called, and ``clear_flag`` not since."""
    return db.scalar(select(tables.meta.c.value).where(tables.meta.c.key == name)) is not None


def clear_flag(db: Connection, name: str) -> None:
    """Forget it."""
    db.execute(delete(tables.meta).where(tables.meta.c.key == name))


def current_epoch(db: Connection) -> int:
    """The epoch of the revocation list; 0 before the first."""
    r, i, e = tables.revocations.c, tables.issuers.c, tables.epochs.c
    made, lifted = db.execute(select(func.max(r.epoch), func.max(r.lifted_epoch))).one()
    return max(made or 0, lifted or 0, db.scalar(select(func.max(i.epoch))) or 0, db.scalar(select(func.max(e.epoch))) or 0)


def is_revoked(db: Connection, uri: str) -> bool:
    """Whether the identity is on the list."""
    r = tables.revocations.c
    return db.scalar(select(r.id).where(r.uri == uri, r.lifted_epoch.is_(None)).limit(1)) is not None


def revoked_rows() -> Exists:
    """The condition that the row of ``identities`` at hand is on the list."""
    r = tables.revocations.c
    return exists().where(r.uri == tables.identities.c.uri, r.lifted_epoch.is_(None))


def lift(db: Connection, uri: str) -> None:
    """End an identity's revocation, in a new epoch; nothing happens when there is none."""
    if is_revoked(db, uri):
        r = tables.revocations
        epoch = current_epoch(db) + 1
        db.execute(update(r).where(r.c.uri == uri, r.c.lifted_epoch.is_(None)).values(lifted_epoch=epoch))


def refuse_key(db: Connection, key_hash: bytes, uri: str) -> None:
    """Raise ``Refused`` when the key is revoked or somebody else's: revoking one would stop the other."""
    if db.scalar(select(tables.revocations.c.id).where(tables.revocations.c.key_hash == key_hash).limit(1)) is not None:
        raise Refused(Verdict.REVOKED, "that key has been revoked; enrol with a new invitation and a new key")
    c = tables.certificates.c
    if db.scalar(select(c.uri).where(c.key_hash == key_hash, c.uri != uri).limit(1)) is not None:
        raise Refused(Verdict.WRONG_HOLDER, "that key belongs to another identity; make a new key")


def refuse_hosts(db: Connection, uri: str, hosts: tuple[str, ...]) -> None:
    """Raise ``Refused`` when another site has one of the host names."""
    i = tables.identities.c
    others = select(i.uri, i.hosts).where(i.kind == Kind.SITE, i.uri != uri, ~revoked_rows())
    for row in db.execute(others) if hosts else ():
        shared = set(hosts) & set(json.loads(row.hosts))
        if shared:
            raise Refused(Verdict.WRONG_HOLDER, f"{min(shared)} belongs to {row.uri} already; revoke that first")
