"""An overlay whose certificates live seconds: everybody renews by himself, and no page fails."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from polder.api.admin import ask
from tests.support.origin import Origin
from tests.support.overlay import Overlay, until

LIFE = 14
"""Seconds. Renewal comes after some 8: what remains is for slow machines."""

NODES = ("n1", "n2")


@pytest.fixture
def overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Overlay, str]]:
    """Two nodes, a site, a user; the address of his forwarder."""
    for kind in ("NODE", "SITE", "USER"):
        monkeypatch.setenv(f"POLDER_AUTHORITY__{kind}_LIFE", f"{LIFE}s")
    origin, made = Origin().start(), Overlay(tmp_path)
    try:
        made.found()
        for name in NODES:
            made.enrol_node(name)
            made.run_node(name)
        made.enrol_site("wiki", "wiki.test")
        made.run_site("wiki", f'name = "wiki"\norigin = "http://{origin.address}"\nallow = ["user:ann"]\n')
        made.enrol_user("ann")
        made.wait_ring(len(NODES))
        made.wait_site("wiki")
        yield made, made.connect("ann").hello["proxy"]
    finally:
        made.close()
        origin.stop()


def sockets(overlay: Overlay) -> list[Path]:
    """The administrators' sockets of everybody who renews."""
    nodes = [overlay.state(name) / "node" for name in NODES]
    return [
        place / "admin.sock"
        for place in (*nodes, overlay.state("site-wiki") / "site/wiki", overlay.state("user-ann") / "user/ann")
    ]


async def read(session: aiohttp.ClientSession, proxy: str) -> str:
    """A page as a browser reads it: once more, on a fresh connection, when a connection dies."""
    for last in (False, True):
        try:
            async with session.get("http://wiki.test/", proxy=f"http://{proxy}", timeout=aiohttp.ClientTimeout(10)) as response:
                return f"{response.status} {await response.text()}"
        except aiohttp.ClientConnectionError:
            if last:
                raise
    raise AssertionError


async def test_two_renewals_of_everybody_without_a_failed_page(overlay: tuple[Overlay, str]) -> None:
    """Streams that outlive the certificate they were opened with are cut: an expired identity is nobody. Pages never fail."""
    made, proxy = overlay
    pages = 0
    await asyncio.to_thread(until, lambda: "The wiki is up" in _page(proxy), "the first page")
    async with aiohttp.ClientSession() as session:
        while True:
            assert "The wiki is up" in (page := await read(session, proxy)), page
            pages += 1
            told = [await ask(path, "status") for path in sockets(made)]
            assert all(status["certificate_valid_for_s"] > 0 for status in told), told
            if all(status["renewals"] >= 2 for status in told):
                break
            await asyncio.sleep(0.1)
    assert pages > 10


def _page(proxy: str) -> str:
    async def once() -> str:
        async with aiohttp.ClientSession() as session:
            return await read(session, proxy)

    return asyncio.run(once())
