"""The daemon's socket: each connection is one application; what it asked for ends with it, so that nothing outlives who wanted it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from polder.pdp.frames import FrameError, pack, read, unpack
from polder.pdp.server import listen_at
from polder.rsvp.adspec import BANDWIDTH, GENERAL, HOPS
from polder.rsvp.errors import Code, Policy, RsvpError, explain
from polder.rsvp.intserv import Flowspec, Rspec, Tspec, single
from polder.rsvp.messages import Flow as FlowDescriptor
from polder.rsvp.objects import Sender, Session, Style
from polder.rsvp.policy_data import by_hash, unpack_bundle, whole
from polder.rsvp.state import Event
from polder.rsvpd import showing
from polder.rsvpd.daemon import Daemon
from polder.rsvpd.values import MOST_SHOWN, Announce, Asked, Flow, Reserve, Show, Shown, Told
from polder.shell.clock import monotonic

log = logging.getLogger("polder.rsvpd")
_UNREAD = 1 << 20
"""Bytes of events that wait for an application: one that does not read is hung up on."""


class Door:
    """Serves the socket of one daemon: ``most`` connections at once, beyond which they are ``turned_away``."""

    def __init__(self, daemon: Daemon, most: int = 256) -> None:
        self.most = most
        self.turned_away = 0
        self._daemon = daemon
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, path: Path) -> None:
        """Listen; raises ``OSError``."""
        self._server = await asyncio.start_unix_server(self._serve, sock=listen_at(path))

    async def close(self) -> None:
        """End; what applications asked for is taken back and neighbours are told."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    @property
    def open(self) -> int:
        """Connections at this moment."""
        return len(self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= self.most:
            self.turned_away += 1
            writer.close()
            return
        self._connections.add(task)
        application = Application(self._daemon, writer)
        try:
            while (data := await read(reader)) is not None:
                said: Asked = unpack(data, Asked)
                await application.ask(said)
                await writer.drain()
        except (FrameError, OSError) as error:
            log.warning("lost an application", extra={"error": str(error)})
        except asyncio.CancelledError:
            pass
        finally:
            self._connections.discard(task)
            with contextlib.suppress(OSError):
                writer.close()
            application.end()


class Application:
    """What one connection asked for."""

    def __init__(self, daemon: Daemon, writer: asyncio.StreamWriter) -> None:
        self._daemon = daemon
        self._writer = writer
        self._announced: set[tuple[Session, Sender]] = set()
        self._reserve: Reserve | None = None
        self._session: Session | None = None
        self._short = False
        self._patient = 0.0

    async def ask(self, said: Asked) -> None:
        """Do what it asks; a refusal is told, not raised."""
        if isinstance(said, Show):
            self._write(Shown(await showing.facts(self._daemon)))
            return
        if self._hear not in self._daemon.heard:
            self._daemon.heard.append(self._hear)
        try:
            if isinstance(said, Announce):
                self._announce(said)
            else:
                self._begin(said)
        except (RsvpError, ValueError) as error:
            code = error.code if isinstance(error, RsvpError) and error.code is not None else Code.API
            self._write(Told("refused", str(error), code, getattr(error, "value", 0)))
        self._daemon.act()

    def end(self) -> None:
        """The application is gone."""
        with contextlib.suppress(ValueError):
            self._daemon.heard.remove(self._hear)
        for session, sender in self._announced:
            self._daemon.node.withdraw(session, sender, monotonic())
        if self._session is not None:
            self._daemon.node.release(self._session, monotonic())
        self._daemon.act()

    def _announce(self, said: Announce) -> None:
        session, tspec = _session(said.flow), _tspec(said.flow)
        sender = _sender(session, said.source, said.source_port)
        self._daemon.node.announce(session, sender, tspec, monotonic())
        self._announced.add((session, sender))
        self._write(Told("announced"))

    def _begin(self, said: Reserve) -> None:
        session = _session(said.flow)
        if self._session is not None and session.key() != self._session.key():
            raise RsvpError("one connection reserves for one session", Code.API)
        _flowspec(said).check()
        _senders(session, said)
        if said.bundle:
            unpack_bundle(said.bundle)
        self._session, self._reserve, self._short = session, said, False
        known = [path.sender for path in self._daemon.node.paths if path.session.key() == session.key()]
        if self._complete(known):
            self._request()
        else:
            self._write(Told("waiting", "no sender has announced itself yet"))

    def _complete(self, known: list[Sender]) -> bool:
        """Whether every sender that is wanted has announced itself; with WF, whether anybody has."""
        assert self._reserve is not None
        assert self._session is not None
        return bool(known) and set(_senders(self._session, self._reserve)) <= set(known)

    def _request(self) -> None:
        said, session = self._reserve, self._session
        assert said is not None
        assert session is not None
        style, flowspec = Style[said.style], _flowspec(said)
        senders = _senders(session, said)
        if style == Style.FF:
            flows = tuple(FlowDescriptor(flowspec, (sender,)) for sender in senders)
        else:
            flows = (FlowDescriptor(flowspec, senders if style == Style.SE else ()),)
        policy = () if not said.bundle else (by_hash(said.bundle) if self._short else whole(said.bundle),)
        self._daemon.node.reserve(session, style, flows, monotonic(), policy, confirm=not self._short)
        if not self._short:
            self._write(Told("asked"))

    def _hear(self, event: Event) -> None:
        """Something happened to a session; perhaps to one of ours."""
        mine = self._session is not None and event.session.key() == self._session.key()
        if event.kind == "path-error":
            if (event.session, event.sender) in self._announced:
                self._tell(event)
            return
        if not mine or self._reserve is None:
            return
        missing = event.error is not None and (event.error.code, event.error.value) == (Code.POLICY, Policy.MISSING)
        if event.kind == "path":
            known = [path.sender for path in self._daemon.node.paths if path.session.key() == event.session.key()]
            self._tell(event)
            if self._complete(known):
                self._later()
        elif event.kind == "resv-error" and missing and self._reserve.bundle and (self._short or monotonic() < self._patient):
            # A router has forgotten the bundle: once more whole. Others may say so meanwhile, of what was sent by hash before.
            if self._short:
                self._short, self._patient = False, monotonic() + self._daemon.lifetime
                self._later()
        else:
            self._tell(event)
            if event.kind == "confirmed" and self._reserve.bundle and not self._short:
                self._short = True  # from now on the hash is enough
                self._later()

    def _later(self) -> None:
        """Not from within the machine's own actions."""
        asyncio.get_running_loop().call_soon(self._again)

    def _again(self) -> None:
        if self._writer.is_closing() or self._reserve is None:
            return
        try:
            self._request()
        except RsvpError as error:
            self._write(Told("refused", error.why, error.code or 0, error.value))
        self._daemon.act()

    def _tell(self, event: Event) -> None:
        error, adspec = event.error, event.adspec
        told = Told(event.kind, event.reason)
        if error is not None:
            reason = event.reason or explain(error.code, error.value)
            told = Told(event.kind, reason, error.code, error.value, str(error.address), bool(error.flags & error.IN_PLACE))
        elif adspec is not None:
            hops, bandwidth = adspec.number(GENERAL, HOPS), adspec.number(GENERAL, BANDWIDTH)
            told = Told(event.kind, hops=int(hops or 0), bandwidth=float(bandwidth or 0.0))
        self._write(told)

    def _write(self, answer: Shown | Told) -> None:
        if self._writer.is_closing():
            return
        if self._writer.transport.get_write_buffer_size() > _UNREAD:
            log.warning("an application does not read what happens to its reservation: hung up")
            self._writer.transport.abort()
            return
        self._writer.write(pack(answer, MOST_SHOWN))


def _session(flow: Flow) -> Session:
    if not 1 <= flow.protocol <= 255 or not 0 <= flow.port <= 65_535:
        raise RsvpError(f"protocol {flow.protocol}, port {flow.port}: 1 to 255, and 0 to 65535", Code.API)
    return Session(ip_address(flow.destination), flow.protocol, flow.port)


def _sender(session: Session, address: str, port: int) -> Sender:
    """One that can be: what cannot be written into a message must not become state that is to be sent again and again."""
    sender = Sender(ip_address(address), port)
    if not 0 <= port <= 65_535:
        raise RsvpError(f"a sender's port {port}: 0 to 65535", Code.API)
    if sender.address.version != session.destination.version:
        raise RsvpError(f"from {address} to {session.destination}: both of one IP version", Code.API)
    return sender


def _senders(session: Session, said: Reserve) -> tuple[Sender, ...]:
    return tuple(_sender(session, address, port) for address, port in said.senders)


def texts(said: Reserve) -> tuple[str, tuple[str, ...], Flowspec]:
    """Session, senders and request as routers will put them to the policy decision point. Raises ``RsvpError``."""
    flowspec = _flowspec(said)
    flowspec.check()
    rspec = flowspec.rspec
    rounded = Flowspec(flowspec.tspec, Rspec(single(rspec.rate), rspec.slack) if rspec else None)
    session = _session(said.flow)
    return str(session), tuple(sorted(map(str, _senders(session, said)))), rounded


def _tspec(flow: Flow) -> Tspec:
    if flow.max_packet > 65_535:
        raise RsvpError(f"packets of {flow.max_packet} bytes: 65535 at most", Code.API)
    tspec = Tspec(flow.rate, flow.bucket, flow.peak, flow.min_unit, flow.max_packet).rounded()
    tspec.check()
    return tspec


def _flowspec(said: Reserve) -> Flowspec:
    if said.style not in Style.__members__:
        raise RsvpError(f"{said.style!r} is no reservation style: WF, FF or SE", Code.API)
    if (said.style == "WF") != (not said.senders):
        raise RsvpError("style WF is for any sender, FF and SE name theirs", Code.API)
    tspec = _tspec(said.flow)
    if said.served is None:
        return Flowspec(tspec)
    return Flowspec(replace(tspec), Rspec(max(said.served, tspec.rate)))
