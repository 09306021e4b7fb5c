"""Nodes of a real overlay are killed under a page load: no page fails, and the ring closes again."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from pathlib import Path

from tests.support.kills import Load, Roles, choose, revive, strike
from tests.support.origin import Origin
from tests.support.overlay import Overlay

NODES = ("n1", "n2", "n3", "n4", "n5", "n6")


async def _strike_twice(overlay: Overlay, load: Load) -> None:
    """The servlet in use is killed, then both servlets of the site with one of its beacons: half of all nodes."""
    roles, sites = Roles(overlay), {"wiki": 2}
    async with load.running():
        for step in ("servlet", "both servlets and a beacon"):
            await roles.until_served(sites, 4)
            victims = await choose(overlay, step, "wiki", "wiki", random.Random(1))
            struck = time.monotonic()
            await strike(overlay, victims, signal.SIGKILL)
            assert await roles.until_in_order([name for name in overlay.nodes if name not in victims]) < 20
            while len(load.between(struck, time.monotonic())) < 40:
                await asyncio.sleep(0.1)
            await revive(overlay, victims, signal.SIGKILL)


def test_no_page_fails_while_servlets_and_beacons_are_killed(tmp_path: Path) -> None:
    overlay, origin = Overlay(tmp_path), Origin().start()
    try:
        overlay.found()
        for name in NODES:
            overlay.enrol_node(name)
        for name in NODES:
            overlay.run_node(name)
        overlay.enrol_site("wiki", "wiki.test")
        overlay.run_site(
            "wiki",
            f'name = "wiki"\norigin = "http://{origin.address}"\nallow = ["anyone"]\nservlets = 2\n'
            f'[origins]\n443 = "{origin.secure_address}"\n',
        )
        overlay.enrol_user("ann")
        overlay.wait_ring(len(NODES))
        overlay.wait_site("wiki")
        load = Load([overlay.connect("ann").hello["proxy"]], ["wiki.test"], origin.certificate, rate=10)
        asyncio.run(_strike_twice(overlay, load))
        assert len(load.pages) > 80
        assert [page for page in load.pages if page.trouble] == []
    finally:
        overlay.close()
        origin.stop()
