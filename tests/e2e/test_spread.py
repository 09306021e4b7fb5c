"""Pages, WebSockets, downloads and uploads over the spread plane: real nodes relay, come, die, are revoked; keys change."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import signal
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from polder.api.admin import ask
from polder.shell.clock import wall
from tests.e2e.conftest import NODES, SPREAD, World, curl, echoes
from tests.support.origin import PIECE
from tests.support.overlay import Process, polder, until

SITE = "wiki"
PAGE = f"http://{SITE}.test/"
SPARE = "n5"
EPOCH_S = 10
SIZE = 40_000_000
SPARED = 4_000_000
"""Bytes of a download that are left until everything has happened to it."""


def session_of(world: World, user: str) -> dict[str, Any] | None:
    """A user's session with the site, as ``polder paths`` has it."""
    found = asyncio.run(ask(world.overlay.state(f"user-{user}") / "user" / user / "admin.sock", "paths"))
    return next((session for session in found["sessions"] if session["site"] == SITE), None)


def relay_of(world: World, node: str) -> dict[str, Any] | None:
    """What sue's session says of a node."""
    session = session_of(world, "sue")
    address = world.overlay.nodes[node].hello["address"]
    return next((path for path in session["paths"] if path["relay"] == address), None) if session else None


@pytest.fixture(scope="module")
def spare(world: World) -> Iterator[str]:
    """A node that may come to harm; it has not begun."""
    world.overlay.enrol_node(SPARE, spread=SPREAD)
    yield SPARE
    if SPARE in world.overlay.nodes:
        world.overlay.nodes.pop(SPARE).stop()


def test_a_page_comes_over_relays_and_paths_tells_so(world: World, spread: Process) -> None:
    assert "The wiki is up" in curl(spread.hello["proxy"], PAGE)
    found = polder(world.overlay.state("user-sue"), "paths")
    session = found["sessions"][0]
    assert (found["plane"], session["site"], session["up"], session["prefer"]) == ("spread", SITE, True, True)
    assert session["tunnels"] >= 2 and session["rtt_us"] > 0
    used = [path for path in session["paths"] if path["received"] > 0]
    assert len(used) >= 2 and len(session["paths"]) >= len(NODES)
    assert set(session["paths"][0]) == {
        "relay", "state", "weight", "loss", "delay_us", "sent", "received", "duplicates", "mtu",
    }  # fmt: skip


async def test_a_websocket_echoes(spread: Process) -> None:
    await echoes(f"{PAGE}echo", spread.hello["proxy"])


async def test_an_upload_arrives_whole(spread: Process) -> None:
    body = PIECE * 160
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{PAGE}upload", data=body, proxy=f"http://{spread.hello['proxy']}") as answer,
    ):
        assert await answer.json() == {"length": len(body), "sum": sum(body) % 65521}


async def download(proxy: str, happened: asyncio.Event) -> tuple[int, str]:
    """Read ``SIZE`` bytes, slowly until everything has ``happened``: their number and SHA-256."""
    had, digest = 0, hashlib.sha256()
    timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
    async with (
        aiohttp.ClientSession(timeout=timeout, read_bufsize=1 << 16) as session,
        session.get(f"{PAGE}bytes/{SIZE}", proxy=f"http://{proxy}") as answer,
    ):
        async for piece in answer.content.iter_chunked(1 << 16):
            digest.update(piece)
            had += len(piece)
            if not happened.is_set():
                await asyncio.sleep(0.05 if had < SIZE - SPARED else 0.5)
    return had, digest.hexdigest()


def everything(world: World, spare: str) -> None:
    """A node joins, is killed, comes back and is revoked; every relay's keys change; tickets are renewed."""
    began = wall() // EPOCH_S
    before = session_of(world, "sue")
    assert before is not None

    def carries() -> bool:
        path = relay_of(world, spare)
        return path is not None and path["received"] > 0 and path["state"] == "live"

    node = world.overlay.run_node(spare)
    until(carries, "packets over the node that joined")
    node.stop(signal.SIGKILL)
    until(lambda: (relay_of(world, spare) or {}).get("state") == "suspect", "a killed relay that is noticed")
    world.overlay.run_node(spare)
    until(carries, "packets over the node that came back")
    polder(world.overlay.state("authority"), "revoke", "node", spare, status=3)  # n4, enrolled, does not answer
    until(lambda: (relay_of(world, spare) or {"state": "unusable"})["state"] == "unusable", "the revoked node out of use")
    until(lambda: wall() // EPOCH_S >= began + 2, "other keys")
    now = session_of(world, "sue")
    assert now is not None and now["tunnels"] >= before["tunnels"], "the session is the same"


async def test_a_download_goes_on_while_relays_come_and_go_and_keys_change(world: World, spread: Process, spare: str) -> None:
    happened = asyncio.Event()
    reading = asyncio.create_task(download(spread.hello["proxy"], happened))
    await asyncio.to_thread(everything, world, spare)
    assert not reading.done(), "it was under way all the time"
    happened.set()
    whole = hashlib.sha256(bytes(itertools.islice(itertools.cycle(PIECE), SIZE))).hexdigest()
    assert await reading == (SIZE, whole)


def test_auto_begins_through_an_access_point_and_changes_over(world: World) -> None:
    world.overlay.enrol_user("bob", "staff")
    proxy = world.overlay.run("user-bob", "connect", "--listen", "127.0.0.1:0", "--plane", "auto").hello["proxy"]
    assert "The wiki is up" in curl(proxy, PAGE)

    def over_relays() -> bool:
        assert "The wiki is up" in curl(proxy, PAGE)
        session = session_of(world, "bob")
        return session is not None and session["tunnels"] > 0

    until(over_relays, "a tunnel over relays")
