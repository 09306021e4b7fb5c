"""Runs the role machines: their timers, the control calls and lookups that they ask for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from polder.engine import CallFailed
from polder.model import Member, Refused
from polder.overlay.calls import CallOut, FindOwner
from polder.shell.clock import wall
from polder.shell.tasks import Tasks

log = logging.getLogger("polder.roles")


class Machine(Protocol):
    """What the driver needs of a role."""

    def poll_timeout(self) -> float | None: ...

    def handle_timeout(self, now: float) -> None: ...


class Caller(Machine, Protocol):
    """A role that makes calls."""

    def poll_call(self) -> CallOut | FindOwner | None: ...

    def answered(self, request_id: int, by: Member, answer: Any, now: float) -> Any: ...

    def failed(self, request_id: int, status: int, why: str, now: float) -> None: ...


class Finder(Caller, Protocol):
    """A role that looks up owners of keys."""

    def found(self, request_id: int, members: tuple[Member, ...], now: float) -> None: ...


Call = Callable[[Member, str, msgspec.Struct], Awaitable[Any]]
Lookup = Callable[[int], Awaitable[tuple[Member, ...]]]


class RoleDriver:
    """Call ``pump`` after every input to a machine; ``on_change`` is told after every step, to look at ``take_change``."""

    def __init__(self, call: Call, lookup: Lookup, tasks: Tasks, on_change: Callable[[], None]) -> None:
        self._call = call
        self._lookup = lookup
        self._tasks = tasks
        self._on_change = on_change
        self._machines: list[Machine] = []
        self._callers: list[Caller] = []
        self._finders: list[Finder] = []
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def add(self, machine: Machine) -> None:
        """A role with timers only."""
        self._machines.append(machine)

    def add_caller(self, caller: Caller) -> None:
        """A role that makes calls."""
        self._machines.append(caller)
        self._callers.append(caller)

    def add_finder(self, finder: Finder) -> None:
        """A role that makes calls and lookups."""
        self.add_caller(finder)
        self._finders.append(finder)

    def pump(self) -> None:
        """Carry out what the machines ask for, set the timer anew, tell of changes."""
        for caller in self._callers:
            while (out := caller.poll_call()) is not None:
                work = self._carry_out(caller, out) if isinstance(out, CallOut) else self._find(caller, out)
                self._tasks.once("role", work)
        self._set_timer()
        self._on_change()

    def close(self) -> None:
        """Do nothing more by itself; ``pump`` still carries out what a call brings about."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    async def _carry_out(self, caller: Caller, out: CallOut) -> None:
        try:
            to = out.to or (await self._lookup(out.ring_key or 0))[0]
            answer = await self._call(to, out.method, out.body)
        except CallFailed as error:
            self._failed(caller, out.request_id, error.status, str(error), out.method)
        except Refused as error:
            self._failed(caller, out.request_id, 0, str(error), out.method)
        else:
            for refused in caller.answered(out.request_id, to, answer, wall()) or ():
                log.warning("a peer brought a record that was refused", extra={"who": to.name, "why": str(refused)})
            self.pump()

    async def _find(self, caller: Caller, out: FindOwner) -> None:
        finder = next(finder for finder in self._finders if finder is caller)
        try:
            members = await self._lookup(out.ring_key)
        except Refused as error:
            self._failed(caller, out.request_id, 0, str(error), "lookup")
        else:
            finder.found(out.request_id, members, wall())
            self.pump()

    def _failed(self, caller: Caller, request_id: int, status: int, why: str, what: str) -> None:
        log.debug("a role's call failed", extra={"method": what, "status": status, "why": why})
        caller.failed(request_id, status, why, wall())
        self.pump()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        times = [due for machine in self._machines if (due := machine.poll_timeout()) is not None]
        if times and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, min(times) - wall()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        for machine in self._machines:
            machine.handle_timeout(wall())
        self.pump()
