"""The units as systemd reads them: valid, shut tight, and calling commands that exist; and Polder lives in such a sandbox."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from polder.cli.main import polder as menu
from polder.settings.rsvp import PDP_SOCKET, RSVP_SOCKET
from tests.support.overlay import Process, free_port, polder

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
SERVICES = sorted(UNITS.glob("**/*.service"))
_SET_MDWE = 65
"""``PR_SET_MDWE`` of Linux 6.3: what ``MemoryDenyWriteExecute=`` asks for."""

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def version() -> int:
    """Of systemd."""
    told = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, check=True).stdout
    return int(told.split()[1])


@needs_systemd
def test_systemd_understands_every_unit(tmp_path: Path) -> None:
    program = tmp_path / "polder"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for unit in [*SERVICES, *UNITS.glob("*.socket")]:
        (tmp_path / unit.name).write_text(unit.read_text().replace("/usr/bin/polder", str(program)))
    env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}  # where a user's manager would be
    for unit in SERVICES:
        manager = ["--user"] if unit.parent.name == "user" else []
        name = unit.name.replace("@", "@wiki")
        command = ["systemd-analyze", *manager, "verify", "--man=no", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=env)
        # Written for old and new: who knows no notify-reload keeps the line before it.
        known = "Failed to parse service type, ignoring: notify-reload" if version() < 253 else None
        complaints = [line for line in done.stderr.splitlines() if str(tmp_path) in line and not (known and known in line)]
        assert (done.returncode, complaints) == (0, []), name


@needs_systemd
@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("polder-node", 20),
        ("polder-authority", 20),
        ("polder-site@", 20),
        ("polder-clearing", 20),
        ("polder-provider", 20),
        ("polder-rsvpd", 20),
        ("polder-pdp", 20),
        ("polder-host-helper", 30),
    ],
)
def test_the_sandbox_leaves_little_open(name: str, most: int) -> None:
    unit = str(UNITS / f"{name}.service")
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={most}", "--no-pager", unit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout.splitlines()[-1]


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_every_command_of_a_unit_exists_with_its_options(unit: Path) -> None:
    lines = re.findall(r"^Exec(?:Start|Reload)=/usr/bin/polder (.*)$", unit.read_text(), re.MULTILINE)
    assert lines
    for line in lines:
        words = [word.replace("%i", "wiki") for word in line.split() if not word.startswith("$")]
        command: click.Command = menu
        while isinstance(command, click.Group):
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None, line
            command = found
        command.make_context(line, words, resilient_parsing=False)


RESTARTED = {"polder-host-helper.service"}
"""It has no configuration but its options: for others it is restarted."""


def test_services_reload_watch_and_keep_their_sockets() -> None:
    for unit in SERVICES:
        if unit.name in RESTARTED:
            continue
        text = unit.read_text()
        assert re.findall(r"^Type=(.*)$", text, re.MULTILINE) == ["notify", "notify-reload"], unit.name
        for needed in ("NotifyAccess=exec", "WatchdogSec=", "ExecReload=", "KillMode=mixed", "NoNewPrivileges=yes"):
            assert f"\n{needed}" in text, f"{unit.name}: {needed}"


@pytest.mark.parametrize("daemon", ["rsvpd", "pdp"])
def test_a_reload_asks_at_the_socket_that_the_daemon_makes(daemon: str) -> None:
    unit = (UNITS / f"polder-{daemon}.service").read_text()
    (asked,) = re.findall(r"^ExecReload=.* --socket (\S+)$", unit, re.MULTILINE)
    (directory,) = re.findall(r"^RuntimeDirectory=(\S+)$", unit, re.MULTILINE)
    own = Path({"rsvpd": RSVP_SOCKET, "pdp": PDP_SOCKET}[daemon])
    assert own.parent == Path("/run") / directory
    assert Path(asked) == own.parent / "admin.sock"


@pytest.mark.skipif(ctypes.CDLL(None).prctl(66, 0, 0, 0, 0) < 0, reason="this kernel has no PR_SET_MDWE (6.3)")
def test_a_node_runs_where_no_memory_may_become_a_program(tmp_path: Path) -> None:
    wrapper = tmp_path / "wrap.py"
    wrapper.write_text(
        "import ctypes, os, sys\n"
        f"assert ctypes.CDLL(None).prctl({_SET_MDWE}, 1, 0, 0, 0) == 0\n"
        f"os.execv(sys.executable, [sys.executable, '-m', 'polder.cli.main', *sys.argv[1:]])\n"
    )
    state = tmp_path / "state"
    listen = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    polder(state, "init", "--trust-domain", "mdwe.test", "--listen", listen[0], "--name", "n1", "--node-listen", listen[1])
    node = Process(("node", "run"), state, tmp_path / "node.log", program=(sys.executable, str(wrapper))).start()
    try:
        assert polder(state, "node", "reload")["changed"] == []
    finally:
        node.stop()
    assert node.process.returncode == 0
