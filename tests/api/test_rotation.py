"""Rotation of the issuer: every step can be taken twice, taken back until the last, and resumed after a crash."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cryptography import x509

from polder.api.client import renew
from polder.api.issuers import open_offline
from polder.api.rotation import Rotation
from polder.api.tls import new_key
from polder.model import Refused, Verdict
from polder.shell.clock import chance, monotonic
from polder.store import Stage
from polder.trust import ChainVerifier, Revoked, is_retired
from tests.support.authority import Served
from tests.support.identities import DOMAIN


def begin(served: Served, rotation: Rotation, after: float = 0.0) -> None:
    root, der = open_offline(served.state.offline)
    assert der in served.authority.roots
    rotation.prepare(served.state.authority, root, served.authority.password, new_key, chance())
    assert rotation.status().phase == "prepared"
    assert rotation.announce(after)
    assert not rotation.announce(after), "once is enough"


def keys(served: Served) -> list[str]:
    return sorted(file.name for file in served.state.authority.glob("*.key.pem"))


async def signs(served: Served, key_hash: bytes) -> None:
    """Until the serving authority signs with that issuer."""
    end = monotonic() + 30
    while served.shell._service.issuers.signer.key_hash != key_hash:
        assert monotonic() < end, "the authority does not take the step"
        await asyncio.sleep(0.02)


async def test_a_whole_rotation(served: Served) -> None:
    """Both issuers are believed from the announcement to the end; then only the new one, and its members never stopped."""
    ann, rotation, ledger = (
        await served.enrol("user", "ann"),
        Rotation(served.authority.ledger, served.clock),
        served.authority.ledger,
    )
    old = served.authority.issuers.signer
    assert rotation.status().phase == "none" and rotation.status().record() == {"phase": "none"}
    begin(served, rotation, after=0.0)
    await signs(served, next(row.key_hash for row in ledger.issuers.rows() if row.key_hash != old.key_hash))
    status = rotation.status()
    assert (status.phase, status.holders, status.certificates) == ("draining", (str(ann.id),), 1)
    with pytest.raises(Refused) as info:
        rotation.finish(served.state.authority, force=False)
    assert info.value.verdict is Verdict.NOT_YET and "user/ann" in str(info.value)
    listed = ChainVerifier(served.authority.roots, DOMAIN).open_revocations(served.shell._service.revocations(), served.clock())
    assert len(listed.issuers) == 2 and old.chain()[0] in listed.issuers and not is_retired(ann.chain, listed)
    renewed, _ = await renew(ann)
    assert renewed.chain[1] != ann.chain[1] and renewed.browser_root.count("BEGIN") == 2
    assert rotation.status().holders == () and rotation.finish(served.state.authority, force=False)
    assert not rotation.finish(served.state.authority, force=False) and len(keys(served)) == 1
    served.shell._service.use(served.authority.load_issuers())
    signed = served.shell._service.revocations()
    verifier = ChainVerifier(served.authority.roots, DOMAIN)
    listed = verifier.open_revocations(signed, served.clock())
    assert old.key_hash in listed.keys and listed.issuers == () and is_retired(ann.chain, listed)
    verifier.revoked = Revoked.of(listed)
    assert verifier.identity(renewed.chain, served.clock()).id == ann.id
    for spoken in (
        lambda: verifier.identity(ann.chain, served.clock()),
        lambda: verifier(old.sign_revocations(listed), served.clock()),
    ):
        with pytest.raises(Refused) as info:
            spoken()
        assert info.value.verdict is Verdict.REVOKED
    again, _ = await renew(ann)  # who slept through it needs no invitation
    assert again.chain[1] == renewed.chain[1]


async def test_abort_before_and_after_the_switch(served: Served) -> None:
    rotation, ledger = Rotation(served.authority.ledger, served.clock), served.authority.ledger
    old = served.authority.issuers.signer
    with pytest.raises(Refused):
        rotation.abort(served.state.authority)
    begin(served, rotation, after=3600.0)
    assert not rotation.switch_if_due()
    with pytest.raises(Refused):
        begin(served, rotation)
    with pytest.raises(Refused):
        rotation.finish(served.state.authority, force=True)
    assert rotation.abort(served.state.authority).phase == "none" and keys(served) == ["issuer.key.pem"]
    begin(served, rotation)
    await signs(served, next(row.key_hash for row in ledger.issuers.rows() if row.key_hash != old.key_hash))
    ann = await served.enrol("user", "ann")
    assert rotation.abort(served.state.authority).phase == "draining", "the new one has certified somebody"
    await signs(served, old.key_hash)
    assert rotation.status().holders == (str(ann.id),)
    renewed, _ = await renew(ann)
    assert renewed.chain[1] == old.chain()[0]
    assert rotation.finish(served.state.authority, force=False) and keys(served) == ["issuer.key.pem"]


async def test_what_a_crash_leaves_is_mended(served: Served) -> None:
    """A key without a row, a row without an end: the next load and the next preparation clear up."""
    rotation, directory = Rotation(served.authority.ledger, served.clock), served.state.authority
    (directory / "issuer-00000000.key.pem").write_bytes(b"of a preparation that was interrupted")
    begin(served, rotation, after=3600.0)
    assert len(keys(served)) == 2 and "issuer-00000000.key.pem" not in keys(served)
    new = next(row for row in served.authority.ledger.issuers.rows() if row.stage is Stage.NEXT)
    assert served.authority.ledger.issuers.switch(served.clock()) and not served.authority.ledger.issuers.switch(served.clock())
    assert served.authority.ledger.issuers.retire(served.clock()) is not None  # and then the machine stops
    issuers = served.authority.load_issuers()
    assert issuers.signer.key_hash == new.key_hash and issuers.others == ()
    assert keys(served) == [f"{new.file}.key.pem"]


def test_another_overlays_root_signs_nothing(served: Served, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"root\.key\.pem"):
        open_offline(tmp_path / "empty")
    root, der = open_offline(served.state.offline)
    assert x509.load_der_x509_certificate(der) == root.certificate
    with pytest.raises(Refused):
        open_offline(served.state.offline, "a wrong password of some length")
