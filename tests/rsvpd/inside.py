"""Two routers with real daemons, a policy decision point and hosts, in namespaces: run by ``test_inside.py`` in processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from polder.keynote import signing
from polder.lab import enclosure, links
from polder.lab.lasthop import LastHop
from polder.lab.processes import Process, Processes
from polder.rsvpd.client import Connection

POLDER = [sys.executable, "-m", "polder.cli.main"]
LOSE = """
table inet lose {{
  chain input {{ type filter hook prerouting priority -400; meta l4proto 46 numgen random mod 100 < {share} drop; }}
}}
"""
LIMIT_S = 240.0


def credentials(directory: Path) -> None:
    provider = signing.make_key("ed25519")
    key = signing.identifier(provider)
    (directory / "policy.kn").write_text(
        f'Authorizer: "POLICY"\nLicensees: "{key}"\nConditions: app_domain == "Polder-BandEx" -> "reserve";\n'
    )
    routers = '"router:r1" || "router:r2"'
    body = f'KeyNote-Version: 2\nAuthorizer: "{key}"\nLicensees: {routers}\nConditions: @rate <= 1000000 -> "reserve";\n'
    (directory / "grant.kn").write_text(signing.sign(body, provider))


async def there(path: Path, process: Process) -> None:
    deadline = time.monotonic() + LIMIT_S
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_unix_connection(path)
            writer.close()
            return
        assert process.alive, process.tail()
        assert time.monotonic() < deadline, process.tail()
        await asyncio.sleep(0.05)


async def start(processes: Processes, directory: Path, host: str, *, second: bool = False) -> Process:
    text = f'name = "{host}"\nsocket = "{directory}/{host}.sock"\nperiod = 1\nfirst_retry = 0.1\n'
    if host in {"r1", "r2"}:
        key = f'key_file = "{directory}/keys"\n' if host == "r1" else ""
        text += f'pdp = "unix:{directory}/pdp.sock"\n'
        if host == "r2":
            text += f'host_helper = "{directory}/helper.sock"\n'
        text += f'[[links]]\ndevice = "out"\nrate_mbit = 24\npolicy = true\n{key}'
    if host == "r1" and second:
        text += '[[links]]\ndevice = "out2"\nrate_mbit = 24\npolicy = true\n'
    if host == "r2":
        text += f'[[links]]\ndevice = "in"\nkey_file = "{directory}/keys"\n'
    (directory / f"{host}.toml").write_text(text)
    (directory / f"{host}.sock").unlink(missing_ok=True)
    process = await processes.start(host, host, [*POLDER, "rsvpd", "--config", directory / f"{host}.toml", "--json"])
    await there(directory / f"{host}.sock", process)
    return process


async def facts(directory: Path, host: str) -> dict[str, Any]:
    async with await Connection.open(directory / f"{host}.sock") as daemon:
        return await daemon.show()


async def until(directory: Path, host: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + LIMIT_S
    while not holds(found := await facts(directory, host)):
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.05)
    return found


def in_force(found: dict[str, Any]) -> bool:
    return len(found["enforced"]) == 1 and found["enforced"][0]["enforced"]


def nothing(found: dict[str, Any]) -> bool:
    return not found["enforced"] and not found["reservations"]


async def story(directory: Path) -> None:
    hop = LastHop(2)
    hop.build(directory)
    credentials(directory)
    (directory / "keys").write_text("# shared by r1 and r2\n7 " + "ab" * 32 + "\n")
    (directory / "pdp.toml").write_text(f'socket = "{directory}/pdp.sock"\npolicy = "{directory}/policy.kn"\n')
    session = f"udp:{hop.receiver}:5004"
    common = ["--mbit", "4", "--max-packet", "1400", "--json"]
    ask = [*POLDER, "reserve", session, "--from", f"{hop.sender}:6000", *common, "--socket", f"{directory}/receiver.sock"]
    async with Processes(directory) as processes:
        pdp = await processes.start(None, "pdp", [*POLDER, "pdp", "--config", directory / "pdp.toml"])
        helper = await processes.start(
            "r2", "helper", [*POLDER, "host-helper", "--socket", directory / "helper.sock", "--reserve", "out"]
        )
        await there(directory / "pdp.sock", pdp)
        deadline = time.monotonic() + LIMIT_S
        while not (directory / "helper.sock").exists():
            assert helper.alive, helper.tail()
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        second_way()
        listening = await listen(processes, directory)
        running = {host: await start(processes, directory, host, second=True) for host in ("r1", "r2", "sender", "receiver")}
        telling = [*POLDER, "rsvp", "announce", session, "--source", f"{hop.sender}:6000", *common]
        await processes.start("sender", "announce", [*telling, "--socket", f"{directory}/sender.sock"])

        print("refused without credentials, in words", flush=True)
        done = await asyncio.to_thread(subprocess.run, [*ask, "--wait", "200s"], capture_output=True, text=True, check=False)
        assert done.returncode == 2, (done.stdout, done.stderr)
        assert "no credentials came" in done.stderr, done.stderr
        assert nothing(await facts(directory, "r1"))

        print("reserved with them, and enforced at both routers", flush=True)
        ask += ["--credentials", f"{directory}/grant.kn", "--wait", "200s"]
        holding = await processes.start(None, "reserve", ask)
        for host in ("r1", "r2"):
            found = await until(directory, host, in_force)
            assert found["reservations"][0]["state"] == "granted"
            assert found["links"][0]["reserved"] == 500_000
        await packets(processes, hop, 6000, 20)
        await packets(processes, hop, 6001, 10)
        found = await until(directory, "r2", lambda f: f["enforced"][0]["packets"] >= 20)
        assert found["enforced"][0]["packets"] == 20, "another port's packets are not the flow's"

        print("beyond what was reserved it is best effort", flush=True)
        deadline = time.monotonic() + LIMIT_S
        while not (await facts(directory, "r1"))["enforced"][0]["packets_beyond"]:
            assert time.monotonic() < deadline, "the machine is too slow to exceed 4 Mbit/s"
            await packets(processes, hop, 6000, 2000)

        print("another route is found, and the old link let go", flush=True)
        for device, gateway in (("out2", "10.8.0.2"), ("out", "10.0.2.2")):
            links.ip([f"route replace 10.0.3.0/24 via {gateway}"], "r1")
            await until(directory, "r1", lambda f, device=device: in_force(f) and f["enforced"][0]["device"] == device)  # type: ignore[misc]
            await until(directory, "r2", in_force)

        print("a router that was killed is filled again", flush=True)
        running["r2"].process.kill()
        await running["r2"].process.wait()
        running["r2"] = await start(processes, directory, "r2")
        await until(directory, "r2", in_force)

        print("it ends with who asked for it", flush=True)
        await holding.stop()
        for host in ("r1", "r2"):
            await until(directory, host, nothing)

        print("with a fifth of messages lost it comes about all the same", flush=True)
        for host in ("r1", "r2"):
            subprocess.run([*links.enter(host), "nft", "-f", "-"], input=LOSE.format(share=20), text=True, check=True)
        holding = await processes.start(None, "reserve", ask)
        for host in ("r1", "r2"):
            await until(directory, host, in_force)
        lost = json.loads((await processes.run("r1", "rules", ["nft", "-j", "list", "ruleset"])).decode())
        assert any("lose" in json.dumps(each) for each in lost["nftables"])
        await holding.stop()
        for host in ("r1", "r2"):
            await until(directory, host, nothing)

        if listening is not None:
            print("what was on the wire is RSVP to others too", flush=True)
            await listening.stop()
            await read_wire(processes, directory)

        print("a daemon that ends gives its link back", flush=True)
        await running["r1"].stop()
        left = (await processes.run("r1", "left", ["tc", "qdisc", "show", "dev", "out"])).decode()
        assert "htb" not in left
        assert "polder" not in (await processes.run("r1", "left", ["nft", "list", "ruleset"])).decode()
    hop.close()


def second_way() -> None:
    """Another link between the routers, which nothing uses yet."""
    links.ip(["link add out2 netns r1 type veth peer name in2 netns r2"])
    for host, device, address in (("r1", "out2", "10.8.0.1"), ("r2", "in2", "10.8.0.2")):
        links.ip([f"address add {address}/24 dev {device}", f"link set {device} up"], host)


async def listen(processes: Processes, directory: Path) -> Process | None:
    """tshark between the routers, where messages carry INTEGRITY; ``None`` where it is not installed."""
    if shutil.which("tshark") is None:
        return None
    wire = directory / "wire.pcap"
    process = await processes.start("r2", "tshark", ["tshark", "-i", "in", "-f", "ip proto 46", "-w", wire])
    deadline = time.monotonic() + LIMIT_S
    while not wire.exists() or not wire.stat().st_size:
        assert process.alive, process.tail()
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    return process


async def read_wire(processes: Processes, directory: Path) -> None:
    """Everything decodes without a warning, but for the two messages of RFC 3097, which tshark does not know."""
    fields = [word for name in ("rsvp.msg", "_ws.expert.message", "_ws.malformed") for word in ("-e", name)]
    told = (await processes.run(None, "wire", ["tshark", "-r", directory / "wire.pcap", "-T", "fields", *fields], 60)).decode()
    kinds = set()
    for line in told.splitlines():
        kind, warning, malformed = line.split("\t")
        kinds |= set(kind.split(","))
        assert not malformed, line
        assert not warning or kind in {"25", "26"}, line
    assert {"1", "2", "13", "15"} <= kinds, kinds


async def packets(processes: Processes, hop: LastHop, source_port: int, count: int) -> None:
    """So many packets of 1,028 bytes."""
    text = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
        f"s.bind(('', {source_port})); [s.sendto(bytes(1000), ('{hop.receiver}', 5004)) for _ in range({count})]"
    )
    await processes.run("sender", "packets", [sys.executable, "-c", text])


def main() -> int:
    directory = Path(sys.argv[1])
    return enclosure.run(lambda: asyncio.run(story(directory)) or 0)  # type: ignore[func-returns-value]


if __name__ == "__main__":
    sys.exit(main())
