"""Types the commands of a page as its reader would: every ``sh`` block, on the machine that it names.

A block begins with three backquotes, ``sh`` and the machine's name with hyphens. Machines share a desk (the working directory: a
token's file is carried from one to the other) and have a state directory each. What the reader has otherwise than the page (the
pin) is put in its place. Commands that run on are left running until the end.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

RUN_ON = ("polder authority serve", "polder node run", "polder site run", "polder connect", "polder host-helper")
"""Commands that do not end by themselves."""

_BLOCK = re.compile(r"^ *```sh ([a-z-]+)\n(.*?)^ *```$", re.M | re.S)
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Line:
    """One command on one machine."""

    machine: str
    text: str


def blocks(page: str) -> Iterator[Line]:
    """Every command of a page, in order; a backslash at the end of a line goes on in the next."""
    for machine, body in _BLOCK.findall(page):
        for text in body.replace("\\\n", " ").splitlines():
            if text.strip() and not text.startswith("#"):
                yield Line(machine, text.strip())


@dataclass
class Reader:
    """Somebody who follows pages. ``replace``: what stands in a page → what is typed."""

    root: Path
    replace: dict[str, str]
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def desk(self) -> Path:
        """Where everything is typed."""
        path = self.root / "desk"
        path.mkdir(exist_ok=True)
        return path

    def state(self, machine: str) -> Path:
        """A machine's state directory."""
        return self.root / machine

    def typed(self, text: str) -> str:
        """What is really typed."""
        for shown, real in self.replace.items():
            text = text.replace(shown, real)
        return text

    def follow(self, line: Line, statuses: Sequence[int] = (0,)) -> str:
        """Type it; returns what it said on standard output. Fails with everything that it said otherwise."""
        command = self.typed(line.text)
        if command.split("#")[0].strip().rstrip("&").strip().startswith(RUN_ON):
            return self._start(line.machine, command)
        done = subprocess.run(
            self._shell(command), capture_output=True, text=True, cwd=self.desk, env=self._environment(line.machine),
            timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        told = f"on {line.machine}: {command}\nstatus {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.returncode in statuses, told
        return done.stdout + done.stderr

    def _start(self, machine: str, command: str) -> str:
        """Leave it running; it is up when it says its first line."""
        log = (self.root / f"{machine}-{len(self.running)}.log").open("w+")
        process = subprocess.Popen(
            self._shell(f"exec {command.split('#')[0].strip().rstrip('&')}"),
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=self.desk, env=self._environment(machine),
        )  # fmt: skip
        self.running.append(process)
        end = time.monotonic() + PATIENCE_S
        while not re.search(r"(?m)^(?!\{).*\S", text := Path(log.name).read_text()):
            assert process.poll() is None and time.monotonic() < end, f"on {machine}: {command}\n{text}"
            time.sleep(0.05)
        return text

    def _shell(self, command: str) -> list[str]:
        return ["bash", "-euo", "pipefail", "-c", command]

    def _environment(self, machine: str) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        own = {"POLDER_STATE": str(self.state(machine)), "PATH": path, "PYTHONUNBUFFERED": "1", "COLUMNS": "120"}
        return {**os.environ, **own}

    def close(self) -> None:
        """End what still runs, the youngest first."""
        for process in reversed(self.running):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
