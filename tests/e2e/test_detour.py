"""A download goes on when UDP is blocked under it, and when it comes back: the kernel drops the relays' datagrams."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from polder.api.admin import ask
from tests.support.origin import PIECE, Origin
from tests.support.overlay import Overlay, Process, polder, until

NODES = ("n1", "n2", "n3")
SITE = "wiki"
TABLE = "polder_test_detour"


@dataclass
class World:
    """A user whose datagrams can be blocked."""

    overlay: Overlay
    forwarder: Process
    ports: tuple[str, ...]

    def paths(self) -> list[dict[str, Any]]:
        """The sessions of which ``polder paths`` tells."""
        socket = self.overlay.state("user-ann") / "user" / "ann" / "admin.sock"
        found: list[dict[str, Any]] = asyncio.run(ask(socket, "paths"))["sessions"]
        return found

    def session(self) -> dict[str, Any]:
        """The only one."""
        return self.paths()[0]

    def block(self) -> None:
        """No datagram reaches a relay."""
        ports = ", ".join(self.ports)
        rules = f"table inet {TABLE} {{ chain in {{ type filter hook input priority 0; udp dport {{ {ports} }} drop; }}; }}"
        subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)

    @staticmethod
    def unblock() -> None:
        """They do again; done twice, it does nothing."""
        subprocess.run(["nft", "delete", "table", "inet", TABLE], capture_output=True, check=False)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Three nodes that relay, a site, a user who chose nothing: ``auto`` is the default."""
    origin, overlay = Origin().start(), Overlay(tmp_path)
    try:
        overlay.found()
        for name in NODES:
            overlay.enrol_node(name, spread="span = 0.5\n")
        ports = tuple(overlay.run_node(name).hello["address"].rpartition(":")[2] for name in NODES)
        overlay.enrol_site(SITE, f"{SITE}.test")
        overlay.run_site(SITE, f'name = "{SITE}"\norigin = "http://{origin.address}"\nallow = ["group:staff"]\n')
        overlay.enrol_user("ann", "staff")
        overlay.wait_ring(len(NODES))
        overlay.wait_site(SITE)
        yield World(overlay, overlay.connect("ann"), ports)
    finally:
        World.unblock()
        overlay.close()
        origin.stop()


def curl(proxy: str, path: str) -> list[str]:
    """The command that reads a page through a forwarder."""
    return ["curl", "-sS", "-N", "--proxytunnel", "-x", f"http://{proxy}", f"http://{SITE}.test{path}"]


class Download:
    """Bytes without an end, read while something is waited for; each is compared with what the origin says."""

    def __init__(self, proxy: str) -> None:
        self._curl = subprocess.Popen(curl(proxy, f"/bytes/{10**12}"), stdout=subprocess.PIPE)
        self._at = 0

    def read(self, count: int = 2_000_000) -> None:
        """The next bytes; fails when there are none, or others."""
        assert self._curl.stdout is not None
        while count > 0:
            piece = self._curl.stdout.read1(65_536)
            assert piece, f"the download ended after {self._at} bytes"
            start = self._at % len(PIECE)
            assert piece == (PIECE[start:] + PIECE * (len(piece) // len(PIECE) + 1))[: len(piece)]
            self._at += len(piece)
            count -= len(piece)

    def until(self, true: Callable[[], bool], what: str) -> None:
        """Reads on until it is."""

        def seen() -> bool:
            self.read()
            return true()

        until(seen, what)

    def close(self) -> None:
        """Enough."""
        self._curl.kill()
        self._curl.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may drop datagrams")
def test_a_download_outlives_udp(world: World) -> None:
    proxy = world.forwarder.hello["proxy"]

    def over_relays() -> bool:
        subprocess.run(curl(proxy, "/"), check=True, capture_output=True)
        sessions = world.paths()
        return bool(sessions) and sessions[0]["tunnels"] > 0

    until(over_relays, "a tunnel over relays, by the default plane")
    download = Download(proxy)
    try:
        download.read()
        world.block()
        download.until(lambda: world.session()["carrier"] == "tunnel", "the session on its detour")
        download.read(10_000_000)
        seen = polder(world.overlay.state("user-ann"), "watch", "--once", status=3)
        assert "relay" in seen["headline"]
        world.unblock()
        download.until(lambda: world.session()["carrier"] == "relays", "the session over relays again")
        download.read(10_000_000)
    finally:
        download.close()
    assert world.session()["detours"] >= 1
