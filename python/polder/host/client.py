"""An agent's side of the host helper: ``HostHelper`` over the socket, ``LocalHost`` when the process is root itself.

Both are a ``Host``; calls run in a thread, so asyncio goes on. The connection is the lifetime of tunnels: keep the object.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar

from polder.host.commands import HostError
from polder.host.filters import FilterKeeper
from polder.host.helper import Workshop
from polder.host.messages import (
    MAX_MESSAGE,
    Abilities,
    Done,
    Failed,
    FilterApply,
    FilterConfirm,
    FilterRollback,
    FilterState,
    FilterStatus,
    FlowCounts,
    FlowRelease,
    FlowReserve,
    FlowsCarried,
    LinkShape,
    Probe,
    Remove,
    Reply,
    Request,
    RsvpReady,
    RsvpSocket,
    Tunnel,
    TunnelUp,
    decode_reply,
    encode,
)
from polder.perimeter import Place, Plan

SOCKET = Path("/run/polder/host.sock")
_LIMIT_S = 30.0
R = TypeVar("R", bound=Reply)


class Door(Protocol):
    """One exchange: a request, its reply and the descriptors that came along. Blocking; raises ``HostError``."""

    def ask(self, request: Request) -> tuple[Reply, list[int]]: ...

    def gone(self) -> bool: ...

    def fileno(self) -> int: ...

    def close(self) -> None: ...


class Host:
    """Privileged side effects for one agent. Every call raises ``HostError`` with cause and cure when it fails."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._turn = asyncio.Lock()

    async def tunnel(self, tunnel: Tunnel) -> tuple[TunnelUp, dict[str, int]]:
        """Make or change a tunnel.

        In mode ``tun`` the first call returns descriptors by name (``tun``, ``raw4``, ``raw6``); they are the caller's now.
        """
        reply, descriptors = await self._ask(tunnel, TunnelUp)
        return reply, dict(zip(reply.fds, descriptors, strict=True))

    async def filter_apply(
        self, plan: Plan, place: Place = Place.ROUTER, trusted: tuple[str, ...] = (), rollback_after: float | None = None
    ) -> FilterState:
        """Put ``plan`` in force; without ``filter_confirm`` within ``rollback_after`` seconds the old filter comes back."""
        return (await self._ask(FilterApply(plan, place, trusted, rollback_after), FilterState))[0]

    async def filter_confirm(self, site: str) -> None:
        """Keep the applied filter."""
        await self._ask(FilterConfirm(site), Done)

    async def filter_rollback(self, site: str) -> None:
        """Go back to the last confirmed filter now."""
        await self._ask(FilterRollback(site), Done)

    async def filter_state(self, site: str) -> FilterState:
        """State and counters of a site's filter."""
        return (await self._ask(FilterStatus(site), FilterState))[0]

    async def rsvp_sockets(self) -> dict[str, int]:
        """The raw sockets of RSVP by name; the descriptors are the caller's."""
        ready, descriptors = await self._ask(RsvpSocket(), RsvpReady)
        return dict(zip(ready.sockets, descriptors, strict=True))

    async def shape(self, device: str, rate: int | None) -> None:
        """Make a device's queue ready for reservations, ``rate`` bytes/s, or change its rate; ``None``: no longer."""
        await self._ask(LinkShape(device, rate), Done)

    async def reserve(self, flow: FlowReserve) -> None:
        """Reserve for a flow, or change that."""
        await self._ask(flow, Done)

    async def release(self, device: str, handle: int) -> None:
        """Let it go."""
        await self._ask(FlowRelease(device, handle), Done)

    async def carried(self, device: str) -> dict[int, tuple[int, int, int, int]]:
        """What reserved flows carried, by handle: packets and bytes within, packets and bytes beyond."""
        return (await self._ask(FlowCounts(device), FlowsCarried))[0].flows

    async def remove_tunnel(self, name: str) -> None:
        """Take a tunnel away."""
        await self._ask(Remove(tunnel=name), Done)

    async def remove_filter(self, site: str) -> None:
        """Take a site's filter away: its perimeter is open afterwards."""
        await self._ask(Remove(site=site), Done)

    async def abilities(self) -> Abilities:
        """What the host can do."""
        return (await self._ask(Probe(), Abilities))[0]

    async def close(self) -> None:
        """Leave: tunnels go, filters stay."""
        async with self._turn:
            await asyncio.to_thread(self._door.close)

    def gone(self) -> bool:
        """Whether the helper has hung up, or was given up because it did not answer: what it made for us is gone too."""
        return self._door.gone()

    def fileno(self) -> int:
        """The connection, for a process that goes on with it."""
        return self._door.fileno()

    def let_go(self) -> None:
        """Close this process's copy of a connection that another process goes on with: tunnels stay."""
        self._door.close()

    async def __aenter__(self) -> Host:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def _ask(self, request: Request, kind: type[R]) -> tuple[R, list[int]]:
        async with self._turn:
            reply, descriptors = await asyncio.to_thread(self._door.ask, request)
        if isinstance(reply, kind):
            return reply, descriptors
        for descriptor in descriptors:
            os.close(descriptor)
        if isinstance(reply, Failed):
            raise HostError(reply.why, retry=reply.retry)
        raise HostError(f"the host helper answered {type(reply).__name__} to {type(request).__name__}: is it of another version?")


class HostHelper(Host):
    """The helper behind ``path``. Construct inside a running loop; connects at once."""

    def __init__(self, path: Path = SOCKET) -> None:
        super().__init__(_SocketDoor(path))

    @classmethod
    def adopt(cls, descriptor: int) -> HostHelper:
        """Go on with the connection of another process, and so with what it has made; the descriptor is ours from now on."""
        self = cls.__new__(cls)
        Host.__init__(self, _SocketDoor(None, socket.socket(fileno=descriptor)))
        return self

    @staticmethod
    def reach(path: Path = SOCKET) -> None:
        """Raise ``HostError`` when nobody listens at ``path``. Blocks for a moment; asks nothing."""
        _SocketDoor(path).close()


class LocalHost(Host):
    """For a process that has ``CAP_NET_ADMIN`` itself (the lab, ``polder filter`` as root): no socket in between.

    Who applies a filter with a rollback must see to it that it happens: see ``polder.host.watchdog.spawn``.
    """

    def __init__(self, wall_clock: Callable[[], float], directory: Path | None = None) -> None:
        super().__init__(_LocalDoor(Workshop(FilterKeeper(directory) if directory else FilterKeeper(), wall_clock)))


class _LocalDoor:
    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop

    def ask(self, request: Request) -> tuple[Reply, list[int]]:
        return self._workshop.handle(request)

    def gone(self) -> bool:
        return False

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        self._workshop.leave()


class _SocketDoor:
    def __init__(self, path: Path | None, connected: socket.socket | None = None) -> None:
        """Connects to ``path``, unless ``connected`` is there already."""
        self._socket = connected or socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(_LIMIT_S)
        if connected is not None:
            return
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_MESSAGE)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise HostError(
                f"no host helper at {path} ({error.strerror}): start `polder host-helper` as root", retry=True
            ) from error

    def ask(self, request: Request) -> tuple[Reply, list[int]]:
        try:
            self._socket.send(encode(request))
        except OSError as error:
            if not isinstance(error, BrokenPipeError | ConnectionResetError):
                raise HostError(f"cannot reach the host helper: {error}", retry=True) from error
            # A helper that refuses us says why before it hangs up: read that first.
        try:
            data, descriptors, _, _ = socket.recv_fds(self._socket, MAX_MESSAGE, 8)
        except OSError as error:
            # Its answer may still come, and would be taken for the next request's: this connection is of no more use.
            self.close()
            raise HostError(f"the host helper does not answer: {error}", retry=True) from error
        if not data:
            raise HostError("the host helper hung up: look into its log, start it again", retry=True)
        try:
            return decode_reply(data), list(descriptors)
        except ValueError as error:
            raise HostError(str(error)) from error

    def gone(self) -> bool:
        look, descriptor = select.poll(), self._socket.fileno()
        if descriptor < 0:
            return True
        look.register(descriptor, 0)
        return any(found & (select.POLLHUP | select.POLLNVAL) for _, found in look.poll(0))

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()
