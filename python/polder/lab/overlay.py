"""An overlay inside the laboratory: the installed commands, one process per part, each on its own host.

authority, ``node*`` and ``user*`` are hosts of the topology; the site's agent runs on the gateway, the filter on the ISP's
router. Secrets stay in the run's directory and end with it being removed by the next ``make clean``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from polder.api.admin import ask
from polder.api.authority_dir import load_settings, open_ledger
from polder.api.service import invite
from polder.lab.attacks import group_hosts
from polder.lab.processes import Process, ProcessError, Processes, together
from polder.lab.world import Scene
from polder.model import Kind, SpiffeId
from polder.settings import StateDir
from polder.shell.clock import chance, wall
from polder.store.ledger import Ledger
from polder.trust.tokens import Grant

POLDER = [sys.executable, "-m", "polder.cli.main"]
TRUST_DOMAIN = "polder.test"
SITE = "wiki"
GROUP = "readers"
NODE_PORT, AUTHORITY_PORT, PROXY_PORT = 7443, 7400, 7480
_TOGETHER = 2
"""Commands at once while building: each fills a core while it starts."""
_HELLO_S = 45.0
_SETTLE_S = 60.0
_TOKEN_S = 600.0


class Overlay:
    """Built by ``build``; ``proxies`` then maps every user's host to the address of his forwarder."""

    def __init__(
        self,
        processes: Processes,
        world: Scene,
        directory: Path,
        protection: dict[str, Any],
        say: Callable[[str], None],
    ) -> None:
        """``protection``: ``transport``, ``mode``, ``servlets``; under ``more`` further lines of site.toml; with ``relays`` nodes relay
        datagrams; with ``open`` nothing filters in front of a site that dials out.
        """
        self._processes = processes
        self._world = world
        self._state = directory.resolve() / "state"
        self._protection = protection
        self._transport = protection["transport"] if world.separate else "dialout"
        self._say = say
        self._running: list[Process] = []
        self._forwarders: dict[str, Process] = {}
        self._few = asyncio.Semaphore(_TOGETHER)
        self._url = self._pin = ""
        self.proxies: dict[str, str] = {}

    async def build(self, host_name: str) -> None:
        """Found the overlay, run it, put the site ``host_name`` behind it, connect the users."""
        nodes, users = group_hosts(self._world, "node"), group_hosts(self._world, "user")
        self._say("founding the overlay")
        await self._found()
        self._say(f"enrolling {len(nodes)} nodes, {len(users)} users and the site")
        await together(
            *(self.enrol(Kind.NODE, node, Grant(Kind.NODE, node)) for node in nodes),
            *(self.enrol(Kind.USER, user, Grant(Kind.USER, user, groups=(GROUP,))) for user in users),
            self.enrol(Kind.SITE, SITE, Grant(Kind.SITE, SITE, hosts=(host_name,)), on="gateway"),
        )
        self._say(f"starting {len(nodes)} nodes")
        await together(*(self._run_node(node) for node in nodes))
        await self._wait_ring(nodes)
        self._say("putting the site behind the perimeter")
        await self._run_site()
        await self._wait_site(nodes)
        self._say("connecting the users' forwarders")
        await together(*(self._connect(user) for user in users))

    async def _found(self) -> None:
        address = self._world.hosts["authority"].ipv4
        listen = f"{address}:{AUTHORITY_PORT}"
        made = await self.command("authority", "authority", "init", "--trust-domain", TRUST_DOMAIN, "--listen", listen)
        self._url, self._pin = made["url"], made["pin"]
        await self.start("authority", "authority", "authority", "serve")

    async def enrol(self, kind: Kind, name: str, grant: Grant, on: str | None = None, state: str | None = None) -> None:
        """Take an identity over the network, from the host that keeps the key: ``on``, in state directory ``state``."""
        host = on or name
        verb = ["join"] if kind is Kind.NODE else ["enroll"]
        if kind is Kind.NODE:
            verb += ["--listen", f"{self._world.hosts[name].ipv4}:{NODE_PORT}"]
        words = [*verb, self._url, "--pin", self._pin, "--token-file", "-"]
        await self.command(host, state or host, *words, stdin=self._invite(grant))

    def _invite(self, grant: Grant) -> str:
        """What ``polder invite`` does, without a second of start-up for each of many. Who was revoked may come back."""
        with self._ledger() as ledger:
            return invite(ledger, grant, TRUST_DOMAIN, wall(), _TOKEN_S, chance(), reinstate=True).token

    async def revoke(self, kind: Kind, name: str) -> None:
        """Revoke an identity and have the authority tell everybody."""
        with self._ledger() as ledger:
            await asyncio.to_thread(ledger.revoke, SpiffeId(TRUST_DOMAIN, kind, name), "", wall())
        await ask(StateDir(self.home("authority")).authority / "admin.sock", "announce", {}, timeout=60)

    @contextlib.contextmanager
    def _ledger(self) -> Iterator[Ledger]:
        """The authority's, beside it."""
        place = StateDir(self.home("authority"))
        ledger = open_ledger(place, load_settings(place, os.environ))
        try:
            yield ledger
        finally:
            ledger.close()

    async def _run_node(self, node: str) -> None:
        lines = ""
        if self._transport == "gre":
            await self._help(node)
            lines = f'host_helper = "{self._socket(node)}"\n'
        if self._protection.get("relays"):
            lines += f'[spread]\nlisten = ["{self._world.hosts[node].ipv4}:{NODE_PORT}"]\n'
        if lines:
            self._drop_in(node, "node", lines)
        await self.start(node, node, "node", "run")

    async def _run_site(self) -> None:
        """Settings of the site, its helpers, its agent."""
        site, ports = self._world.hosts["site"].ipv4, self._world.ports
        lines = {
            "name": SITE,
            "origin": f"{site}:{ports.https}",
            "origins": {"80": f"{site}:{ports.http}", "443": f"{site}:{ports.https}"},
            "ports": [443, 80],
            "allow": [f"group:{GROUP}"],
            "mode": self._protection["mode"],
            "servlets": self._protection["servlets"],
            "transport": self._transport,
            **self._protection.get("more", {}),
        }
        if self._world.separate and not self._protection.get("open"):
            # The ISP's router filters; its helper's socket is in reach because the laboratory's hosts share one file system.
            await self._help("isp")
            edge = self._world.hosts["gateway"].ipv4
            # Both families: an address that is forgotten here is a door that stays open (bench/scan.py looks).
            shut = [f"{site}/32", f"{self._world.hosts['site'].ipv6}/128", f"{self._world.hosts['gateway'].ipv6}/128"]
            lines |= {"edge": edge, "shut": shut, "filter_helper": self._socket("isp")}
        if self._transport == "gre":
            await self._help("gateway")
            lines["host_helper"] = self._socket("gateway")
        path = self.home("gateway") / "site" / SITE / "site.toml"
        path.write_text("\n".join(f"{key} = {_toml(value)}" for key, value in lines.items()) + "\n")
        await self.start("gateway", "gateway", "site", "run", SITE)

    async def _connect(self, user: str, *words: str) -> None:
        address = "127.0.0.1" if self._world.separate else self._world.hosts[user].ipv4
        self._forwarders[user] = await self.start(user, user, "connect", "--listen", f"{address}:{PROXY_PORT}", *words)
        self.proxies[user] = f"http://{address}:{PROXY_PORT}"

    async def reconnect(self, user: str, settings: str, *words: str) -> None:
        """Another forwarder in place of the user's: with these lines of client.toml, and these options of ``polder connect``."""
        before = self._forwarders.pop(user, None)
        if before is not None:
            self._running.remove(before)
            await before.stop()
        self._drop_in(user, f"user/{user}", settings)
        await self._connect(user, *words)

    async def _help(self, host: str) -> None:
        """The privileged helper of a host."""
        await self.start(host, host, "host-helper", "--socket", self._socket(host), name=f"helper-{host}", wait=False)
        await self.until(lambda: _exists(Path(self._socket(host))), f"the host helper on {host}")

    async def open_door(self, argv: list[str], socket: Path) -> None:
        """Run the inner half of a door, which makes ``socket``, on the first user's host."""
        user = next(iter(self.proxies))
        self._running.append(await self._processes.start(user, "door", argv))
        await self.until(lambda: _exists(socket), "the door's inner half")

    async def site_status(self) -> dict[str, Any]:
        """What the site's agent says of itself."""
        return await self._ask("gateway", f"site/{SITE}", "status")

    async def redraw(self) -> None:
        """Have the site draw fresh servlets, and wait until they serve and are known."""
        await ask(self.home("gateway") / "site" / SITE / "admin.sock", "rotate", {})
        await self._wait_site(group_hosts(self._world, "node"))

    async def settled(self, nodes: list[str]) -> None:
        """Until nodes that were cut off are in the ring again and can bring somebody to the site."""
        await self._wait_ring(nodes)
        await self._wait_site(nodes)

    def check(self) -> None:
        """Raise ``ProcessError`` when a part of the overlay has ended."""
        self._processes.check(*self._running)

    async def command(self, host: str, state: str, *words: str, stdin: str = "") -> dict[str, Any]:
        """Run a command to its end; its JSON answer."""
        async with self._few:
            argv = [*POLDER, *words, "--json"]
            env = ["env", f"POLDER_STATE={self.home(state)}"]
            log = f"command-{host}"
            output = await self._processes.run(host, log, [*env, *argv], _HELLO_S, stdin.encode())
        lines = output.decode().strip().splitlines()
        answer: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        return answer

    async def start(self, host: str, state: str, *words: str, name: str = "", wait: bool = True) -> Process:
        """Start a command that runs on; with ``wait`` it says a line of JSON when it is ready."""
        argv = [*POLDER, *words, *(["--json"] if wait else [])]
        env = {"POLDER_STATE": str(self.home(state))}
        async with self._few:
            process = await self._processes.start(host, name or f"{words[0]}-{host}", argv, piped=wait, env=env)
            self._running.append(process)
            if wait:
                await process.first_line(_HELLO_S)
        return process

    async def _wait_ring(self, nodes: list[str]) -> None:
        """Until every node is in the ring and knows the others, or enough of them in a large ring."""
        enough = min(len(nodes), 5)

        async def settled(node: str) -> bool:
            status = await self._ask(node, "node", "status")
            return bool(status["joined"] and status["successors"] and status["members"] >= enough)

        for node in nodes:
            await self.until(lambda node=node: settled(node), f"{node} in the ring")  # type: ignore[misc]

    async def _wait_site(self, nodes: list[str]) -> None:
        """Until every node can bring somebody to the site: its servlets serve, and beacons know them."""

        async def serves() -> bool:
            status = await self.site_status()
            return int(status["serving"]) >= int(self._protection["servlets"])

        async def known(node: str) -> bool:
            status = await self._ask(node, "node", "status")
            return bool(status["sites"].get(SITE, {}).get("beacons"))

        await self.until(serves, "servlets that serve the site")
        for node in nodes:
            await self.until(lambda node=node: known(node), f"{node} with beacons for the site")  # type: ignore[misc]

    async def until(self, true: Callable[[], Awaitable[bool]], what: str) -> None:
        deadline = asyncio.get_running_loop().time() + _SETTLE_S
        while True:
            self.check()
            with contextlib.suppress(OSError, ValueError, KeyError):
                if await true():
                    return
            if asyncio.get_running_loop().time() > deadline:
                raise ProcessError(f"{what}: not within {_SETTLE_S:g} s; the logs are in {self._processes.directory}")
            await asyncio.sleep(0.1)

    async def _ask(self, host: str, place: str, what: str) -> dict[str, Any]:
        return await ask(self.home(host) / place / "admin.sock", what)

    def _drop_in(self, host: str, kind: str, text: str) -> None:
        folder = self.home(host) / kind / "conf.d"
        folder.mkdir(exist_ok=True)
        (folder / "lab.toml").write_text(text)

    def home(self, host: str) -> Path:
        home = self._state / host
        home.mkdir(parents=True, exist_ok=True)
        return home

    def _socket(self, host: str) -> str:
        return f"/run/helper-{host}.sock"


async def _exists(path: Path) -> bool:
    return path.exists()  # noqa: ASYNC240 - a look


def _toml(value: object) -> str:
    """A TOML value; JSON's strings, numbers and lists are TOML's, tables are not."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(str(k))} = {_toml(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)
