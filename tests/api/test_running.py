"""The authority as a process: its own certificate stays fresh in memory; starting and stopping leave nothing."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from polder.api import client
from polder.api.admin import ask
from polder.api.authority_dir import load_authority
from polder.api.running import AuthorityShell
from polder.api.tls import new_key
from polder.shell.clock import wall
from polder.trust.profiles import read_identity
from tests.support.authority import Served, serve
from tests.support.identities import DOMAIN


def presented(url: str) -> x509.Certificate:
    host, _, port = url.removeprefix("https://").partition(":")
    return x509.load_pem_x509_certificate(ssl.get_server_certificate((host, int(port))).encode())


async def test_its_own_certificate_is_renewed_without_a_restart(tmp_path: Path) -> None:
    async with serve(tmp_path / "s", admin_life=4.0) as served:
        first = await asyncio.to_thread(presented, served.url)
        async with asyncio.timeout(60):
            while (second := await asyncio.to_thread(presented, served.url)) == first:
                await asyncio.sleep(0.05)
    a, b = read_identity(first), read_identity(second)
    assert a.id == b.id
    assert a.key_hash != b.key_hash
    assert b.not_after > a.not_after


async def test_status_for_the_operator(served: Served) -> None:
    await served.enrol("user", "ann")
    status = await ask(served.state.authority / "admin.sock", "status")
    assert (status["trust_domain"], status["pin"], status["enrolled"]) == (DOMAIN, served.pin, 1)
    assert status["issuer_not_after"] > wall()


async def test_a_taken_address_is_said(served: Served, tmp_path: Path) -> None:
    authority = load_authority(served.state, {"POLDER_AUTHORITY__LISTEN": served.url.removeprefix("https://")})
    with pytest.raises(OSError, match="address already in use"):
        await AuthorityShell.start(authority, served.state)
    authority.ledger.close()


async def test_it_starts_again_with_everything(tmp_path: Path) -> None:
    async with serve(tmp_path / "s") as served:
        ann = await served.enrol("user", "ann")
        old = presented_hash(await asyncio.to_thread(presented, served.url))
        await served.shell.close()
        again = await AuthorityShell.start(load_authority(served.state, {}), served.state)
        served.shell = again
        url = f"https://{again.address}"
        assert presented_hash(await asyncio.to_thread(presented, url)) != old
        token = served.token("user", "bob")
        assert (await client.enrol(url, served.pin, token, new_key())).roots == ann.roots
        assert not list(served.state.authority.glob(".tls-*"))
        await again.close()


def presented_hash(certificate: x509.Certificate) -> bytes:
    return read_identity(certificate).key_hash
