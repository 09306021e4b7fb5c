"""The control plane of a process, stopped: its main thread, where Python runs, is held by ``ptrace(2)`` while all others go on."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SEIZE, _INTERRUPT, _DETACH = 0x4206, 0x4207, 17
_WALL = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, thread: int) -> None:
    if _libc.ptrace(request, thread, None, None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace request {request:#x} on {thread}: {os.strerror(number)}")


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Hold the main thread of ``pid`` for the length of the block. Raises ``OSError`` where ptrace is not allowed."""
    held, let_go = threading.Event(), threading.Event()
    failure: list[OSError] = []

    def hold() -> None:  # a tracer is a thread: the one that seized must also let go
        try:
            _ptrace(_SEIZE, pid)
            _ptrace(_INTERRUPT, pid)
            os.waitpid(pid, _WALL)
        except OSError as error:
            failure.append(error)
            held.set()
            return
        held.set()
        let_go.wait()
        _ptrace(_DETACH, pid)

    tracer = threading.Thread(target=hold)
    tracer.start()
    held.wait()
    try:
        if failure:
            raise failure[0]
        yield
    finally:
        let_go.set()
        tracer.join()


def states(pid: int) -> dict[str, str]:
    """State of every thread of ``pid`` by its number; ``t`` is held."""
    tasks = Path(f"/proc/{pid}/task")
    return {task.name: (task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks.iterdir()}
