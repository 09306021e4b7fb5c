"""``python -m bench.spread_interruptions``: what a download over the spread plane goes through.

The installed commands in the laboratory's wide area: authority, six nodes that relay, a site, a forwarder (``--plane spread``) behind
a home router on one of two access lines of 32 Mbit/s. A reader loads 200 MB through it, again and again, until everything has
happened: a relay's process is killed and started again, all relays' keys change, a node joins, a node is revoked, a relay and a
servlet are upgraded (not the servlet where the session ends), the home router forgets its translations, the user goes over to the
other line. Nothing is read twice: each download is one stream, and its hash must be right. Writes
``bench/results/spread-interruptions.json`` and ``.svg``.

An event begins while a download is under way that has an eighth left. Per event: the longest time without a byte from its begin until
the next quiet time; bytes that the reader got meanwhile, and bytes on the user's lines for each: heads, control and half of the packets
twice are in it all the time, what is more was sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import report
from bench.fetch import take_head
from polder.api.admin import ask
from polder.engine.facade import BUILD
from polder.lab import experiment, topology
from polder.lab.access import LINES, Access
from polder.lab.attacks import group_hosts
from polder.lab.overlay import NODE_PORT, Overlay
from polder.lab.plots import FLOOD, SEA
from polder.lab.processes import Processes
from polder.lab.results import Claim, Measure, Result
from polder.lab.world import World
from polder.model import Kind
from polder.overlay.spread import SETTLE
from polder.shell.clock import wall
from polder.trust.tokens import Grant

EPOCH_S, TICKET_S, SPAN_S = 40, 30, 0.5
PROTECTION = {"transport": "dialout", "mode": "beacon", "servlets": 2}
USER, LATE = "user", "late"
QUIET_S = 5.0
"""Before each event, and after the last."""
MARK_S = 0.005
"""Between two marks of a reader, at the least."""
FILE = "large.bin"


class Event(NamedTuple):
    """Something that happened, on the machine's monotonic clock."""

    name: str
    begin: float
    end: float
    wire: int
    """Bytes that came over the user's lines meanwhile, with all heads, copies and repetitions."""


class Downloaded(NamedTuple):
    """One download: bytes, SHA-256, and when how many bytes had come."""

    size: int
    digest: str
    marks: list[tuple[float, int]]


# The reader, a process of its own on the user's host


def read(proxy: str, host: str, progress: Path) -> Downloaded:
    """Load the file through ``proxy`` on one connection, as far as it comes; ``progress`` tells how far that is."""
    address, _, port = proxy.removeprefix("http://").rpartition(":")
    digest, had, marks = hashlib.sha256(), 0, list[tuple[float, int]]()
    marks.append((time.monotonic(), 0))
    progress.write_text("0")
    with contextlib.suppress(OSError), socket.create_connection((address, int(port)), timeout=120) as tcp:
        tcp.sendall(f"CONNECT {host}:80 HTTP/1.1\r\nHost: {host}:80\r\n\r\n".encode())
        take_head(tcp, "proxy")
        tcp.sendall(f"GET /{FILE} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        take_head(tcp, "site")
        while piece := tcp.recv(1 << 18):
            digest.update(piece)
            had += len(piece)
            now = time.monotonic()
            if now - marks[-1][0] >= MARK_S:
                marks.append((now, had))
                progress.write_text(str(had))
    marks.append((time.monotonic(), had))
    return Downloaded(had, digest.hexdigest(), marks)


class Spread(Overlay):
    """The laboratory's overlay, whose nodes relay and can be struck."""

    async def _run_node(self, node: str) -> None:
        listen = f'listen = ["{self._world.hosts[node].ipv4}:{NODE_PORT}"]'
        keys = f'epoch = "{EPOCH_S}s"\nticket_life = "{TICKET_S}s"\nspan = "{int(SPAN_S * 1000)}ms"'
        self._drop_in(node, "node", f"[spread]\n{listen}\n{keys}\n")
        await self.start(node, node, "node", "run")

    async def _connect(self, user: str, *words: str) -> None:
        await super()._connect(user, "--plane", "spread", *words)

    def check(self) -> None:
        """Parts end here: that is the point."""

    async def session(self) -> dict[str, Any] | None:
        """The user's session, as ``polder paths`` has it."""
        sessions = (await self._ask(USER, f"user/{USER}", "paths"))["sessions"]
        return next((one for one in sessions if one["up"]), None)

    async def path(self, node: str) -> dict[str, Any] | None:
        """What the session says of a node."""
        session, address = await self.session(), f"{self._world.hosts[node].ipv4}:{NODE_PORT}"
        return next((one for one in session["paths"] if one["relay"] == address), None) if session else None

    async def servlets(self) -> set[str]:
        """Where sessions may end: what is struck is another."""
        stages = (await self.site_status())["servlets"]
        return {name for name, stage in stages.items() if stage == "serving"}

    async def carries(self, node: str, state: str = "live") -> None:
        """Until the session uses a node, or suspects it."""

        async def there() -> bool:
            path = await self.path(node)
            return path is not None and path["state"] == state

        await self.until(there, f"{node} {state}")

    async def gone(self, node: str) -> None:
        """Until the session knows a node no more."""

        async def away() -> bool:
            path = await self.path(node)
            return await self.session() is not None and (path is None or path["state"] == "unusable")

        await self.until(away, f"{node} out of the list")

    async def restart(self, node: str) -> None:
        """Kill a node's process; start another when that is noticed."""
        before = next(process for process in self._running if process.name == f"node-{node}")
        self._running.remove(before)
        os.kill(before.process.pid, signal.SIGKILL)
        await self.carries(node, "suspect")
        await self.start(node, node, "node", "run", name=f"node-{node}-again")
        await self.carries(node)

    async def upgrade(self, node: str) -> None:
        """A node's program takes over from itself."""
        await ask(self.home(node) / "node" / "admin.sock", "upgrade", {}, timeout=60)

    async def upgrade_idle(self) -> None:
        """The same of a servlet, but not the one where the session ends: that one's old process holds it until the ticket ends."""
        held = {node: (await self._ask(node, "node", "counters"))["spread_sessions"] for node in await self.servlets()}
        await self.upgrade(min(held, key=lambda node: (held[node], node)))

    async def join(self, node: str) -> None:
        """Another node, until the session uses it."""
        await self.enrol(Kind.NODE, node, Grant(Kind.NODE, node))
        await self._run_node(node)
        await self.carries(node)

    async def expel(self, node: str) -> None:
        """A node is no member any more, until the session knows."""
        await self.revoke(Kind.NODE, node)
        await self.gone(node)

    async def next_epoch(self) -> None:
        """Until all keys have changed and tickets with keys of the new epoch are in use."""
        begin = wall()
        asked = 5.0  # so long after an epoch's begin the last node asks for its keys
        await asyncio.sleep((begin // EPOCH_S + 1) * EPOCH_S + asked + SETTLE + TICKET_S - begin)


class Show:
    """The download, and what happens to it."""

    def __init__(self, overlay: Spread, processes: Processes, access: Access, nodes: Sequence[str], size: int) -> None:
        self._overlay, self._processes, self._access, self._nodes = overlay, processes, access, nodes
        self.events: list[Event] = []
        self.downloads: list[Downloaded] = []
        self._done, self._size = False, size
        self._progress = processes.directory / "progress"

    async def reading(self) -> None:
        """Downloads, one after another, until everything has happened."""
        program = [sys.executable, "-m", "bench.spread_interruptions", "read"]
        argv = [*program, self._overlay.proxies[USER], experiment.SITE_NAME, str(self._progress)]
        for number in itertools.count(1):
            size, digest, marks = json.loads(await self._processes.run(USER, f"reader-{number}", argv, 900))
            self.downloads.append(Downloaded(size, digest, [(at, had) for at, had in marks]))
            if size == 0:
                print("  a download broke before its first byte", flush=True)
                await asyncio.sleep(1.0)
            if self._done:
                return

    async def everything(self) -> None:
        """All events in turn, with quiet between them."""
        serving = await self._overlay.servlets()
        relay, leaver = [node for node in self._nodes if node not in serving][:2]
        happenings: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("relay restarted", lambda: self._overlay.restart(relay)),
            ("keys change", self._overlay.next_epoch),
            ("node joins", lambda: self._overlay.join(LATE)),
            ("node revoked", lambda: self._overlay.expel(leaver)),
            ("relay upgraded", lambda: self._overlay.upgrade(relay)),
            ("another servlet upgraded", self._overlay.upgrade_idle),
            ("router forgets", self._rebind),
            ("other access line", lambda: self._roam(LINES[1])),
            ("router of the other line forgets", self._rebind),
            ("first access line again", lambda: self._roam(LINES[0])),
        ]
        await asyncio.sleep(QUIET_S)
        for name, happen in happenings:
            print(f"  {name}", flush=True)
            while not 0 < self._had() < self._size * 7 // 8:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)
            before, begin = self._access.received(), time.monotonic()
            await happen()
            await asyncio.sleep(QUIET_S)
            self.events.append(Event(name, begin, time.monotonic(), self._access.received() - before))
            await asyncio.sleep(QUIET_S)
        self._done = True

    def _had(self) -> int:
        """Bytes of the download under way; torn reads count as none."""
        with contextlib.suppress(OSError, ValueError):
            return int(self._progress.read_text())
        return 0

    async def _rebind(self) -> None:
        self._access.rebind()

    async def _roam(self, line: str) -> None:
        self._access.take(line)


def stall_ms(downloads: Sequence[Downloaded], begin: float, end: float) -> float:
    """The longest time without a byte of a download that overlaps an interval; between two downloads nothing is missed."""
    longest = 0.0
    for one in downloads:
        for (before, _), (after, _) in itertools.pairwise(one.marks):
            if before < end and after > begin:
                longest = max(longest, after - max(before, begin))
    return round(longest * 1000, 1)


def came(downloads: Sequence[Downloaded], begin: float, end: float) -> int:
    """Bytes that came in an interval."""
    total = 0
    for one in downloads:
        had = [number for at, number in one.marks if begin <= at <= end]
        total += had[-1] - had[0] if had else 0
    return total


def row(event: Event, downloads: Sequence[Downloaded]) -> dict[str, Any]:
    """An event's row."""
    seconds = event.end - event.begin
    size = came(downloads, event.begin, event.end)
    return {
        "event": event.name,
        "seconds": round(seconds, 1),
        "stall_ms": stall_ms(downloads, event.begin, event.end),
        "bytes": size,
        "mbit_s": round(size * 8 / seconds / 1e6, 1),
        "wire_per_byte": round(event.wire / size, 3) if size else None,
    }


def rows_of(show: Show, size: int, digest: str) -> list[dict[str, Any]]:
    """A row for each event and for each download."""
    rows = [row(event, show.downloads) for event in show.events]
    for number, one in enumerate(show.downloads, 1):
        during = [event.name for event in show.events if one.marks[0][0] < event.begin < one.marks[-1][0]]
        seconds = one.marks[-1][0] - one.marks[0][0]
        rows.append(
            {
                "download": number,
                "events": len(during),
                "whole": int(one.size == size and one.digest == digest),
                "seconds": round(seconds, 1),
                "bytes": one.size,
                "mbit_s": round(one.size * 8 / seconds / 1e6, 1),
            }
        )
    return rows


CLAIMS = [
    Claim("interruptions.whole", "downloads that came whole", "== 1",
          Measure("whole", {}, "mean")),
    Claim("interruptions.events", "events that began while a download was under way", ">= 10", Measure("events", {}, "sum")),
    Claim("interruptions.stall", "longest time without a byte, ms", "<= 1000", Measure("stall_ms", {}, "max")),
]  # fmt: skip


def draw(figure: Any, rows: Sequence[Any]) -> None:
    """How long each event kept the reader waiting."""
    axis = figure.subplots()
    events = [one for one in rows if "event" in one]
    stalls = [one["stall_ms"] for one in events]
    axis.barh([one["event"] for one in events], stalls, color=[FLOOD if stall > 1000 else SEA for stall in stalls])
    axis.invert_yaxis()
    axis.axvline(1000, color=FLOOD, linewidth=1)
    axis.set(title="A download of 200 MB over the spread plane", xlabel="longest time without a byte, ms")


async def measure(folder: Path, size: int) -> list[dict[str, Any]]:
    """Build, read, let everything happen."""
    world = World(topology.load("access"), folder)
    try:
        access = Access(world)
        async with Processes(folder) as processes:
            site = await experiment.start_origin(processes, world, folder)
            digest = write(site.root / "www" / FILE, size)
            overlay = Spread(processes, world, folder, PROTECTION, lambda text: print(f"  {text}", flush=True))
            await overlay.build(experiment.SITE_NAME)
            show = Show(overlay, processes, access, group_hosts(world, "node"), size)
            async with asyncio.TaskGroup() as group:
                group.create_task(show.reading())
                group.create_task(show.everything())
            return rows_of(show, size, digest)
    finally:
        world.close()


def write(path: Path, size: int) -> str:
    """A file that a broken path would not reproduce by chance; its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for number in range(0, size, 1 << 20):
            piece = hashlib.shake_128(number.to_bytes(8, "big")).digest(min(1 << 20, size - number))
            file.write(piece)
            digest.update(piece)
    return digest.hexdigest()


def main() -> int:
    """Measure, write, print."""
    if sys.argv[1:2] == ["read"]:
        print(json.dumps(read(sys.argv[2], sys.argv[3], Path(sys.argv[4]))))
        return 0
    chosen = report.arguments("spread_interruptions", __doc__, "files of 20 MB").parse_args()
    size = 20_000_000 if chosen.quick else 200_000_000
    folder = (Path("build/lab") / f"spread-interruptions-{os.getpid()}-{time.strftime('%H%M%S')}").resolve()

    def inside() -> int:
        rows = asyncio.run(measure(folder, size))
        report.show(rows)
        parameters = {
            "bytes": size, "topology": "access", "protection": PROTECTION, "epoch_s": EPOCH_S, "ticket_s": TICKET_S,
            "span_s": SPAN_S, "quiet_s": QUIET_S, "plane": "spread", "build": BUILD,
        }  # fmt: skip
        result = Result(
            "spread-interruptions", parameters, rows, CLAIMS, "A download through everything that may happen to a session"
        )
        return report.finish(result, draw, record=not chosen.no_record, rows=False)

    return report.enclosed(inside)


if __name__ == "__main__":
    sys.exit(main())
