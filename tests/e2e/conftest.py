"""One real overlay for all tests of this folder: an authority, three nodes, a site in each path mode, two users."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import aiohttp
import pytest

from polder.model import PathMode
from tests.support.collector import Collector
from tests.support.origin import Origin
from tests.support.overlay import Overlay, Process, until

SITES = {PathMode.BEACON: "wiki", PathMode.RING: "blog", PathMode.DIRECT: "shop"}
NODES = ("n1", "n2", "n3")
SPREAD = 'epoch = "10s"\nticket_life = "10s"\nspan = "500ms"\n'
"""Keys and tickets of the spread plane end often."""


@dataclass
class World:
    """What the tests get. ``proxy`` and ``stranger_proxy``: forwarders of ann (staff) and of eve (in no group).

    Nodes relay datagrams, too. Ann's forwarder begins a trace for every tunnel; the nodes join it.
    """

    overlay: Overlay
    origin: Origin
    proxy: str
    stranger_proxy: str
    collector: Collector


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A running overlay."""
    origin, collector = Origin().start(), Collector().start()
    overlay = Overlay(tmp_path_factory.mktemp("overlay"))
    try:
        overlay.found()
        for name in NODES:
            overlay.enrol_node(name, _traces(collector, sample=0, inbound="honour"), spread=SPREAD)
        for name in NODES:
            overlay.run_node(name)
        overlay.enrol_node("n4")  # enrolled, not running: tests speak in its name
        for mode, name in SITES.items():
            overlay.enrol_site(name, f"{name}.test")
            overlay.run_site(
                name,
                f'name = "{name}"\norigin = "http://{origin.address}"\nallow = ["group:staff"]\nmode = "{mode}"\n'
                f'[origins]\n443 = "{origin.secure_address}"\n',
            )
        ann_state = overlay.enrol_user("ann", "staff")
        (ann_state / "user" / "ann" / "client.toml").write_text(_traces(collector, sample=1, inbound="restart"))
        overlay.enrol_user("eve")
        overlay.wait_ring(len(NODES))
        for name in SITES.values():
            overlay.wait_site(name)
        # Which plane the default takes, measurements decide; most tests here look at tunnels.
        ann, eve = (overlay.connect(user, "--plane", "tunnel") for user in ("ann", "eve"))
        yield World(overlay, origin, ann.hello["proxy"], eve.hello["proxy"], collector)
    finally:
        overlay.close()
        origin.stop()
        collector.stop()


@pytest.fixture(scope="session")
def spread(world: World) -> Process:
    """The forwarder of sue (staff), who reads over relays only."""
    world.overlay.enrol_user("sue", "staff")
    forwarder = world.overlay.run("user-sue", "connect", "--listen", "127.0.0.1:0", "--plane", "spread")
    until(lambda: "The wiki is up" in curl(forwarder.hello["proxy"], "http://wiki.test/"), "a page over relays")
    return forwarder


def curl(proxy: str, url: str) -> str:
    """A page through a forwarder, or what curl says instead."""
    command = ["curl", "-sS", "-i", "-m", "30", "--proxytunnel", "-x", f"http://{proxy}", url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


async def echoes(url: str, proxy: str, headers: Mapping[str, str] | None = None) -> None:
    """A WebSocket through a forwarder answers."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, proxy=f"http://{proxy}", headers=headers, timeout=aiohttp.ClientWSTimeout(10)) as socket,
    ):
        for number in range(20):
            await socket.send_str(f"hello {number}")
            assert await socket.receive_str(timeout=20) == f"echo hello {number}"


def _traces(collector: Collector, *, sample: float, inbound: str) -> str:
    return f'[traces]\nendpoint = "{collector.url}"\nsample = {sample}\ninbound = "{inbound}"\nevery = "200ms"\n'
