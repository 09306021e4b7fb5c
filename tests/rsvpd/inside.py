"""What happens in ``world.World``: run by ``test_inside.py`` in a process of its own, inside the enclosure."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path

from polder.bandex import Entry
from polder.clearing.till import Till
from polder.lab import enclosure, links
from polder.lab.processes import Processes
from tests.rsvpd.world import RECEIVER6, SENDER6, World, dial, in_force, listen, lose, nothing, read_wire, sell, until


async def story(world: World) -> None:
    """In order; every part leaves nothing behind."""
    world.isp = sell(world.directory)
    await world.open("pdp", "shop")
    listening = await listen(world)
    first = await world.announce("sender", world.hop.receiver, world.hop.sender)
    await refused_and_reserved(world)
    await in_ipv6(world)
    await styles(world)
    await paid(world)
    await told(world)
    await first.stop()
    await world.until("r2", lambda found: not found["senders"])
    if listening is not None:
        print("what was on the wire is RSVP to others too", flush=True)
        await listening.stop()
        await read_wire(world)
    print("a daemon that ends gives its link back", flush=True)
    await world.running["r1"].stop()
    assert "htb" not in await world.says("r1", "tc", "qdisc", "show", "dev", "out")
    assert "polder" not in await world.says("r1", "nft", "list", "ruleset")


async def refused_and_reserved(world: World) -> None:
    """One flow: its life, and what happens to it."""
    receiver, sender = world.hop.receiver, ("--from", f"{world.hop.sender}:6000")
    print("refused without credentials, in words", flush=True)
    done = await asyncio.to_thread(subprocess.run, world.ask(receiver, *sender), capture_output=True, text=True, check=False)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "no credentials came" in done.stderr, done.stderr
    assert nothing(await world.facts("r1"))

    print("reserved with them, and enforced at both routers", flush=True)
    granted = (*sender, "--credentials", f"{world.directory}/grant.kn")
    holding = await world.reserve(receiver, *granted)
    for host in ("r1", "r2"):
        found = await world.until(host, in_force)
        assert found["reservations"][0]["state"] == "granted"
        assert found["links"][0]["reserved"] == 500_000
    await world.packets("sender", receiver, 6000, 20)
    await world.packets("sender", receiver, 6001, 10)
    found = await world.until("r2", lambda f: f["enforced"][0]["packets"] >= 20)
    assert found["enforced"][0]["packets"] == 20, "another port's packets are not the flow's"

    print("other settings lose neither the reservation nor its counters", flush=True)
    world.shaped = 20
    await world.reload("r2")

    async def slower() -> bool:
        return "class htb 1:1 root rate 20Mbit" in await world.says("r2", "tc", "class", "show", "dev", "out")

    await until(slower, world.running["r2"])
    found = await world.facts("r2")
    assert found["links"][0]["rate_mbit"] == 20
    assert in_force(found)
    assert found["enforced"][0]["packets"] == 20

    print("beyond what was reserved it is best effort", flush=True)

    async def exceeded() -> bool:
        await world.packets("sender", receiver, 6000, 2000)
        return (await world.facts("r1"))["enforced"][0]["packets_beyond"] > 0

    await until(exceeded, world.running["r1"])

    print("a host helper that starts anew is told everything again", flush=True)
    await world.kill("helper")
    await world.start_helper()
    await world.until("r2", lambda f: f["counts"].get("helper-back", 0) > 0)
    await world.until("r2", lambda f: in_force(f) and "packets" in f["enforced"][0] and f["enforced"][0]["packets"] < 20)

    print("another route is found, and the old link let go; a line that was dialled in again is ordered again", flush=True)
    dial()
    await reroute(world)

    print("a router that was killed is filled again", flush=True)
    await world.kill("r2")
    await world.start("r2")
    await world.until("r2", in_force)

    print("it ends with who asked for it", flush=True)
    await holding.stop()
    await world.both(nothing)


async def reroute(world: World) -> None:
    """To the other link between the routers, and back."""
    for device, gateway in (("out2", "10.8.0.2"), ("out", "10.0.2.2")):
        links.ip([f"route replace 10.0.3.0/24 via {gateway}"], "r1")
        await world.until("r1", lambda f, device=device: in_force(f) and f["enforced"][0]["device"] == device)  # type: ignore[misc]
        await world.until("r2", in_force)


async def in_ipv6(world: World) -> None:
    """The same machine, with the addresses of the other version."""
    print("a flow of IPv6 is reserved, and only its packets count", flush=True)
    granted = ("--from", f"[{SENDER6}]:6000", "--credentials", f"{world.directory}/grant.kn")
    async with world.sending("sender", RECEIVER6, SENDER6):
        holding = await world.reserve(f"[{RECEIVER6}]", *granted)
        for host, device in (("r1", "out"), ("r2", "wide")):
            found = await world.until(host, in_force)
            assert found["enforced"][0]["device"] == device
            assert found["enforced"][0]["senders"] == [f"{SENDER6} port 6000"]
        await world.packets("sender", RECEIVER6, 6000, 20)
        await world.packets("sender", RECEIVER6, 6001, 10)
        found = await world.until("r2", lambda f: f["enforced"][0]["packets"] >= 20)
        assert found["enforced"][0]["packets"] == 20
        assert any(path["from"] == "fd00:2::1" for path in found["senders"])
    await world.both(nothing)
    await holding.stop()


async def styles(world: World) -> None:
    """Two senders to one receiver: one reservation for anybody, one for both together, one for each."""
    receiver, senders = world.hop.receiver, sorted((world.hop.sender, world.hop.cross))
    named = [f"{address} port 6000" for address in senders]
    for style, wanted, counts in (
        ("WF", [[]], [30]),
        ("SE", [named], [30]),
        ("FF", [[name] for name in named], [20, 10]),
    ):
        print(f"style {style} with two senders", flush=True)
        rest = [] if style == "WF" else [f"{world.hop.sender} port 6000"]
        async with contextlib.AsyncExitStack() as stack:
            async with world.sending("cross", receiver, world.hop.cross):
                await stack.enter_async_context(world.receiving(receiver, style, *([] if style == "WF" else senders)))
                found = await world.until("r2", lambda f, n=len(wanted): len(f["enforced"]) == n)  # type: ignore[misc]
                assert {each["style"] for each in found["reservations"]} == {style}
                assert sorted(sorted(each["senders"]) for each in found["enforced"]) == wanted
                assert found["links"][0]["reserved"] == 500_000 * len(wanted)
                await world.until("r1", in_force)
                await world.packets("sender", receiver, 6000, 20)
                await world.packets("cross", receiver, 6000, 10)
                await world.until("r2", lambda f, c=counts: sorted((e["packets"] for e in f["enforced"]), reverse=True) == c)  # type: ignore[misc]
            found = await world.until("r2", lambda f, r=rest: [e["senders"] for e in f["enforced"]] == [r])  # type: ignore[misc]
            assert found["links"][0]["reserved"] == 500_000
        await world.both(nothing)


async def paid(world: World) -> None:
    """A check at two routers that sell, with a fifth of all messages lost, a restart, another route and another decision point's start."""
    print("the routers ask those who sell", flush=True)
    world.pdp = "shop"
    for host in ("r1", "r2"):
        await world.reload(host)
    lose(20)
    options = ("--from", f"{world.hop.sender}:6000", "--credentials", f"{world.directory}/credentials.kn")
    holding = await world.reserve(world.hop.receiver, *options, "--pay", f"{world.directory}/alice.key", "--for", "10m")
    await world.both(in_force)
    (entry,) = taken(world)
    print("paid; whatever happens now is paid already", flush=True)
    await world.kill("r1")
    await world.start("r1")
    await world.both(in_force)
    await reroute(world)
    await world.kill("shop")
    await world.judge("shop")
    await world.kill("r2")
    await world.start("r2")
    await world.both(in_force)
    assert holding.alive
    assert taken(world) == [entry], "charged once"
    assert "table inet lose" in await world.says("r1", "nft", "list", "ruleset")
    await holding.stop()
    await world.both(nothing)
    await clean(world)
    lose(0)
    assert taken(world) == [entry]


async def told(world: World) -> None:
    """What Prometheus reads of a router and of a decision point, over a socket that is its owner's."""
    print("metrics tell of both", flush=True)
    for name, wanted in (
        ("at-r2", {"polder_ready 1.0", "polder_rsvp_senders 1.0", "polder_rsvp_unenforced 0.0"}),
        ("shop", {"polder_ready 1.0", "polder_pdp_connections_open 2.0", "polder_desk_checks 1.0"}),
    ):
        path = world.directory / name / "metrics.sock"
        command = ["curl", "-sS", "--fail", "--unix-socket", path, "http://localhost/metrics"]
        page = (await world.processes.run(None, "metrics", command)).decode().splitlines()
        assert wanted <= set(page), (wanted - set(page), page)
        assert not [line for line in page if world.hop.receiver in line or "alice" in line]


async def clean(world: World) -> None:
    """No class of a flow, no rule about one is left in the routers' kernels, once what was let go is gone."""
    for host, devices in (("r1", ("out", "out2")), ("r2", ("out", "wide"))):

        async def bare(host: str = host, devices: tuple[str, ...] = devices) -> bool:
            said = [await world.says(host, "tc", "class", "show", "dev", device) for device in devices]
            rules = await world.says(host, "nft", "list", "ruleset")
            assert "polder_rsvp" in rules
            found = [{line.split()[2] for line in classes.splitlines()} for classes in said]
            return found == [{"1:1", "1:2", "1:3"}] * len(devices) and "flow_" not in rules

        await until(bare, world.running[host])


def taken(world: World) -> list[Entry]:
    """Checks in the shop's till."""
    with contextlib.closing(Till(world.directory / "isp" / "till.sqlite3")) as till:
        return till.waiting(10)


def main() -> int:
    directory = Path(sys.argv[1])

    async def work() -> int:
        async with Processes(directory) as processes:
            world = World(directory, processes)
            await story(world)
        world.hop.close()
        return 0

    return enclosure.run(lambda: asyncio.run(work()))


if __name__ == "__main__":
    sys.exit(main())
