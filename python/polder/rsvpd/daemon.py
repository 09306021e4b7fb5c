"""The daemon: packets in, decisions asked, links ordered, state shown. One event loop; the machine decides (``polder.rsvp.node``)."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Mapping

from polder.host.client import Host
from polder.model.reservations import Ask, Verdict
from polder.pdp.client import PdpClient, unreachable
from polder.rsvp.integrity import Guard, Key
from polder.rsvp.ip import Packet
from polder.rsvp.node import Node
from polder.rsvp.state import Action, Ended, Event, Install, Interface, Question, Send, Uninstall
from polder.rsvpd import kernel, links
from polder.rsvpd.enforcing import Enforcer
from polder.settings.base import ConfigError
from polder.settings.rsvp import RsvpSettings
from polder.shell.clock import monotonic, wall
from polder.shell.tasks import Tasks

log = logging.getLogger("polder.rsvpd")


class Daemon:
    """See the module. ``start`` takes the sockets, ``close`` gives everything back. Raises ``ConfigError`` for settings that cannot be."""

    def __init__(self, settings: RsvpSettings, connect: Callable[[], Host], pdp: PdpClient) -> None:
        """``connect`` reaches the host helper; ``pdp`` is asked only where links have ``policy``."""
        self.settings = settings
        self.heard: list[Callable[[Event], None]] = []
        self.decisions: Counter[str] = Counter()
        """Answers of the policy decision point: accepted, refused, and undecided where none came in time."""
        self._pdp = pdp
        self._tasks = Tasks()
        self._routes = kernel.KernelRoutes()
        self._devices = kernel.devices()
        self._interfaces = links.interfaces(settings, self._devices)
        self._guards: dict[str, Guard] = {}
        guards = self._guarded(links.keys(settings))
        self.node = Node(links.config(settings), self._interfaces, self._routes.way, random.SystemRandom(), guards)
        self.enforcer = Enforcer(connect, self.device, self._installed, self.node.counts)
        self._ordered = links.ordered(settings)
        self._raw: dict[str, socket.socket] = {}
        self._packets = random.SystemRandom().randrange(65_535)
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Order the links, open the sockets. Raises ``HostError``."""
        sockets = await self.enforcer.open(self._ordered)
        self._raw = {name: socket.socket(fileno=number) for name, number in sockets.items()}
        loop = asyncio.get_running_loop()
        for raw in self._raw.values():
            loop.add_reader(raw, self._readable, raw)
        loop.add_reader(self._routes, self._rerouted)
        self._tasks.forever("enforce", self.enforcer.run)
        self._tasks.forever("host helper", self.enforcer.watch)
        self._tasks.forever("pdp", self._pdp.run)

    async def close(self) -> None:
        """End. Links get their usual queue back; neighbours find out by the end of state's life, as after a crash."""
        loop = asyncio.get_running_loop()
        for raw in self._raw.values():
            loop.remove_reader(raw)
            raw.close()
        loop.remove_reader(self._routes)
        if self._timer is not None:
            self._timer.cancel()
        await self._tasks.close()
        self._routes.close()
        await self.enforcer.close()

    def configure(self, settings: RsvpSettings) -> None:
        """Other settings; reservations stand. Raises ``ConfigError``, and then nothing has changed."""
        devices = kernel.devices()
        interfaces, keys = links.interfaces(settings, devices), links.keys(settings)
        self.settings = settings
        self._put_in_force(settings, devices, interfaces, keys)

    @property
    def speaks(self) -> tuple[str, ...]:
        """IP versions."""
        return tuple(version for version in ("4", "6") if version in self._raw)

    @property
    def lifetime(self) -> float:
        """Seconds that state of this node lives at its neighbours without a refresh."""
        return links.config(self.settings).lifetime(self.settings.period)

    def device(self, interface: int) -> str:
        """A device's name."""
        return next((each.name for each in self._devices if each.index == interface), "local")

    def interface(self, device: str) -> int:
        """A device's number; 0 when it is gone."""
        return next((each.index for each in self._devices if each.name == device), 0)

    def act(self) -> None:
        """Do what the machine wants done, and be there when it wants to be called."""
        for action in self.node.take():
            self._do(action)
        if self._timer is not None:
            self._timer.cancel()
        deadline = self.node.deadline()
        if deadline is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, deadline - monotonic()), self._due)

    def _put_in_force(
        self,
        settings: RsvpSettings,
        devices: list[kernel.Device],
        interfaces: dict[int, Interface],
        keys: Mapping[str, tuple[Key, ...]],
    ) -> None:
        before, rates = {device: self.interface(device) for device in self._ordered}, links.ordered(settings)
        self._devices, self._interfaces = devices, self._interfaces | interfaces
        self.node.configure(links.config(settings), interfaces, self._guarded(keys), monotonic())
        if rates != self._ordered or before != {device: self.interface(device) for device in rates}:
            self._ordered = rates
            self.enforcer.order(rates)
        self.act()

    def _guarded(self, keys: Mapping[str, tuple[Key, ...]]) -> dict[int, Guard]:
        """Guards of the links that have keys; one that is there already keeps what it knows of its neighbours."""
        for device in self._guards.keys() - keys.keys():
            del self._guards[device]
        for device, found in keys.items():
            if device in self._guards:
                self._guards[device].replace_keys(found)
            else:
                self._guards[device] = Guard(found, secrets.token_bytes(16), int(wall() * 1e6), monotonic())
        return {each.index: self._guards[each.name] for each in self._devices if each.name in self._guards}

    def _readable(self, raw: socket.socket) -> None:
        kernel.read_socket(raw, self._packet, self._no_packet)
        self.act()

    def _packet(self, packet: Packet, interface: int) -> None:
        self.node.receive(packet, interface, monotonic())

    def _no_packet(self) -> None:
        self.node.counts["no-packet"] += 1

    def _rerouted(self) -> None:
        if self._routes.changed():
            self._look_again()
        self.node.rerouted(monotonic())
        self.act()

    def _look_again(self) -> None:
        """Devices come and go, and get addresses: a line that dials in again is another device."""
        devices = kernel.devices()
        if devices == self._devices:
            return
        there = {each.name for each in devices}
        present = self.settings.model_copy(update={"links": tuple(link for link in self.settings.links if link.device in there)})
        try:
            self._put_in_force(present, devices, links.interfaces(present, devices), links.keys(present))
        except ConfigError as error:
            log.error("the network's devices changed, and the settings do not fit them", extra={"error": str(error)})

    def _due(self) -> None:
        self._timer = None
        self.node.tick(monotonic())
        self.act()

    def _do(self, action: Action) -> None:
        match action:
            case Send():
                self._send(action)
            case Install() | Uninstall():
                self.enforcer.put(action)
            case Question():
                self._tasks.once("question", self._judge(action))
            case Ended(ask=ask):
                self._pdp.over(ask)
            case Event():
                for each in [*self.heard]:
                    each(action)

    def _send(self, send: Send) -> None:
        raw = self._raw.get(str(send.destination.version))
        if raw is None or send.source.is_unspecified:
            self.node.counts["no-address"] += 1
            return
        packet = Packet(send.source, send.destination, send.ttl, send.alert, send.data)
        self._packets = self._packets % 65_535 + 1
        try:
            kernel.write_socket(raw, packet, send.interface, self._interfaces[send.interface].mtu, self._packets)
        except OSError as error:
            self.node.counts["not-sent"] += 1
            log.debug("a message could not be sent", extra={"device": self.device(send.interface), "error": str(error)})

    def _installed(self, handle: int, why: str) -> None:
        if why:
            self.node.failed(handle, monotonic())
        else:
            self.node.installed(handle, monotonic())
        self.act()

    async def _judge(self, question: Question) -> None:
        """Ask; a decision that does not come refuses what is new, and lets stand what was granted (RFC 2750 §4: keep while in doubt)."""
        ask: Ask = question.ask
        verdict = await self._pdp.judge(ask)
        self.decisions["undecided" if verdict is None else "accepted" if verdict.accepted else "refused"] += 1
        if verdict is None and ask.installed:
            verdict = Verdict(True, 0, "not asked: the decision stands on", wall() + self.settings.period, "")
        elif verdict is None:
            verdict = unreachable()
        until = monotonic() + max(0.0, verdict.until - wall()) if verdict.until else None
        self.node.decided(question.ticket, verdict, until, monotonic())
        self.act()
