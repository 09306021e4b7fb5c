"""Backups: what is packed is unpacked, nothing else is; and the authority of a backup works."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polder.api.authority_dir import load_authority
from polder.api.backup import LEDGER, MAGIC, make_backup, open_backup, restore, verify
from polder.model import Kind, Refused, Verdict
from polder.settings import StateDir
from polder.store import Ledger
from polder.trust import make_list
from tests.support.authority import Served
from tests.support.identities import DOMAIN, NOW, who

PASSWORD = "correct horse battery staple"


def packed(served: Served, now: float) -> bytes:
    file = served.state.authority / LEDGER
    return make_backup(served.state, file, DOMAIN, PASSWORD, now, os.urandom(28))


async def test_a_backup_of_a_serving_authority_comes_back(served: Served, tmp_path: Path) -> None:
    """Identities, revocations and issuer are those of the moment; the epoch is beyond anything that nodes hold."""
    ann = await served.enrol("user", "ann")
    served.authority.ledger.revoke(who("user", "ann"), "", served.clock())
    contents = open_backup(packed(served, served.clock()), PASSWORD)
    assert (contents.trust_domain, contents.epoch, contents.identities) == (DOMAIN, 1, 1)
    (scratch := tmp_path / "scratch").mkdir()
    verify(contents, scratch, served.clock())
    there = StateDir(tmp_path / "there")
    epoch = restore(contents, there, served.clock())
    assert epoch > 1_000_000
    back = load_authority(there, {})
    try:
        assert back.issuers.signer.key_hash == served.authority.issuers.signer.key_hash and back.roots == served.authority.roots
        assert back.ledger.identities() == served.authority.ledger.identities() and back.ledger.epoch() == epoch
        assert back.ledger.is_restored()
        # A node held a newer list than the backup did: nobody on it is believed again.
        newer = make_list(5, served.clock(), [ann.id, who("user", "eve")], [b"k" * 32])
        assert back.ledger.recover(newer, served.clock()) == 2, "ann was revoked already"
        assert not back.ledger.is_restored() and back.ledger.epoch() > epoch
        _, rows = back.ledger.revoked(served.clock())
        assert {row.uri for row in rows if row.uri} == {str(ann.id), str(who("user", "eve"))}
        assert b"k" * 32 in {row.key_hash for row in rows}
    finally:
        back.ledger.close()


async def test_what_is_damaged_or_of_another_password_is_refused(served: Served, tmp_path: Path) -> None:
    good = packed(served, NOW)
    for password in ("", PASSWORD + "!"):
        with pytest.raises(Refused) as info:
            open_backup(good, password)
        assert info.value.verdict is Verdict.DENIED
    for bad in (good[:-1], good[:200], MAGIC, b"", good.replace(b"scrypt", b"script", 1), good[:-20] + bytes(20)):
        with pytest.raises(Refused):
            open_backup(bad, PASSWORD)
    with pytest.raises(Refused, match="at least 24"):
        make_backup(served.state, served.state.authority / LEDGER, DOMAIN, "short", NOW, bytes(28))
    contents = open_backup(good, PASSWORD)
    broken = bytearray(contents.files[LEDGER])
    broken[4096:8192] = bytes(4096)
    (scratch := tmp_path / "scratch").mkdir()
    with pytest.raises((Refused, sqlite3.DatabaseError)):
        verify(type(contents)(DOMAIN, 0, 0, 0, {**contents.files, LEDGER: bytes(broken)}), scratch, NOW)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_junk_is_refused(header: bytes, body: bytes) -> None:
    """Whatever comes: a refusal before the costly stretching of the password, unless the header says how we stretch."""
    for data in (header + body, MAGIC + header, MAGIC + header.replace(b"\n", b" ") + b"\n" + body):
        with pytest.raises(Refused):
            open_backup(data, PASSWORD)


def test_a_key_alone_can_be_revoked(tmp_path: Path) -> None:
    from polder.store import open_database, sqlite_url
    from tests.store.test_ledger import HOUR, Maker, grant, key, place, token

    ledger = Ledger(open_database(sqlite_url(tmp_path / "a.sqlite3")), DOMAIN)
    ledger.invite(token(1), grant("user", "ann"), NOW, HOUR)
    ledger.enrol(token(1), key(1), None, NOW, place, Maker())
    assert ledger.revoke_key(key(1), "", NOW) == ledger.revoke_key(key(1), "", NOW) == (1, str(who("user", "ann")))
    epoch, rows = ledger.revoked(NOW)
    assert epoch == 1 and [(row.uri, row.key_hash) for row in rows] == [(None, key(1))]
    with pytest.raises(Refused):
        ledger.renew(key(1), None, NOW, HOUR, Maker())
    with pytest.raises(Refused):
        ledger.revoke_key(key(2), "", NOW)
    assert ledger.raise_epoch(7, "a node") == 8 == ledger.raise_epoch(3, "lower") == ledger.epoch()
    assert {entry.id.kind for entry, _ in ledger.identities()} == {Kind.USER}
    ledger.close()
