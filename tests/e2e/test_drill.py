"""A drill in the running overlay: a node dies as by SIGKILL, readers notice nothing, it comes back without anybody's help."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from polder.engine import CallFailed
from polder.model.admin_messages import Drill
from polder.settings.identity import IdentityDir
from polder.shell.console import Console, Credentials
from tests.e2e.conftest import NODES, World
from tests.support.overlay import polder


@pytest.fixture
def operator(world: World, tmp_path: Path) -> Path:
    """The state of an operator who is also enrolled as the reader ann, whose forwarder runs."""
    overlay, state = world.overlay, tmp_path / "operator"
    token = overlay.token("admin", "otto")
    polder(state, "enroll", overlay.url, "--pin", overlay.pin, "--token-file", "-", stdin=token)
    (state / "user").symlink_to(overlay.state("user-ann") / "user")
    return state


def test_a_node_dies_and_returns_and_readers_notice_nothing(world: World, operator: Path) -> None:
    pids = {name: world.overlay.nodes[name].process.pid for name in NODES}
    outcome = polder(operator, "drill", "node-kill", "--fraction", "0.3", "--for", "3s", "--slowest", "30s")
    (dead,) = outcome["nodes"]
    assert outcome["findings"] == [] and {each["failed"] for each in outcome["phases"]} == {0}
    assert sum(each["loads"] for each in outcome["phases"]) > 10 and outcome["back_s"] is not None
    log = [line["text"] for line in world.overlay.nodes[dead].log_lines()]
    assert "a drill begins" in log and "joined the ring" in log[log.index("a drill begins") :]
    assert world.overlay.nodes[dead].process.poll() is None and world.overlay.nodes[dead].process.pid == pids[dead]


def test_nobody_but_an_operator_may_drill(world: World) -> None:
    """Another node, and a site."""
    overlay = world.overlay
    for directory in (overlay.state("n4") / "node", overlay.state("site-wiki") / "site" / "wiki"):
        identity = IdentityDir.load(directory)

        async def refused(identity: IdentityDir = identity) -> None:
            console = Console(Credentials.of(identity))
            try:
                member = next(m for m in identity.members if m.name in NODES)
                with pytest.raises(CallFailed) as failure:
                    await console.call(member, "drill", Drill("x", "announce", (member.name,), 5.0))
                assert failure.value.status == 403
            finally:
                await console.close(0.0)

        asyncio.run(refused())


def test_without_an_operator_here_the_way_is_told(world: World, tmp_path: Path) -> None:
    said = polder(tmp_path, "drill", "node-kill", status=2)
    assert "polder invite admin" in said["error"]
