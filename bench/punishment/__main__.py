"""``make bench`` part ``punishment``: an access point is attacked in every way, and enrolled users measure what they notice.

On loopback: two access points, a beacon, a servlet, an nginx, two users with forwarders (one at each access point) and three whose
browsers shake hands with the attacked access point for every request, each user from an address of his own. For each attack: a
quiet time; a control, in which the attacker keeps its core as busy and touches nobody; then the attack, from many addresses that are
nobody else's; then what the attack left behind must be gone before the next. Some come once more from one address that three browsers
share with the attacker. The attacker is pinned to the machine's last core and keeps it busy; everything else shares the others.
Limits are the defaults. Writes ``bench/results/punishment.json`` and ``.svg``.
"""

from __future__ import annotations

import asyncio
import math
import os
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from bench import report
from bench.punishment import attackers, readers
from polder.engine.facade import BUILD
from polder.lab import origin
from polder.lab.engines import Pki, Remote, launch
from polder.lab.plots import DIKE, FLOOD, SAND, SEA
from polder.lab.processes import Processes
from polder.lab.results import Claim, Measure, Result
from polder.model import Kind
from polder.snapshot.schema import (
    BeaconEntry,
    EngineConfig,
    Forwarder,
    IdentityMaterial,
    Limits,
    ServletEntry,
    Site,
    Snapshot,
)

DOMAIN = "bench.test"
NODES = ("attacked", "other", "beacon", "servlet")
ORIGIN_PORT = 8091
MEMORY = 512 << 20
ATTACKERS = 64
BROWSERS = 3
RATE, BROWSER_RATE = 40.0, 12.0
"""Requests per second of a forwarder, and of all browsers together: four handshakes a second are many for a browser."""
SETTLE_S = 1.0
"""Between two attacks, once what the first left behind has gone."""
GONE_S = 60.0
"""For so long it may take."""
PATHS = {"forwarder": "attacked", "browser": "attacked", "elsewhere": "other", "neighbour": "attacked"}
"""How users come, and through which access point. Neighbours share the attacker's address."""
SHARED = (
    "PING",
    "slow read",
    "full handshakes",
    "handshakes of strangers",
    "half handshakes",
    "garbage",
    "connections of one user",
)
"""Attacks that come from the neighbours' address too: one of a kind."""
RESTS = "over_handshake_percent"
HERE, THERE = "127.1.1.1", tuple(f"127.1.0.{number + 1}" for number in range(BROWSERS))
"""The address of attacker and neighbours, and those of browsers."""


class Times(NamedTuple):
    """Seconds of each phase of an attack."""

    quiet_s: float
    control_s: float
    attack_s: float


class Bed:
    """The overlay under attack."""

    def __init__(self, processes: Processes, folder: FilePath) -> None:
        self.processes = processes
        self.folder = folder
        self.nodes: dict[str, Remote] = {}
        self.proxies: dict[str, Remote] = {}
        self.pki = Pki(DOMAIN, time.time(), 1)  # noqa: TID251 - the shell of a program

    async def build(self) -> None:
        """Start everything and open every link."""
        limits = Limits()
        for number, name in enumerate(NODES):
            base = Snapshot(0, DOMAIN, (self.pki.root,), self.pki.member(Kind.NODE, name, number + 1), limits=limits)
            config = EngineConfig(role="node", listen=(f"127.0.1.{number + 1}:0",))
            self.nodes[name] = await launch(self.processes, None, name, config, base)
        peers = [self.nodes[name].peer(number + 1, warm=True) for number, name in enumerate(NODES)]
        site = Site("wiki", ("wiki.test",), (80,), ("anyone",), (), "beacon", beacons=("beacon",))
        delivery = {"tcp": {"address": "127.0.0.1", "bind": None, "ports": [(80, ORIGIN_PORT)]}}
        for peer in peers:
            await self.nodes[peer.name].apply(
                peers=tuple(other for other in peers if other != peer),
                sites=(site,),
                beacons=(BeaconEntry("wiki", ("servlet",)),) if peer.name == "beacon" else (),
                servlets=(ServletEntry("wiki", delivery),) if peer.name == "servlet" else (),
            )
        for number, name in enumerate(("attacked", "other")):
            base = Snapshot(0, DOMAIN, (self.pki.root,), self.pki.member(Kind.USER, f"reader{number}"), limits=limits)
            config = EngineConfig(role="forwarder", listen=("127.0.0.1:0",))
            self.proxies[name] = await launch(self.processes, None, f"forwarder-{name}", config, base)
            await self.proxies[name].apply(peers=(peers[number],), forwarder=Forwarder((name,), ("wiki.test",), ""))

    def files(self, name: str) -> tuple[str, str]:
        """A user's certificate and key, as files."""
        material: IdentityMaterial = self.pki.member(Kind.USER, name)
        pem = serialization.Encoding.PEM
        chain, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        chain.write_bytes(b"".join(x509.load_der_x509_certificate(each).public_bytes(pem) for each in material.chain))
        private = serialization.load_der_private_key(material.key, None)
        form = serialization.PrivateFormat.PKCS8
        key.write_bytes(private.private_bytes(pem, form, serialization.NoEncryption()))
        return str(chain), str(key)


def _usage(pid: int) -> tuple[float, int]:
    """CPU seconds and resident bytes of a process."""
    fields = FilePath(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK"), int(fields[21]) * resource.getpagesize()


async def gone(victim: Remote, resting: int) -> float:
    """Wait until the connections of an attack have ended at the node; seconds, at most ``GONE_S``."""
    began = time.monotonic()
    while time.monotonic() < began + GONE_S:
        if (await victim.apply())["connections_open"] <= resting:
            break
        await asyncio.sleep(0.2)
    return time.monotonic() - began


async def attack(
    bed: Bed, name: str, block: int, files: Sequence[tuple[str, str]], times: Times, *, shared: bool
) -> list[dict[str, Any]]:
    """One attack: a row for each way in which users come. ``block``: whose addresses these are; ``shared``: one, the neighbours'."""
    start = time.monotonic() + 2.0
    burn = start + times.quiet_s
    begin = burn + times.control_s
    end = begin + times.attack_s
    victim = bed.nodes["attacked"]
    before = await victim.apply()
    sources = (HERE,) if shared else THERE
    tasks = {
        "forwarder": readers.Task(bed.proxies["attacked"].address, RATE, start, end),
        "neighbour" if shared else "browser": readers.Task(
            victim.address, BROWSER_RATE, start, end, tuple(files[:BROWSERS]), sources
        ),
        "elsewhere": readers.Task(bed.proxies["other"].address, RATE, start, end),
    }
    core = max(os.sched_getaffinity(0)) + 1
    source = HERE if shared else ""
    # Somebody else each time: who has flooded owes for it for a minute and more.
    attacker = BROWSERS + block % ATTACKERS
    eves = (*files[attacker:], *files[BROWSERS:attacker])
    task = attackers.Task(name, victim.address, eves, core, burn, begin, times.attack_s, block, source)

    async def run(module: str, label: str, about: msgspec.Struct) -> bytes:
        argv = [sys.executable, "-m", f"bench.punishment.{module}"]
        return await bed.processes.run(None, label, argv, end - start + 60, msgspec.json.encode(about))

    async def watch() -> tuple[float, int]:
        pid = victim.process.process.pid
        await asyncio.sleep(max(0.0, begin - time.monotonic()))
        first, most = _usage(pid)
        while time.monotonic() < end:
            await asyncio.sleep(0.2)
            last, held = _usage(pid)
            most = max(most, held)
        return (last - first) / times.attack_s, most

    runs = [run("attackers", "attacker", task), *(run("readers", f"reader-{way}", tasks[way]) for way in tasks)]
    watched, (attacked, *heard) = await asyncio.gather(watch(), asyncio.gather(*runs))
    after = await victim.apply()
    done = msgspec.json.decode(attacked)
    moved = {key: after[key] - before[key] for key in after if _tells(key) and after[key] > before[key]}
    # What names its limit says more than what only says that something was refused; strangers' handshakes rest in every attack.
    told = max(moved, key=lambda key: (key != RESTS, "over_" in key or "shed" in key, moved[key])) if moved else ""
    common = {
        "attack": name,
        "from": "the users' address" if shared else "elsewhere",
        "gone_s": round(await gone(victim, before["connections_open"]), 1),
        "control_cpu_share": round(done.pop("burned_s") / times.control_s, 2),
        "attacker_cpu_share": round(done.pop("cpu_s") / times.attack_s, 2),
        "node_cpu_share": round(watched[0], 2),
        "node_memory_mib": round(watched[1] / (1 << 20), 1),
        "counter": told,
        "counted": moved.get(told, 0),
        "counters": moved,
        "attacker": done,
    }
    return [common | _noticed(way, msgspec.json.decode(samples), burn, begin) for way, samples in zip(tasks, heard, strict=True)]


def _tells(counter: str) -> bool:
    """Whether a counter says that somebody was refused or bounded."""
    return any(word in counter for word in ("over_", "refused", "handshakes_failed", "shed", "throttled"))


def _noticed(way: str, samples: list[tuple[float, float, bool]], burn: float, begin: float) -> dict[str, Any]:
    """What a user noticed: of the requests under attack, the share under three times the quiet median; the same of the control."""
    median = statistics.median(took for due, took, good in samples if due < burn and good)
    noticed: dict[str, Any] = {"through": PATHS[way], "way": way, "quiet_ms": round(median * 1000, 3)}
    for phase, since, until in (("control", burn, begin), ("attacked", begin, math.inf)):
        asked = [(took, good) for due, took, good in samples if since <= due < until]
        middle = statistics.median([took for took, good in asked if good] or [readers.GIVE_UP_S])
        noticed[f"{phase}_requests"] = len(asked)
        noticed[f"{phase}_ms"] = round(middle * 1000, 3)
        noticed[f"{phase}_ratio"] = round(middle / median, 3)
        noticed[f"{phase}_failed"] = sum(not good for _, good in asked)
        noticed[f"{phase}_fast"] = round(sum(good and took < 3 * median for took, good in asked) / len(asked), 4)
    # What the attack took, and not the machine: none can be less than the control's.
    noticed["lost"] = round(max(0.0, noticed["control_fast"] - noticed["attacked_fast"]), 4)
    return noticed


def claims() -> list[Claim]:
    """The issue's, by the worst attack."""

    def worst(field: str, fold: str, **where: Any) -> Measure:
        return Measure(field, {"from": "elsewhere"} | where, fold)

    def beside(way: str) -> Measure:
        return Measure("attacked_fast", {"from": "the users' address", "way": way}, "min")

    return [
        Claim(
            "punishment.forwarder",
            "requests under 3 × quiet latency through the attacked access point, users with a forwarder, worst attack",
            ">= 0.9",
            worst("attacked_fast", "min", way="forwarder"),
        ),
        Claim(
            "punishment.browser",
            "the same, a handshake with the attacked access point for every request",
            ">= 0.9",
            worst("attacked_fast", "min", way="browser"),
        ),
        *(
            Claim(
                f"punishment.{way}-lost",
                f"share of requests under 3 × quiet latency that an attack takes from users with a {way}, beside a control in which"
                " the attacker's core is as busy with nothing, worst attack",
                "<= 0.1",
                worst("lost", "max", way=way),
            )
            for way in ("forwarder", "browser")
        ),
        Claim(
            "punishment.beside-forwarder",
            "requests under 3 × quiet latency of a user with a forwarder, attacks from an address that others share, worst attack",
            ">= 0.9",
            beside("forwarder"),
        ),
        Claim(
            "punishment.neighbour",
            "the same, browsers at the attacker's own address, a handshake for every request",
            ">= 0.9",
            beside("neighbour"),
        ),
        Claim(
            "punishment.elsewhere",
            "failed requests through another access point",
            "== 0",
            worst("attacked_failed", "sum", way="elsewhere"),
        ),
        Claim(
            "punishment.elsewhere-ratio",
            "median latency through another access point, × quiet, median of all attacks (one core serves both)",
            "<= 1.5",
            worst("attacked_ratio", "median", way="elsewhere"),
        ),
        Claim(
            "punishment.memory",
            "MiB of the attacked node, most",
            f"<= {0.8 * MEMORY / (1 << 20):g}",
            worst("node_memory_mib", "max"),
        ),
        Claim("punishment.counted", "least that the counter of an attack moved", ">= 1", worst("counted", "min")),
    ]


def draw(drawn: Any, rows: Sequence[Any]) -> None:
    """Share of requests under three times quiet latency, by attack and way."""
    rows = [row for row in rows if row["from"] == "elsewhere"]
    names = list(dict.fromkeys(row["attack"] for row in rows))
    drawn.set_size_inches(9, 0.36 * len(names) + 1.2)
    axes = drawn.subplots()
    colours = {"forwarder": SEA, "browser": SAND, "elsewhere": DIKE}
    for offset, (way, colour) in zip((-0.27, 0, 0.27), colours.items(), strict=True):
        shares = [next(row["attacked_fast"] for row in rows if row["attack"] == name and row["way"] == way) for name in names]
        axes.barh([place + offset for place in range(len(names))], shares, 0.25, color=colour, label=way)
    axes.axvline(0.9, color=FLOOD, linewidth=1)
    axes.set(yticks=range(len(names)), yticklabels=names, xlim=(0, 1), xlabel="share of requests under 3 × quiet latency")
    axes.invert_yaxis()
    axes.legend(loc="lower left", fontsize=8)


async def measure(cases: Sequence[tuple[str, bool]], times: Times) -> Result:
    """Every attack in turn."""
    folder = (FilePath("build/lab") / f"punishment-{os.getpid()}").resolve()
    rows: list[dict[str, Any]] = []
    async with Processes(folder) as processes:
        site = await origin.start(processes, None, folder / "nginx", ["wiki.test"], [("127.0.0.1", ORIGIN_PORT, False)])
        with (site.root / "www" / "big.bin").open("wb") as file:
            file.truncate(64 << 20)
        bed = Bed(processes, folder)
        await bed.build()
        files = [bed.files(f"browser{number}") for number in range(BROWSERS)]
        files += [bed.files(f"eve{number}") for number in range(ATTACKERS)]
        for block, (name, shared) in enumerate(cases):
            found = await attack(bed, name, block, files, times, shared=shared)
            rows += found
            _say(name + " (beside)" * shared, found)
            await asyncio.sleep(SETTLE_S)
    cores = {"attacker": [max(os.sched_getaffinity(0)) + 1], "everything else": sorted(os.sched_getaffinity(0))}
    parameters = {
        "quiet_s": times.quiet_s, "control_s": times.control_s, "attack_s": times.attack_s, "rate": RATE,
        "browser_rate": BROWSER_RATE, "browsers": BROWSERS, "threads": attackers.THREADS, "addresses": attackers.ADDRESSES,
        "identities": ATTACKERS, "memory_mib": MEMORY >> 20, "cores": cores, "limits": "defaults", "build": BUILD,
    }  # fmt: skip
    return Result("punishment", parameters, rows, claims(), "Attacks on an access point, and what enrolled users notice")


def _say(label: str, found: Sequence[dict[str, Any]]) -> None:
    one = found[0]
    print(
        f"{label:34}",
        *(
            f"{row['way']} {row['control_fast']:.2f} -> {row['attacked_fast']:.2f}"
            f" ({row['attacked_ratio']:.1f} x {row['quiet_ms']} ms, {row['attacked_failed']} failed)"
            for row in found
        ),
        f"gone in {one['gone_s']} s, cpu {one['attacker_cpu_share']} -> {one['node_cpu_share']}, {one['node_memory_mib']} MiB,"
        f" {one['counter']} {one['counted']} {one['attacker']}",
        flush=True,
    )


def main() -> int:
    """Measure, write, print."""
    parser = report.arguments("punishment", __doc__, "shorter attacks")
    parser.add_argument(
        "--attack", dest="attacks", action="append", choices=[*attackers.ATTACKS], help="only this one; repeat it"
    )
    chosen = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        print("two cores are needed: one is the attacker's", file=sys.stderr)
        return 2
    os.sched_setaffinity(0, set(cores[:-1]))
    times = Times(2.0, 2.0, 3.0) if chosen.quick else Times(3.0, 4.0, 8.0)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    names = chosen.attacks or list(attackers.ATTACKS)
    cases = [(name, False) for name in names] + [(name, True) for name in SHARED if name in names]
    record = not chosen.no_record and not chosen.attacks

    def inside() -> int:
        return report.finish(asyncio.run(measure(cases, times)), draw, record=record, rows=False)

    return report.enclosed(inside)


if __name__ == "__main__":
    sys.exit(main())
