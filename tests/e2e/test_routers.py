"""Real nodes over either ring: everyone knows everyone, a site is read, a node is killed, and all of that holds again."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.origin import Origin
from tests.support.overlay import Overlay, until

NODES = ("n1", "n2", "n3")


def order(overlay: Overlay, alive: set[str]) -> bool:
    """Whether the living nodes' first successors form one ring of all of them."""
    follows = {name: (overlay.node_status(name)["successors"] or [name])[0] for name in alive}
    seen, here = set(), next(iter(alive))
    while here not in seen and here in follows:
        seen.add(here)
        here = follows[here]
    return seen == alive


@pytest.mark.parametrize("router", ["chord", "onehop"])
def test_the_ring_of_real_nodes_heals_and_the_site_stays_readable(router: str, tmp_path: Path) -> None:
    overlay, origin = Overlay(tmp_path), Origin().start()
    try:
        overlay.found()
        for name in NODES:
            overlay.enrol_node(name, f'router = "{router}"\nsuccessors = 2\n')
        for name in NODES:
            overlay.run_node(name)
        overlay.enrol_site("wiki", "wiki.test")
        overlay.run_site("wiki", f'name = "wiki"\norigin = "http://{origin.address}"\nallow = ["anyone"]\n')
        overlay.enrol_user("ann")
        overlay.wait_ring(3)
        until(lambda: order(overlay, set(NODES)), "one ring of three")
        overlay.wait_site("wiki")
        proxy = overlay.connect("ann").hello["proxy"]

        def reads() -> bool:
            command = ["curl", "-sS", "-m", "5", "-x", f"http://{proxy}", "http://wiki.test/"]
            return "The wiki is up" in subprocess.run(command, capture_output=True, text=True, check=False).stdout

        until(reads, "a page")
        overlay.nodes.pop("n2").stop(signal.SIGKILL)
        until(lambda: order(overlay, {"n1", "n3"}), "one ring of two")
        until(reads, "a page without n2")
        overlay.run_node("n2")
        until(lambda: order(overlay, set(NODES)), "a ring with n2 again")
        until(reads, "a page with n2 again")
    finally:
        overlay.close()
        origin.stop()
