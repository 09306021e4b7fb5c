"""``python -m bench.idle``: what tunnels cost that are open and silent, beside the peers. Writes ``idle.json`` and ``.svg``.

One hop, mutual TLS 1.3 in, plain TCP to the origin; on loopback. A user opens tunnels through an entry on his machine (Polder's
forwarder carries all over one connection; *polder-own* has none, as a browser that is given an access point as its proxy: a TLS connection
and a CONNECT for each tunnel, as all peers have but the one over HTTP/2. Another user with an entry of his own opens tunnels one after the
other, before, meanwhile and after: what he notices. At the end every silent tunnel is asked whether it still carries. HAProxy with CONNECT
over HTTP/2 cannot be the last hop: there the hop measured stands before a squid.
"""

from __future__ import annotations

import asyncio
import base64
import os
import resource
import socket
import ssl
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from bench import cpu, fronts, report
from bench.chains import peers
from bench.fetch import Path
from bench.fetch import connect as open_path
from polder.engine.facade import BUILD
from polder.lab.engines import Pki, launch
from polder.lab.plots import DIKE, FLOOD, SEA
from polder.lab.processes import Process, Processes, wait_until_listening
from polder.lab.results import Claim, Measure, Result
from polder.model import Kind
from polder.snapshot.schema import EngineConfig, Forwarder, IdentityMaterial, RingRoute, ServletEntry, Site, Snapshot

ORIGIN, FIRST_PORT = 8094, 25_000
HOST = "wiki.test"
WORD = b"are you there?"
PHASES = ("before", "meanwhile", "after")
OWN = "cid"
"""The user without a forwarder."""


@dataclass(frozen=True)
class Hop:
    """One hop under measurement, and the two users' ways through it."""

    label: str
    process: Process
    silent: Path
    other: Path
    peer: bool = True
    open: Callable[[Path], socket.socket] = open_path
    """Opens a silent tunnel."""


async def start(processes: Processes) -> list[Hop]:
    """Polder and every peer."""
    hops = await _polder(processes)
    for number, label in enumerate(peers.KINDS):
        length = 2 if peers.KINDS[label].last else 1
        chain = await peers.start(processes, label, length, (length,), (FIRST_PORT + 1000 * number, ORIGIN), HOST)
        other = await peers.add_entry(processes, chain, length, 50)
        silent = chain.path(length, HOST)
        hops.append(Hop(label, chain.nodes[0], silent, Path(silent.label, f"127.0.0.1:{other}", silent.connect)))
    return hops


async def _polder(processes: Processes) -> list[Hop]:
    """Twice a node that is everything at once, and two users' forwarders; one of the users comes without his to the second."""
    return [await _node(processes, "polder"), await _node(processes, "polder-own", OWN)]


async def _node(processes: Processes, label: str, own: str = "") -> Hop:
    members = Pki(fronts.DOMAIN, time.time(), 5)  # noqa: TID251 - the shell of a program

    def base(kind: Kind, name: str, place: int | None = None) -> Snapshot:
        return Snapshot(0, fronts.DOMAIN, (members.root,), members.member(kind, name, place), limits=fronts.LIMITS)

    config = EngineConfig(role="node", listen=("127.0.0.1:0",))
    node = await launch(processes, None, label, config, base(Kind.NODE, label, 1))
    site = Site("wiki", (HOST,), (ORIGIN,), ("anyone",), (), "ring", ring=(RingRoute(0, None),))
    servlet = ServletEntry("wiki", {"tcp": {"address": "127.0.0.1", "bind": None, "ports": [(ORIGIN, ORIGIN)]}})
    await node.apply(sites=(site,), servlets=(servlet,))
    peer, ways = node.peer(1, warm=True), list[Path]()
    for name in ("ann", "bob"):
        config = EngineConfig(role="forwarder", listen=("127.0.0.1:0",))
        forwarder = await launch(processes, None, f"{label}-{name}", config, base(Kind.USER, name))
        await forwarder.apply(peers=(peer,), forwarder=Forwarder((peer.name,), (HOST,), ""))
        ways.append(Path(label, forwarder.address, f"{HOST}:{ORIGIN}"))
    if not own:
        return Hop(label, node.process, ways[0], ways[1], peer=False)
    tls = _context(processes.directory / f"{own}.pem", members.member(Kind.USER, own), members.root)

    def connect(path: Path) -> socket.socket:
        return open_path(path, lambda sock: tls.wrap_socket(sock, server_hostname=f"{label}.node.{fronts.DOMAIN}"))

    return Hop(label, node.process, Path(label, node.address, f"{HOST}:{ORIGIN}"), ways[1], peer=False, open=connect)


def _context(place: FilePath, user: IdentityMaterial, root: bytes) -> ssl.SSLContext:
    """TLS of a user, whose certificate and key are written to ``place``."""
    key = base64.encodebytes(user.key).decode()
    chain = "".join(map(ssl.DER_cert_to_PEM_cert, user.chain))
    place.touch(0o600)
    place.write_text(f"{chain}-----BEGIN PRIVATE KEY-----\n{key}-----END PRIVATE KEY-----\n")
    context = ssl.create_default_context(cadata=root)
    context.load_cert_chain(place)
    context.set_alpn_protocols(["http/1.1"])
    return context


def ask(tunnel: socket.socket) -> None:
    """Say a word and hear it again."""
    tunnel.sendall(WORD)
    heard = b""
    while len(heard) < len(WORD):
        more = tunnel.recv(len(WORD) - len(heard))
        if not more:
            raise RuntimeError("a tunnel has ended")
        heard += more


def others(path: Path, count: int) -> list[float]:
    """Milliseconds of ``count`` new tunnels, one after the other, each with a word and its echo."""
    took = []
    for _ in range(count):
        began = time.perf_counter()
        with open_path(path) as tunnel:
            ask(tunnel)
        took.append((time.perf_counter() - began) * 1000)
    return took


def resident(process: Process) -> int:
    """Resident bytes of a hop, its workers included."""
    pages = (int(FilePath(f"/proc/{pid}/statm").read_text().split()[1]) for pid in fronts.session(process.process.pid))
    return sum(pages) * fronts.PAGE


def measure_one(hop: Hop, count: int, probes: int) -> dict[str, Any]:
    """The row of one hop."""
    others(hop.other, probes // 4)
    times = {"before": others(hop.other, probes)}
    before, tunnels = resident(hop.process), []
    try:
        for _ in range(count):
            tunnels.append(hop.open(hop.silent))
            ask(tunnels[-1])
        after = resident(hop.process)
        times["meanwhile"] = others(hop.other, probes)
        for tunnel in tunnels:
            ask(tunnel)
    finally:
        for tunnel in tunnels:
            tunnel.close()
    # The tunnels are gone when the hop has noticed; until then it works on that.
    pids = fronts.session(hop.process.process.pid)
    settle(lambda: cpu.spent_s(pids))
    times["after"] = others(hop.other, probes)
    return row(hop, count, (after - before) / count / 1024, times)


def settle(spent: Callable[[], float], patience: float = 60.0) -> None:
    """Wait until a process spends less than 5 ms in half a second; raises ``RuntimeError`` if it never rests."""
    end = time.monotonic() + patience
    before, at = spent(), time.monotonic()
    while time.monotonic() - at < 0.5:
        time.sleep(0.05)
        if spent() > before + 0.005:
            before, at = spent(), time.monotonic()
        if at > end:
            raise RuntimeError("the hop does not come to rest")


def row(hop: Hop, count: int, kib: float, times: dict[str, list[float]]) -> dict[str, Any]:
    """Memory and latencies; ratios compare the time with silent tunnels to those before and after, taken together."""
    quiet = times["before"] + times["after"]
    numbers: dict[str, float] = {"kib_per_tunnel": kib}
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        for phase in PHASES:
            numbers[f"{name}_{phase}_ms"] = at(times[phase], share)
        numbers[f"{name}_ratio"] = at(times["meanwhile"], share) / at(quiet, share)
    return {"system": hop.label, "peer": hop.peer, "tunnels": count} | {key: round(value, 3) for key, value in numbers.items()}


def at(values: list[float], share: float) -> float:
    """A quantile."""
    return statistics.quantiles(values, n=1000, method="inclusive")[round(share * 1000) - 1]


def claims() -> list[Claim]:
    """The targets."""
    ours, own = {"system": "polder"}, {"system": "polder-own"}
    best = Measure("kib_per_tunnel", {"peer": True}, "min")
    return [
        Claim("idle.count", "idle tunnels through one node, each alive at the end", ">= 10000", Measure("tunnels", ours)),
        Claim("idle.memory", "KiB of the node's memory for each", "<= 12", Measure("kib_per_tunnel", ours)),
        Claim("idle.best", "the same, × the best peer", "<= 1", Measure("kib_per_tunnel", ours, "only", best)),
        Claim(
            "idle.own",
            "the same for a user without a forwarder, who has a TLS connection for each, × the best peer",
            "<= 2",
            Measure("kib_per_tunnel", own, "only", best),
        ),
        Claim(
            "idle.p50",
            "another user's new tunnel meanwhile, median, × without idle tunnels",
            "<= 1.1",
            Measure("p50_ratio", ours),
        ),
        Claim("idle.p99", "the same, of 99 in a hundred", "<= 1.5", Measure("p99_ratio", ours)),
    ]


def draw(drawn: Any, rows: Sequence[Any]) -> None:
    """Memory per tunnel; the other user's times without and with them."""
    left, right = drawn.subplots(1, 2)
    names = [r["system"] for r in rows]
    colours = [SEA if name.startswith("polder") else DIKE for name in names]
    left.barh(names[::-1], [r["kib_per_tunnel"] for r in rows][::-1], color=colours[::-1])
    left.axvline(12, color=FLOOD, linewidth=1)
    left.set(title="Memory of the hop per idle tunnel", xlabel="KiB (line: the bound)", xscale="log")
    for place, one in enumerate(rows):
        for offset, phase, colour in ((-0.25, "before", DIKE), (0, "meanwhile", SEA), (0.25, "after", DIKE)):
            right.bar(place + offset, one[f"p50_{phase}_ms"], 0.22, color=colour)
            right.plot(place + offset, one[f"p99_{phase}_ms"], "_", color=FLOOD, markersize=9)
    right.set_xticks(range(len(names)), names, rotation=30)
    right.set(title="Another's new tunnel: before, meanwhile, after", ylabel="ms (bar: median, mark: p99)")


async def measure(count: int, others_count: int, probes: int) -> list[dict[str, Any]]:
    """Every system in turn."""
    folder = (FilePath("build/lab") / f"idle-{os.getpid()}-{time.strftime('%H%M%S')}").resolve()
    rows = []
    async with Processes(folder) as processes:
        echo = await processes.start(None, "echo", [sys.executable, "-m", "bench.echo", str(ORIGIN)])
        await wait_until_listening("this host", ORIGIN, echo)
        for hop in await start(processes):
            many = count if hop.label == "polder" else others_count
            rows.append(await asyncio.to_thread(measure_one, hop, many, probes))
            report.show(rows[-1:])
    return rows


def main() -> int:
    """Measure, write, print."""
    chosen = report.arguments("idle", __doc__).parse_args()
    if gone := peers.missing():
        print(f"not installed: {', '.join(gone)}. As root: scripts/bench-packages", file=sys.stderr)
        return 2
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < 12_000:
        print(f"10,000 tunnels need 12,000 file descriptors and the limit is {hard}: raise it (ulimit -Hn)", file=sys.stderr)
        return 2
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    counts = (10_000, 500, 100) if chosen.quick else (10_000, 2000, 400)

    def inside() -> int:
        rows = asyncio.run(measure(*counts))
        parameters = {"tunnels": counts[0], "tunnels_of_others": counts[1], "probes": counts[2], "build": BUILD}
        result = Result("idle", parameters, rows, claims(), "Tunnels that are open and silent, through one hop")
        return report.finish(result, draw, record=not chosen.no_record, rows=False)

    return report.enclosed(inside)


if __name__ == "__main__":
    sys.exit(main())
