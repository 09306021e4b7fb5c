"""Sender, two routers, receiver and a second sender, each with a real daemon, in namespaces; two policy decision points; a host helper.

```text
 sender ── r1 ══ r2 ══ receiver      IPv4: the narrow line of ``LastHop`` to the receiver; IPv6: a wide one beside it
                 │
               cross: the second sender
```
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polder.bandex.writing import to_file
from polder.keynote import signing
from polder.lab import links
from polder.lab.lasthop import LastHop
from polder.lab.processes import Process, Processes, wait_until_answers
from polder.rsvp.policy_data import pack_bundle
from polder.rsvpd.client import Connection
from polder.rsvpd.values import Announce, Flow, Reserve
from tests.support import money

POLDER = [sys.executable, "-m", "polder.cli.main"]
LIMIT_S = 240.0
SENDER6, RECEIVER6 = "fd00:1::1", "fd00:3::2"
COMMON = ("--mbit", "4", "--max-packet", "1400", "--json")
_ROUTERS = ("r1", "r2")
_KEYS = "# shared by r1 and r2\n7 " + "ab" * 32 + "\n"
_SEND = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.bind(("", int(sys.argv[2])))
[s.sendto(bytes(1000), (sys.argv[1], 5004)) for _ in range(int(sys.argv[3]))]
"""


@dataclass
class World:
    """See the module. ``open`` builds it. ``shaped`` and ``pdp`` are what the routers are configured with; the decision point ``shop``
    sells as ``isp`` says (a file).
    """

    directory: Path
    processes: Processes
    hop: LastHop = field(default_factory=lambda: LastHop(2))
    running: dict[str, Process] = field(default_factory=dict)
    shaped: float = 24
    pdp: str = "pdp"
    isp: Path | None = None

    async def open(self, *judges: str) -> None:
        """Build it, and have everybody's daemon ready, and these decision points."""
        self.hop.build(self.directory)
        _second_ways()
        _grant(self.directory)
        (self.directory / "keys").write_text(_KEYS)
        await self.start_helper()
        hosts = (*self.hop.hosts, "cross")
        await asyncio.gather(*(self.judge(name) for name in judges), *(self.start(host) for host in hosts))

    async def judge(self, name: str) -> None:
        """A decision point, ready: ``pdp`` by KeyNote alone, ``shop`` by checks."""
        how = f'isp = "{self.isp}"' if name == "shop" else f'policy = "{self.directory}/policy.kn"'
        (self.directory / f"{name}.toml").write_text(f'socket = "{self.directory}/{name}/pdp.sock"\n{how}\n')
        command = [*POLDER, "pdp", "--config", self.directory / f"{name}.toml"]
        self.running[name] = await self.processes.start(None, name, command)
        await wait_until_answers(self.directory / name / "pdp.sock", self.running[name], LIMIT_S)

    async def start_helper(self) -> None:
        """The host helper of the second router."""
        path = self.directory / "helper.sock"
        path.unlink(missing_ok=True)
        command = [*POLDER, "host-helper", "--socket", path, "--reserve", "out", "--reserve", "wide"]
        self.running["helper"] = await self.processes.start("r2", "helper", command)
        await until(path.exists, self.running["helper"])

    async def start(self, host: str) -> None:
        """A daemon, ready."""
        self.configure(host)
        self._socket(host).unlink(missing_ok=True)
        command = [*POLDER, "rsvpd", "--config", self.directory / f"{host}.toml", "--json"]
        self.running[host] = await self.processes.start(host, host, command)
        await wait_until_answers(self._socket(host), self.running[host], LIMIT_S)

    def configure(self, host: str) -> None:
        """Write its settings."""
        text = f'name = "{host}"\nsocket = "{self._socket(host)}"\nperiod = 1\nfirst_retry = 0.1\n'
        if host in _ROUTERS:
            text += f'pdp = "unix:{self.directory}/{self.pdp}/pdp.sock"\n'
        if host == "r2":
            text += f'host_helper = "{self.directory}/helper.sock"\n'
        devices = {"r1": ("out", "out2"), "r2": ("out", "wide")}.get(host, ())
        for device in devices:
            text += f'[[links]]\ndevice = "{device}"\nrate_mbit = {self.shaped}\npolicy = true\n'
            text += f'key_file = "{self.directory}/keys"\n' if (host, device) == ("r1", "out") else ""
        if host == "r2":
            text += f'[[links]]\ndevice = "in"\nkey_file = "{self.directory}/keys"\n'
        (self.directory / f"{host}.toml").write_text(text)

    async def reload(self, host: str) -> None:
        """Have it read its settings again, as systemd does on an old machine."""
        self.configure(host)
        admin = self._socket(host).parent / "admin.sock"
        await self.processes.run(None, "reload", [*POLDER, "rsvp", "reload", "--socket", admin, "--json"])

    async def kill(self, name: str) -> None:
        """End a process as a power cut does."""
        self.running[name].process.kill()
        await self.running[name].process.wait()

    async def facts(self, host: str) -> dict[str, Any]:
        """A daemon's state."""
        async with await Connection.open(self._socket(host)) as daemon:
            return await daemon.show()

    async def until(self, host: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """A daemon's state once something is so."""
        deadline = time.monotonic() + LIMIT_S
        while not holds(found := await self.facts(host)):
            assert time.monotonic() < deadline, (host, found, self.running[host].tail())
            await asyncio.sleep(0.05)
        return found

    async def both(self, holds: Callable[[dict[str, Any]], bool]) -> None:
        """Until it is so at both routers."""
        for host in _ROUTERS:
            await self.until(host, holds)

    async def announce(self, host: str, to: str, source: str) -> Process:
        """A sender."""
        command = [*POLDER, "rsvp", "announce", f"udp:{to}:5004", "--source", f"{source}:6000", *COMMON]
        return await self.processes.start(host, f"announce-{host}", [*command, "--socket", self._socket(host)])

    @contextlib.asynccontextmanager
    async def sending(self, host: str, to: str, source: str) -> AsyncIterator[None]:
        """A sender as a program of its own is one, by the library."""
        async with await Connection.open(self._socket(host)) as daemon:
            await daemon.say(Announce(_flow(to), source, 6000))
            await daemon.until("announced", LIMIT_S)
            yield

    @contextlib.asynccontextmanager
    async def receiving(self, to: str, style: str, *senders: str) -> AsyncIterator[None]:
        """A receiver with the provider's grant, by the library; it reserves for those senders."""
        bundle = pack_bundle([(self.directory / "grant.kn").read_bytes()])
        async with await Connection.open(self._socket("receiver")) as daemon:
            await daemon.say(Reserve(_flow(to), style, tuple((sender, 6000) for sender in senders), None, bundle))
            await daemon.until("confirmed", LIMIT_S)
            yield

    def ask(self, to: str, *options: str) -> list[str]:
        """The receiver's command."""
        wait = ("--wait", "200s", "--socket", str(self._socket("receiver")))
        return [*POLDER, "reserve", f"udp:{to}:5004", *COMMON, *wait, *options]

    async def reserve(self, to: str, *options: str) -> Process:
        """A reservation, until the process is stopped."""
        return await self.processes.start(None, "reserve", self.ask(to, *options))

    async def says(self, host: str, *command: str) -> str:
        """What a program prints there."""
        return (await self.processes.run(host, command[0], command)).decode()

    async def packets(self, host: str, to: str, source_port: int, count: int) -> None:
        """So many packets with a kilobyte of payload."""
        await self.processes.run(host, "packets", [sys.executable, "-c", _SEND, to, str(source_port), str(count)])

    def _socket(self, host: str) -> Path:
        return self.directory / f"at-{host}" / "rsvp.sock"


def _flow(to: str) -> Flow:
    """What ``COMMON`` says."""
    return Flow(to, 17, 5004, 500_000.0, 32_000.0, 1_000_000.0, 64, 1400)


def in_force(found: dict[str, Any]) -> bool:
    """One reservation, and the link enforces it."""
    return len(found["enforced"]) == 1 and found["enforced"][0]["enforced"]


def nothing(found: dict[str, Any]) -> bool:
    """No reservation."""
    return not found["enforced"] and not found["reservations"]


async def until(holds: Callable[[], bool], process: Process) -> None:
    """Wait for something that a process is to bring about."""
    deadline = time.monotonic() + LIMIT_S
    while not holds():
        assert process.alive, process.tail()
        assert time.monotonic() < deadline, process.tail()
        await asyncio.sleep(0.05)


async def listen(world: World) -> Process | None:
    """tshark between the routers, where messages carry INTEGRITY; ``None`` where it is not installed."""
    if shutil.which("tshark") is None:
        return None
    wire = world.directory / "wire.pcap"
    what = "ip proto 46 or (ip6 and not icmp6)"
    process = await world.processes.start("r2", "tshark", ["tshark", "-i", "in", "-f", what, "-w", wire])
    await until(lambda: wire.exists() and wire.stat().st_size > 0, process)
    return process


async def read_wire(world: World) -> None:
    """Everything decodes without a warning, but for the two messages of RFC 3097, which tshark does not know."""
    fields = [word for name in ("rsvp.msg", "_ws.expert.message", "_ws.malformed", "ipv6.src") for word in ("-e", name)]
    command = ["tshark", "-r", world.directory / "wire.pcap", "-Y", "rsvp", "-T", "fields", *fields]
    told = (await world.processes.run(None, "wire", command, 60)).decode()
    kinds, sixes = set(), set()
    for line in told.splitlines():
        kind, warning, malformed, six = line.split("\t")
        kinds |= set(kind.split(","))
        sixes |= set(kind.split(",")) if six else set()
        assert not malformed, line
        assert not warning or kind in {"25", "26"}, line
    assert {"1", "2", "13", "15"} <= kinds, kinds
    assert {"1", "2"} <= sixes, sixes


def lose(share: int) -> None:
    """Have the routers lose so many of a hundred messages of RSVP that come in; none: no longer."""
    rules = "delete table inet lose"
    if share:
        chain = f"type filter hook prerouting priority -400; meta l4proto 46 numgen random mod 100 < {share} drop;"
        rules = f"table inet lose {{ chain input {{ {chain} }}\n}}"
    for host in _ROUTERS:
        links.nft([rules], host)


def dial() -> None:
    """Make the other link between the routers, in place of one that is there."""
    with contextlib.suppress(links.LinkError):
        links.ip(["link delete out2"], "r1")
    links.ip(["link add out2 netns r1 type veth peer name in2 netns r2"])
    for host, device, address in (("r1", "out2", "10.8.0.1/24"), ("r2", "in2", "10.8.0.2/24")):
        links.ip([f"address add {address} dev {device}", f"link set {device} up"], host)


def _second_ways() -> None:
    """Another link between the routers; and IPv6, with a line of its own to the receiver."""
    dial()
    links.ip(["link add wide netns r2 type veth peer name wide netns receiver"])
    for host in ("sender", *_ROUTERS, "receiver"):
        links.sysctl(host, {"ipv6.conf.all.forwarding": 1, "ipv6.conf.all.accept_dad": 0, "ipv6.conf.default.accept_dad": 0})
    for host, device, address in (
        ("sender", "out", f"{SENDER6}/64"),
        ("r1", "in", "fd00:1::2/64"),
        ("r1", "out", "fd00:2::1/64"),
        ("r2", "in", "fd00:2::2/64"),
        ("r2", "wide", "fd00:3::1/64"),
        ("receiver", "wide", f"{RECEIVER6}/64"),
    ):
        nodad = " nodad" if ":" in address else ""
        links.ip([f"address add {address} dev {device}{nodad}", f"link set {device} up"], host)
    for host, ways in (
        ("sender", ("fd00:2::/64 via fd00:1::2", "fd00:3::/64 via fd00:1::2")),
        ("r1", ("fd00:3::/64 via fd00:2::2",)),
        ("r2", ("fd00:1::/64 via fd00:2::1",)),
        ("receiver", ("fd00:1::/64 via fd00:3::1", "fd00:2::/64 via fd00:3::1")),
    ):
        links.ip([f"route add {way}" for way in ways], host)


def _grant(directory: Path) -> None:
    """A policy that trusts a provider's key, and what this grants to its routers."""
    provider = signing.make_key("ed25519")
    key = signing.identifier(provider)
    (directory / "policy.kn").write_text(
        f'Authorizer: "POLICY"\nLicensees: "{key}"\nConditions: app_domain == "Polder-BandEx" -> "reserve";\n'
    )
    routers = '"router:r1" || "router:r2"'
    body = f'KeyNote-Version: 2\nAuthorizer: "{key}"\nLicensees: {routers}\nConditions: @rate <= 1000000 -> "reserve";\n'
    (directory / "grant.kn").write_text(signing.sign(body, provider))


def sell(directory: Path) -> Path:
    """Nick's two routers sell, as this file says; Alice pays with checks on Martha's credit."""
    isp = directory / "isp"
    isp.mkdir(mode=0o700)
    for path, who in ((isp / "isp.key", "nick"), (directory / "alice.key", "alice")):
        path.write_text(f'"{signing.encode_private(money.key(who))}"\n')
        path.chmod(0o600)
    ways = "\nlinks = ['r1/out', 'r1/out2', 'r2/out', 'r2/wide']\n"
    trusted = f'[trusted]\n"{money.name_of("martha")}" = "1.00"\n'
    (isp / "isp.toml").write_text(f'name = "nick"\n[routes.dublin-nyc]{ways}{trusted}')
    alice = money.Alice(now=time.clock_gettime(time.CLOCK_REALTIME))
    (directory / "credentials.kn").write_text(to_file([alice.credit_text, alice.offer_text]))
    return isp / "isp.toml"
