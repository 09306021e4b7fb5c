"""The overlay that ``bench.masking`` looks at: nodes are the installed command, a process each; all sites share one process, for
their times are the same from everywhere."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.overlay import Overlay, free_port, until

from polder.api.authority_dir import load_settings, open_ledger
from polder.api.enrolment import enrol_here
from polder.api.service import invite
from polder.model import Kind, PathMode
from polder.settings import NodeSettings, StateDir
from polder.settings.site import SiteSettings
from polder.shell.clock import chance, wall
from polder.shell.process import Life
from polder.site.shell import Site, start
from polder.trust.tokens import Grant

MODES = tuple(str(mode) for mode in (PathMode.BEACON, PathMode.DIRECT, PathMode.RING))
PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\nConnection: close\r\n\r\nThe site is.\n."
DEAD = "dead-"
"""First letters of the sites whose origin is down."""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    nodes: int = 8
    sites: int = 6
    """Of each mode."""
    dead: int = 3
    """Of each mode, beside them: their origin is down."""
    rounds: int = 50
    """Tunnels for each live site and node."""
    dead_rounds: int = 15
    repeats: int = 12
    """Of each probe that names no site, at each node."""


def site_names(size: Size) -> dict[str, str]:
    """Every site's name with its mode."""
    live = {f"{mode}{n}": mode for mode in MODES for n in range(size.sites)}
    return live | {f"{DEAD}{mode}{n}": mode for mode in MODES for n in range(size.dead)}


def build(overlay: Overlay, size: Size, shortcuts: bool) -> dict[str, tuple[str, int]]:
    """Authority, nodes and a user; returns where the nodes listen."""
    overlay.found()
    names = [f"n{n}" for n in range(size.nodes)]
    for name in names:
        folder = overlay.enrol_node(name) / "node" / "conf.d"
        (folder / "test.toml").write_text(f"shortcuts = {str(shortcuts).lower()}\n")
    for name in names:
        overlay.run_node(name)
    overlay.enrol_user("ann", "staff")
    until(lambda: all(_joined(overlay.node_status(name)) for name in names), f"a ring of {size.nodes}")
    where = {name: overlay.nodes[name].hello["address"].rpartition(":") for name in names}
    return {name: (host, int(port)) for name, (host, _, port) in where.items()}


def _joined(status: dict[str, Any]) -> bool:
    """In the ring, with a full successor list: larger rings than that never know everybody."""
    return bool(status["joined"]) and len(status["successors"]) >= NodeSettings().successors


def roles(overlay: Overlay, sites: dict[str, str]) -> dict[tuple[str, str], set[str]]:
    """(site, node) → roles, by the nodes' own word."""
    known: dict[tuple[str, str], set[str]] = {}
    for node in overlay.nodes:
        status = overlay.node_status(node)
        for site in sites:
            known[site, node] = {"beacon"} if site in status["beacon_for"] else set()
            known[site, node] |= {"servlet"} if site in status["servlet_for"] else set()
    return known


@contextmanager
def sites_of(overlay: Overlay, sites: dict[str, str]) -> Iterator[None]:
    """Runs the agents of ``sites`` and their origin, in a process of their own."""
    place = StateDir(overlay.state("authority"))
    settings = load_settings(place, os.environ)
    ledger = open_ledger(place, settings)
    rng: random.Random = chance()
    tokens = {}
    for name in sites:
        grant = Grant(Kind.SITE, name, (), (f"{name}.test",), None)
        tokens[name] = invite(ledger, grant, settings.trust_domain, wall(), 600.0, rng).token
    ledger.close()
    wanted = {"url": overlay.url, "pin": overlay.pin, "modes": sites, "tokens": tokens, "state": str(overlay.state("sites"))}
    command = [sys.executable, "-m", "bench.masking_world"]
    log = (overlay.root / "sites.log").open("w")
    with log, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(wanted) + "\n")
        process.stdin.flush()
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"the sites did not start: {(overlay.root / 'sites.log').read_text()[-2000:]}")
        try:
            yield
        finally:
            process.stdin.close()


def _answer(connection: socket.socket) -> None:
    with connection:
        if connection.recv(65536):
            connection.sendall(PAGE)


def _serve(listener: socket.socket) -> None:
    """The origin: one page, as soon as something is asked."""
    while True:
        threading.Thread(target=_answer, args=(listener.accept()[0],), daemon=True).start()


async def _run(wanted: dict[str, dict[str, str]], url: str, pin: str, state: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(listener,), daemon=True).start()
    agents: list[Site] = []
    for name, mode in wanted["modes"].items():
        _, path = await enrol_here(StateDir(state / name), url, pin, wanted["tokens"][name])
        port = free_port() if name.startswith(DEAD) else listener.getsockname()[1]
        settings = SiteSettings(name=name, origin=f"http://127.0.0.1:{port}", allow=("group:staff",), mode=PathMode(mode))
        agents.append(await start(path, Life.alone(settings)))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await asyncio.gather(*(agent.close(0.5) for agent in agents))


if __name__ == "__main__":
    asked = json.loads(sys.stdin.readline())
    asyncio.run(_run(asked, asked["url"], asked["pin"], Path(asked["state"])))
