"""Listeners come and go while connections stay; a second engine takes over the sockets of the first, and its agents."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator

import msgspec
import pytest

from polder.engine import Engine
from polder.snapshot.schema import DialOutChange, EngineConfig, Event, Limits, ServletEntry, Snapshot
from tests.engine.pki import DOMAIN, Authority
from tests.engine.test_engine import WIKI, Process, process


@pytest.fixture
def authority() -> Authority:
    return Authority()


def node(authority: Authority, listen: tuple[str, ...], inherit: tuple[tuple[str, int], ...] = ()) -> Engine:
    """An engine with a snapshot in force, so that it accepts."""
    engine = Engine(EngineConfig(role="node", listen=listen, inherit=inherit), lambda event: None)
    limits = Limits(handshake_rate_per_source=1_000_000)  # who knocks without a pause is turned away by a reset otherwise
    engine.apply(Snapshot(1, DOMAIN, (authority.root_der,), authority.leaf("node", "n", ring_id=1), limits=limits))
    return engine


async def knocks(address: str) -> bool:
    """Whether something accepts at ``address``."""
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except (ConnectionRefusedError, ConnectionResetError):  # the latter: it closed with us in its queue
        return False
    writer.close()
    return True


async def idle(engine: Engine) -> None:
    """Until a drain would wait for nothing."""
    async with asyncio.timeout(20):
        while engine.status()["work"]:
            await asyncio.sleep(0.01)


async def test_listeners_are_added_and_removed_and_the_others_stay(authority: Authority) -> None:
    engine = node(authority, ("127.0.0.1:0",))
    [first] = engine.addresses
    [(configured, descriptor)] = engine.listeners
    assert configured == "127.0.0.1:0"
    engine.listen(["127.0.0.1:0", "127.0.0.2:0"])
    assert engine.listeners[0] == (configured, descriptor), "the socket that was there is the same"
    second = engine.addresses[1]
    assert await knocks(first) and await knocks(second)
    with pytest.raises(OSError, match=r"listen 192\.0\.2\.1:1"):
        engine.listen(["127.0.0.1:0", "192.0.2.1:1"])
    assert engine.addresses == [first, second], "a bad wish changes nothing"
    with pytest.raises(ValueError, match="is not ip:port"):
        engine.listen(["localhost:1"])
    engine.listen(["127.0.0.2:0"])
    assert engine.addresses == [second]
    assert await knocks(second)
    async with asyncio.timeout(20):
        while await knocks(first):
            await asyncio.sleep(0.01)
    await engine.stop(0)


async def test_the_next_engine_takes_the_socket_and_nobody_is_refused(authority: Authority) -> None:
    old = node(authority, ("127.0.0.1:0",))
    [address] = old.addresses
    [(configured, descriptor)] = old.listeners
    copy = os.dup(descriptor)
    new = node(authority, ("127.0.0.1:0",), ((configured, copy),))
    os.close(copy)
    assert new.addresses == [address]
    knocking = True

    async def knock() -> int:
        count = 0
        while knocking:
            assert await knocks(address)
            count += 1
        return count

    guests = [asyncio.create_task(knock()) for _ in range(4)]
    await asyncio.sleep(0)
    old.drain()
    assert old.addresses == []
    await idle(old)
    before = new.counters()["connections"]
    assert await old.stop(0) == 0
    async with asyncio.timeout(20):
        while new.counters()["connections"] < before + 20:
            await asyncio.sleep(0.01)
    knocking = False
    assert min(await asyncio.gather(*guests)) > 0
    await new.stop(0)


async def test_what_is_no_listener_at_that_address_is_refused(authority: Authority) -> None:
    with socket.socket() as mute, socket.create_server(("127.0.0.1", 0)) as other:
        for one in (mute, other):
            with pytest.raises(ValueError, match="the inherited descriptor"):
                node(authority, ("127.0.0.1:9",), (("127.0.0.1:9", one.fileno()),))


@pytest.fixture
async def agent(authority: Authority) -> AsyncIterator[tuple[Process, Process]]:
    """A servlet, and a site's agent that has dialled it."""
    servlet = process(authority, "servlet", 1)
    servlet.apply(sites=(WIKI,), servlets=(ServletEntry("wiki", "dialout"),))
    agent = process(authority, "wiki", 0, role="site", origins=((443, "127.0.0.1:9"),))
    agent.apply(peers=(msgspec.structs.replace(servlet.peer, warm=True),))
    await servlet.until(lambda event: event == DialOutChange("wiki", True))
    yield servlet, agent
    await agent.engine.stop(0)
    await servlet.engine.stop(0)


async def test_a_sites_agent_dials_the_next_engine_when_the_old_one_drains(
    authority: Authority, agent: tuple[Process, Process]
) -> None:
    old, _ = agent
    came = asyncio.Event()

    def hear(event: Event) -> None:
        if event == DialOutChange("wiki", True):
            came.set()

    new = Engine(EngineConfig(role="node", listen=("127.0.0.1:0",), inherit=tuple(old.engine.listeners)), hear)
    new.apply(msgspec.structs.replace(old.snapshot, version=1))
    old.engine.drain()
    async with asyncio.timeout(20):
        await came.wait()
    await idle(old.engine)
    assert new.status()["dialouts"] == ["wiki"]
    await new.stop(0)


async def test_an_agent_that_drains_is_left_for_the_one_that_dialled_after_it(
    authority: Authority, agent: tuple[Process, Process]
) -> None:
    servlet, old = agent
    new = process(authority, "wiki", 0, role="site", origins=((443, "127.0.0.1:9"),))
    new.apply(peers=(msgspec.structs.replace(servlet.peer, warm=True),))
    async with asyncio.timeout(20):
        while servlet.engine.counters()["dialouts_open"] < 2:
            await asyncio.sleep(0.01)
    old.engine.drain()
    async with asyncio.timeout(20):
        while servlet.engine.counters()["dialouts_open"] > 1:
            await asyncio.sleep(0.01)
    assert old.engine.status()["work"] == 0
    assert DialOutChange("wiki", False) not in servlet.events
    await new.engine.stop(0)
