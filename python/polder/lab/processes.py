"""Processes on the laboratory's hosts: started in a host's namespace, logged, and ended with the run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polder.lab.links import enter

GRACE_S = 3.0
"""How long a process may take to end by itself before it is killed."""


class ProcessError(RuntimeError):
    """A process did not start, ended early or failed; the text carries the end of its log."""


@dataclass
class Process:
    """A running process; ``log`` holds its stderr, and its stdout unless that is piped."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.returncode is None

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    async def first_line(self, timeout: float) -> bytes:
        """What it says first, where its stdout is piped; raises ``ProcessError`` when it ends before, or takes longer."""
        assert self.process.stdout is not None
        try:
            line = await asyncio.wait_for(self.process.stdout.readline(), timeout)
        except TimeoutError:
            line = b""
        if not line:
            raise ProcessError(f"{self.name} did not start:\n{self.tail()}")
        return line

    async def output(self, timeout: float) -> bytes:
        """Wait for its end and return its stdout; raises ``ProcessError`` when it fails or outlives ``timeout`` seconds."""
        try:
            stdout, _ = await asyncio.wait_for(self.process.communicate(), timeout)
        except TimeoutError:
            await self.stop()
            raise ProcessError(f"{self.name} did not end within {timeout:g} s:\n{self.tail()}") from None
        if self.process.returncode != 0:
            raise ProcessError(f"{self.name} failed, status {self.process.returncode}:\n{self.tail()}")
        return stdout

    async def stop(self) -> None:
        """Ask it to end, then kill it, with all it started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self.alive:
                return
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.process.wait(), GRACE_S)


class Processes:
    """All processes of a run. An asynchronous context: its end ends them all."""

    def __init__(self, directory: Path, *, separate: bool = True) -> None:
        """Logs go to ``directory/NAME.log``. Without ``separate`` hosts are names only: everything runs in one network."""
        self.directory = directory
        self._separate = separate
        self._running: list[Process] = []

    async def __aenter__(self) -> Processes:
        self.directory.mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop_all()

    async def start(
        self,
        host: str | None,
        name: str,
        argv: Sequence[str | Path],
        *,
        stdin: bytes | None = None,
        piped: bool = False,
        open_stdin: bool = False,
        env: dict[str, str] | None = None,
    ) -> Process:
        """Start ``argv`` on ``host`` (``None``: in this process's own namespace).

        ``piped`` keeps stdout for ``output``; ``stdin`` is written and closed, ``open_stdin`` leaves it to the caller.
        """
        words = [*(enter(host) if host and self._separate else []), *map(str, argv)]
        log = self.directory / f"{name}.log"
        with log.open("ab") as file:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.PIPE if open_stdin or stdin is not None else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if piped else file,
                stderr=file,
                env=os.environ | (env or {}),
                start_new_session=True,
            )
        if stdin is not None and process.stdin is not None:
            process.stdin.write(stdin)
            with contextlib.suppress(ConnectionError):
                await process.stdin.drain()
            process.stdin.close()
        started = Process(name, process, log)
        self._running.append(started)
        return started

    async def run(
        self, host: str | None, name: str, argv: Sequence[str | Path], timeout: float = 30.0, stdin: bytes | None = None
    ) -> bytes:
        """Run a command to its end; its stdout. Raises ``ProcessError``."""
        started = await self.start(host, name, argv, stdin=stdin, piped=True)
        try:
            return await started.output(timeout)
        finally:
            self._running.remove(started)

    def check(self, *expected: Process) -> None:
        """Raise ``ProcessError`` if one of ``expected`` has ended."""
        for process in expected:
            if not process.alive:
                raise ProcessError(f"{process.name} ended, status {process.process.returncode}:\n{process.tail()}")

    async def stop_all(self) -> None:
        """End everything, at once."""
        await asyncio.gather(*(process.stop() for process in self._running))
        self._running.clear()


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Run all of ``work`` at once; the first failure ends the rest and is raised as it is, not in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    except BaseExceptionGroup as failures:
        first: BaseException = failures
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


async def wait_until_listening(host: str, port: int, process: Process, timeout: float = 20.0) -> None:
    """Return when something on ``host`` listens on TCP ``port``; raises ``ProcessError`` when ``process`` ends or time does."""
    deadline = asyncio.get_running_loop().time() + timeout
    while not _listens(process.process.pid, port):
        if not process.alive:
            raise ProcessError(f"{process.name} ended, status {process.process.returncode}:\n{process.tail()}")
        if asyncio.get_running_loop().time() > deadline:
            raise ProcessError(f"{process.name} does not listen on {host}, port {port}:\n{process.tail()}")
        await asyncio.sleep(0.02)


async def wait_until_answers(path: Path, process: Process, timeout: float) -> None:
    """Return when the Unix socket at ``path`` answers; raises ``ProcessError`` when ``process`` ends or time does."""
    deadline = asyncio.get_running_loop().time() + timeout
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_unix_connection(path)
            writer.close()
            return
        if not process.alive or asyncio.get_running_loop().time() > deadline:
            raise ProcessError(f"{process.name} does not answer at {path}:\n{process.tail()}")
        await asyncio.sleep(0.05)


def _listens(pid: int, port: int) -> bool:
    """Read the sockets of the process's network namespace: no probe packet, no connection in anybody's log."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    return True
    return False
