"""How a running part is kept: by whom, in which sandbox, with which limits. The kernel says who answers at the administrator's socket."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from polder.doctor.finding import Finding

_FILES_WANTED = 65_536
"""Open files: 16,384 connections of each side, and links; below 4,096 a flood of connections ends in errors, not refusals."""
_FILES_LEAST = 4096
_UNIT = "run it from deploy/systemd: its units shut it in"


def look(name: str, directory: Path) -> Iterator[Finding]:
    """Findings about the process behind ``directory``; none when nothing answers there."""
    pid = owner(directory / "admin.sock")
    if pid is None:
        return
    try:
        status = _fields(Path(f"/proc/{pid}/status").read_text())
        limits = Path(f"/proc/{pid}/limits").read_text()
    except OSError as error:
        yield Finding(f"{name} sandbox", None, f"cannot be seen by this user: {error.strerror}")
        return
    yield sandbox(name, status, supervised=_supervised(pid))
    yield open_files(name, limits)


def sandbox(name: str, status: Mapping[str, str], *, supervised: bool) -> Finding:
    """``status``: fields of ``/proc/PID/status`` (``proc(5)``). Wrong only under a supervisor that could shut the process in."""
    root = status.get("Uid", "").split()[1:2] == ["0"]
    capable = int(status.get("CapEff", "0"), 16) != 0
    loose = []
    if status.get("NoNewPrivs") != "1":
        loose.append("may gain privileges")
    if status.get("Seccomp") != "2":
        loose.append("may make every system call")
    if root and capable:
        loose.append("runs as root")
    if not loose:
        return Finding(f"{name} sandbox", True, "on: no new privileges, filtered system calls")
    what = f"{' and '.join(loose)}{'' if supervised else ' (started by hand)'}"
    return Finding(f"{name} sandbox", False if supervised else None, what, _UNIT)


def open_files(name: str, limits: str) -> Finding:
    """``limits``: the text of ``/proc/PID/limits``."""
    line = next((line for line in limits.splitlines() if line.startswith("Max open files")), "")
    soft = line.removeprefix("Max open files").split()[:1]
    if not soft:
        return Finding(f"{name} open files", None, "the kernel does not say")
    if soft[0] != "unlimited" and int(soft[0]) < _FILES_LEAST:
        cure = f"LimitNOFILE={_FILES_WANTED} in its unit, or `ulimit -n {_FILES_WANTED}` before it starts"
        return Finding(f"{name} open files", False, f"{soft[0]} at most: a flood of connections uses them up", cure)
    return Finding(f"{name} open files", True, f"{soft[0]} at most")


def owner(path: Path) -> int | None:
    """The process that listens at a Unix socket (``SO_PEERCRED``, ``unix(7)``); ``None``: nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(2.0)
        try:
            sock.connect(str(path))
            pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        except OSError:
            return None
    return int(pid) or None


def _fields(text: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def _supervised(pid: int) -> bool:
    """Whether systemd started it as a service."""
    try:
        return ".service" in Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False
