"""One real overlay for all tests of this folder: an authority, three nodes, a site in each path mode, two users."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from polder.model import PathMode
from tests.support.origin import Origin
from tests.support.overlay import Overlay

SITES = {PathMode.BEACON: "wiki", PathMode.RING: "blog", PathMode.DIRECT: "shop"}
NODES = ("n1", "n2", "n3")


@dataclass
class World:
    """What the tests get. ``proxy`` and ``stranger_proxy``: forwarders of ann (staff) and of eve (in no group)."""

    overlay: Overlay
    origin: Origin
    proxy: str
    stranger_proxy: str


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A running overlay."""
    origin = Origin().start()
    overlay = Overlay(tmp_path_factory.mktemp("overlay"))
    try:
        overlay.found()
        for name in NODES:
            overlay.enrol_node(name)
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
        overlay.enrol_user("ann", "staff")
        overlay.enrol_user("eve")
        overlay.wait_ring(len(NODES))
        for name in SITES.values():
            overlay.wait_site(name)
        ann, eve = overlay.connect("ann"), overlay.connect("eve")
        yield World(overlay, origin, ann.hello["proxy"], eve.hello["proxy"])
    finally:
        overlay.close()
        origin.stop()
