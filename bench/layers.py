"""``python -m bench.layers``: where a hop's CPU time goes. Writes ``layers.json`` and ``.svg``. Needs ``perf`` (Debian: ``linux-perf``).

Chains of ten hops as in ``bench.chains``: Polder in path mode ``ring``, the peers that are best at it, and the bare relay. How much time
passes in user space and how much in the kernel, the kernel counts, of all hops, while tunnels are opened and while small answers cross open
ones. Then a hop in the middle is sampled at the same work, and samples of user space are told apart by library and, inside Polder's own, by
the crate of the function. Samples of the kernel do not count: sampling costs at every switch of tasks, which is much of what a hop does.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import ssl
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench import cpu, report
from bench.chains import peers
from bench.chains.__main__ import ORIGIN, System, systems
from bench.fetch import get, open_stream
from bench.hops import SERVER
from polder.engine.facade import BUILD
from polder.lab import enclosure, origin
from polder.lab.plots import CYCLE
from polder.lab.processes import Process, Processes
from polder.lab.results import Claim, Measure, Result

HOPS = 10
PEERS = ("haproxy-h2", "nginx", peers.BARE)
HERTZ = 9973
GETS = 30
"""On each open tunnel."""
KERNEL = "kernel"
FLOOR = "of these, no code of ours"
LAYERS = ("allocation and C library", "cryptography", "TLS", "HTTP/2", "runtime", "Polder", "other")
OURS = (
    ("cryptography", re.compile(r"aws_lc_\d|aead_aes|skip_iv")),
    ("HTTP/2", re.compile(r"^<?(h2|http)::|^<?&?mut h2::|fluent_uri|bytes::|slab::")),
    ("TLS", re.compile(r"rustls|polder_tls")),
    ("runtime", re.compile(r"tokio|futures_|mio::")),
    ("Polder", re.compile(r"polder_")),
)
Rows = list[dict[str, Any]]
Work = Callable[[System, int], None]


def layer(library: str, symbol: str) -> str:
    """The layer of a sample, by where it was taken."""
    if re.match(r"libcrypto", library):
        return "cryptography"
    if re.match(r"libssl", library):
        return "TLS"
    if re.match(r"libc[.-]|ld-linux|\[vdso\]", library):
        return "allocation and C library"
    return next((name for name, pattern in OURS if pattern.search(symbol)), "other")


def shares(recorded: str) -> dict[str, float]:
    """Share of each layer of user space in what ``perf report --sort dso,symbol`` printed."""
    found: dict[str, float] = defaultdict(float)
    for line in recorded.splitlines():
        match = re.match(r"\s*([\d.]+)%\s+(\S+)\s+\[(.)\]\s+(.*)", line)
        if match and match[3] == ".":
            found[layer(match[2], match[4].strip())] += float(match[1])
    whole = sum(found.values())
    return {name: found[name] / whole for name in LAYERS}


@contextmanager
def sampled(pids: Sequence[int], file: Path) -> Iterator[None]:
    """Sample the processes meanwhile."""
    command = ["perf", "record", "-q", "-F", str(HERTZ), "-o", str(file), "-p", ",".join(map(str, pids))]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as perf:
        time.sleep(1.0)  # it attaches without saying when; what is missed at the beginning is not looked at
        try:
            yield
        finally:
            perf.send_signal(signal.SIGINT)


def read(file: Path) -> dict[str, float]:
    """Shares in a recording."""
    command = ["perf", "report", "-i", str(file), "--no-children", "--sort", "dso,symbol", "-g", "none"]
    return shares(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def times(system: System) -> Any:
    """CPU seconds of all hops so far: in user space, in the kernel."""
    leaders = [process.process.pid for process in system.hops[HOPS]]
    spent = np.zeros(2)
    for pids in cpu.sessions(leaders).values():
        for pid in pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
            spent += np.array([int(fields[11]), int(fields[12])]) / os.sysconf("SC_CLK_TCK")
    return spent


def middle(system: System) -> Process:
    """The hop that is looked at."""
    return system.hops[HOPS][HOPS // 2]


def opening(tls: ssl.SSLContext) -> Work:
    """New tunnels with one small GET each."""

    def work(system: System, count: int) -> None:
        for _ in range(count):
            with open_stream(system.paths[HOPS], SERVER, tls) as stream:
                get(stream, SERVER, 1)

    return work


def asking(tls: ssl.SSLContext) -> Work:
    """Small GETs on open tunnels; opening them is a thirtieth of it."""

    def work(system: System, count: int) -> None:
        for _ in range(count // GETS):
            with open_stream(system.paths[HOPS], SERVER, tls) as stream:
                for _ in range(GETS):
                    get(stream, SERVER, 1)

    return work


def measure(chains: Sequence[System], what: str, work: Work, count: int, rounds: int, folder: Path) -> Rows:
    """Rows of one kind of work: CPU time per unit and hop, and how it divides."""
    spent: dict[str, list[tuple[float, float]]] = {system.name: [] for system in chains}
    for _ in range(rounds):
        for system in chains:
            work(system, GETS)
            before = times(system)
            work(system, count)
            spent[system.name].append(((times(system) - before) * 1e6 / count / HOPS).tolist())
    rows = []
    for system in chains:
        file = folder / f"{what}-{system.name}.perf"
        leader = middle(system).process.pid
        with sampled(cpu.sessions([leader])[leader], file):
            work(system, count * 3)
        user, kernel = (statistics.median(part) for part in zip(*spent[system.name], strict=True))
        parts = {KERNEL: kernel} | {name: share * user for name, share in read(file).items()}
        parts[FLOOR] = parts[KERNEL] + parts["cryptography"] + parts["TLS"]
        rows += [system.row(what, HOPS, layer=name, cpu_us=part, cpu_us_whole=user + kernel) for name, part in parts.items()]
    return rows


def claims() -> list[Claim]:
    """Whether the target for a new tunnel leaves anything for what is ours to change."""
    best = Measure("cpu_us_whole", {"what": "tunnel", "peer": True, "layer": KERNEL}, "min")
    floor = Measure("cpu_us", {"what": "tunnel", "system": "polder", "layer": FLOOR}, "only", best)
    text = "new tunnel: kernel, cryptography and TLS alone, × all that the best peer spends (wanted of the whole: 0.15)"
    return [Claim("layers.floor", text, "<= 0.15", floor)]


def draw(drawn: Any, rows: Sequence[Any]) -> None:
    """Two groups of stacked bars: microseconds by layer."""
    drawn.set_size_inches(10, 4.5)
    names = list(dict.fromkeys(row["system"] for row in rows))
    for axes, (what, title) in zip(
        drawn.subplots(1, 2), (("tunnel", "new tunnel, one GET"), ("get", "GET on an open one")), strict=True
    ):
        below = [0.0] * len(names)
        for index, name in enumerate((KERNEL, *LAYERS)):
            heights = [
                next((r["cpu_us"] for r in rows if (r["what"], r["system"], r["layer"]) == (what, system, name)), 0.0)
                for system in names
            ]
            axes.bar(
                names,
                heights,
                bottom=below,
                label=name,
                color=CYCLE[index % len(CYCLE)],
                alpha=1.0 if index < len(CYCLE) else 0.5,
            )
            below = [a + b for a, b in zip(below, heights, strict=True)]
        axes.set(title=title, ylabel="CPU µs per hop")
    drawn.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)


async def run(*, quick: bool, record: bool) -> int:
    """Measure, write, print."""
    folder = (Path("build/lab") / f"layers-{os.getpid()}-{time.strftime('%H%M%S')}").resolve()
    count, rounds = (120, 1) if quick else (300, 3)
    async with Processes(folder) as processes:
        site = await origin.start(processes, None, folder / "nginx", [SERVER], [("127.0.0.1", ORIGIN, True)])
        everything = await systems(processes, PEERS)
        chains = [system for system in everything if HOPS in system.paths]
        tls = ssl.create_default_context(cafile=str(site.ca))
        rows: Rows = []
        for what, work in (("tunnel", opening(tls)), ("get", asking(tls))):
            print(what, flush=True)
            times = count if what == "tunnel" else count * 10
            rows += await asyncio.to_thread(measure, chains, what, work, times, rounds, folder)
    parameters = {"count": count, "rounds": rounds, "hertz": HERTZ, "gets_per_tunnel": GETS, "build": BUILD}
    return report.finish(Result("layers", parameters, rows, claims(), "Where a hop's CPU time goes"), draw, record=record)


def main() -> int:
    """Parse, measure."""
    arguments = report.arguments("layers", __doc__).parse_args()
    if gone := peers.missing() + ([] if shutil.which("perf") else ["perf"]):
        print(f"not installed: {', '.join(gone)}. As root: scripts/bench-packages", file=sys.stderr)
        return 2
    return enclosure.run(lambda: asyncio.run(run(quick=arguments.quick, record=not arguments.no_record)))


if __name__ == "__main__":
    sys.exit(main())
