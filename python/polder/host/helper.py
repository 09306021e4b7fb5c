"""The host helper: the one process with ``CAP_NET_ADMIN``, so that node and site agent need none.

A Unix SEQPACKET socket; who may speak is decided by the kernel's word about the peer (SO_PEERCRED). One thread, one message
at a time, bounded sizes. What an agent made is taken away when it leaves (tunnels), or stays (its filter: a perimeter must not
fall open because an agent died), as the knobs say.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
from collections.abc import Callable, Iterable
from ipaddress import ip_network
from pathlib import Path

from polder.host import abilities
from polder.host.commands import HostError
from polder.host.filters import FilterKeeper
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
    Probe,
    Remove,
    Reply,
    Request,
    Tunnel,
    decode_request,
    encode,
)
from polder.host.tunnels import Tunnels

_CONNECTIONS = 16
_LOOK_S = 5.0
_RETRY_S = 0.05


class Workshop:
    """What one agent may do, and what it has made. The same code serves the socket and a process that is root itself."""

    def __init__(self, keeper: FilterKeeper, wall_clock: Callable[[], float], protect: Iterable[str] = ()) -> None:
        """``protect``: networks (CIDR) that plans may shut; empty: any."""
        self._keeper = keeper
        self._wall_clock = wall_clock
        self._protect = [ip_network(each) for each in protect]
        self._tunnels = Tunnels()

    def handle(self, request: Request) -> tuple[Reply, list[int]]:
        """Do it. Returns the reply and descriptors that go with it, to be closed by the caller. Never raises for a bad wish."""
        try:
            if isinstance(request, Tunnel):
                return self._tunnels.set(request)
            return self._plain(request), []
        except (HostError, OSError, ValueError) as error:
            return Failed(str(error), getattr(error, "retry", False)), []

    def leave(self) -> None:
        """The agent is gone: its tunnels go, its filter stays."""
        self._tunnels.clear()

    def _plain(self, request: Request) -> Abilities | FilterState | Done:
        match request:
            case FilterApply(plan=plan):
                self._permitted(request)
                self._keeper.apply(plan, self._wall_clock(), request.place, request.trusted, request.rollback_after)
                return self._keeper.state(plan.site)
            case FilterConfirm(site=site):
                self._keeper.confirm(site)
            case FilterRollback(site=site):
                self._keeper.rollback(site)
            case FilterStatus(site=site):
                return self._keeper.state(site)
            case Remove(tunnel=tunnel, site=site):
                if tunnel:
                    self._tunnels.remove(tunnel)
                if site:
                    self._keeper.remove(site)
            case Probe():
                return abilities.look()
        return Done()

    def _permitted(self, request: FilterApply) -> None:
        shut = [*request.plan.protected(4), *request.plan.protected(6)]
        for network in shut if self._protect else ():
            if not any(network.version == own.version and network.subnet_of(own) for own in self._protect):  # type: ignore[arg-type]
                raise HostError(f"this helper does not shut {network}: start it with --protect {network} if it should")


class Helper:
    """The socket's side: accepts agents, hands their messages to a ``Workshop`` each, takes rollbacks when they are due."""

    def __init__(
        self,
        path: Path,
        allow_uids: Iterable[int],
        wall_clock: Callable[[], float],
        *,
        directory: Path | None = None,
        protect: Iterable[str] = (),
        log: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._keeper = FilterKeeper(directory) if directory else FilterKeeper()
        self._wall_clock = wall_clock
        self._protect = tuple(protect)
        self._allowed = {0, os.geteuid(), *allow_uids}
        self._log = log
        self._agents: dict[socket.socket, Workshop] = {}
        self._selector = selectors.DefaultSelector()
        self._stop_read, self._stop_write = os.pipe()
        self._path = path
        self._listener = _listen(path)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._stop_read, selectors.EVENT_READ)

    def stop(self) -> None:
        """End ``run`` soon; may be called from a signal handler or another thread."""
        os.write(self._stop_write, b"x")

    def run(self) -> None:
        """Serve until ``stop``. Then unconfirmed filters go back, agents' tunnels go."""
        try:
            while self._round():
                pass
        finally:
            self._end()

    def _round(self) -> bool:
        left = self._keeper.next_deadline()
        for key, _ in self._selector.select(_LOOK_S if left is None else min(max(left, _RETRY_S), _LOOK_S)):
            if key.fileobj == self._stop_read:
                return False
            if key.fileobj is self._listener:
                self._accept()
            else:
                assert isinstance(key.fileobj, socket.socket)
                self._serve(key.fileobj)
        try:
            for site in self._keeper.rollback_due():
                self._log(f"filter of site {site} was not confirmed in time: rolled back")
        except HostError as error:
            self._log(f"rollback failed, will try again: {error}")
        return True

    def _accept(self) -> None:
        agent, _ = self._listener.accept()
        _, uid, _ = struct.unpack("3i", agent.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in self._allowed or len(self._agents) >= _CONNECTIONS:
            self._log(f"refused user {uid}: {'too many agents' if uid in self._allowed else 'not allowed (--allow-uid)'}")
            with contextlib.suppress(OSError):
                agent.setblocking(False)
                agent.send(encode(Failed(f"user {uid} may not use this helper: start it with --allow-uid {uid}")))
            agent.close()
            return
        agent.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_MESSAGE)
        self._agents[agent] = Workshop(self._keeper, self._wall_clock, self._protect)
        self._selector.register(agent, selectors.EVENT_READ)

    def _serve(self, agent: socket.socket) -> None:
        try:
            data, _, flags, _ = agent.recvmsg(MAX_MESSAGE)
            if not data:
                self._drop(agent)
                return
            reply, descriptors = self._answer(agent, data, truncated=bool(flags & socket.MSG_TRUNC))
            try:
                agent.setblocking(False)
                _send(agent, encode(reply), descriptors)
                agent.setblocking(True)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
        except OSError as error:
            self._log(f"lost an agent: {error}")
            self._drop(agent)

    def _answer(self, agent: socket.socket, data: bytes, *, truncated: bool) -> tuple[Reply, list[int]]:
        if truncated:
            return Failed(f"message larger than {MAX_MESSAGE} bytes: a plan has at most some thousand pairs"), []
        try:
            request = decode_request(data)
        except ValueError as error:
            return Failed(str(error)), []
        reply, descriptors = self._agents[agent].handle(request)
        if isinstance(reply, Failed):
            self._log(f"{type(request).__name__}: {reply.why}")
        return reply, descriptors

    def _drop(self, agent: socket.socket) -> None:
        self._selector.unregister(agent)
        workshop = self._agents.pop(agent)
        agent.close()
        try:
            workshop.leave()
        except HostError as error:
            self._log(f"could not clear what an agent left: {error}")

    def _end(self) -> None:
        for agent in [*self._agents]:
            self._drop(agent)
        self._listener.close()
        self._path.unlink(missing_ok=True)
        self._selector.close()
        os.close(self._stop_read)
        os.close(self._stop_write)


def _send(agent: socket.socket, data: bytes, descriptors: list[int]) -> None:
    """One datagram; descriptors ride along as SCM_RIGHTS (unix(7))."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(descriptors)}i", *descriptors))]
    agent.sendmsg([data], rights if descriptors else ())


def _listen(path: Path) -> socket.socket:
    """The socket file: everybody may knock (mode 0666), the kernel's credentials decide."""
    path.parent.mkdir(parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    listener.bind(str(path))
    path.chmod(0o666)
    listener.listen(_CONNECTIONS)
    return listener
