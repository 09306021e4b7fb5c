"""``Ledger``: what the authority remembers. Each public method is one transaction; what it has returned survives a crash."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from sqlalchemy import Engine, Row, and_, func, insert, or_, select, update
from sqlalchemy.engine import Connection

from polder.model import Kind, Member, Refused, RevocationList, SpiffeId, Verdict
from polder.model.overlay_messages import EpochSecret
from polder.store import tables
from polder.store.database import transaction
from polder.store.entries import (
    Entry,
    Issue,
    Issued,
    Place,
    RevokedRow,
    clear_flag,
    current_epoch,
    entry_of,
    find_entry,
    find_token,
    forget_older,
    has_flag,
    is_revoked,
    lift,
    record,
    refuse_hosts,
    refuse_key,
    revoked_rows,
    same_again,
    save_entry,
    set_flag,
)
from polder.store.issuers import IssuerTable, Stage

RESTORED = "restored"


class Ledger:
    """The authority's memory in ``engine``'s database, for one trust domain. Blocking: call it from one worker thread."""

    def __init__(self, engine: Engine, trust_domain: str) -> None:
        self._engine = engine
        self._domain = trust_domain
        self.issuers = IssuerTable(engine)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def invite(self, token_hash: bytes, grant: Entry, now: float, ttl: float, *, reinstate: bool = False) -> None:
        """Record a token for ``grant`` (its ring id and address do not matter), good for ``ttl`` seconds.

        Raises ``Refused`` for another site's host name, and for a revoked identity unless ``reinstate``: the revocation of the
        name then ends when the token is used; revoked keys stay revoked.
        """
        with transaction(self._engine) as db:
            if not reinstate and is_revoked(db, str(grant.id)):
                raise Refused(Verdict.REVOKED, f"{grant.id} has been revoked; add --reinstate to invite it again with a new key")
            refuse_hosts(db, str(grant.id), grant.hosts)
            db.execute(
                insert(tables.tokens).values(
                    hash=token_hash,
                    kind=str(grant.id.kind),
                    name=grant.id.name,
                    groups=json.dumps(grant.groups),
                    hosts=json.dumps(grant.hosts),
                    life=grant.life,
                    created_at=now,
                    expires_at=now + ttl,
                )
            )

    def granted(self, token_hash: bytes) -> SpiffeId:
        """Whom the token is for, used or not; raises ``Refused`` when it is unknown."""
        with transaction(self._engine) as db:
            token = find_token(db, token_hash)
        return SpiffeId(self._domain, Kind(token.kind), token.name)

    def enrol(self, token_hash: bytes, key_hash: bytes, address: str | None, now: float, place: Place, issue: Issue) -> Issued:
        """Turn a token into a certificate: use of the token, identity, ring id and certificate are one transaction.

        The same token with the same key again, after an answer that was lost, gives the same certificate again; with another key
        it is refused. ``issue`` runs inside the transaction: if it raises, the token stays unused. Raises ``Refused``.
        """
        with transaction(self._engine) as db:
            token = find_token(db, token_hash)
            if token.serial is not None:
                return same_again(db, token.serial, key_hash)
            if now >= token.expires_at:
                raise Refused(Verdict.EXPIRED, "the invitation has expired; ask the operator for a new one (`polder invite`)")
            entry = self._enrolling(db, token, address, place)
            uri = str(entry.id)
            refuse_key(db, key_hash, uri)
            refuse_hosts(db, uri, entry.hosts)
            save_entry(db, entry, now)
            issued = issue(entry)
            record(db, uri, key_hash, issued, now)
            used = update(tables.tokens).where(tables.tokens.c.hash == token_hash)
            db.execute(used.values(used_at=now, serial=issued.serial))
            lift(db, uri)
        return issued

    def renew(self, key_hash: bytes, address: str | None, now: float, grace: float, issue: Issue) -> tuple[Entry, Issued]:
        """A new certificate for a key that has one, also ``grace`` seconds after its end; raises ``Refused``."""
        with transaction(self._engine) as db:
            c = tables.certificates.c
            last = db.execute(select(c.uri, c.not_after).where(c.key_hash == key_hash).order_by(c.not_after.desc())).first()
            if last is None:
                raise Refused(Verdict.UNKNOWN, "this authority never made a certificate for that key; enrol with an invitation")
            if is_revoked(db, last.uri):
                raise Refused(Verdict.REVOKED, f"{last.uri} has been revoked; only the operator can invite it again")
            refuse_key(db, key_hash, last.uri)
            if now > last.not_after + grace:
                raise Refused(Verdict.EXPIRED, "the certificate expired too long ago to be renewed; enrol with a new invitation")
            found = find_entry(db, last.uri)
            assert found is not None  # certificates refer to identities
            entry = dataclasses.replace(found, address=address) if address and found.id.kind is Kind.NODE else found
            save_entry(db, entry, now)
            issued = issue(entry)
            record(db, last.uri, key_hash, issued, now)
            forget_older(db, key_hash, issued.serial)
        return entry, issued

    def members(self) -> tuple[Member, ...]:
        """Every node that said where it listens and is not revoked, by ring id."""
        i = tables.identities.c
        query = select(i.name, i.ring_id, i.address).where(i.kind == Kind.NODE, i.address.is_not(None), ~revoked_rows())
        with transaction(self._engine) as db:
            rows = db.execute(query.order_by(i.ring_id)).all()
        return tuple(Member(row.name, row.ring_id, row.address) for row in rows)

    def hosts(self) -> tuple[str, ...]:
        """Host names of all sites that are not revoked, sorted."""
        i = tables.identities.c
        with transaction(self._engine) as db:
            lists = db.scalars(select(i.hosts).where(i.kind == Kind.SITE, ~revoked_rows())).all()
        return tuple(sorted({host for hosts in lists for host in json.loads(hosts)}))

    def identities(self) -> tuple[tuple[Entry, bool], ...]:
        """Everybody who ever enrolled, by SPIFFE id, and whether he is revoked."""
        with transaction(self._engine) as db:
            query = select(tables.identities, revoked_rows().label("revoked")).order_by(tables.identities.c.uri)
            return tuple((entry_of(row), bool(row.revoked)) for row in db.execute(query))

    def revoke(self, who: SpiffeId, reason: str, now: float) -> tuple[int, int]:
        """Revoke an identity and all keys that it ever had; returns the epoch and the number of keys.

        Open invitations for it end too. Raises ``Refused`` when nobody of that name enrolled; revoking twice changes nothing.
        """
        uri = str(who)
        with transaction(self._engine) as db:
            if find_entry(db, uri) is None:
                raise Refused(Verdict.UNKNOWN, f"{who} never enrolled here; `polder authority list` shows who did")
            c = tables.certificates.c
            held = select(c.key_hash).where(c.uri == uri)
            keys = sorted(set(db.scalars(held)))
            if is_revoked(db, uri):
                return current_epoch(db), len(keys)
            row = {"epoch": current_epoch(db) + 1, "revoked_at": now, "reason": reason}
            r = tables.revocations
            db.execute(insert(r).values(uri=uri, **row))
            listed = set(db.scalars(select(r.c.key_hash).where(r.c.key_hash.in_(held))))
            # Keys stay on the list when the name is reinstated: said again each time, it would grow with the square of the times.
            for key_hash in keys:
                if key_hash not in listed:
                    db.execute(insert(r).values(key_hash=key_hash, **row))
            t = tables.tokens
            mine = and_(t.c.kind == str(who.kind), t.c.name == who.name, t.c.serial.is_(None))
            db.execute(update(t).where(mine, t.c.expires_at > now).values(expires_at=now))
            return current_epoch(db), len(keys)

    def revoke_key(self, key_hash: bytes, reason: str, now: float) -> tuple[int, str]:
        """Revoke one key (SHA-256 of its SubjectPublicKeyInfo) and nothing else; returns the epoch and whose it was.

        Raises ``Refused`` when no certificate was ever made for it; revoking twice changes nothing.
        """
        r, c = tables.revocations, tables.certificates.c
        with transaction(self._engine) as db:
            uri = db.scalar(select(c.uri).where(c.key_hash == key_hash).limit(1))
            if uri is None:
                raise Refused(
                    Verdict.UNKNOWN, "no certificate was made for that key here; `polder authority list` shows the keys"
                )
            if db.scalar(select(r.c.id).where(r.c.key_hash == key_hash).limit(1)) is None:
                row = {"epoch": current_epoch(db) + 1, "revoked_at": now, "reason": reason}
                db.execute(insert(r).values(key_hash=key_hash, **row))
            return current_epoch(db), str(uri)

    def keys(self) -> dict[str, tuple[bytes, ...]]:
        """SPIFFE id → hashes of the keys that it ever had a certificate for."""
        c = tables.certificates.c
        found: dict[str, tuple[bytes, ...]] = {}
        with transaction(self._engine) as db:
            for uri, key_hash in db.execute(select(c.uri, c.key_hash).distinct().order_by(c.uri, c.key_hash)):
                found[uri] = (*found.get(uri, ()), key_hash)
        return found

    def epoch(self) -> int:
        """The epoch of the revocation list; 0 before the first."""
        with transaction(self._engine) as db:
            return current_epoch(db)

    def raise_epoch(self, above: int, why: str) -> int:
        """Let the epoch be greater than ``above``, because somebody holds a list of that epoch; returns the epoch now."""
        with transaction(self._engine) as db:
            if (now := current_epoch(db)) > above:
                return now
            db.execute(insert(tables.epochs).values(epoch=above + 1, why=why))
            return above + 1

    def restored(self, jump: int, why: str) -> int:
        """This ledger came back from a backup: let the epoch jump, and remember that nodes may know more; returns the epoch."""
        with transaction(self._engine) as db:
            epoch = current_epoch(db) + jump
            db.execute(insert(tables.epochs).values(epoch=epoch, why=why))
            set_flag(db, RESTORED, str(epoch))
            return epoch

    def is_restored(self) -> bool:
        """Whether nodes may hold revocations that this ledger has lost."""
        with transaction(self._engine) as db:
            return has_flag(db, RESTORED)

    def recover(self, listed: RevocationList, now: float) -> int:
        """Take revocations from a list that the authority signed, before it was restored, into the ledger; returns how many.

        The epoch is beyond the list's afterwards.
        """
        reason = "from a node, after a restore"
        with transaction(self._engine) as db:
            epoch = max(current_epoch(db), listed.epoch) + 1
            rows: list[dict[str, Any]] = [{"uri": uri} for uri in listed.identities if not is_revoked(db, uri)]
            r = tables.revocations
            known = set(db.scalars(select(r.c.key_hash).where(r.c.key_hash.is_not(None))))
            known |= set(db.scalars(select(tables.issuers.c.key_hash).where(tables.issuers.c.stage == Stage.RETIRED)))
            keys: list[dict[str, Any]] = [{"key_hash": key} for key in listed.keys if key not in known]
            for row in (*rows, *keys):
                db.execute(insert(r).values(epoch=epoch, revoked_at=now, reason=reason, **row))
            if current_epoch(db) < epoch:
                db.execute(insert(tables.epochs).values(epoch=epoch, why=reason))
            clear_flag(db, RESTORED)
            return len(rows) + len(keys)

    def revoked(self, now: float) -> tuple[int, tuple[RevokedRow, ...]]:
        """The epoch and who is revoked. Keys whose last certificate has expired are left out: expiry refuses them already.

        Keys that a restored ledger knows from nodes only stay, and so do those of retired issuers. Each is said once, however often a
        ledger of before has it.
        """
        r, c = tables.revocations.c, tables.certificates.c
        last = select(c.key_hash, func.max(c.not_after).label("end")).group_by(c.key_hash).subquery()
        query = (
            select(func.min(r.epoch), r.uri, r.key_hash)
            .outerjoin(last, r.key_hash == last.c.key_hash)
            .where(r.lifted_epoch.is_(None), or_(r.key_hash.is_(None), last.c.end > now, last.c.end.is_(None)))
            .group_by(r.uri, r.key_hash)
        )
        i = tables.issuers.c
        retired = select(i.epoch, i.key_hash).where(i.stage == Stage.RETIRED).order_by(i.epoch)
        with transaction(self._engine) as db:
            rows = [RevokedRow(*row) for row in db.execute(query.order_by(func.min(r.id)))]
            rows += [RevokedRow(row.epoch, None, row.key_hash) for row in db.execute(retired)]
            return current_epoch(db), tuple(rows)

    def secrets(self) -> tuple[EpochSecret, ...]:
        """The two newest secrets of beacon keys, oldest first: a rotation needs the old one for a while."""
        s = tables.secrets.c
        with transaction(self._engine) as db:
            rows = db.execute(select(s.epoch, s.not_before, s.secret).order_by(s.epoch.desc()).limit(2)).all()
        return tuple(EpochSecret(*row) for row in reversed(rows))

    def add_secret(self, secret: bytes, not_before: float) -> int:
        """A new epoch of beacon keys, in force from ``not_before`` on, with 32 bytes; returns its number, from 1."""
        with transaction(self._engine) as db:
            epoch = (db.scalar(select(func.max(tables.secrets.c.epoch))) or 0) + 1
            db.execute(insert(tables.secrets).values(epoch=epoch, secret=secret, not_before=int(not_before)))
        return epoch

    def _enrolling(self, db: Connection, token: Row[Any], address: str | None, place: Place) -> Entry:
        """What ``token`` gives. A node keeps the place on the ring that its name has, or gets one."""
        who = SpiffeId(self._domain, Kind(token.kind), token.name)
        groups, hosts = tuple(json.loads(token.groups)), tuple(json.loads(token.hosts))
        if who.kind is not Kind.NODE:
            return Entry(who, groups, hosts, token.life, None, None)
        old = find_entry(db, str(who))
        if old is not None and old.ring_id is not None:
            return dataclasses.replace(old, life=token.life, address=address or old.address)
        i = tables.identities.c
        taken = frozenset(int.from_bytes(raw, "big") for raw in db.scalars(select(i.ring_id).where(i.ring_id.is_not(None))))
        return Entry(who, groups, hosts, token.life, place(taken).to_bytes(16, "big"), address)
