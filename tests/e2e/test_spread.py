"""Pages, WebSockets, downloads and uploads over the spread plane: real nodes relay, a real forwarder chooses its plane."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from polder.engine import meanings
from tests.support.metrics import families, page
from tests.support.origin import PIECE, Origin
from tests.support.overlay import Overlay, Process, polder, until

NODES = ("n1", "n2", "n3", "n4")
SITE = "wiki"


@dataclass
class World:
    """A forwarder that may use relays only, and one that chooses."""

    overlay: Overlay
    spread: Process
    auto: Process

    def paths(self, user: str) -> dict[str, Any]:
        """What ``polder paths`` says; nothing while no session is up."""
        state = self.overlay.state(f"user-{user}")
        try:
            return polder(state, "paths")
        except AssertionError:
            return polder(state, "paths", status=3)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Four nodes that relay, a site, two users."""
    origin = Origin().start()
    overlay = Overlay(tmp_path_factory.mktemp("spread"))
    try:
        overlay.found()
        for name in NODES:
            state = overlay.enrol_node(name) / "node"
            listen = tomllib.loads((state / "node.toml").read_text())["listen"]
            where = listen if isinstance(listen, str) else listen[0]
            (state / "conf.d" / "spread.toml").write_text(f'[spread]\nlisten = ["{where}"]\nticket_life = 10\nspan = 0.5\n')
        for name in NODES:
            overlay.run_node(name)
        overlay.enrol_site(SITE, f"{SITE}.test")
        overlay.run_site(SITE, f'name = "{SITE}"\norigin = "http://{origin.address}"\nallow = ["group:staff"]\n')
        for user in ("ann", "bob"):
            overlay.enrol_user(user, "staff")
        overlay.wait_ring(len(NODES))
        overlay.wait_site(SITE)
        plane = ("connect", "--listen", "127.0.0.1:0", "--plane")
        spread, auto = overlay.run("user-ann", *plane, "spread"), overlay.run("user-bob", *plane, "auto")
        yield World(overlay, spread, auto)
    finally:
        overlay.close()
        origin.stop()


def curl(proxy: str, path: str = "/") -> str:
    """A page through a forwarder."""
    command = ["curl", "-sS", "-i", "-m", "30", "--proxytunnel", "-x", f"http://{proxy}", f"http://{SITE}.test{path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def proxy(world: World) -> str:
    """Ann's forwarder, once a page has come over relays."""
    found: str = world.spread.hello["proxy"]
    until(lambda: "The wiki is up" in curl(found), "a page over relays")
    return found


def test_a_page_comes_over_relays_and_paths_tells_so(world: World, proxy: str) -> None:
    assert "The wiki is up" in curl(proxy)
    found = world.paths("ann")
    session = found["sessions"][0]
    assert (found["plane"], session["site"], session["up"], session["prefer"]) == ("spread", SITE, True, True)
    assert session["tunnels"] >= 2 and session["rtt_us"] > 0
    assert len(session["paths"]) == len(NODES)
    assert sum(path["received"] for path in session["paths"]) > 0
    assert set(session["paths"][0]) == {
        "relay", "state", "weight", "loss", "delay_us", "sent", "received", "duplicates", "mtu",
    }  # fmt: skip


async def test_a_websocket_echoes(proxy: str) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"ws://{SITE}.test/echo", proxy=f"http://{proxy}", timeout=aiohttp.ClientWSTimeout(10)) as socket,
    ):
        for number in range(20):
            await socket.send_str(f"hello {number}")
            assert await socket.receive_str(timeout=20) == f"echo hello {number}"


async def test_a_long_download_and_an_upload_arrive_whole_while_tickets_are_renewed(world: World, proxy: str) -> None:
    size = 50_000_000
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{SITE}.test/bytes/{size}", proxy=f"http://{proxy}") as answer:
            body = await answer.read()
        assert len(body) == size and body[: len(PIECE)] == PIECE
        async with session.post(f"http://{SITE}.test/upload", data=body[:10_000_000], proxy=f"http://{proxy}") as answer:
            assert answer.status == 200
    before = world.paths("ann")["sessions"][0]
    left = [before["ends_in"]]

    def renewed() -> bool:
        left.append(world.paths("ann")["sessions"][0]["ends_in"])
        return left[-1] > left[-2]

    until(renewed, "a renewed ticket")
    assert world.paths("ann")["sessions"][0]["tunnels"] >= before["tunnels"] > 0, "the session is the same"


def test_auto_begins_through_an_access_point_and_changes_over(world: World) -> None:
    proxy = world.auto.hello["proxy"]
    assert "The wiki is up" in curl(proxy)

    def over_relays() -> bool:
        assert "The wiki is up" in curl(proxy)
        sessions = world.paths("bob")["sessions"]
        return bool(sessions) and sessions[0]["tunnels"] > 0

    until(over_relays, "a tunnel over relays")


def test_a_dead_relay_is_noticed_by_weights_only(world: World, proxy: str) -> None:
    # A node that is neither beacon nor servlet would be best; whichever it is, pages go on.
    world.overlay.nodes["n4"].stop()
    for _ in range(10):
        until(lambda: "The wiki is up" in curl(proxy), "a page")


def test_a_node_that_relays_tells_what_it_relayed(world: World, proxy: str) -> None:
    assert "The wiki is up" in curl(proxy)
    told = families(page(world.overlay.state("n1") / "node" / "metrics.sock", "/metrics")[2])
    for name, kind, text in meanings():
        if name.startswith("spread_"):
            assert (told[f"polder_{name}"].type, told[f"polder_{name}"].documentation) == (kind, text)
