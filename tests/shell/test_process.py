"""What a supervisor hears from a process, and what a reload may change."""

from __future__ import annotations

import array
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polder.settings.client import ClientSettings
from polder.settings.limits import Limits
from polder.shell.notify import notify, watchdog_period
from polder.shell.reload import compare

_SHELL = """
import asyncio, os, socket, sys
from polder.settings.base import ConfigError
from polder.settings.client import ClientSettings
from polder.shell.process import run

class Shell:
    LIVE = frozenset({"warm"})
    def __init__(self):
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.slow = asyncio.Event()
    def configure(self, settings):
        print("configured", settings.warm, flush=True)
    def descriptors(self):
        return [("127.0.0.1:1", self.sock.fileno())]
    def memory(self):
        return {}
    def release(self):
        pass
    def hurry(self):
        self.slow.set()
    async def close(self, deadline):
        print("closing", deadline, flush=True)
        if sys.argv[1] == "slow":
            await self.slow.wait()
        return 0

def load():
    text = open(sys.argv[2]).read()
    if text == "bad":
        raise ConfigError(sys.argv[2], "warm", "is bad")
    return ClientSettings(warm=int(text))

async def start(life):
    return Shell()

sys.exit(run(load, start, lambda shell: print("ready", flush=True)))
"""


class Supervisor:
    """Starts the shell as systemd would, and hears its notifications."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.settings = folder / "settings"
        self.settings.write_text("2")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self._socket.settimeout(30)
        self._env = {**os.environ, "NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "400000"}
        self._command = [sys.executable, "-c", _SHELL, kind, str(self.settings)]
        self.beats = 0

    async def start(self) -> asyncio.subprocess.Process:
        """The running shell, ready."""
        process = await asyncio.create_subprocess_exec(*self._command, env=self._env, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        return process

    def hear(self) -> dict[str, Any]:
        """The next notification but a sign of life, with its descriptors under ``fds``."""
        while True:
            data, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(64))
            told: dict[str, Any] = dict(line.partition("=")[::2] for line in data.decode().splitlines())
            if "WATCHDOG" in told:
                self.beats += 1
                continue
            descriptors = array.array("i")
            for level, kind, rights in ancillary:
                assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
                descriptors.frombytes(rights)
            for descriptor in descriptors:
                os.close(descriptor)
            return told | ({"fds": len(descriptors)} if descriptors else {})

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def supervisor(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Supervisor]:
    found = Supervisor(tmp_path, getattr(request, "param", "quick"))
    yield found
    found.close()


async def line(process: asyncio.subprocess.Process) -> str:
    """The next line of its output."""
    assert process.stdout is not None
    async with asyncio.timeout(30):
        return (await process.stdout.readline()).decode().strip()


async def test_readiness_sockets_reload_and_end_are_told_as_systemd_wants_them(supervisor: Supervisor) -> None:
    process = await supervisor.start()
    assert supervisor.hear()["READY"] == "1"
    assert supervisor.hear() == {"FDSTOREREMOVE": "1", "FDNAME": "polder"}
    kept = supervisor.hear()
    assert (kept["FDSTORE"], kept["fds"]) == ("1", 1)
    supervisor.settings.write_text("5")
    process.send_signal(signal.SIGHUP)
    told = supervisor.hear()
    assert told["RELOADING"] == "1"
    assert int(told["MONOTONIC_USEC"]) > 0
    assert await line(process) == "configured 5"
    assert [supervisor.hear() for _ in range(2)][-1].get("FDSTORE") == "1", "the sockets are kept anew"
    assert supervisor.hear()["READY"] == "1"
    supervisor.settings.write_text("bad")
    process.send_signal(signal.SIGHUP)
    assert supervisor.hear()["RELOADING"] == "1"
    told = supervisor.hear()
    assert told["READY"] == "1", "the old settings are in force: the service is not broken"
    assert "refused" in told["STATUS"]
    process.send_signal(signal.SIGTERM)
    assert supervisor.hear() == {"STOPPING": "1"}
    assert await line(process) == "closing 30.0"
    assert await process.wait() == 0
    assert supervisor.beats > 0


@pytest.mark.parametrize("supervisor", ["slow"], indirect=True)
async def test_a_second_signal_ends_the_wait_for_open_streams(supervisor: Supervisor) -> None:
    process = await supervisor.start()
    process.send_signal(signal.SIGINT)
    assert await line(process) == "closing 5.0"
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 30) == 130


def test_the_watchdog_is_fed_by_whom_it_watches_and_no_child_believes_it() -> None:
    env = {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "17"}
    assert watchdog_period(dict(env), 17) == 1.5
    assert watchdog_period(dict(env), 18) is None
    watchdog_period(env, 17)
    assert env == {}
    assert watchdog_period({}, 17) is None
    assert watchdog_period({"WATCHDOG_USEC": "often"}, 17) is None


def test_nobody_to_notify_is_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")


def test_only_what_may_change_changes_and_the_rest_is_named() -> None:
    before = ClientSettings()
    after = ClientSettings(
        warm=3, listen="127.0.0.1:7500", drain=5.0, limits=Limits(connections=100, tunnels_per_identity=7), user="ann"
    )
    found = compare(before, after, frozenset({"warm", "limits"}))
    assert found.changed == ("drain", "limits.connections", "limits.tunnels_per_identity", "warm")
    assert found.waiting == ("listen", "user")
    assert (found.effective.warm, found.effective.limits.connections) == (3, 100)
    assert (found.effective.listen, found.effective.user) == (before.listen, None)
    again = compare(found.effective, after, frozenset({"warm", "limits"}))
    assert (again.changed, again.waiting) == ((), ("listen", "user")), "what waits goes on waiting"
