"""Servlets rotate under open streams: a download, a WebSocket, in all three path modes at once; burning cuts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from polder.api.admin import ask
from tests.support.origin import PIECE, Origin
from tests.support.overlay import Overlay, polder, until

NODES = ("n1", "n2", "n3", "n4")
MODES = {"wiki": "beacon", "blog": "ring", "shop": "direct"}
ROTATIONS = 4
AMONG = {"n2", "n4"}
"""Who may be a servlet of the site at rest."""


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Overlay, str]]:
    """Four nodes, a site in each path mode that rotates every second with hardly any grace, one at rest; ann's proxy."""
    origin, made = Origin().start(), Overlay(tmp_path_factory.mktemp("rotation"))
    try:
        made.found()
        for name in NODES:
            made.enrol_node(name)
            made.run_node(name)
        for site, mode in {**MODES, "home": "beacon"}.items():
            made.enrol_site(site, f"{site}.test")
            lines = f'servlets = 1\nmode = "{mode}"\n'
            lines += 'rotation = "1s"\ngrace = "1s"\n' if site in MODES else f"servlets_among = {sorted(AMONG)}\n"
            made.run_site(site, f'name = "{site}"\norigin = "http://{origin.address}"\nallow = ["user:ann"]\n{lines}')
        made.enrol_user("ann")
        made.wait_ring(len(NODES))
        for site in (*MODES, "home"):
            made.wait_site(site)
        yield made, made.connect("ann").hello["proxy"]
    finally:
        made.close()
        origin.stop()


async def status(overlay: Overlay, site: str) -> dict[str, Any]:
    """What the agent says."""
    return await ask(overlay.state(f"site-{site}") / "site" / site / "admin.sock", "status")


async def hold(overlay: Overlay, site: str, proxy: str) -> None:
    """Keep a download and a WebSocket open over several rotations, then finish both."""
    # More than all buffers on the way hold, so that its servlet carries it to the end.
    size = 24 * 1024 * 1024
    get = f"http://{site}.test/bytes/{size}"
    async with (
        aiohttp.ClientSession(read_bufsize=1 << 16) as session,
        session.ws_connect(f"http://{site}.test/echo", proxy=f"http://{proxy}") as socket,
        session.get(get, proxy=f"http://{proxy}") as response,
    ):
        got = len(await response.content.readexactly(len(PIECE)))
        seen = {(await status(overlay, site))["epoch"]}
        async with asyncio.timeout(60):
            while len(seen) <= ROTATIONS:
                await socket.send_str(f"epoch {len(seen)}")
                assert await socket.receive_str(timeout=30) == f"echo epoch {len(seen)}"
                got += len(piece := await response.content.readexactly(len(PIECE)))
                assert piece == PIECE
                seen.add((await status(overlay, site))["epoch"])
                await asyncio.sleep(0.1)
        told = await status(overlay, site)
        assert told["streams"] >= 2 and told["exposed"] > 1
        while got < size:
            got += len(await response.content.read(1 << 20))
        assert got == size
        await socket.send_str("end")
        assert await socket.receive_str(timeout=30) == "echo end"


async def test_rotation_breaks_no_stream_in_any_path_mode(overlay: tuple[Overlay, str]) -> None:
    made, proxy = overlay
    await asyncio.to_thread(until, lambda: all(_reads(f"http://{site}.test/", proxy) for site in MODES), "all sites")
    await asyncio.gather(*(hold(made, site, proxy) for site in MODES))
    for site in MODES:
        await asyncio.to_thread(until, lambda site=site: _idle(made, site), f"{site} without streams")  # type: ignore[misc]


def test_the_owner_sees_how_many_know_and_begins_anew(overlay: tuple[Overlay, str]) -> None:
    made, _ = overlay
    state = made.state("site-wiki")
    exposure = polder(state, "site", "status", "wiki")["exposure"]
    assert 1 < exposure["nodes"] <= len(NODES) and exposure["max"] == 32 and "dials out" in exposure["secret"]
    assert polder(state, "site", "moved", "wiki")["since"] >= exposure["since"]
    assert polder(state, "site", "status", "wiki")["exposure"]["nodes"] <= exposure["nodes"]


async def test_burning_cuts_what_is_open(overlay: tuple[Overlay, str]) -> None:
    made, proxy = overlay
    await asyncio.to_thread(until, lambda: _reads("http://home.test/", proxy), "the site")
    async with aiohttp.ClientSession() as session, session.ws_connect("http://home.test/echo", proxy=f"http://{proxy}") as socket:
        await socket.send_str("x")
        assert await socket.receive_str(timeout=30) == "echo x"
        place = made.state("site-home") / "site" / "home" / "admin.sock"
        burned = set((await status(made, "home"))["servlets"])
        assert burned and burned < AMONG
        for name in burned:
            await ask(place, "burn", {"servlet": name})
        message = await socket.receive(timeout=30)
        assert message.type in {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}
    await asyncio.to_thread(until, lambda: _reads("http://home.test/", proxy), "the site over other servlets")
    assert set((await status(made, "home"))["servlets"]) == AMONG - burned, "servlets_among binds, whoever else is there"


def _idle(overlay: Overlay, site: str) -> bool:
    return asyncio.run(status(overlay, site))["streams"] == 0


def _reads(url: str, proxy: str) -> bool:
    async def once() -> bool:
        async with aiohttp.ClientSession() as session, session.get(url, proxy=f"http://{proxy}") as response:
            return response.status == 200

    try:
        return asyncio.run(once())
    except aiohttp.ClientError:
        return False
