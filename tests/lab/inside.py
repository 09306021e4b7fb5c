"""What the laboratory's tests do inside its namespaces: ``python -m tests.lab.inside NAME DIRECTORY``."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from polder.keynote import signing
from polder.lab import attacks, enclosure, load, origin, pageset, phases, spread, topology
from polder.lab.access import Access
from polder.lab.links import LinkError, enter, ip
from polder.lab.olintserv.crossing import Cross
from polder.lab.olintserv.isps import LINE_DELAY_MS, LINE_MBIT, SIDES, TwoIsps
from polder.lab.olintserv.market import Payer
from polder.lab.olintserv.reserving import UDP, Reservations, Wish
from polder.lab.olintserv.tally import Tally
from polder.lab.overlay import POLDER
from polder.lab.processes import ProcessError, Processes, wait_until_listening
from polder.lab.switch import PathSpec
from polder.lab.world import SITE_ADDRESS, World
from polder.rsvp.policy_data import pack_bundle
from polder.shell.clock import wall

SMALL = """
name = "small"
[wide_area]
jitter = 0.0
[[groups]]
name = "user"
places = ["London"]
[[groups]]
name = "bot"
count = 2
places = ["New York", "Tokyo"]
[site]
place = "Amsterdam"
down_mbit = 5
"""

SPREAD = """
name = "small-spread"
[wide_area]
jitter = 0.0
[[groups]]
name = "node"
count = 6
places = ["London", "Paris", "Frankfurt"]
[[groups]]
name = "user"
places = ["London"]
[[groups]]
name = "servlet"
places = ["Amsterdam"]
[site]
place = "Amsterdam"
down_mbit = 100
up_mbit = 100
"""

LINES = """
[[groups]]
name = "line"
count = 2
places = ["London"]
down_mbit = 16
"""

CONNECT = """
import socket, sys, time
start = time.monotonic()
socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20).close()
print((time.monotonic() - start) * 1000)
"""

SERVE = """
import socket, sys
for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    listener = socket.socket(family)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((address, int(sys.argv[1])))
    listener.listen(64)
    globals()[f"l{int(family)}"] = listener
import signal; signal.pause()
"""


def small(directory: Path) -> World:
    """One user, two bots, a site behind 5 Mbit/s."""
    file = directory / "small.toml"
    file.write_text(SMALL)
    return World(topology.load(str(file)), directory)


def connect_ms(host: str, address: str, port: int) -> float:
    """How long a TCP connection from ``host`` takes to open."""
    argv = [*enter(host), sys.executable, "-c", CONNECT, address, str(port)]
    return float(subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout)


async def distances(directory: Path) -> None:
    """Connections take the round trip of the matrix, in both families; a changed path and a pulled cable count at once."""
    world = small(directory)
    async with Processes(directory) as processes:
        for host in ("site", "bot1"):
            server = await processes.start(host, f"server-{host}", [sys.executable, "-c", SERVE, "80"])
            await wait_until_listening(host, 80, server)
        for address in SITE_ADDRESS:
            assert connect_ms("user", address, 80) >= world.rtt_ms("user", "isp")
        user, bot = world.hosts["user"], world.hosts["bot1"]
        for address in (bot.ipv4, bot.ipv6, "bot1.lab"):
            assert connect_ms("user", address, 80) >= world.rtt_ms("user", "bot1") > 50
        assert user.port is not None
        assert bot.port is not None
        world.switch.path(user.port, bot.port, PathSpec(300_000))
        assert connect_ms("user", bot.ipv4, 80) >= 300
        world.switch.plug(bot.port, False)
        before = world.counts(["user"])["drop_route"]
        refused = subprocess.Popen([*enter("user"), sys.executable, "-c", CONNECT, bot.ipv4, "80"], stderr=subprocess.DEVNULL)
        while world.counts(["user"])["drop_route"] == before:
            await asyncio.sleep(0.01)
        refused.kill()
        refused.wait()
    world.close()


async def floods(directory: Path) -> None:
    """What bots send arrives at the router, fills the narrow link and is dropped before it; forged sources get no answer."""
    world = small(directory)
    async with Processes(directory) as processes:
        raid = (attacks.UdpFlood(mbit_s=20), attacks.SynFlood(rate=200, port=80), attacks.UdpFlood(mbit_s=2, forged=True))
        reports = await attacks.launch(processes, world, raid, 1.0, seed=3)
        assert len(reports) == 6
        assert all(report["packets"] > 0 for report in reports)
        sent, got = world.counts(["bot1", "bot2"]), world.counts(["isp"])
        assert sent["in_packets"] == sum(report["packets"] for report in reports) + _noise(sent, reports)
        narrow = world.narrow()
        assert narrow["drops"] > 0
        assert got["out_packets"] >= narrow["packets"]
        six = await attacks.launch(processes, world, [attacks.UdpFlood(mbit_s=2, ipv6=True)], 0.5, seed=4)
        assert all(report["packets"] > 0 for report in six)
    world.close()


def _noise(counts: dict[str, int], reports: list[dict[str, int]]) -> int:
    """Router solicitations and the like that hosts send by themselves; the flood is counted to the packet."""
    extra = counts["in_packets"] - sum(report["packets"] for report in reports)
    assert 0 <= extra <= 20, extra
    return extra


async def strangers(directory: Path) -> None:
    """A scan finds exactly what listens; half handshakes are answered; slow connections stay open."""
    world = small(directory)
    address = world.hosts["user"].ipv4
    async with Processes(directory) as processes:
        listen = [("0.0.0.0", 80, False), ("0.0.0.0", 443, True)]
        await origin.start(processes, "user", directory / "nginx", ["www.polder.test"], listen)

        async def tool(config: dict[str, object]) -> dict[str, object]:
            output = await processes.run("bot1", "tool", [*attacks.TOOL, "strangers"], 30, msgspec.msgpack.encode(config))
            return dict(msgspec.json.decode(output))

        found = await tool(attacks.scan([(address, port) for port in (22, 80, 81, 443, 7443)], rate=100))
        assert sorted(found["found"]) == [f"{address}:443", f"{address}:80"]  # type: ignore[call-overload]
        assert found["closed"] == 3
        hello = attacks.HandshakeFlood(rate=60, port=443, target="user")
        (report, _) = await attacks.launch(processes, world, [hello], 1.0, seed=1)
        assert 0 < report["answered"] == report["opened"] <= report["tried"]
        slow = attacks.Slowloris(connections=40, port=80, tls=False, target="user", drip_s=0.2)
        for report in await attacks.launch(processes, world, [slow], 2.0, seed=1):
            assert 0 < report["opened"] == report["most_open"] <= 20
            assert report["closed"] == 0
    world.close()


async def reading(directory: Path) -> None:
    """A reader loads the page whole; a phase counts every load; a failed reader is an error, not a silence."""
    world = small(directory)
    async with Processes(directory) as processes:
        site = await origin.start(processes, "site", directory / "nginx", ["www.polder.test"], [("0.0.0.0", 443, True)])
        reader = load.Reader(
            url="https://www.polder.test/",
            start=0,
            duration=0,
            seed=1,
            think=0.1,
            resolve={"www.polder.test": SITE_ADDRESS[0]},
            ca=str(site.ca),
        )
        outcome = await phases.run(processes, world, phases.Plan("quiet", "Quiet", 3, {"user": reader}))
        row = outcome.row()
        assert row["pages"] == row["good"] > 0
        assert all(one.bytes == site.page.total for one in outcome.loads)
        assert any(sample.narrow_mbit_s > 0 for sample in outcome.samples)
        try:
            broken = msgspec.structs.replace(reader, ca=str(directory / "absent"))
            await phases.run(processes, world, phases.Plan("broken", "Broken", 1, {"user": broken}))
        except ProcessError as error:
            assert "reader on user failed" in str(error)
        else:
            raise AssertionError("a reader without its CA file was taken for a quiet one")
    world.close()


async def _pages_read(processes: Processes, ca: str, page: str) -> list[load.Load]:
    reader = load.Reader(
        url=f"https://www.polder.test:{spread.LISTEN}/",
        start=time.monotonic(),
        duration=2.0,
        seed=1,
        limit=60.0,
        resolve={"www.polder.test": "127.0.0.1"},
        ca=ca,
        pages=(page,),
    )
    argv = [sys.executable, "-m", "polder.lab.load"]
    output = await processes.run("user", "reader", argv, 120, msgspec.json.encode(reader))
    return [msgspec.json.decode(line, type=load.Load) for line in output.splitlines()]


async def spreading(directory: Path) -> None:
    """Pages cross six relays; they go on when half of them fall silent, and the servlet notices; a sweep stays in its bounds."""
    file = directory / "spread.toml"
    file.write_text(SPREAD)
    world = World(topology.load(str(file)), directory)
    async with Processes(directory) as processes:
        site = await origin.start(processes, "site", directory / "nginx", ["www.polder.test"], [("0.0.0.0", 443, True)])
        pages = pageset.write(site.root / "www")
        relays = [f"node{n}" for n in range(1, 7)]
        overlay = spread.Overlay(world, directory, relays, "servlet", random.Random(1))
        session = await overlay.session("user", (SITE_ADDRESS[0], 443), spread.Mode(naive=False, copies=0.5))
        try:
            for unplugged in ([], relays[:3]):
                for host in unplugged:
                    port = world.hosts[host].port
                    assert port is not None
                    world.switch.plug(port, False)
                loads: list[load.Load] = []
                while not loads:  # a busy machine starts a reader after his time
                    loads = await _pages_read(processes, str(site.ca), pages[1].path)
                assert all(one.good and one.bytes == pages[1].total for one in loads), loads
            counts = session.counts(0, time.clock_gettime(time.CLOCK_REALTIME))
            assert counts["copies"] > 0
            assert counts["duplicates"] > 0
            assert session.last("suspect") == 3
        finally:
            session.stop()
            overlay.stop()
        bounds = '{"mbit": 500, "port": 1, "payload": 1400, "targets": 1, "seconds": 1}'
        sweep = await processes.start("user", "sweep", [sys.executable, "-m", "polder.lab.sweep", bounds])
        assert await sweep.process.wait() == 2
    world.close()


async def last_hops(directory: Path) -> None:
    """Two narrow last hops, and one of them reserved from two nodes: what they send passes cross traffic, what others send does not."""
    world = TwoIsps(directory)
    provider = signing.make_key("ed25519")
    trusted, body = signing.identifier(provider), 'Licensees: "router:edge" || "router:isp"\nConditions: true -> "reserve";\n'
    grant = signing.sign(f'KeyNote-Version: 2\nAuthorizer: "{trusted}"\n{body}', provider)
    policy = f'Authorizer: "POLICY"\nLicensees: "{trusted}"\nConditions: app_domain == "Polder-BandEx" -> "reserve";\n'
    (directory / "policy.kn").write_text(policy)
    (directory / "pdp.toml").write_text(f'socket = "{directory}/pdp.sock"\npolicy = "{directory}/policy.kn"\n')

    class Allowed(Payer):
        def bundle(self, asked: object, seconds: float) -> bytes:
            return pack_bundle([grant.encode()])

    async with Processes(directory) as processes:
        server = await processes.start("site", "server", [sys.executable, "-c", SERVE, "80"])
        await wait_until_listening("site", 80, server)
        way = world.rtt_ms("user", "site") + 4 * LINE_DELAY_MS
        assert way <= connect_ms("user", SITE_ADDRESS[0], 80) < way + 60, "both lines and the wide area between"
        pdp = await processes.start(None, "pdp", [*POLDER, "pdp", "--config", directory / "pdp.toml", "--json"], piped=True)
        await pdp.first_line(60)
        reservations, cross, tally = Reservations(processes, world, directory), Cross(processes, world), Tally(world)
        await reservations.start({"edge": directory / "pdp.sock"})
        await cross.open()
        tally.open()
        async with reservations.hold([Wish(SIDES[0], UDP, 4.0, 0.5)], {"user": Allowed(provider, [])}, 60.0):
            carried = await reservations.carried()
            assert sorted(each["device"] for each in carried) == ["narrow", "out", "out"], carried
            begun = wall()
            await cross.start(begun, begun + 60.0)
            cross.mark()
            while cross.mbit() < 1.2 * LINE_MBIT:
                assert wall() < begun + 55.0, "the machine is too slow to fill the lines"
                await asyncio.sleep(0.2)
            came = await asyncio.gather(*(flow(processes, world, node) for node in ("node1", "node2", "node3")))
            assert came[2] < min(came[:2]), came
            assert min(came[:2]) > 0.98, came
            assert all(count > 0 for node, count in tally.read().items() if node in {"node1", "node2", "node3"})
        await cross.stop()
        world.plug(["node1"], plugged=False)
        before = tally.read()
        for node in ("node1", "node2"):
            await send(processes, world, node, 0.2)
        while (after := tally.read())["node2"] == before["node2"]:
            await asyncio.sleep(0.05)
        assert after["node1"] == before["node1"], "its cable is pulled"
    world.close()


async def send(processes: Processes, world: World, node: str, seconds: float) -> int:
    """1 Mbit/s from a node to the user; the packets sent."""
    where = {"to": world.hosts["user"].ipv4, "port": 5000 + int(node[-1]), "source_port": 7443}
    words = json.dumps(where | {"mbit": 1.0, "payload": 1372, "seconds": seconds})
    told = await processes.run(node, f"send-{node}", [sys.executable, "-m", "polder.lab.udp_flow", "send", words])
    return int(json.loads(told)["sent"])


async def flow(processes: Processes, world: World, node: str) -> float:
    """The part that arrives of 1 Mbit/s from a node to the user."""
    words = json.dumps({"port": 5000 + int(node[-1]), "idle": 1.0})
    argv = [sys.executable, "-m", "polder.lab.udp_flow", "receive", words]
    receiving = await processes.start("user", f"receive-{node}", argv, piped=True)
    await receiving.first_line(60)
    sent = await send(processes, world, node, 2.0)
    return float(json.loads(await receiving.output(60))["arrived"]) / sent


async def moving(directory: Path) -> None:
    """A download over relays goes on when the home router forgets its translations, and when the user takes another line."""
    file, large = directory / "moving.toml", 8_000_000
    file.write_text(SPREAD + LINES)
    world = World(topology.load(str(file)), directory)
    access = Access(world)
    async with Processes(directory) as processes:
        site = await origin.start(processes, "site", directory / "nginx", ["www.polder.test"], [("0.0.0.0", 80, False)])
        body = random.Random(5).randbytes(large)
        (site.root / "www" / "large.bin").write_bytes(body)
        overlay = spread.Overlay(world, directory, [f"node{n}" for n in range(1, 7)], "servlet", random.Random(1))
        session = await overlay.session("user", (SITE_ADDRESS[0], 80), spread.Mode(naive=False, copies=0.5))
        try:
            got = directory / "got.bin"
            curl = ["curl", "-sS", "-m", "120", "-o", str(got), f"http://127.0.0.1:{spread.LISTEN}/large.bin"]
            reader = await processes.start("user", "curl", curl)
            happenings = (access.rebind, lambda: access.take("line2"), access.rebind, lambda: access.take("line1"))
            for number, happen in enumerate(happenings, 1):
                while not got.exists() or got.stat().st_size < large * number / 5:
                    processes.check(reader)
                    await asyncio.sleep(0.02)
                happen()
            assert await reader.process.wait() == 0, reader.tail()
            assert got.read_bytes() == body
        finally:
            session.stop()
            overlay.stop()
    world.close()


async def mistakes(directory: Path) -> None:
    """Commands that fail say so; the tools refuse strangers even inside."""
    try:
        ip(["link set nothing up"])
    except LinkError as error:
        assert "nothing" in str(error)
    world = small(directory)
    async with Processes(directory) as processes:
        for target, host in (("192.0.2.1", "bot1"), ("198.19.2.10", None)):
            flood = {"kind": "udp", "target": {"V4": list(socket.inet_aton(target))}, "port": 0, "source": None}
            config = msgspec.msgpack.encode(flood | {"rate": 10, "size": 100, "milliseconds": 10, "seed": 1})
            try:
                await processes.run(host, "tool", [*attacks.TOOL, "flood"], 20, config)
            except ProcessError as error:
                assert "refused" in str(error)
            else:
                raise AssertionError(f"a flood at {target} from {host} was let loose")
    world.close()


async def forever(directory: Path) -> None:
    """Leaves processes behind on purpose, says that they run, and waits to be ended from outside."""
    world = small(directory)
    async with Processes(directory) as processes:
        for host in ("site", "user"):
            server = await processes.start(host, f"server-{host}", [sys.executable, "-c", SERVE, "80"])
            await wait_until_listening(host, 80, server)
        print(f"up {Path('/proc/self/ns/net').stat().st_ino} {world.switch.pid}", flush=True)
        while True:
            await asyncio.sleep(3600)


def main() -> int:
    """Run one of them."""
    work: Callable[[Path], object] = globals()[sys.argv[1]]
    directory = Path(sys.argv[2])
    started = time.monotonic()
    status = enclosure.run(lambda: asyncio.run(work(directory)) or 0)  # type: ignore[arg-type]
    print(f"{sys.argv[1]}: {time.monotonic() - started:.1f} s")
    return status


if __name__ == "__main__":
    sys.exit(main())
