"""An enrolled user reads sites through a real overlay in every path mode, with what browsers use."""

from __future__ import annotations

import asyncio
import json
import subprocess

import aiohttp
import pytest

from polder.model import PathMode
from tests.e2e.conftest import SITES, World, echoes
from tests.support.origin import PIECE

pytestmark = pytest.mark.parametrize("mode", list(PathMode))


def curl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run curl; the answer's head is in the output."""
    return subprocess.run(["curl", "-sS", "-i", "-m", "30", *arguments], capture_output=True, text=True, check=False)


def test_a_page_comes_in_absolute_form_and_through_connect(world: World, mode: PathMode) -> None:
    for tunnel in ([], ["--proxytunnel"]):
        done = curl(*tunnel, "-x", f"http://{world.proxy}", f"http://{SITES[mode]}.test/")
        assert "The wiki is up" in done.stdout, done.stderr


def test_who_is_not_admitted_is_told_so_by_a_page_for_people(world: World, mode: PathMode) -> None:
    done = curl("-H", "Accept: text/html", "-x", f"http://{world.stranger_proxy}", f"http://{SITES[mode]}.test/")
    assert "403 Forbidden" in done.stdout
    assert "text/html" in done.stdout
    assert "proxy-status: polder; error=http_request_denied" in done.stdout.lower()
    for secret in ("n1", "n2", "n3", "beacon", "servlet", "127.0.0.1"):
        assert secret not in done.stdout.lower()


async def test_a_websocket_echoes(world: World, mode: PathMode) -> None:
    await echoes(f"ws://{SITES[mode]}.test/echo", world.proxy)


async def test_a_long_download_and_an_upload_arrive_whole(world: World, mode: PathMode) -> None:
    size = 20_000_000
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{SITES[mode]}.test/bytes/{size}", proxy=f"http://{world.proxy}") as response:
            seen = 0
            async for chunk in response.content.iter_any():
                start = seen % len(PIECE)
                assert chunk == (PIECE * (len(chunk) // len(PIECE) + 2))[start : start + len(chunk)]
                seen += len(chunk)
        assert seen == size
        body = PIECE * 40
        async with session.post(f"http://{SITES[mode]}.test/upload", data=body, proxy=f"http://{world.proxy}") as response:
            assert json.loads(await response.text()) == {"length": len(body), "sum": sum(body) % 65521}


async def test_many_readers_at_once_all_get_their_page(world: World, mode: PathMode) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=50, force_close=True)) as session:

        async def read() -> str:
            async with session.get(f"http://{SITES[mode]}.test/", proxy=f"http://{world.proxy}") as response:
                return await response.text()

        pages = await asyncio.gather(*(read() for _ in range(100)))
    assert all("The wiki is up" in page for page in pages)


def test_identity_headers_of_the_client_do_not_reach_the_site(world: World, mode: PathMode) -> None:
    world.origin.requests.clear()
    forged = ["-H", "X-Forwarded-For: 1.2.3.4", "-H", "Forwarded: for=1.2.3.4", "-H", "Polder-User: root"]
    curl(*forged, "-x", f"http://{world.proxy}", f"http://{SITES[mode]}.test/")
    ((_, _, headers),) = world.origin.requests
    assert not {"x-forwarded-for", "forwarded", "polder-user"} & headers.keys()
    assert headers["host"] == f"{SITES[mode]}.test"
