"""The life of a shell's process: logs, signals, readiness for a supervisor, reload, upgrade, an orderly end.

| signal | what happens |
|---|---|
| SIGTERM | goodbye to the others, open streams may end until the deadline ``drain``; a second one ends at once |
| SIGINT | the same with five seconds at most |
| SIGHUP | the configuration is read again; what can change while it runs does |
| SIGUSR2 | the program is started anew and takes over; streams in this process end in their own time (a ``Service``: not at all) |
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from polder import __version__
from polder.engine import heap
from polder.settings.process import ProcessSettings, ServiceSettings
from polder.shell import cycles, logs
from polder.shell.handover import Handover, Predecessor, Successor, UpgradeFailed, command
from polder.shell.notify import feed, keep, notify, reloading, watchdog_period
from polder.shell.reload import Reloaded, compare
from polder.shell.sockets import Inherited
from polder.shell.tasks import Tasks

log = logging.getLogger("polder.process")

S = TypeVar("S", bound=ServiceSettings)
_HANDING = 15.0
"""Seconds from what is handed over to readiness: what the roles know grows old meanwhile."""
_INTERRUPTED = 5.0
_UPGRADED = -1


class Service(Protocol):
    """What runs, reads its configuration again, and is restarted when its program changes."""

    LIVE: frozenset[str]
    """Settings that ``configure`` can change while it runs."""

    def configure(self, settings: Any) -> None:
        """Put other settings in force, of which only those in ``LIVE`` differ. Raises ``OSError`` or ``ValueError``: nothing changed."""

    def descriptors(self) -> list[tuple[str, int]]:
        """What is open and can be handed over, by name; listening sockets by ``ip:port`` or path. They stay the shell's."""

    async def close(self, deadline: float) -> int:
        """End in good order; open streams have ``deadline`` seconds. Returns how many were cut."""

    def hurry(self) -> None:
        """End ``close`` now."""


@runtime_checkable
class Closeable(Service, Protocol):
    """A running shell, which another process can take over from."""

    def memory(self) -> dict[str, bytes]:
        """What the rooms know and a restart would lose, by name of the room."""

    def release(self) -> None:
        """The next process serves: no goodbye, no decision, no write from here on."""


class Life(Generic[S]):
    """What a shell is born with: its settings, what was open before it; and what an administrator may ask of its process."""

    def __init__(self, load: Callable[[], S], predecessor: Predecessor | None = None) -> None:
        """``load`` reads the configuration; raises ``ConfigError``."""
        self.settings = load()
        self.sockets = Inherited()
        self.memory: dict[str, bytes] = {}
        """What the rooms of the process before this one knew, by name."""
        self.predecessor = predecessor
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._load = load
        self._shell: Service | None = None
        self._upgrading = False
        self._tasks = Tasks()

    @classmethod
    def alone(cls, settings: S) -> Life[S]:
        """For a shell without a process of its own: nothing was open before, the settings never change."""
        return cls(lambda: settings)

    def inherit(self) -> None:
        """Take what is open already: from the process before this one, or from systemd. Blocks for a moment."""
        if self.predecessor is None:
            self.sockets = Inherited.from_systemd(os.environ, os.getpid())
            return
        descriptors, self.memory = self.predecessor.receive(__version__)
        self.sockets = Inherited(descriptors)

    def begin(self, shell: Service) -> None:
        """The shell serves."""
        for name in self.sockets.close():
            log.warning("a socket was handed to this process that it does not use", extra={"socket": name})
        self.memory = {}
        self._shell = shell
        cycles.settle()
        self._tasks.forever("cycles", cycles.collect)
        period = watchdog_period(os.environ, os.getpid())
        if period is not None:
            self._tasks.once("watchdog", feed(period))

    async def settle(self) -> None:
        """Tell the process before this one, and the supervisor."""
        if self.predecessor is not None:
            await asyncio.to_thread(self.predecessor.ready)
            log.info("this process has taken over", extra={"version": __version__})
        notify("READY=1", f"STATUS=serving, version {__version__}")
        self._keep()

    async def close(self) -> None:
        """End what runs beside the shell."""
        await self._tasks.close()

    def end(self, status: int) -> None:
        """Begin to end; a second time: at once."""
        if not self.ended.done():
            self.ended.set_result(status)
        elif self._shell is not None:
            self._shell.hurry()

    # What an administrator may ask

    def routes(self) -> dict[str, Callable[[dict[str, Any]], Any]]:
        """``reload`` and ``upgrade``, for the administrator's socket."""
        return {"reload": lambda _: self.reload().facts(), "upgrade": lambda _: self.upgrade(), "process": lambda _: self.facts()}

    def facts(self) -> dict[str, Any]:
        """Who this process is, and how much it holds: what grows for good is a leak.

        ``blocks``: Python's small objects (up to 512 bytes); ``heap_used``, ``heap_held``: bytes, of ``engine.heap``.
        """
        used, held_of_system = heap()
        held = {"tasks": len(asyncio.all_tasks()), "objects": len(gc.get_objects()), "blocks": sys.getallocatedblocks()}
        held |= {"heap_used": used, "heap_held": held_of_system}
        return {"pid": os.getpid(), "version": __version__, "taken_over": self.predecessor is not None, **held}

    def reload(self) -> Reloaded:
        """Read the configuration again and put in force what can change now. Raises ``ValueError`` or ``OSError``: nothing changed."""
        if self._shell is None or self.ended.done():
            raise ValueError("this process is starting or ending: it reads its configuration anew in any case")
        reloading()
        try:
            found = compare(self.settings, self._load(), self._shell.LIVE)
            self._shell.configure(found.effective)
            self.settings = found.effective
            logs.set_level(self.settings.log_level)
            logs.SIEVE.most = self.settings.log_repeats
            self._keep()
        except (ValueError, OSError) as error:
            log.error("the configuration was not taken; the one before stays in force", extra={"error": str(error)})
            notify("READY=1", "STATUS=serving; the new configuration was refused: see the log")
            raise
        notify("READY=1", f"STATUS=serving, version {__version__}")
        log.info("configuration read again", extra=found.facts())
        return found

    async def upgrade(self) -> dict[str, Any]:
        """Have the program, as it is on disk now, take over. Returns when it serves. Raises ``UpgradeFailed``: all is as before."""
        if self._shell is None or self.ended.done() or self._upgrading:
            raise ValueError("this process is starting, ending, or being upgraded already")
        shell, settings = self._shell, self.settings
        if not isinstance(shell, Closeable) or not isinstance(settings, ProcessSettings):
            raise ValueError("this service hands nothing over: restart it")
        if os.getpid() == 1:
            raise ValueError("process 1 of a container cannot be replaced from inside: start a container of the new image")
        self._upgrading = True
        try:
            pid = await self._upgrade(shell, settings.upgrade_wait)
        except UpgradeFailed as error:
            log.error("the upgrade failed; this process goes on", extra={"error": str(error)})
            raise
        finally:
            self._upgrading = False
        # The answer to whoever asked is on its way when the end begins.
        asyncio.get_running_loop().call_later(0.1, self.end, _UPGRADED)
        return {"pid": pid, "before": os.getpid(), "drain_s": settings.upgrade_drain}

    async def _upgrade(self, shell: Closeable, patience: float) -> int:
        self._load()  # a configuration that cannot be read is told before anything is started
        next_one = await asyncio.to_thread(Successor, command(), os.environ)
        try:
            await asyncio.to_thread(next_one.greet, patience)
            handed = Handover(shell.descriptors(), shell.memory())
            await asyncio.to_thread(next_one.hand, handed, _HANDING)
            notify(f"MAINPID={next_one.process.pid}")
            await asyncio.to_thread(next_one.release)
        except BaseException:
            notify(f"MAINPID={os.getpid()}")
            await asyncio.to_thread(next_one.end)
            raise
        shell.release()
        return next_one.process.pid

    def _keep(self) -> None:
        if self._shell is not None:
            keep(descriptor for name, descriptor in self._shell.descriptors() if _is_address(name))


def _is_address(name: str) -> bool:
    return name.rpartition(":")[2].isdigit()


Start = Callable[[Life[S]], Coroutine[Any, Any, Service]]
Tell = Callable[[Any], None]


def run(load: Callable[[], S], start: Start[S], ready: Tell | None = None) -> int:
    """Run a shell until it is told to end; returns the exit status (0, or 130 when interrupted from the keyboard).

    ``load`` reads the configuration, at the start and at every reload. ``ready`` is told when the shell serves, unless it took
    over from another process; a supervisor is told by ``sd_notify(3)``.
    """
    predecessor = Predecessor.find(os.environ)
    try:
        return asyncio.run(_live(load, predecessor, start, ready))
    except (ValueError, OSError) as error:
        if predecessor is not None:
            predecessor.fail(str(error))
        raise


async def _live(load: Callable[[], S], predecessor: Predecessor | None, start: Start[S], ready: Tell | None) -> int:
    loop = asyncio.get_running_loop()
    life = Life(load, predecessor)
    logs.setup(life.settings.log_level)
    logs.SIEVE.most = life.settings.log_repeats
    await asyncio.to_thread(life.inherit)
    loop.add_signal_handler(signal.SIGTERM, life.end, 0)
    loop.add_signal_handler(signal.SIGINT, life.end, 130)
    starting = asyncio.create_task(start(life))
    await asyncio.wait((starting, life.ended), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return life.ended.result()
    shell = starting.result()
    life.begin(shell)
    status = 1
    try:
        await life.settle()
        _listen_for_orders(loop, life)
        if ready is not None and predecessor is None:
            ready(shell)
        status = await life.ended
    finally:
        await _close(life, shell, status)
    return max(0, status)


def _listen_for_orders(loop: asyncio.AbstractEventLoop, life: Life[Any]) -> None:
    tasks = Tasks()

    async def reload() -> None:
        try:
            life.reload()
        except (ValueError, OSError):
            return  # it has been logged

    async def upgrade() -> None:
        try:
            await life.upgrade()
        except UpgradeFailed:
            return
        except ValueError as error:
            log.error("no upgrade", extra={"error": str(error)})

    loop.add_signal_handler(signal.SIGHUP, lambda: tasks.once("reload", reload()))
    loop.add_signal_handler(signal.SIGUSR2, lambda: tasks.once("upgrade", upgrade()))


async def _close(life: Life[Any], shell: Service, status: int) -> None:
    settings = life.settings
    if status == _UPGRADED:
        deadline = settings.upgrade_drain or math.inf
    else:
        notify("STOPPING=1")
        deadline = (settings.drain or math.inf) if isinstance(settings, ProcessSettings) else _INTERRUPTED
        if status != 0:
            deadline = min(deadline, _INTERRUPTED)
    await life.close()
    log.info("ending", extra={"deadline_s": deadline, "taken_over": status == _UPGRADED})
    cut = await shell.close(deadline)
    log.log(logging.WARNING if cut else logging.INFO, "ended", extra={"tunnels_cut": cut})
