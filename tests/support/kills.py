"""Nodes of a running overlay that die or hang while pages are read: who plays which role, what readers notice, when the ring stands."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import ssl
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from polder.api.admin import ask
from tests.support.overlay import PATIENCE, Overlay

LIMIT_S = 15.0
"""A page that takes longer has failed, whatever comes."""
_LOOK_S = 0.1


@dataclass(frozen=True)
class Page:
    """One page load: when it began (monotonic seconds), how long it took, whether the browser had to ask again, what went wrong."""

    site: str
    began: float
    seconds: float
    again: bool
    trouble: str = ""


@dataclass
class Load:
    """``rate`` pages a second in all, from several users through ``proxies`` in turn, of every one of ``hosts`` in turn.

    Every page is read as by a browser that was just started: a connection of its own, TLS to the site in it; when the
    connection dies, the same is asked once more over a fresh one (what a browser does with an idempotent request, RFC 9110 §9.2.2).
    """

    proxies: Sequence[str]
    hosts: Sequence[str]
    trust: bytes
    rate: float = 20.0
    pages: list[Page] = field(default_factory=list)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Read until the end of the block; then what is open is brought to its end."""
        self._tls = ssl.create_default_context(cadata=self.trust.decode())
        driver = asyncio.create_task(self._drive())
        try:
            yield
        finally:
            driver.cancel()
            await asyncio.gather(driver, return_exceptions=True)
            await asyncio.gather(*self._open)

    async def _drive(self) -> None:
        self._open: set[asyncio.Task[None]] = set()
        number, due = 0, time.monotonic()
        while True:
            host, proxy = self.hosts[number % len(self.hosts)], self.proxies[number // len(self.hosts) % len(self.proxies)]
            task = asyncio.create_task(self._page(host, proxy, number % 4 == 3))
            self._open.add(task)
            task.add_done_callback(self._open.discard)
            number, due = number + 1, due + 1 / self.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _page(self, host: str, proxy: str, plain: bool) -> None:
        began, again, trouble = time.monotonic(), False, ""
        url = f"{'http' if plain else 'https'}://{host}/"
        try:
            async with asyncio.timeout(LIMIT_S):
                try:
                    await self._get(url, proxy)
                except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError):
                    again = True
                    await self._get(url, proxy)
        except (aiohttp.ClientError, OSError) as error:
            trouble = f"{type(error).__name__}: {error}"[:200]
        self.pages.append(Page(host, began, time.monotonic() - began, again, trouble))

    async def _get(self, url: str, proxy: str) -> None:
        connector = aiohttp.TCPConnector(force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(url, proxy=f"http://{proxy}", ssl=self._tls) as answer,
        ):
            text = await answer.text()
            answer.raise_for_status()
            if "is up" not in text:
                raise aiohttp.ClientError(f"not the page: {text[:80]!r}")

    def between(self, begin: float, end: float) -> list[Page]:
        """Pages that began in that time."""
        return [page for page in self.pages if begin <= page.began < end]


def summary(pages: Sequence[Page]) -> dict[str, Any]:
    """What readers noticed, for a row."""
    times = sorted(page.seconds for page in pages)
    return {
        "pages": len(pages),
        "failed": sum(bool(page.trouble) for page in pages),
        "asked_again": sum(page.again for page in pages),
        "slowest_s": round(times[-1], 3) if times else None,
        "median_s": round(times[len(times) // 2], 4) if times else None,
    }


class Roles:
    """Who does what in ``overlay``, by what its administrators can ask."""

    def __init__(self, overlay: Overlay) -> None:
        self._overlay = overlay

    async def node(self, name: str, what: str = "status") -> dict[str, Any]:
        """What a node says."""
        return await ask(self._overlay.state(name) / "node" / "admin.sock", what)

    async def servlets(self, site: str) -> list[str]:
        """The servlets that serve ``site`` now."""
        status = await ask(self._overlay.state(f"site-{site}") / "site" / site / "admin.sock", "status")
        return [name for name, stage in status["servlets"].items() if stage == "serving"]

    async def beacons(self, site: str) -> list[str]:
        """Nodes that know the servlets of ``site``."""
        told = {name: await self.node(name) for name in self._overlay.nodes}
        return [name for name, status in told.items() if status["beacon_for"].get(site)]

    async def busiest(self, counter: str, among: Iterable[str], seconds: float = 1.5) -> str:
        """The node among those whose ``counter`` grows most."""
        names = list(among)
        before = {name: (await self.node(name, "counters"))[counter] for name in names}
        await asyncio.sleep(seconds)
        grown = {name: (await self.node(name, "counters"))[counter] - before[name] for name in names}
        return max(names, key=lambda name: grown[name])

    async def in_order(self, alive: Iterable[str]) -> bool:
        """Whether the living nodes' successor lists are those of one ring of all of them."""
        told = {name: (await self.node(name))["successors"] for name in alive}
        here = min(told)
        ring = [here]
        while told[here] and told[here][0] in told and told[here][0] not in ring:
            here = told[here][0]
            ring.append(here)
        if len(ring) != len(told):
            return False
        turned = {name: ring[at + 1 :] + ring[:at] for at, name in enumerate(ring)}
        return all(successors == turned[name][: len(successors)] for name, successors in told.items())

    async def until_in_order(self, alive: Iterable[str], patience: float = PATIENCE) -> float:
        """Seconds until ``in_order``; a node that does not answer is not in order."""
        began, names = time.monotonic(), list(alive)
        async with asyncio.timeout(patience):
            while True:
                with contextlib.suppress(OSError, ValueError, KeyError):
                    if await self.in_order(names):
                        return time.monotonic() - began
                await asyncio.sleep(_LOOK_S)

    async def until_served(self, sites: Mapping[str, int], told: int) -> None:
        """Until every site has so many servlets and ``told`` nodes know them, and every node is in the ring."""
        async with asyncio.timeout(2 * PATIENCE):
            await self.until_in_order(self._overlay.nodes, 2 * PATIENCE)
            for site, count in sites.items():
                while len(await self.servlets(site)) < count or len(await self.beacons(site)) < told:
                    await asyncio.sleep(_LOOK_S)


async def strike(overlay: Overlay, victims: Sequence[str], how: signal.Signals) -> None:
    """Kill or stop ``victims`` at one moment."""
    for victim in victims:
        overlay.nodes[victim].process.send_signal(how)
    if how is signal.SIGKILL:
        await asyncio.gather(*(asyncio.to_thread(overlay.nodes[victim].process.wait) for victim in victims))


async def revive(overlay: Overlay, victims: Sequence[str], how: signal.Signals) -> None:
    """Start the killed again, or let the stopped go on."""
    for victim in victims:
        if how is signal.SIGKILL:
            overlay.nodes[victim].stop()
            overlay.processes.remove(overlay.nodes[victim])
            await asyncio.to_thread(overlay.run_node, victim)
        else:
            overlay.nodes[victim].process.send_signal(signal.SIGCONT)


async def choose(overlay: Overlay, role: str, ring_site: str, beacon_site: str, rng: random.Random) -> list[str]:
    """Who is struck for ``role``."""
    roles, nodes = Roles(overlay), sorted(overlay.nodes)
    servlets = {site: await roles.servlets(site) for site in (ring_site, beacon_site)}
    match role:
        case "ring hop":
            others = [name for name in nodes if name not in servlets[ring_site] + servlets[beacon_site]]
            return [await roles.busiest("tunnels", others)]
        case "beacon":
            others = [name for name in await roles.beacons(beacon_site) if name not in servlets[beacon_site]]
            return [await roles.busiest("tunnels", others or nodes)]
        case "servlet":
            return [await roles.busiest("tunnels", servlets[beacon_site])]
        case "access point":
            return [await roles.busiest("front_tunnels", nodes)]
        case "both servlets and a beacon":
            two = servlets[beacon_site]
            others = [name for name in await roles.beacons(beacon_site) if name not in two]
            return [*two, rng.choice(others or [name for name in nodes if name not in two])]
        case _:
            return rng.sample(nodes, 3)
