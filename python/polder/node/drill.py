"""Rehearsed failures of one node: it dies as by SIGKILL and starts again after a time, or refuses its links with some peers.

To die, the process replaces itself (``execve(2)``): the kernel ends all threads and closes all sockets at once, nobody is told,
nothing is saved. The new program waits, as ``silence.json`` says, and then starts as after any crash. No other process is needed to
come back, and a crash meanwhile, or a supervisor that starts the node anew, changes nothing: the file bounds the wait. Under systemd
the process kills itself instead: only systemd can give the next one its sockets and its watchdog back (``Restart=``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from polder.model import RevocationList
from polder.model.admin_messages import Drill, Drilled
from polder.model.overlay_messages import Caller
from polder.overlay.drill import REST, DrillBook
from polder.settings.state import write_atomic
from polder.shell.clock import wall

if TYPE_CHECKING:
    from polder.node.shell import Node

log = logging.getLogger("polder.drill")

_FILE = "silence.json"
_LAST_WORDS = 0.2
"""Seconds in which the answer to the operator leaves."""


class Silence(msgspec.Struct, frozen=True):
    """``silence.json``: silent until then, after so many ``seconds`` in all. Unix seconds."""

    until: float
    seconds: float


class Drills:
    """Answers ``drill`` for one node, and does it."""

    def __init__(self, node: Node, path: Path, *, allowed: bool, most: float) -> None:
        self._node = node
        self._path = path
        self._cut: frozenset[str] = frozenset()
        silence = _read(path)
        rest_until = silence.until + silence.seconds * REST if silence else 0.0
        self.book = DrillBook(node.me.name, allowed=allowed, most=most, rest_until=rest_until)

    def answer(self, caller: Caller, _source: str, order: Drill) -> Drilled:
        """Take an order. Raises ``Refused``."""
        self.book.take(order, caller, len(self._node.ring.router.members()) + 1, wall())
        if order.step in ("silence", "cut"):
            extras = {"step": order.step, "seconds": order.seconds, "who": f"{caller.kind}/{caller.name}"}
            log.warning("a drill begins", extra=extras)
        loop = asyncio.get_running_loop()
        if order.step == "silence":
            loop.call_later(_LAST_WORDS, self._die, order.seconds)
        elif order.step == "cut":
            self._set_cut(frozenset(order.peers) - {self._node.me.name})
            loop.call_later(order.seconds, self._set_cut, frozenset())
        elif order.step == "end":
            self._set_cut(frozenset())
        return Drilled(order.seconds)

    def revocations(self, listed: RevocationList | None, trust_domain: str) -> RevocationList | None:
        """The list in force, and with it the nodes that this one shall not be linked to during a drill."""
        if not self._cut:
            return listed
        cut = tuple(f"spiffe://{trust_domain}/node/{name}" for name in sorted(self._cut))
        held = listed or RevocationList(0, 0, (), ())
        return msgspec.structs.replace(held, identities=(*held.identities, *cut))

    def _set_cut(self, names: frozenset[str]) -> None:
        if names != self._cut:
            self._cut = names
            self._node.dirty()

    def _die(self, seconds: float) -> None:
        write_atomic(self._path / _FILE, msgspec.json.encode(Silence(wall() + seconds, seconds)), 0o600)
        if "NOTIFY_SOCKET" in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
        for descriptor in (int(entry.name) for entry in Path("/proc/self/fd").iterdir()):
            with contextlib.suppress(OSError):
                os.set_inheritable(descriptor, descriptor <= 2)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - ourselves, as we were started


def silent_for(path: Path, most: float) -> float:
    """Seconds for which the node in ``path`` is to stay silent: 0 to ``most``, whatever the clock did."""
    silence = _read(path)
    return 0.0 if silence is None else max(0.0, min(silence.until - wall(), silence.seconds, most))


def wait_silent(path: Path, most: float) -> None:
    """Wait until the drill is over that this process died in; SIGTERM and SIGINT end it as they end any process."""
    time.sleep(silent_for(path, most))


def _read(path: Path) -> Silence | None:
    try:
        return msgspec.json.decode((path / _FILE).read_bytes(), type=Silence)
    except (OSError, msgspec.DecodeError):
        return None
