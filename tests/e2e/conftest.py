"""One real overlay for all tests of this folder: an authority, three nodes, a site in each path mode, two users."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from polder.model import PathMode
from tests.support.collector import Collector
from tests.support.origin import Origin
from tests.support.overlay import Overlay

SITES = {PathMode.BEACON: "wiki", PathMode.RING: "blog", PathMode.DIRECT: "shop"}
NODES = ("n1", "n2", "n3")


@dataclass
class World:
    """What the tests get. ``proxy`` and ``stranger_proxy``: forwarders of ann (staff) and of eve (in no group).

    Ann's forwarder begins a trace for every tunnel; the nodes join it.
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
            overlay.enrol_node(name, _traces(collector, sample=0, inbound="honour"))
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
        ann, eve = overlay.connect("ann"), overlay.connect("eve")
        yield World(overlay, origin, ann.hello["proxy"], eve.hello["proxy"], collector)
    finally:
        overlay.close()
        origin.stop()
        collector.stop()


def _traces(collector: Collector, *, sample: float, inbound: str) -> str:
    return f'[traces]\nendpoint = "{collector.url}"\nsample = {sample}\ninbound = "{inbound}"\nevery = "200ms"\n'
