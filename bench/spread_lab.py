"""What the figures of the spread plane share: the world of 80 relays, where everybody is, and readers of the stored site.

A placement puts the user at one place of the matrix, the site with the servlet beside it at another, and the relays at 80 others; an
overlay of n relays is the first n of them. Paths that are no part of a figure keep the delays that the topology gave them.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench import report
from polder.engine.facade import BUILD
from polder.lab import experiment, latency, load, pageset, results, spread, topology
from polder.lab.origin import Origin
from polder.lab.processes import Processes
from polder.lab.switch import PathSpec
from polder.lab.world import World

MATRIX = "planetlab:1"
POOL = 150
"""Hosts of the matrix that are drawn from: so many of them have all measured each other."""
RELAYS = 80
BESIDE_MS = 2.0
"""Round trip between servlet and site."""
NEAR_MS = 10.0
SEED = 6
"""Of the placements."""
READERS = 4
THINK_S = 0.2
BEGIN_S = 1.5
"""Until readers have started."""
LEARN_S = 2.0
"""A session learns its paths meanwhile; pages begun then do not count."""
ENDS = "polder-quic over polder-spread, tickets from one description; relays without a control plane, all in one process"


@dataclass(frozen=True)
class Placement:
    """Rows of the matrix: the user's, the site's, the relays'."""

    name: str
    matrix: latency.Matrix
    user: int
    site: int
    relays: tuple[int, ...]

    @property
    def direct_ms(self) -> float:
        """Round trip without the overlay."""
        return self.matrix.rtt_ms[self.user][self.site]

    def detours(self, count: int) -> list[float]:
        """Round trips over each of the first ``count`` relays, the quickest first."""
        rtt = self.matrix.rtt_ms
        return sorted(rtt[self.user][one] + rtt[one][self.site] for one in self.relays[:count])

    def row(self, count: int) -> dict[str, Any]:
        """What a result says of it. ``bound``: round trip over the nearest relay, and on to the site, by the direct one, below which no
        overlay comes in which every packet crosses a relay; ``bound_blind``: the same for the median relay, for who does not know which is
        near."""
        detours = self.detours(count)
        bound = [(one + BESIDE_MS) / self.direct_ms for one in (detours[0], statistics.median(detours))]
        return {
            "placement": self.name,
            "direct_rtt_ms": round(self.direct_ms, 1),
            "best_detour_ms": round(detours[0], 1),
            "median_detour_ms": round(statistics.median(detours), 1),
            "bound": round(bound[0], 3),
            "bound_blind": round(bound[1], 3),
        }


def load_matrix() -> latency.Matrix:
    """The hosts that placements are drawn from; raises ``NoMatrixError``."""
    return latency.load(MATRIX, POOL, random.Random(5))


def draw(matrix: latency.Matrix, rng: random.Random, name: str, *, near: bool = False) -> Placement:
    """Everybody somewhere else. ``near``: user and site within ``NEAR_MS``, as the paper had them; otherwise not."""
    places = range(len(matrix.names))
    pairs = [(a, b) for a in places for b in places if a != b and (matrix.rtt_ms[a][b] <= NEAR_MS) == near]
    if not pairs:
        raise latency.NoMatrixError(f"no two hosts of the matrix are within {NEAR_MS:g} ms")
    user, site = rng.choice(pairs)
    others = [place for place in places if place not in (user, site)]
    return Placement(name, matrix, user, site, tuple(rng.sample(others, RELAYS)))


def first() -> Placement:
    """The placement that all figures have."""
    return draw(load_matrix(), random.Random(SEED), "far 1")


def put(world: World, placement: Placement) -> None:
    """Give the paths that sessions use their delays, half of the round trip each way."""
    rtt = placement.matrix.rtt_ms
    between = [("user", f"node{n}", rtt[placement.user][place]) for n, place in enumerate(placement.relays, 1)]
    between += [(f"node{n}", "servlet", rtt[place][placement.site]) for n, place in enumerate(placement.relays, 1)]
    between += [("user", "isp", placement.direct_ms), ("user", "servlet", placement.direct_ms), ("servlet", "isp", BESIDE_MS)]
    for a, b, ms in between:
        source, target = world.hosts[a].port, world.hosts[b].port
        assert source is not None
        assert target is not None
        for one, other in ((source, target), (target, source)):
            world.switch.path(one, other, PathSpec(int(ms * 500)))


class Stage:
    """The world with its site, and readers in it."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        """Build the world."""
        self.folder, self.processes = folder, processes
        self.world = World(topology.load("spread"), folder)
        self.pages: tuple[pageset.Stored, ...] = ()
        self.ca = Path()
        self._site: Origin | None = None
        self._reads = 0

    async def begin(self) -> None:
        """Start the site; ``ca`` is then the file of its CA, beside which ``www`` lies. Raises ``ProcessError``."""
        self._site = await experiment.start_origin(self.processes, self.world, self.folder)
        self.ca, self.pages = self._site.ca, pageset.write(self._site.root / "www")

    @contextmanager
    def overlay(self, count: int, seed: int) -> Iterator[spread.Overlay]:
        """The first ``count`` relays and the servlet."""
        relays = [f"node{n}" for n in range(1, count + 1)]
        overlay = spread.Overlay(self.world, self.folder, relays, "servlet", random.Random(seed))
        try:
            yield overlay
        finally:
            overlay.stop()

    @property
    def target(self) -> tuple[str, int]:
        """Where the servlet delivers."""
        return self.world.hosts["site"].ipv4, self.world.ports.https

    async def read(self, seconds: float, *, direct: bool, limit: float = 60.0, readers: int = READERS) -> list[load.Load]:
        """All readers load pages for a while. Raises ``ProcessError``."""
        assert self._site is not None
        self._reads += 1
        begin = time.monotonic() + BEGIN_S
        address = self.world.hosts["site"].ipv4 if direct else "127.0.0.1"
        port = self.world.ports.https if direct else spread.LISTEN
        paths = [page.path for page in self.pages]

        async def one(number: int) -> list[load.Load]:
            turn = number % len(paths)
            reader = load.Reader(
                url=f"https://{experiment.SITE_NAME}:{port}/",
                start=begin,
                duration=seconds,
                seed=number,
                think=THINK_S,
                limit=limit,
                resolve={experiment.SITE_NAME: address},
                ca=str(self.ca),
                pages=(*paths[turn:], *paths[:turn]),
            )
            argv = [sys.executable, "-m", "polder.lab.load"]
            data = msgspec.json.encode(reader)
            output = await self.processes.run("user", f"reader-{self._reads}-{number}", argv, seconds + 2 * limit + 30, data)
            return [msgspec.json.decode(line, type=load.Load) for line in output.splitlines()]

        return [one for loads in await asyncio.gather(*map(one, range(readers))) for one in loads]

    def plug(self, hosts: Sequence[str], plugged: bool) -> None:
        """Take hosts off the network without a word, or bring them back."""
        for host in hosts:
            port = self.world.hosts[host].port
            assert port is not None
            self.world.switch.plug(port, plugged)

    def shape(self, host: str, up_mbit: float, down_mbit: float) -> None:
        """Give a host's link a rate; 0: none."""
        port = self.world.hosts[host].port
        assert port is not None
        self.world.switch.rate(port, int(up_mbit * 1e6), int(down_mbit * 1e6))


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    """The world with its site, for as long as it is needed."""
    async with Processes(folder) as processes:
        made = Stage(folder, processes)
        try:
            await made.begin()
            yield made
        finally:
            made.world.close()


@dataclass(frozen=True)
class Figure:
    """One of the spread plane's measurements: its name, title, what ``--quick`` leaves, parameters beyond those that all share."""

    name: str
    title: str
    quick: str
    parameters: Callable[[], dict[str, Any]]
    measure: Callable[[Path, bool], Coroutine[Any, Any, list[dict[str, Any]]]]
    claims: Callable[[], list[results.Claim]]
    draw: results.Draw

    def main(self, about: str | None) -> int:
        """Measure, write, print. Exit status 0 without a matrix: there is nothing to measure then, and that is said."""
        chosen = report.arguments(self.name.replace("-", "_"), about, self.quick).parse_args()
        try:
            load_matrix()
        except latency.NoMatrixError as error:
            print(f"skipped: {error}; NetLatency-Data has it, under latency/PlanetLabData_1.gz below POLDER_DATA")
            return 0
        folder = (Path("build/lab") / f"{self.name}-{os.getpid()}-{time.strftime('%H%M%S')}").resolve()

        def inside() -> int:
            rows = asyncio.run(self.measure(folder, chosen.quick))
            shared = {"matrix": MATRIX, "topology": "spread", "seed": SEED, "ends": ENDS, "quick": chosen.quick, "build": BUILD}
            result = results.Result(self.name, shared | self.parameters(), rows, self.claims(), self.title)
            return report.finish(result, self.draw, record=not chosen.no_record, rows=False)

        return report.enclosed(inside)


def learned(loads: Sequence[load.Load]) -> list[load.Load]:
    """Without those that began in the first ``LEARN_S`` of them all."""
    begin = min((one.start for one in loads), default=0.0)
    return [one for one in loads if one.start >= begin + LEARN_S]


def page_times(loads: Sequence[load.Load]) -> dict[str, float]:
    """Median time in ms of every page of the set, of those that came whole."""
    times: dict[str, list[float]] = {}
    for one in loads:
        if one.good:
            times.setdefault(one.page, []).append(one.seconds * 1000)
    return {page: statistics.median(some) for page, some in times.items()}


def ratios(loads: Sequence[load.Load], base: Sequence[load.Load]) -> list[float]:
    """Every good load's time over the median of the same page in ``base``, in order: pages of all sizes compare so."""
    medians = page_times(base)
    return sorted(one.seconds * 1000 / medians[one.page] for one in loads if one.good and one.page in medians)


def share(ordered: Sequence[float], part: float) -> float | None:
    """The value below which ``part`` of an ordered list lies."""
    return round(ordered[min(len(ordered) - 1, int(part * len(ordered)))], 3) if ordered else None
