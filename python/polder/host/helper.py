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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network
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
    decode_request,
    encode,
)
from polder.host.shaping import Shaper, open_rsvp
from polder.host.tunnels import Tunnels

INNER = ("fd00::/8", "100.64.0.0/10", "198.18.0.0/15")
"""Where tunnels may have addresses and routes: unique local, carrier-grade NAT, benchmarking (RFC 4193, 6598, 2544)."""
_WIDEST = {4: 16, 6: 48}
_CONNECTIONS = 16
_LOOK_S = 5.0
_RETRY_S = 0.05


@dataclass(frozen=True)
class Rights:
    """What one agent may ask for. ``sites``: whose filters (``None``: any); ``protect``: networks that its plans may shut (CIDR;
    empty: any); ``inner``: where its tunnels may lead, so that nobody routes the host's other traffic into a tunnel; ``reserve``: devices
    whose queues it may order, and RSVP's socket when there is one at all (``None``: any).
    """

    sites: frozenset[str] | None = None
    protect: tuple[str, ...] = ()
    inner: tuple[str, ...] = INNER
    reserve: frozenset[str] | None = None

    def check(self, request: Request) -> None:
        """Raise ``HostError`` when it may not."""
        match request:
            case Tunnel():
                networks = [*request.addresses, *(network for peer in request.peers for network in peer.inner)]
                for network in networks:
                    self._inside(ip_interface(network).network)
            case FilterApply(plan=plan):
                self._own(plan.site)
                for shut in (*plan.protected(4), *plan.protected(6)) if self.protect else ():
                    if not _covered(shut, self.protect):
                        raise HostError(f"this helper does not shut {shut}: start it with --protect {shut} if it should")
            case FilterConfirm(site=site) | FilterRollback(site=site) | FilterStatus(site=site):
                self._own(site)
            case Remove(site=str() as site):
                self._own(site)
            case RsvpSocket() if self.reserve is not None and not self.reserve:
                raise HostError("this helper gives no RSVP socket: start it with --reserve DEVICE if it should")
            case LinkShape() | FlowReserve() | FlowRelease() | FlowCounts():
                if self.reserve is not None and request.device not in self.reserve:
                    raise HostError(
                        f"this helper does not order the queue of {request.device}: start it with --reserve {request.device}"
                    )

    def _own(self, site: str) -> None:
        if self.sites is not None and site not in self.sites:
            raise HostError(f"this user may not change the filter of {site}: start the helper with --allow-uid UID:{site}")

    def _inside(self, network: IPv4Network | IPv6Network) -> None:
        if network.prefixlen < _WIDEST[network.version] or not _covered(network, self.inner):
            raise HostError(f"{network} is no network for the inside of a tunnel: take one of {', '.join(self.inner)}")


def _covered(network: IPv4Network | IPv6Network, by: Iterable[str]) -> bool:
    others = map(ip_network, by)
    return any(network.version == other.version and network.subnet_of(other) for other in others)  # type: ignore[arg-type]


class Workshop:
    """What one agent may do, and what it has made. The same code serves the socket and a process that is root itself."""

    def __init__(self, keeper: FilterKeeper, wall_clock: Callable[[], float], rights: Rights = Rights()) -> None:
        self._keeper = keeper
        self._wall_clock = wall_clock
        self._rights = rights
        self._tunnels = Tunnels()
        self._shaper = Shaper()

    def handle(self, request: Request) -> tuple[Reply, list[int]]:
        """Do it. Returns the reply and descriptors that go with it, to be closed by the caller. Never raises for a bad wish."""
        try:
            self._rights.check(request)
            if isinstance(request, Tunnel):
                return self._tunnels.set(request)
            if isinstance(request, RsvpSocket):
                sockets = open_rsvp()
                return RsvpReady(tuple(sockets)), [*sockets.values()]
            if isinstance(request, LinkShape | FlowReserve | FlowRelease | FlowCounts):
                return self._reservation(request), []
            return self._plain(request), []
        except (HostError, OSError, ValueError) as error:
            return Failed(str(error), getattr(error, "retry", False)), []

    def leave(self) -> None:
        """The agent is gone: its tunnels and reservations go, its filter stays."""
        self._tunnels.clear()
        self._shaper.clear()

    def _reservation(self, request: LinkShape | FlowReserve | FlowRelease | FlowCounts) -> FlowsCarried | Done:
        match request:
            case LinkShape():
                self._shaper.shape(request)
            case FlowReserve():
                self._shaper.reserve(request)
            case FlowRelease():
                self._shaper.release(request)
            case FlowCounts(device=device):
                return self._shaper.carried(device)
        return Done()

    def _plain(self, request: Request) -> Abilities | FilterState | Done:
        match request:
            case FilterApply(plan=plan):
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


class Helper:
    """The socket's side: accepts agents, hands their messages to a ``Workshop`` each, takes rollbacks when they are due."""

    def __init__(
        self,
        path: Path,
        allow: Mapping[int, frozenset[str] | None],
        wall_clock: Callable[[], float],
        *,
        directory: Path | None = None,
        protect: tuple[str, ...] = (),
        inner: tuple[str, ...] = INNER,
        reserve: frozenset[str] = frozenset(),
        log: Callable[[str], None] = lambda text: None,
    ) -> None:
        """``allow``: user id → sites whose filters it may change (``None``: any). Root and the helper's own user may all."""
        self._keeper = FilterKeeper(directory) if directory else FilterKeeper()
        self._wall_clock = wall_clock
        self._rights = {
            uid: Rights(sites, protect, inner, reserve) for uid, sites in {**allow, 0: None, os.geteuid(): None}.items()
        }
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
        self._roll_back()
        return True

    def _roll_back(self, *, leaving: bool = False) -> None:
        try:
            for site in self._keeper.rollback_due(all_of_them=leaving):
                self._log(
                    f"filter of site {site} was not confirmed {'before the helper ended' if leaving else 'in time'}: rolled back"
                )
        except HostError as error:
            self._log(f"rollback failed, will be tried again: {error}")

    def _accept(self) -> None:
        agent, _ = self._listener.accept()
        _, uid, _ = struct.unpack("3i", agent.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in self._rights or len(self._agents) >= _CONNECTIONS:
            self._log(f"refused user {uid}: {'too many agents' if uid in self._rights else 'not allowed (--allow-uid)'}")
            with contextlib.suppress(OSError):
                agent.setblocking(False)
                agent.send(encode(Failed(f"user {uid} may not use this helper: start it with --allow-uid {uid}")))
            agent.close()
            return
        agent.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_MESSAGE)
        self._agents[agent] = Workshop(self._keeper, self._wall_clock, self._rights[uid])
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
        self._roll_back(leaving=True)
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
