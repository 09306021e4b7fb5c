"""The engine through its facade: what Python sees of the data plane."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from polder.engine.facade import CallFailed, Engine
from polder.snapshot.schema import (
    BeaconEntry,
    Call,
    EngineConfig,
    Event,
    Peer,
    Refusal,
    Revocations,
    ServletEntry,
    Site,
    Snapshot,
)
from tests.engine.pki import DOMAIN, Authority


@dataclass
class Process:
    """An engine with its last snapshot and what it told."""

    name: str
    ring_id: int
    snapshot: Snapshot
    role: str = "node"
    origins: tuple[tuple[int, str], ...] = ()
    events: list[Event] = field(default_factory=list)
    on_call: Callable[[Call], tuple[int, bytes] | None] = lambda call: (200, call.body)
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        config = EngineConfig(role=self.role, listen=("127.0.0.1:0",), origins=self.origins, call_timeout_ms=2000)
        self.engine = Engine(config, self._hear)
        self.address = self.engine.addresses[0]

    def _hear(self, event: Event) -> None:
        self.events.append(event)
        self.heard.set()
        if isinstance(event, Call):
            answer = self.on_call(event)
            if answer is not None:
                self.engine.reply(event.id, *answer)

    async def until(self, shape: Callable[[Event], bool]) -> Event:
        """Wait for an event, past or coming."""
        async with asyncio.timeout(20):
            while True:
                self.heard.clear()
                for event in self.events:
                    if shape(event):
                        return event
                await self.heard.wait()

    @property
    def peer(self) -> Peer:
        return Peer(self.name, self.ring_id.to_bytes(16, "big"), self.address)

    def apply(self, **changes: object) -> None:
        self.snapshot = msgspec.structs.replace(self.snapshot, version=self.snapshot.version + 1, **changes)
        assert self.engine.apply(self.snapshot) == self.snapshot.version

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


WIKI = Site(name="wiki", hosts=("wiki.test",), ports=(443,), allow=({"group": "staff"},), deny=({"user": "eve"},), mode="beacon")


@dataclass
class World:
    """Three nodes: access point, beacon, servlet; and an origin that echoes."""

    authority: Authority
    nodes: list[Process]
    folder: Path

    async def connect(self, name: str, groups: str = "staff", target: str = "wiki.test:443"):  # type: ignore[no-untyped-def]
        """A user's CONNECT, as a browser does it."""
        context = self.authority.context(self.authority.leaf("user", name, groups=groups), self.folder)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.nodes[0].port, ssl=context, server_hostname=f"ap.node.{DOMAIN}"
        )
        writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        return int(head.split()[1]), head.decode().lower(), reader, writer


def process(authority: Authority, name: str, ring_id: int, **more: object) -> Process:
    kind = "site" if more.get("role") == "site" else "node"
    material = authority.leaf(kind, name, ring_id=ring_id if kind == "node" else None)
    snapshot = Snapshot(version=0, trust_domain=DOMAIN, roots=(authority.root_der,), identity=material)
    return Process(name, ring_id, snapshot, **more)  # type: ignore[arg-type]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    origin = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = origin.sockets[0].getsockname()[1]
    authority = Authority()
    nodes = [process(authority, name, n + 1) for n, name in enumerate(["ap", "beacon", "servlet"])]
    tcp = {"tcp": {"address": "127.0.0.1", "bind": None, "ports": [(443, port)]}}
    roles: list[dict[str, object]] = [
        {"sites": (msgspec.structs.replace(WIKI, beacons=("beacon",)),)},
        {"sites": (WIKI,), "beacons": (BeaconEntry("wiki", ("servlet",)),)},
        {"sites": (WIKI,), "servlets": (ServletEntry("wiki", tcp),)},
    ]
    for node, role in zip(nodes, roles, strict=True):
        node.apply(peers=tuple(other.peer for other in nodes if other is not node), **role)
    yield World(authority, nodes, tmp_path)
    for node in nodes:
        await node.engine.stop(0)
    origin.close()


async def test_a_user_is_carried_through_access_point_beacon_and_servlet(world: World) -> None:
    status, _, reader, writer = await world.connect("ann")
    assert status == 200
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    counters = world.nodes[2].engine.counters()
    assert counters["tunnels"] == 1
    assert counters["tunnels_open"] == 1
    assert [link["name"] for link in world.nodes[0].engine.status()["links"] if link["up"]] == ["beacon"]
    writer.close()


@pytest.mark.parametrize(("name", "groups"), [("bob", "guests"), ("eve", "staff"), ("mallory", "")])
async def test_rules_deny_by_default_and_deny_wins(world: World, name: str, groups: str) -> None:
    status, head, _, writer = await world.connect(name, groups)
    assert status == 403
    assert "http_request_denied" in head
    refused = await world.nodes[0].until(lambda event: isinstance(event, Refusal) and event.what == "access")
    assert name in refused.who  # type: ignore[union-attr]
    writer.close()


@pytest.mark.parametrize(
    "target", ["127.0.0.1:22", "localhost:443", "169.254.169.254:80", "wiki.test:22", "[::1]:443", "10.0.0.1:443"]
)
async def test_only_registered_names_and_ports_are_carried_to(world: World, target: str) -> None:
    status, head, _, writer = await world.connect("ann", target=target)
    assert status == 403
    assert "destination_ip_prohibited" in head
    writer.close()


async def test_a_revoked_user_is_cut_and_refused_again(world: World) -> None:
    status, _, reader, writer = await world.connect("ann")
    assert status == 200
    world.nodes[0].apply(revocations=Revocations(1, (f"spiffe://{DOMAIN}/user/ann",)))
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    assert world.nodes[0].engine.counters()["identities_cut"] == 1
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await world.connect("ann")
    event = await world.nodes[0].until(lambda event: isinstance(event, Refusal) and event.what == "certificate")
    assert "revoked" in event.why  # type: ignore[union-attr]
    writer.close()


async def test_calls_cross_with_the_callers_verified_identity(world: World) -> None:
    ap, beacon, _ = world.nodes
    body = await ap.engine.call("beacon", (2).to_bytes(16, "big"), beacon.address, "ring.ping", b"x" * 1000, 5)
    assert body == b"x" * 1000
    call = next(event for event in beacon.events if isinstance(event, Call))
    assert (call.kind, call.name, call.ring_id, call.method) == ("node", "ap", (1).to_bytes(16, "big"), "ring.ping")


async def test_a_call_to_a_self_chosen_ring_id_fails_and_is_told(world: World) -> None:
    ap, beacon, _ = world.nodes
    with pytest.raises(CallFailed, match="ring id") as failed:
        await ap.engine.call("beacon", (99).to_bytes(16, "big"), beacon.address, "ring.ping", b"", 5)
    assert failed.value.status == 0
    await ap.until(lambda event: isinstance(event, Refusal) and event.what == "identity")


async def test_silent_python_costs_a_call_not_the_engine(world: World) -> None:
    ap, beacon, _ = world.nodes
    beacon.on_call = lambda call: None
    with pytest.raises(CallFailed) as failed:
        await ap.engine.call("beacon", (2).to_bytes(16, "big"), beacon.address, "ring.ping", b"", 10)
    assert failed.value.status == 504
    assert beacon.engine.counters()["calls_late"] == 1


async def test_an_unusable_snapshot_names_the_field_and_changes_nothing(world: World) -> None:
    ap = world.nodes[0]
    for change, field_name in [
        ({"roots": ()}, "roots"),
        ({"identity": world.authority.leaf("node", "x")}, "identity.chain"),
        ({"sites": (WIKI, WIKI)}, "sites"),
        ({"limits": msgspec.structs.replace(ap.snapshot.limits, max_hops=0)}, "limits.max_hops"),
        ({"version": 0}, "version"),
        ({"schema": 9}, "schema"),
    ]:
        bad = msgspec.structs.replace(ap.snapshot, **{"version": ap.snapshot.version + 1, **change})
        with pytest.raises(ValueError, match=field_name):
            ap.engine.apply(bad)
    assert ap.engine.status()["version"] == ap.snapshot.version
    status, *_, writer = await world.connect("ann")
    assert status == 200
    writer.close()


async def test_a_site_dials_out_and_takes_streams(world: World) -> None:
    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"origin says " + await reader.readexactly(2))
        writer.close()

    origin = await asyncio.start_server(hello, "127.0.0.1", 0)
    servlet = world.nodes[2]
    port = origin.sockets[0].getsockname()[1]
    site = process(world.authority, "wiki", 0, role="site", origins=((443, f"127.0.0.1:{port}"),))
    servlet.apply(servlets=(ServletEntry("wiki", "dialout"),))
    warm = msgspec.structs.replace(servlet.peer, warm=True)
    site.apply(peers=(warm,))
    await site.until(lambda event: type(event).__name__ == "Link" and event.up)  # type: ignore[union-attr]
    status, _, reader, writer = await world.connect("ann")
    assert status == 200
    writer.write(b"hi")
    assert await reader.read() == b"origin says hi"
    writer.close()
    await site.engine.stop(0)
    origin.close()


async def test_a_hundred_starts_and_stops_under_load(tmp_path: Path) -> None:
    authority = Authority()
    fixed = process(authority, "fixed", 1)
    fixed.apply()
    material = authority.leaf("node", "n", ring_id=2)
    loop = asyncio.get_running_loop()
    for turn in range(100):
        config = EngineConfig(role="node", listen=("127.0.0.1:0",), workers=1 + turn % 2)
        engine = Engine(config, lambda event: None)
        peer = msgspec.structs.replace(fixed.peer, warm=True)
        snapshot = Snapshot(1, DOMAIN, (authority.root_der,), material, peers=(peer,))
        engine.apply(snapshot)
        calls = [loop.create_task(engine.call("fixed", fixed.peer.ring_id, fixed.address, "m", bytes(100), 5)) for _ in range(20)]
        if turn % 3:  # sometimes stopped with calls in the air, sometimes after some answers
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait_for(engine.stop(0), 10)
        await asyncio.gather(*calls, return_exceptions=True)
    await fixed.engine.stop(0)
    assert fixed.engine.counters()["connections"] > 50


async def test_stopping_lets_tunnels_end_until_the_deadline(world: World) -> None:
    status, _, reader, writer = await world.connect("ann")
    assert status == 200
    beacon = world.nodes[1].engine
    stopping = asyncio.create_task(beacon.stop(30))
    for _ in range(20):  # the tunnel through the stopping node still carries
        writer.write(b"still here")
        assert await reader.readexactly(10) == b"still here"
    assert not stopping.done()
    writer.close()
    async with asyncio.timeout(20):
        await stopping


async def test_stopping_cuts_what_does_not_end(world: World) -> None:
    status, _, reader, _ = await world.connect("ann")
    assert status == 200
    await world.nodes[1].engine.stop(0)
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)


async def test_a_stopped_engine_says_so(world: World) -> None:
    engine = world.nodes[2].engine
    await engine.stop(0)
    with pytest.raises(RuntimeError, match="stopped"):
        engine.apply(world.nodes[2].snapshot)
    with pytest.raises(CallFailed, match="stopped"):
        await engine.call("beacon", bytes(16), "127.0.0.1:1", "m", b"", 1)


async def test_strangers_without_a_certificate_get_no_further_than_the_handshake(world: World) -> None:
    context = world.authority.context(None, world.folder)
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", world.nodes[0].port, ssl=context, server_hostname=f"ap.node.{DOMAIN}"
        )
        writer.write(b"CONNECT wiki.test:443 HTTP/1.1\r\nHost: wiki.test\r\n\r\n")
        await reader.readexactly(1)
    refused = await world.nodes[0].until(lambda event: isinstance(event, Refusal) and event.what == "certificate")
    assert "no certificate" in refused.why  # type: ignore[union-attr]
    assert world.nodes[0].engine.counters()["front_requests"] == 0


async def test_a_listener_that_is_taken_is_an_os_error_with_the_address(world: World) -> None:
    taken = world.nodes[0].address
    with pytest.raises(OSError, match=taken):
        Engine(EngineConfig(role="node", listen=(taken,)), lambda event: None)
