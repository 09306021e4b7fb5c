"""A real overlay on loopback: every part is the installed command in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polder.api.admin import ask

POLDER = [sys.executable, "-m", "polder.cli.main"]
FAST = 'stabilise = "200ms"\nadvertise_every = "1s"\n'
"""A node's periods in tests."""
PATIENCE = 60.0
"""Seconds after which something that must happen has not; nothing waits so long when all is well."""


def polder(state: Path, *arguments: str, stdin: str = "", status: int = 0) -> dict[str, Any]:
    """Run a command to its end and return its JSON answer (``{}`` if it says nothing)."""
    done = subprocess.run(
        [*POLDER, *arguments, "--json"], input=stdin, capture_output=True, text=True, env=environment(state), check=False
    )
    assert done.returncode == status, f"polder {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    text = done.stdout if status in (0, 3) else done.stderr
    answer: dict[str, Any] = json.loads(text.strip().splitlines()[-1]) if text.strip() else {}
    return answer


def environment(state: Path) -> dict[str, str]:
    """The environment of a command that keeps its state in ``state``."""
    return {**os.environ, "POLDER_STATE": str(state), "PYTHONUNBUFFERED": "1"}


@dataclass
class Process:
    """A command that runs on; its first line of JSON is ``hello``, its log is in a file."""

    command: Sequence[str]
    state: Path
    log: Path
    program: Sequence[str] = tuple(POLDER)
    process: subprocess.Popen[str] = field(init=False)
    hello: dict[str, Any] = field(init=False, default_factory=dict)
    pid: int = field(init=False, default=0)
    """Of the process that serves: another one after an upgrade."""

    def start(self) -> Process:
        """Start it and wait for its first line."""
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*self.program, *self.command, "--json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment(self.state),
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"polder {' '.join(self.command)} said nothing:\n{self.log.read_text()[-4000:]}"
        self.hello = json.loads(line)
        self.pid = self.process.pid
        return self

    def upgrade(self) -> None:
        """Have the program take over from itself; the old process may still live for its streams."""
        command = [word for word in self.command if not word.startswith("-")]
        what = "client" if command[0] == "connect" else command[0]
        name = command[2:] if what == "site" else []
        self.pid = polder(self.state, what, "upgrade", *name)["pid"]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait."""
        if self.pid != self.process.pid and not gone(self.pid):
            os.kill(self.pid, how)
            until(lambda: gone(self.pid), f"the end of {' '.join(self.command)}")
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def log_lines(self) -> list[dict[str, Any]]:
        """Its log records."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


class Overlay:
    """An authority, nodes, sites and users in ``root``, on loopback addresses."""

    def __init__(self, root: Path, trust_domain: str = "overlay.test") -> None:
        self.root = root
        self.trust_domain = trust_domain
        self.processes: list[Process] = []
        self.nodes: dict[str, Process] = {}
        self.tokens: list[str] = []
        self.url = self.pin = ""

    # Building

    def found(self) -> None:
        """Make the authority and serve it."""
        port = free_port()
        state = self.state("authority")
        made = polder(state, "init", "--trust-domain", self.trust_domain, "--listen", f"127.0.0.1:{port}")
        self.url, self.pin = made["url"], made["pin"]
        self.run("authority", "authority", "serve")

    def token(self, kind: str, name: str, *options: str) -> str:
        """A fresh token."""
        answer = polder(self.state("authority"), "invite", kind, name, *options)
        self.tokens.append(str(answer["token"]))
        return self.tokens[-1]

    def enrol_node(self, name: str, drop_in: str = "", *, plain: bool = False, spread: str | None = None) -> Path:
        """Enrol a node; ``drop_in`` is more of node.toml; ``plain``: with all periods as users have them; ``spread``: it relays
        datagrams, and this is more of that table. Returns its state directory.
        """
        state = self.state(name)
        listen = f"127.0.0.1:{free_port()}"
        if spread is not None:
            drop_in += f'[spread]\nlisten = ["{listen}"]\n{spread}'
        token = self.token("node", name)
        polder(state, "join", self.url, "--pin", self.pin, "--token-file", "-", "--listen", listen, stdin=token)
        (state / "node" / "conf.d").mkdir()
        (state / "node" / "conf.d" / "test.toml").write_text(("" if plain else FAST) + drop_in)
        return state

    def run_node(self, name: str) -> Process:
        """Start an enrolled node."""
        self.nodes[name] = self.run(name, "node", "run")
        return self.nodes[name]

    def enrol_user(self, name: str, *groups: str) -> Path:
        """Enrol a user; returns the state directory."""
        options = [option for group in groups for option in ("--group", group)]
        state = self.state(f"user-{name}")
        polder(state, "enroll", self.url, "--pin", self.pin, "--token-file", "-", stdin=self.token("user", name, *options))
        return state

    def enrol_site(self, name: str, *hosts: str) -> Path:
        """Enrol a site; returns the state directory."""
        options = [option for host in hosts for option in ("--host", host)]
        state = self.state(f"site-{name}")
        polder(state, "enroll", self.url, "--pin", self.pin, "--token-file", "-", stdin=self.token("site", name, *options))
        return state

    def run_site(self, name: str, settings: str) -> Process:
        """Write a site's settings and start its agent."""
        state = self.state(f"site-{name}")
        (state / "site" / name / "site.toml").write_text(settings)
        return self.run(f"site-{name}", "site", "run", name)

    def connect(self, user: str, *options: str) -> Process:
        """Start a user's forwarder."""
        return self.run(f"user-{user}", "connect", "--listen", "127.0.0.1:0", *options)

    def run(self, state: str, *command: str) -> Process:
        """Start a command that runs on."""
        process = Process(command, self.state(state), self.root / f"{state}.log").start()
        self.processes.append(process)
        return process

    def state(self, name: str) -> Path:
        """A state directory."""
        return self.root / name

    # Watching

    def node_status(self, name: str) -> dict[str, Any]:
        """What a node says of itself."""
        return asyncio.run(ask(self.state(name) / "node" / "admin.sock", "status"))

    def wait_ring(self, count: int) -> None:
        """Until every running node is in the ring and knows ``count`` members, itself included (small overlays)."""
        until(lambda: all(self._settled(name, count) for name in self.nodes), f"a ring of {count}")

    def wait_site(self, site: str) -> None:
        """Until every running node knows the site and beacons for it."""

        def known() -> bool:
            return all(self.node_status(name)["sites"].get(site, {}).get("beacons") for name in self.nodes)

        def served() -> bool:
            return any(self.node_status(name)["beacon_for"].get(site) for name in self.nodes)

        until(lambda: known() and served(), f"site {site} in the overlay")

    def _settled(self, name: str, count: int) -> bool:
        status = self.node_status(name)
        return bool(status["joined"]) and int(status["members"]) >= count and (count == 1 or bool(status["successors"]))

    def close(self) -> None:
        """End everything, the youngest first."""
        for process in reversed(self.processes):
            process.stop()


def until(true: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Wait for ``true()``; fails with ``what`` after ``patience`` seconds."""
    end = time.monotonic() + patience
    while True:
        try:
            if true():
                return
        except (OSError, ValueError, KeyError):
            pass
        assert time.monotonic() < end, f"{what} did not come about within {patience:.0f} s"
        time.sleep(0.05)


def gone(pid: int) -> bool:
    """Whether a process has ended, also one that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


_ASKED: Counter[int] = Counter()
"""Ports that each process tried: a forked one begins elsewhere."""


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago, below those that the kernel gives to anybody who asks for any."""
    me = os.getpid()
    for _ in range(20_000):
        _ASKED[me] += 1
        port = 12_000 + (211 * me + _ASKED[me]) % 20_000
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")
