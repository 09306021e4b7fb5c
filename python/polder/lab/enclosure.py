"""Namespaces of our own: the laboratory runs in a network, mount and process namespace that end with it.

Process tree: the command (outside) → process 1 of the new process namespace, which only reaps and passes signals on → the
laboratory. When the command dies, however it dies, the kernel kills process 1, and with it everything inside; the mounts and
the networks go with the last process. Nothing has to be cleaned up, so nothing can be forgotten.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from polder.lab.links import bring_up_loopback

MARK = Path("/run/polder-lab")
"""The attack tools look for this file (``crates/lab/src/guard.rs``); it holds the outer network namespace's number."""

_NEWNS, _NEWUSER, _NEWPID, _NEWNET = 0x0002_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE, _MS_BIND = 2, 4, 8, 0x4000, 1 << 18, 0x1000
_PR_SET_PDEATHSIG = 1
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_libc = ctypes.CDLL(None, use_errno=True)


class NoNamespacesError(RuntimeError):
    """This machine gives neither root nor user namespaces. The text says which call failed and how an operator may allow it."""


def inside() -> bool:
    """Whether this process already runs in a laboratory's namespaces."""
    return MARK.exists()


def run(main: Callable[[], int]) -> int:
    """Run ``main`` in namespaces of its own and return its exit status; 130 or 143 when a signal ended it.

    Call it early: the process must have one thread. Raises ``NoNamespacesError`` and leaves the process as it was when the
    kernel refuses.
    """
    outer = Path("/proc/self/ns/net").stat().st_ino
    _separate()
    sys.stdout.flush()
    sys.stderr.flush()
    alive_read, alive_write = os.pipe()
    first = os.fork()
    if first == 0:
        os.close(alive_write)
        _exit_with(lambda: _process_one(main, outer, alive_read))
    os.close(alive_read)
    return _pass_signals_and_wait(first)


def _check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def _separate() -> None:
    """Leave the outer namespaces: as root without a user namespace if possible, else with one."""
    flags = _NEWNS | _NEWPID | _NEWNET
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0 and _libc.unshare(flags) == 0:
        return
    try:
        _check(_libc.unshare(flags | _NEWUSER), "unshare")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    except OSError as error:
        raise NoNamespacesError(
            f"no namespaces of our own ({error}): run as root, or allow user namespaces "
            "(sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns)"
        ) from error


def _process_one(main: Callable[[], int], outer: int, alive: int) -> int:
    """Process 1: dies with the command outside, starts the laboratory, reaps, passes signals on."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    os.set_blocking(alive, False)
    with contextlib.suppress(BlockingIOError):
        if os.read(alive, 1) == b"":
            return 1  # the command died before prctl took effect
    os.setpgid(0, 0)  # a terminal's Ctrl-C reaches the command only, which passes it on once
    _furnish(outer)
    worker = os.fork()
    if worker == 0:
        _exit_with(main)
    return _pass_signals_and_wait(worker)


def _furnish(outer: int) -> None:
    """Mounts that nobody outside sees: /proc of the new process namespace, /run with the hosts' names and the mark."""
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _mount("tmpfs", "/run", "tmpfs", _MS_NOSUID | _MS_NODEV)
    Path("/run/netns").mkdir()
    MARK.write_text(f"{outer}\n")
    os.environ["POLDER_LAB"] = "1"
    bring_up_loopback()


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    kind_bytes = kind.encode() if kind else None
    _check(_libc.mount(source.encode(), target.encode(), kind_bytes, ctypes.c_ulong(flags), None), f"mount {target}")


def show_as(source: Path, target: Path) -> None:
    """Let every process of the laboratory read ``source`` where it looks for ``target`` (a bind mount; inside only)."""
    if not inside():
        raise RuntimeError("bind mounts are made inside the laboratory only")
    _mount(str(source), str(target), None, _MS_BIND)


def _pass_signals_and_wait(child: int) -> int:
    """Wait for ``child``, reaping every orphan, and hand our signals to it; its exit status, 128 + n for signal n."""

    def forward(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in _FORWARDED:
        signal.signal(number, forward)
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _exit_with(main: Callable[[], int]) -> None:
    """Leave the process with ``main``'s status and without unwinding into the caller's frames."""
    for number in _FORWARDED:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    code = 70
    try:
        code = main()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except KeyboardInterrupt:
        code = 130
    except BaseException:  # the last frame of the process: report everything
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
