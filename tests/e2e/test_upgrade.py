"""Reload and upgrade of a real overlay under load: nobody is dropped, and a process that fails leaves all as it was."""

from __future__ import annotations

import asyncio
import os
import signal
import socket as socketlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from tests.support.frozen import frozen, states
from tests.support.origin import Origin
from tests.support.overlay import Overlay, Process, gone, polder, until
from tests.support.readers import Readers

NODES = ("n1", "n2", "n3")


@dataclass
class World:
    """An overlay of its own: its processes are replaced."""

    overlay: Overlay
    site: Process
    client: Process

    @property
    def proxy(self) -> str:
        return str(self.client.hello["proxy"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    overlay, origin = Overlay(tmp_path_factory.mktemp("upgrade")), Origin().start()
    try:
        overlay.found()
        for name in NODES:
            overlay.enrol_node(name)
        for name in NODES:
            overlay.run_node(name)
        overlay.enrol_site("wiki", "wiki.test")
        site = overlay.run_site("wiki", f'name = "wiki"\norigin = "http://{origin.address}"\nallow = ["anyone"]\n')
        overlay.enrol_user("ann")
        overlay.wait_ring(3)
        overlay.wait_site("wiki")
        yield World(overlay, site, overlay.connect("ann"))
    finally:
        overlay.close()
        origin.stop()


def parts(world: World) -> list[Process]:
    """Everything that carries."""
    return [*world.overlay.nodes.values(), world.site, world.client]


async def test_everything_is_upgraded_under_load_and_nobody_is_dropped(world: World) -> None:
    roles = {name: await asyncio.to_thread(world.overlay.node_status, name) for name in NODES}
    readers = Readers(world.proxy, "wiki.test")
    async with readers.reading() as seen:
        await readers.moved()
        for process in parts(world):
            old = process.pid
            await asyncio.to_thread(process.upgrade)
            assert process.pid != old
            await readers.moved()
        for name in NODES:
            now = await asyncio.to_thread(world.overlay.node_status, name)
            assert now["joined"] and now["members"] == 3
            assert now["sites"].keys() == roles[name]["sites"].keys()
    assert seen.dropped == 0, seen.troubles
    assert seen.downloads > 0
    # With its last stream the old process ends.
    until(lambda: all(process.process.poll() == 0 for process in parts(world)), "the end of the old processes")
    errors = [line for process in parts(world) for line in process.log_lines() if line["level"] == "error"]
    assert not errors, "a process that has handed over decides nothing more"


async def test_everything_is_reloaded_under_load_and_only_what_changed_changes(world: World) -> None:
    state = world.overlay.state("n1")
    drop_in = state / "node" / "conf.d" / "later.toml"
    readers = Readers(world.proxy, "wiki.test")
    async with readers.reading() as seen:
        await readers.moved()
        drop_in.write_text('log_level = "warning"\nworkers = 2\n[limits]\nconnections_per_source = 200\n')
        told = await asyncio.to_thread(polder, state, "node", "reload", status=3)
        assert told["changed"] == ["limits.connections_per_source", "log_level"]
        assert told["needs_upgrade"] == ["workers"]
        drop_in.write_text("limit = 3\n")
        error = await asyncio.to_thread(polder, state, "node", "reload", status=2)
        assert "unknown key; did you mean 'limits'?" in error["error"]
        drop_in.unlink()
        assert (await asyncio.to_thread(polder, state, "node", "reload"))["changed"] == [
            "limits.connections_per_source",
            "log_level",
        ]
        site = world.overlay.state("site-wiki")
        for _ in range(2):
            assert (await asyncio.to_thread(polder, site, "site", "reload"))["changed"] == []
            await asyncio.to_thread(os.kill, world.client.pid, signal.SIGHUP)
            await readers.moved()
    assert seen.dropped == 0, seen.troubles


def test_an_upgrade_that_fails_leaves_the_old_process_as_it_was(world: World) -> None:
    state = world.overlay.state("n2")
    before = world.overlay.node_status("n2")
    # The next process cannot have its tunnel helper's socket path: what it reads is refused only after it was started.
    broken = state / "node" / "identity.toml"
    good = broken.read_text()
    broken.write_text("nonsense = 1\n")
    try:
        error = polder(state, "node", "upgrade", status=2)
    finally:
        broken.write_text(good)
    assert "the new process cannot serve" in error["error"]
    after = world.overlay.node_status("n2")
    assert (after["snapshot"], after["joined"]) >= (before["snapshot"], True)
    assert after["uptime_s"] >= before["uptime_s"], "it is the same process"


def test_the_authority_is_upgraded_and_goes_on_at_its_place(world: World, tmp_path: Path) -> None:
    state = world.overlay.state("authority")
    first = next(process for process in world.overlay.processes if process.command[0] == "authority")
    first.upgrade()
    until(lambda: first.process.poll() == 0, "the end of the old authority")
    world.overlay.enrol_user("late")
    assert polder(state, "authority", "reload")["changed"] == []


async def test_a_control_plane_that_stands_still_is_not_noticed(world: World) -> None:
    """The node is the only access point of one reader, and a beacon; its peers take it for dead meanwhile."""
    overlay = world.overlay
    await asyncio.to_thread(overlay.enrol_user, "pin")
    (overlay.state("user-pin") / "user" / "pin" / "client.toml").write_text('access_points = ["n1"]\n')
    pinned = await asyncio.to_thread(overlay.connect, "pin")

    def knowing() -> int:
        return sum("n1" in overlay.node_status(name)["successors"] for name in ("n2", "n3"))

    through_n1, others = Readers(pinned.hello["proxy"], "wiki.test"), Readers(world.proxy, "wiki.test")
    async with through_n1.reading() as seen, others.reading() as seen_too:
        await asyncio.gather(through_n1.moved(), others.moved())
        pid = overlay.nodes["n1"].pid
        with frozen(pid):
            assert states(pid)[str(pid)] == "t"
            await asyncio.to_thread(until, lambda: knowing() == 0, "that peers give the node up")
            await asyncio.gather(through_n1.moved(30), others.moved(30))
        await asyncio.to_thread(until, lambda: knowing() == 2, "n1 in the ring again")
    assert (seen.dropped, seen_too.dropped) == (0, 0), seen.troubles + seen_too.troubles


async def test_a_process_told_to_end_lets_open_streams_end_first(world: World) -> None:
    await asyncio.to_thread(world.overlay.enrol_user, "last")
    process = await asyncio.to_thread(world.overlay.connect, "last")
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect("ws://wiki.test/echo", proxy=f"http://{process.hello['proxy']}") as socket:
            os.kill(process.pid, signal.SIGTERM)

            def refuses() -> bool:
                host, _, port = str(process.hello["proxy"]).rpartition(":")
                with socketlib.socket() as sock:
                    return sock.connect_ex((host, int(port))) != 0

            await asyncio.to_thread(until, refuses, "a closed listener")
            for number in range(5):
                await socket.send_str(str(number))
                assert await socket.receive_str(timeout=20) == f"echo {number}"
            assert not gone(process.pid)
        await asyncio.to_thread(until, lambda: gone(process.pid), "the end, with the last stream")
    assert process.process.wait(5) == 0


def test_a_forwarder_told_to_end_goes_at_once_when_nothing_is_open(world: World) -> None:
    world.overlay.enrol_user("eve")
    process = world.overlay.connect("eve")
    os.kill(process.pid, signal.SIGTERM)
    until(lambda: gone(process.pid), "its end", 10)
    assert process.process.wait(5) == 0
