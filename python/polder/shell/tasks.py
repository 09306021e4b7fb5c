"""A group of long-lived tasks: one that dies of a bug is logged and started again, with a growing pause."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

log = logging.getLogger("polder.shell")

_PAUSE_MAX = 30.0


class Tasks:
    """Supervised tasks of one shell. ``close`` cancels them and waits."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._endless: set[asyncio.Task[Any]] = set()

    def forever(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run ``work`` again and again until ``close``; an exception is logged and pauses it (1 s, doubling to 30 s)."""
        task = self.once(name, self._supervise(name, work))
        self._endless.add(task)
        task.add_done_callback(self._endless.discard)

    def once(self, name: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run ``work`` to its end; an exception is logged."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def retire(self) -> None:
        """Cancel what runs for ever; what ends by itself may."""
        for task in tuple(self._endless):
            task.cancel()

    async def close(self) -> None:
        """Cancel everything and wait for it."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task failed", extra={"task": task.get_name(), "error": repr(error)}, exc_info=error)

    @staticmethod
    async def _supervise(name: str, work: Callable[[], Awaitable[None]]) -> None:
        pause = 1.0
        while True:
            try:
                await work()
                pause = 1.0
            except asyncio.CancelledError:
                raise
            except Exception:
                log.exception("task failed; it starts again", extra={"task": name, "pause_s": pause})
                await asyncio.sleep(pause)
                pause = min(pause * 2, _PAUSE_MAX)
