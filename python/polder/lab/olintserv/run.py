"""The whole story, four times: with and without reservations, over relays and through one access point.

Each time the user watches the site's stream. First all is quiet; then cross traffic fills both last hops in both directions; then three of
the ten nodes fall silent, unnoticed: that one of the user's two nearest over which more of the stream comes, and two drawn by chance
from those that are nobody's nearest. Nothing else differs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polder.lab.experiment import SITE_NAME
from polder.lab.olintserv import playing, stream
from polder.lab.olintserv.crossing import Cross
from polder.lab.olintserv.isps import SIDES, SITE_NODES, USER_NODES, TwoIsps
from polder.lab.olintserv.market import Market
from polder.lab.olintserv.playing import FRAME_S, LAG_S, Frame, View
from polder.lab.olintserv.reserving import TCP, UDP, Reservations, Wish
from polder.lab.olintserv.tally import Tally
from polder.lab.overlay import Overlay
from polder.lab.processes import Process, ProcessError, Processes
from polder.shell.clock import wall

STREAM_MBIT = 3.0
DOWN_MBIT, UP_MBIT, SITE_UP_MBIT, SITE_DOWN_MBIT = 6.0, 1.0, 4.2, 0.8
"""Reserved: towards the user with room for copies, from her; from the site, towards it."""
DEAD = 3
SLICE_S = stream.KEY_EVERY * FRAME_S
"""From one key frame to the next: each slice has one."""
_LEARN_S, _PATIENCE_S, _AHEAD_S = 3.0, 60.0, 1.0
_SPARE_S = 2 * _PATIENCE_S
"""Checks pay for a showing and so many seconds more."""
_PROTECTION = {
    "transport": "dialout",
    "mode": "beacon",
    "servlets": len(SITE_NODES),
    "relays": True,
    "open": True,
    "more": {"servlets_among": list(SITE_NODES)},
}


@dataclass(frozen=True)
class Combination:
    """What the user has."""

    name: str
    title: str
    reserved: bool
    spread: bool

    @property
    def plane(self) -> str:
        """For ``polder connect``."""
        return "spread" if self.spread else "tunnel"


COMBINATIONS = (
    Combination("neither", "neither", reserved=False, spread=False),
    Combination("spread", "spread only", reserved=False, spread=True),
    Combination("reserved", "reservation only", reserved=True, spread=False),
    Combination("both", "reservation and spread", reserved=True, spread=True),
)


@dataclass(frozen=True)
class Times:
    """Seconds of one showing: quiet until ``cross``, all nodes alive until ``dead``, over at ``end``."""

    cross: float
    dead: float
    end: float

    @classmethod
    def of(cls, seconds: float) -> Times:
        """A fifth of it quiet, with cross traffic alone until half of it is over."""
        return cls(round(0.2 * seconds, 1), round(0.5 * seconds, 1), seconds)


@dataclass
class Showing:
    """One combination's turn: what the player told so far. Times are of the shared clock (Unix seconds)."""

    combination: Combination
    times: Times
    epoch: float
    began: float = 0.0
    frames: list[Frame] = field(default_factory=list)
    opened: int = 0
    dead: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def elapsed(self) -> float:
        """Seconds since it began, at most its length; 0 before."""
        return min(self.times.end, max(0.0, wall() - self.began)) if self.began else 0.0

    def view(self, until: float | None = None) -> View:
        """What was seen until ``until`` seconds after the beginning (default: now)."""
        end = self.began + (self.elapsed() if until is None else until)
        first = -int((self.epoch - self.began) // FRAME_S)
        last = int((end - self.epoch - LAG_S) / FRAME_S)
        return playing.view(self.frames, first, last, self.epoch, end)

    def row(self) -> dict[str, Any]:
        """The result's row."""
        found, times = self.view(self.times.end), self.times
        spans = {"quiet": (0.0, times.cross), "cross": (times.cross, times.dead), "dead": (times.dead, times.end + 1.0)}
        parts: dict[str, Any] = {}
        for name, (begin, end) in spans.items():
            stalls, frozen = playing.within(found, self.began + begin, self.began + end)
            parts |= {f"stalls_{name}": stalls, f"frozen_{name}_s": round(frozen, 2)}
        frames = max(1, len(found.delays_ms) + len(found.lost))
        return {
            "combination": self.combination.name,
            "reserved": self.combination.reserved,
            "spread": self.combination.spread,
            "stalls": len(found.stalls),
            "frozen_s": round(found.frozen_s, 2),
            **parts,
            "lost": round(len(found.lost) / frames, 4),
            "delay_p50_ms": _rounded(found.delay_ms(0.5)),
            "delay_p99_ms": _rounded(found.delay_ms(0.99)),
            "mbit": round(found.bytes * 8 / 1e6 / (frames * FRAME_S), 2),
            "reopened": self.opened - 1,
            "dead": " ".join(self.dead),
            "cross_at": times.cross,
            "dead_at": times.dead,
            "seconds": times.end,
            **self.facts,
            **self.slices(found),
        }

    def slices(self, found: View) -> dict[str, list[float | None]]:
        """Over time, by when frames were made: the worst delay of those that came (``None``: none came), the part that was lost."""
        count = int(self.times.end / SLICE_S)
        worst: list[float | None] = [None] * count
        lost = [0] * count
        for frame in self.frames:
            at = int((frame.made - self.began) / SLICE_S)
            if 0 <= at < count and frame.made >= self.began:
                worst[at] = round(max(worst[at] or 0.0, (frame.came - frame.made) * 1000), 1)
        for number in found.lost:
            at = int((self.epoch + number * FRAME_S - self.began) / SLICE_S)
            if 0 <= at < count:
                lost[at] += 1
        return {"worst_ms": worst, "lost_share": [round(min(1.0, each * FRAME_S / SLICE_S), 2) for each in lost]}


Say = Callable[[str], None]
Watch = Callable[[Showing], None]


class Run:
    """A run in progress. ``say`` hears what is done, ``watch`` sees each showing grow."""

    def __init__(self, directory: Path, seconds: float, rounds: int = 1, seed: int = 1) -> None:
        """``seconds`` of each showing; ``rounds`` times all four."""
        self.directory, self.times, self.rounds = directory, Times.of(seconds), rounds
        self.say: Say = lambda _: None
        self.watch: Watch = lambda _: None
        self.rows: list[dict[str, Any]] = []
        self.books: dict[str, Any] = {}
        self._rng = random.Random(seed)

    async def go(self) -> None:
        """Build, show, settle, tear down; inside the enclosure. Raises ``ProcessError``, ``LinkError``, ``SwitchError``, ``Refused``."""
        self.say("laying the wide area and two last hops")
        world = TwoIsps(self.directory)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(world.close)
            processes = await stack.enter_async_context(Processes(self.directory))
            stage = await Stage.build(world, processes, self.directory, self.say)
            for number in range(self.rounds):
                for combination in COMBINATIONS:
                    showing = await stage.show(combination, self.times, self._rng, self.watch)
                    self.rows.append({"round": number, **showing.row()})
            self.say("settling: the ISPs deposit their checks, the clearing house bills and nets")
            self.books = await stage.market.settle()


class Stage:
    """Everything that all showings share."""

    def __init__(self, world: TwoIsps, processes: Processes, directory: Path, say: Say) -> None:
        self.world, self.processes, self.say = world, processes, say
        self.overlay = Overlay(processes, world, directory, _PROTECTION, say)
        sockets = directory.resolve()
        self.market = Market(self.overlay, world, sockets)
        self.reservations = Reservations(processes, world, sockets)
        self.cross = Cross(processes, world)
        self.tally = Tally(world)
        self.epoch = 0.0

    @classmethod
    async def build(cls, world: TwoIsps, processes: Processes, directory: Path, say: Say) -> Stage:
        """Start everything that runs throughout."""
        stage = cls(world, processes, directory, say)
        await stage._film()
        await stage.overlay.build(SITE_NAME)
        say("opening the market: two ISPs, a provider, a clearing house")
        await stage.market.open()
        say("starting the reservation daemons")
        await stage.reservations.start({side.isp: stage.market.pdp(side) for side in SIDES})
        await stage.cross.open()
        stage.tally.open()
        return stage

    async def show(self, combination: Combination, times: Times, rng: random.Random, watch: Watch) -> Showing:
        """One showing, from a fresh forwarder to the dead nodes' return."""
        self.say(f"{combination.title}: connecting")
        entrances = json.dumps(list(USER_NODES))
        await self.overlay.reconnect("user", f"access_points = {entrances}\n", "--plane", combination.plane)
        showing = Showing(combination, times, self.epoch)
        async with self._reserved(combination, times), self._playing(showing, watch):
            await self._learn(showing)
            self.say(f"{combination.title}: watching")
            showing.began = wall() + _AHEAD_S
            try:
                await self._happen(showing, rng)
            finally:
                await self.cross.stop()
                self.world.plug(showing.dead, plugged=True)
        self.overlay.check()
        self.reservations.check()
        await self._recover(showing.dead)
        return showing

    async def _film(self) -> None:
        words = {"address": self.world.hosts["site"].ipv4, "port": self.world.ports.http, "mbit": STREAM_MBIT}
        camera = await self._tool("site", "serve", words)
        self.epoch = json.loads(await camera.first_line(_PATIENCE_S))["epoch"]

    async def _tool(self, host: str, work: str, words: dict[str, Any]) -> Process:
        argv = [sys.executable, "-m", "polder.lab.olintserv.stream", work, json.dumps(words)]
        return await self.processes.start(host, work, argv, piped=True, open_stdin=True)

    @contextlib.asynccontextmanager
    async def _reserved(self, combination: Combination, times: Times) -> AsyncIterator[None]:
        """Both sides' reservations, if this combination has them."""
        if not combination.reserved:
            yield
            return
        self.say(f"{combination.title}: paying and reserving on both last hops")
        user, site = SIDES
        wishes = [
            Wish(user, UDP if combination.spread else TCP, DOWN_MBIT, UP_MBIT),
            Wish(site, TCP, SITE_DOWN_MBIT, SITE_UP_MBIT),
        ]
        async with self.reservations.hold(wishes, self.market.payers, times.end + _SPARE_S):
            yield

    @contextlib.asynccontextmanager
    async def _playing(self, showing: Showing, watch: Watch) -> AsyncIterator[None]:
        """A player; what it tells is collected."""
        proxy = self.overlay.proxies["user"].removeprefix("http://")
        words = {"proxy": proxy, "host": SITE_NAME, "port": self.world.ports.http}
        player = await self._tool("user", "play", words)
        collecting = asyncio.create_task(_collect(player, showing, watch))
        try:
            yield
        finally:
            assert player.process.stdin is not None
            player.process.stdin.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(collecting, 10)
            await player.stop()

    async def _learn(self, showing: Showing) -> None:
        """Until frames have come for some seconds on one connection, so that no first opening is judged."""
        deadline, since, seen = time.monotonic() + _PATIENCE_S, 0.0, 0
        while not since or time.monotonic() - since < _LEARN_S:
            if not since or len(showing.frames) == seen:
                since = time.monotonic() if len(showing.frames) > seen else 0.0
            seen = len(showing.frames)
            if time.monotonic() > deadline:
                raise ProcessError(f"no stream comes {showing.combination.title}: see the logs in {self.processes.directory}")
            await asyncio.sleep(0.5)

    async def _happen(self, showing: Showing, rng: random.Random) -> None:
        """What befalls the viewer, at its times."""
        times = showing.times
        await self.cross.start(showing.began + times.cross, showing.began + times.end)
        await _at(showing.began + times.cross)
        before = self.tally.read()
        self.cross.mark()
        await _at(showing.began + times.dead - 1.0)
        recent = self.tally.read()
        await _at(showing.began + times.dead)
        showing.dead = self._victims(recent, rng)
        self.world.plug(showing.dead, plugged=False)
        await _at(showing.began + times.end)
        came = {node: count - before[node] for node, count in self.tally.read().items()}
        near = sum(came[node] for node in USER_NODES)
        carried = await self.reservations.carried()
        showing.facts = {
            "cross_mbit": round(self.cross.mbit(), 1),
            "dead_share": round(len(showing.dead) / len(came), 3),
            "near_share": round(near / max(1, sum(came.values())), 3),
            "within_packets": sum(each.get("packets", 0) for each in carried),
            "beyond_packets": sum(each.get("packets_beyond", 0) for each in carried),
        }

    def _victims(self, recent: dict[str, int], rng: random.Random) -> tuple[str, ...]:
        """Who dies: the node that carries, and two that are nobody's nearest."""
        came = {node: count - recent[node] for node, count in self.tally.read().items()}
        carrier = max(USER_NODES, key=lambda node: came[node])
        others = [node for node in came if node not in (*USER_NODES, *SITE_NODES)]
        return (carrier, *rng.sample(others, DEAD - 1))

    async def _recover(self, dead: tuple[str, ...]) -> None:
        """Until those that were away are in the ring again, and know beacons."""
        self.say("the dead nodes come back")
        await self.overlay.settled([*dead])


async def _collect(player: Process, showing: Showing, watch: Watch) -> None:
    """What was opened before the showing began counts as one."""
    assert player.process.stdout is not None
    before = 0
    async for line in player.process.stdout:
        told = json.loads(line)
        showing.frames += [Frame(*each) for each in told["frames"]]
        if not showing.began:
            before = told["opened"]
        showing.opened = 1 + told["opened"] - before
        watch(showing)


async def _at(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - wall()))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
