"""Revocation in a running overlay: the revoked are cut everywhere and at once, and a node that is cut off refuses new work."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from polder.api.admin import ask
from tests.support.origin import Origin
from tests.support.overlay import Overlay, polder, until

NODES = ("n1", "n2", "n3")
MAX_AGE = 6
"""Seconds: the bound of the test's nodes."""


@pytest.fixture
def overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Overlay, Origin]]:
    """Three nodes that lag after seconds, a site, two users with forwarders."""
    monkeypatch.setenv("POLDER_AUTHORITY__REVOCATION_REFRESH", "1s")
    origin, made = Origin().start(), Overlay(tmp_path)
    try:
        made.found()
        for name in NODES:
            made.enrol_node(name, f'revocation_max_age = "{MAX_AGE}s"')
            made.run_node(name)
        made.enrol_site("wiki", "wiki.test")
        made.run_site("wiki", f'name = "wiki"\norigin = "http://{origin.address}"\nallow = ["anyone"]\n')
        for name in ("ann", "eve"):
            made.enrol_user(name)
        made.wait_ring(len(NODES))
        made.wait_site("wiki")
        yield made, origin
    finally:
        made.close()
        origin.stop()


def through(overlay: Overlay, user: str, node: str) -> str:
    """A forwarder of ``user`` that uses one access point; its proxy."""
    settings = overlay.state(f"user-{user}") / "user" / user / "client.toml"
    settings.write_text(f'access_points = ["{node}"]\n')
    return str(overlay.connect(user).hello["proxy"])


async def page(proxy: str) -> str:
    """What one reading of the site brings: status, or what went wrong."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session,
            session.get("http://wiki.test/", proxy=f"http://{proxy}") as response,
        ):
            return str(response.status)
    except (aiohttp.ClientError, TimeoutError) as error:
        return type(error).__name__


async def hold(proxy: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """An open tunnel to the site."""
    host, _, port = proxy.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"CONNECT wiki.test:80 HTTP/1.1\r\nHost: wiki.test:80\r\n\r\n")
    assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
    await alive(reader, writer)
    return reader, writer


async def alive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The tunnel carries a request."""
    writer.write(b"GET / HTTP/1.1\r\nHost: wiki.test\r\n\r\n")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    assert b" 200 " in head, head
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    await reader.readexactly(length)


def node_status(overlay: Overlay, name: str) -> dict[str, Any]:
    return overlay.node_status(name)


def test_the_revoked_are_cut_and_refused_and_others_read_on(overlay: tuple[Overlay, Origin]) -> None:
    """A revoked user's live tunnel ends and no new one begins; a node that neither hears the authority nor a peer refuses."""
    made, _ = overlay
    eve, ann = through(made, "eve", "n1"), through(made, "ann", "n1")

    async def revoke() -> None:
        eves, anns = await hold(eve), await hold(ann)
        told = await asyncio.to_thread(polder, made.state("authority"), "revoke", "user", "eve")
        assert sorted(told["acknowledged"]) == sorted(NODES) and told["silent"] == {}
        assert told["connections_cut"] >= 1 and told["tunnels_cut"] >= 1
        assert await asyncio.wait_for(eves[0].read(), 20) == b"", "the tunnel was cut"
        assert await page(eve) != "200"
        await alive(*anns)
        assert await page(ann) == "200"
        for reader_writer in (eves, anns):
            reader_writer[1].close()

    until(lambda: asyncio.run(page(eve)) == asyncio.run(page(ann)) == "200", "both read")
    asyncio.run(revoke())
    assert all(node_status(made, name)["revocation_epoch"] == 1 for name in NODES)
    # A revoked key is somebody's old one: the identity may have another.
    keys = {row["identity"]: row["keys"] for row in polder(made.state("authority"), "authority", "list")["identities"]}
    (anns_key,) = keys[f"spiffe://{made.trust_domain}/user/ann"]
    assert polder(made.state("authority"), "revoke", "key", anns_key)["identity"].endswith("/user/ann")
    until(lambda: asyncio.run(page(ann)) != "200", "the revoked key is refused")
    assert polder(made.state("authority"), "revoke", "key", "00" * 32, status=2)["verdict"] == "unknown"


def test_a_revoked_node_is_left_by_all_and_a_lagging_one_refuses_new_work(overlay: tuple[Overlay, Origin]) -> None:
    """What is open on the node that lags goes on; nothing new begins there until it hears of the authority again."""
    made, _ = overlay
    ann = through(made, "ann", "n1")
    until(lambda: asyncio.run(page(ann)) == "200", "ann reads")

    async def lag() -> None:
        reader, writer = await hold(ann)
        authority = made.processes[0]
        await asyncio.to_thread(authority.stop)
        await asyncio.to_thread(until, lambda: node_status(made, "n1")["refuses_new_work"], "n1 lags")
        await asyncio.to_thread(until, lambda: asyncio.run(page(ann)) != "200", "nothing new")
        await alive(reader, writer)
        writer.close()

    asyncio.run(lag())
    authority = made.run("authority", "authority", "serve")
    until(lambda: not node_status(made, "n1")["refuses_new_work"] and asyncio.run(page(ann)) == "200", "n1 works again")
    told = polder(made.state("authority"), "revoke", "node", "n3")
    assert sorted(told["acknowledged"]) == ["n1", "n2"], "a revoked node is not told"
    assert authority.process.poll() is None

    def left() -> bool:
        links = asyncio.run(ask(made.state("n1") / "node/admin.sock", "links"))["links"]
        return not any(link["up"] and link["name"] == "n3" for link in links)

    until(left, "no link to the revoked node")
