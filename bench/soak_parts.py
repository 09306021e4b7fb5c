"""What the soak runs: two origins, readers who notice everything, and an overlay whose parts can be struck one by one."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from bench import revocation
from polder.api.admin import ask
from polder.lab.attacks import group_hosts
from polder.lab.overlay import NODE_PORT, SITE, Overlay
from polder.lab.processes import ProcessError, together
from polder.model import Kind
from polder.settings import StateDir
from polder.shell.clock import wall
from polder.trust.tokens import Grant

HOSTS = {SITE: "wiki.soak.test", "blog": "blog.soak.test"}
"""Site → its host name. The first is reached through GRE tunnels and a filter, in mode ``beacon``; the second dials out, ``ring``."""
SPARE = "eve"
"""A user who reads nothing, and is revoked and enrolled again."""
PAGE, FILE = 12_000, 400_000
SLOW_S = 3.0
"""A page that takes longer is told of, with the time at which it began."""
SESSIONS = 520
"""Handshakes after which a node keeps no more sessions for resumption (1,024, two of each)."""
BROKEN = (ConnectionError, asyncio.IncompleteReadError, aiohttp.ClientConnectionError, aiohttp.ClientPayloadError)
"""What a browser asks again after."""
LIMIT_S = 20.0
"""A page that takes longer has failed."""
_SETTLED_S = 90.0


def body(size: int) -> bytes:
    """What a page of ``size`` bytes consists of."""
    return (hashlib.sha256(str(size).encode()).digest() * (size // 32 + 1))[:size]


def serve() -> None:
    """An origin on port 80 of its host."""
    pages = {size: body(size) for size in (PAGE, FILE)}

    async def page(request: web.Request) -> web.Response:
        return web.Response(body=pages[int(request.match_info["size"])])

    app = web.Application()
    app.add_routes([web.get("/{size}", page)])
    web.run_app(app, host="0.0.0.0", port=80, access_log=None, print=None)


class Reader:
    """Asks for ``rate`` pages a second through ``proxy`` until it is told to end; every fourth is a file.

    Each page is read as by a browser that has just started: over a connection of its own, and once more over another one when that
    breaks (RFC 9110 §9.2.2). One half goes through a CONNECT tunnel, the other in absolute form.
    """

    def __init__(self, proxy: str, rate: float) -> None:
        self._host, _, port = proxy.removeprefix("http://").rpartition(":")
        self._port, self._rate = int(port), rate
        self.pages = self.again = self.failed = 0
        self.slowest = 0.0
        self.troubles: list[str] = []
        self.slow: list[str] = []

    async def run(self, end: asyncio.Event) -> None:
        """Read; what is open at the end is brought to its end."""
        loads, number, due = set[asyncio.Task[None]](), 0, time.monotonic()
        hosts = list(HOSTS.values())
        while not end.is_set():
            task = asyncio.create_task(self._page(hosts[number % 2], FILE if number % 4 == 3 else PAGE, number // 2 % 2 == 0))
            loads.add(task)
            task.add_done_callback(loads.discard)
            number, due = number + 1, due + 1 / self._rate
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(end.wait(), max(0.001, due - time.monotonic()))
        await asyncio.gather(*loads)

    async def _page(self, host: str, size: int, tunnel: bool) -> None:
        began, trouble, again = time.monotonic(), "", "at once"
        what = f"{'tunnel' if tunnel else 'absolute form'}, {host}/{size}"
        get = self._tunnelled if tunnel else self._asked
        try:
            async with asyncio.timeout(LIMIT_S):
                try:
                    await get(host, size)
                except BROKEN as error:
                    self.again += 1
                    again = f"again after {time.monotonic() - began:.1f} s: {type(error).__name__}: {error}"
                    await get(host, size)
        except (OSError, EOFError, ValueError, aiohttp.ClientError) as error:
            trouble = f"{wall():.1f}: {what}: {type(error).__name__}: {error}"[:240]
        self.pages += 1
        took = time.monotonic() - began
        self.slowest = max(self.slowest, took)
        if took > SLOW_S:
            self.slow = [*self.slow, f"{wall() - took:.1f}: {took:.1f} s: {what}, {again}"[:240]][-20:]
        if trouble:
            self.failed += 1
            self.troubles = [*self.troubles, trouble][-20:]

    async def _asked(self, host: str, size: int) -> None:
        connector = aiohttp.TCPConnector(force_close=True)
        proxy = f"http://{self._host}:{self._port}"
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(f"http://{host}/{size}", proxy=proxy) as answer,
        ):
            got = await answer.read()
            answer.raise_for_status()
        _same(got, size)

    async def _tunnelled(self, host: str, size: int) -> None:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(f"CONNECT {host}:80 HTTP/1.1\r\nHost: {host}:80\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head:
                raise ValueError(head.splitlines()[0].decode())
            writer.write(f"GET /{size} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head:
                raise ValueError(head.splitlines()[0].decode())
            _same(await reader.readexactly(size), size)
        finally:
            writer.close()


def _same(got: bytes, size: int) -> None:
    if got != body(size):
        raise ValueError(f"another page: {len(got)} bytes")


async def read(proxy: str, rate: float) -> dict[str, Any]:
    """Read until SIGTERM; what was seen."""
    end, reader = asyncio.Event(), Reader(proxy, rate)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.set)
    await reader.run(end)
    slowest = round(reader.slowest, 3)
    return {
        "pages": reader.pages,
        "again": reader.again,
        "failed": reader.failed,
        "slowest_s": slowest,
        "troubles": reader.troubles,
        "slow": reader.slow,
    }


class Soaked(Overlay):
    """The laboratory's overlay with a second site that dials out, and parts that end and begin again.

    ``places``: admin socket of each part, by its name.
    """

    def check(self) -> None:
        """Parts end here: that is the point."""

    async def build(self, host_name: str) -> None:
        """Found the overlay, run it, put both sites behind it, connect the users."""
        nodes, users = group_hosts(self._world, "node"), group_hosts(self._world, "user")
        self._handed_over: set[int] = set()
        self.places = {"authority": StateDir(self.home("authority")).authority / "admin.sock"}
        await self._found()
        await together(
            *(self.enrol(Kind.NODE, node, Grant(Kind.NODE, node)) for node in nodes),
            *(self.enrol(Kind.USER, user, Grant(Kind.USER, user, groups=("readers",))) for user in users),
            self.enrol(Kind.SITE, SITE, Grant(Kind.SITE, SITE, hosts=(host_name,)), on="gateway"),
            self.enrol(Kind.USER, SPARE, Grant(Kind.USER, SPARE, groups=("readers",)), on="bot"),
            self.enrol(Kind.SITE, "blog", Grant(Kind.SITE, "blog", hosts=(HOSTS["blog"],)), on="bot"),
        )
        await together(*(self._run_node(node) for node in nodes))
        await self._wait_ring(nodes)
        await self._run_site()
        await self._run_second_site()
        for node in nodes:
            self.places[node] = self.home(node) / "node" / "admin.sock"
        self.places[f"site {SITE}"] = self.home("gateway") / "site" / SITE / "admin.sock"
        self.places["site blog"] = self.home("bot") / "site" / "blog" / "admin.sock"
        await self.whole()
        await together(*(self._connect(user) for user in users))
        for user in users:
            self.places[user] = self.home(user) / "user" / user / "admin.sock"

    async def _run_second_site(self) -> None:
        settings: dict[str, Any] = {"name": "blog", "origin": f"http://{self._world.hosts['bot'].ipv4}:80", "ports": [80]}
        settings |= {"allow": ["anyone"], "mode": "ring", "servlets": 2, "transport": "dialout"}
        settings |= {key: self._protection["more"][key] for key in ("rotation", "grace", "drain_max")}
        lines = (f"{key} = {json.dumps(value)}" for key, value in settings.items())
        (self.home("bot") / "site" / "blog" / "site.toml").write_text("\n".join(lines) + "\n")
        await self.start("bot", "bot", "site", "run", "blog")

    async def fill(self, node: str) -> None:
        """Fill a node's store of sessions."""
        address = f"{self._world.hosts[node].ipv4}:{NODE_PORT}"
        state = str(self.home("user1") / "user" / "user1")
        argv = [sys.executable, "-m", "bench.soak_parts", "knock", state, address]
        await self._processes.run("user1", f"knock-{node}", argv, 120)

    # What parts say

    def helper(self, name: str) -> int:
        """The pid of a host helper."""
        return next(process.process.pid for process in self._running if process.name == name)

    async def facts(self, part: str) -> dict[str, Any]:
        """Pid, tasks, objects of a part. Raises ``OSError`` while it does not run.

        For a moment after an upgrade the process before may still answer: both hold the socket.
        """
        while (told := await ask(self.places[part], "process"))["pid"] in self._handed_over:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)
        return told

    async def whole(self) -> None:
        """Until every node is in the ring, both sites are served by two servlets, and everybody knows beacons for both."""
        await self._wait(self._is_whole, "a whole overlay")

    async def _is_whole(self) -> bool:
        for name in HOSTS:
            status = await ask(self.places[f"site {name}"], "status")
            if int(status["serving"]) < 2:
                return False
        for node in group_hosts(self._world, "node"):
            status = await ask(self.places[node], "status")
            known = all(status["sites"].get(name, {}).get("beacons") for name in HOSTS)
            if not (status["joined"] and status["successors"] and known) or status["members"] < 5:
                return False
        return True

    async def _wait(self, true: Callable[[], Awaitable[bool]], what: str) -> None:
        deadline = time.monotonic() + _SETTLED_S
        while True:
            with contextlib.suppress(OSError, ValueError, KeyError):
                if await true():
                    return
            if time.monotonic() > deadline:
                raise ProcessError(f"{what}: not within {_SETTLED_S:g} s; the logs are in {self._processes.directory}")
            await asyncio.sleep(0.2)

    # What happens to them

    async def stop(self, part: str, how: signal.Signals) -> None:
        """End a part, and wait until it has ended."""
        pid = int((await self.facts(part))["pid"])
        os.kill(pid, how)

        async def ended() -> bool:
            try:
                return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"  # noqa: ASYNC240
            except (FileNotFoundError, ProcessLookupError):
                return True

        await self._wait(ended, f"the end of {part}")

    async def end(self) -> None:
        """End all parts in good order: those that took over from others are nobody's children here."""
        await asyncio.gather(*(self.stop(part, signal.SIGTERM) for part in self.places), return_exceptions=True)

    async def begin(self, node: str) -> None:
        """Start a node that has ended."""
        await self.start(node, node, "node", "run", name=f"node-{node}")

    async def upgrade(self, part: str) -> None:
        """Have the program take over from itself."""
        told = await ask(self.places[part], "upgrade", {}, timeout=60)
        self._handed_over.add(int(told["before"]))

    async def reload(self, part: str) -> None:
        """Have it read its configuration again."""
        await ask(self.places[part], "reload", {})

    async def rotate(self, site: str) -> None:
        """Have a site draw fresh servlets."""
        await ask(self.places[f"site {site}"], "rotate", {})

    async def again(self, kind: Kind, name: str, on: str) -> None:
        """Enrol a revoked identity with a new key, as on the first day."""
        folder = self.home(on) / str(kind)
        await asyncio.to_thread(shutil.rmtree, folder if kind is Kind.NODE else folder / name, ignore_errors=True)
        await self.enrol(kind, name, Grant(kind, name, groups=("readers",) if kind is Kind.USER else ()), on=on)
        if kind is Kind.NODE:
            self._drop_in(name, "node", f'host_helper = "{self._socket(name)}"\n')


async def knock(state: str, address: str) -> int:
    """Handshakes of a user until a node's store of sessions is full; it is bounded, and slow to fill by itself. How many were taken."""
    context = revocation.Reader(Path(state)).context
    host, _, port = address.rpartition(":")
    taken = 0
    while taken < SESSIONS:
        with contextlib.suppress(OSError):
            incoming, writer = await asyncio.open_connection(host, int(port), ssl=context)
            # Sessions come with the answer's first bytes.
            writer.write(b"GET http://nobody.test/ HTTP/1.1\r\nHost: nobody.test\r\nConnection: close\r\n\r\n")
            taken += bool(await incoming.read(16))
            writer.close()
        await asyncio.sleep(0.02)  # well within what a source may do
    return taken


def main() -> int:
    """The parts that are processes of their own."""
    if sys.argv[1] == "origin":
        serve()
    elif sys.argv[1] == "knock":
        print(asyncio.run(knock(sys.argv[2], sys.argv[3])))
    else:
        print(json.dumps(asyncio.run(read(sys.argv[2], float(sys.argv[3])))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
