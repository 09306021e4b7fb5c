"""The daemon: packets in, decisions asked, links ordered, state shown. One event loop; the machine decides (``polder.rsvp.node``)."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import socket
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

from polder.host.client import Host
from polder.host.commands import HostError
from polder.host.messages import FlowReserve
from polder.host.shaping import pktinfo
from polder.model.reservations import Ask, Verdict
from polder.pdp.client import PdpClient, unreachable
from polder.rsvp.errors import RsvpError
from polder.rsvp.integrity import Guard, Key
from polder.rsvp.ip import Packet
from polder.rsvp.node import Node
from polder.rsvp.state import Action, Config, Ended, Event, Install, Interface, Question, Send, Traffic, Uninstall
from polder.rsvpd import kernel
from polder.settings.base import ConfigError
from polder.settings.rsvp import LinkSettings, RsvpSettings
from polder.shell.clock import monotonic, wall
from polder.shell.tasks import Tasks

log = logging.getLogger("polder.rsvpd")


class Daemon:
    """See the module. ``start`` takes the sockets, ``close`` gives everything back."""

    def __init__(self, settings: RsvpSettings, host: Host, pdp: PdpClient | None) -> None:
        self.settings = settings
        self.heard: list[Callable[[Event], None]] = []
        self.enforced: dict[int, tuple[Traffic, str]] = {}
        """What is installed, by handle: the flow, and why it is not enforced (empty: it is)."""
        self._host = host
        self._pdp = pdp
        self._tasks = Tasks()
        self._routes = kernel.KernelRoutes()
        self._names = dict(kernel.devices())
        self._links = {link.device: link for link in settings.links}
        self._interfaces = self._find_interfaces()
        self.node = self._make_node()
        self._raw: socket.socket | None = None
        self._packets = random.SystemRandom().randrange(65_535)
        self._timer: asyncio.TimerHandle | None = None
        self._work: asyncio.Queue[Install | Uninstall] = asyncio.Queue()

    async def start(self) -> None:
        """Order the links, open the socket. Raises ``HostError``, ``ConfigError``."""
        for device, link in self._links.items():
            if link.rate_mbit is not None:
                await self._host.shape(device, round(link.rate_mbit * 1e6 / 8))
        self._raw = socket.socket(fileno=await self._host.rsvp_socket())
        loop = asyncio.get_running_loop()
        loop.add_reader(self._raw, self._readable)
        loop.add_reader(self._routes, self._rerouted)
        self._tasks.forever("enforce", self._enforce)
        if self._pdp is not None:
            self._tasks.forever("pdp", self._pdp.run)

    async def close(self) -> None:
        """End. Links get their usual queue back; neighbours find out by the end of state's life, as after a crash."""
        loop = asyncio.get_running_loop()
        if self._raw is not None:
            loop.remove_reader(self._raw)
            self._raw.close()
        loop.remove_reader(self._routes)
        if self._timer is not None:
            self._timer.cancel()
        await self._tasks.close()
        self._routes.close()
        await self._host.close()

    def device(self, interface: int) -> str:
        """A device's name."""
        return self._names.get(interface, "local")

    def interface(self, device: str) -> int:
        """A device's number; 0 when it is gone."""
        return next((index for index, name in self._names.items() if name == device), 0)

    def rate(self, device: str) -> float | None:
        """Bytes/s that may be reserved on a device; ``None``: no bound."""
        link = self._links.get(device)
        return link.rate_mbit * 1e6 / 8 * link.reservable if link and link.rate_mbit else None

    async def carried(self, device: str) -> dict[int, tuple[int, int, int, int]]:
        """Counters of flows on a device; none when its queue is not ordered."""
        link = self._links.get(device)
        if link is None or link.rate_mbit is None:
            return {}
        try:
            return await self._host.carried(device)
        except HostError as error:
            log.warning("no counters", extra={"device": device, "error": error.why})
            return {}

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

    def _find_interfaces(self) -> dict[int, Interface]:
        missing = self._links.keys() - self._names.values()
        if missing:
            raise ConfigError("rsvp settings", "links", f"there is no network device {', '.join(sorted(missing))}")
        found = {}
        for index, name in self._names.items():
            address = kernel.device_address(name)
            if address is None:
                continue
            link = self._links.get(name, LinkSettings(device=name))
            line = link.rate_mbit * 1e6 / 8 if link.rate_mbit else 125e6
            capacity = line * link.reservable if link.rate_mbit else float("inf")
            if link.policy and self._pdp is None:
                raise ConfigError(
                    "rsvp settings", "pdp", f"link {name} needs the word of a policy decision point, and none is named"
                )
            mtu = kernel.device_mtu(name)
            found[index] = Interface(index, address, capacity, line, mtu, 0, link.policy, link.name or name)
        if not found:
            raise ConfigError("rsvp settings", "links", "no network device has an IPv4 address")
        return found

    def _make_node(self) -> Node:
        s = self.settings
        config = Config(
            name=s.name,
            period=s.period,
            lost=s.lost,
            longest_period=s.longest_period,
            blockade=s.blockade,
            repair_wait=s.repair_wait,
            first_retry=s.first_retry,
            retries=s.retries,
            reduce=s.reduce,
            ahead=s.ahead,
            most_paths=s.most_paths,
            most_reservations=s.most_reservations,
            bundle_bytes=s.bundle_cache,
        )
        guards = {}
        for index, interface in self._interfaces.items():
            link = self._links.get(self._names[interface.index])
            if link is not None and link.key_file:
                guards[index] = Guard(read_keys(Path(link.key_file)), secrets.token_bytes(16), int(wall() * 1e6), monotonic())
        return Node(config, self._interfaces, self._routes.way, random.SystemRandom(), guards)

    def _readable(self) -> None:
        assert self._raw is not None
        kernel.read_socket(self._raw, self._packet)
        self.act()

    def _packet(self, data: bytes, interface: int) -> None:
        try:
            packet = Packet.read(data)
        except RsvpError:
            self.node.counts["no-packet"] += 1
            return
        self.node.receive(packet, interface, monotonic())

    def _rerouted(self) -> None:
        self._routes.changed()
        self.node.rerouted(monotonic())
        self.act()

    def _due(self) -> None:
        self._timer = None
        self.node.tick(monotonic())
        self.act()

    def _do(self, action: Action) -> None:
        match action:
            case Send():
                self._send(action)
            case Install() | Uninstall():
                self._work.put_nowait(action)
            case Question():
                self._tasks.once("question", self._judge(action))
            case Ended(ask=ask):
                if self._pdp is not None:
                    self._pdp.over(ask)
            case Event():
                for each in [*self.heard]:
                    each(action)

    def _send(self, send: Send) -> None:
        assert self._raw is not None
        if not isinstance(send.source, IPv4Address) or not isinstance(send.destination, IPv4Address):
            return
        packet = Packet(send.source, send.destination, send.ttl, send.alert, send.data)
        self._packets = self._packets % 65_535 + 1
        try:
            for piece in packet.pieces(self._interfaces[send.interface].mtu, self._packets):
                self._raw.sendmsg([piece], pktinfo(send.interface), 0, (str(send.destination), 0))
        except OSError as error:
            self.node.counts["not-sent"] += 1
            log.debug("a message could not be sent", extra={"device": self.device(send.interface), "error": str(error)})

    async def _judge(self, question: Question) -> None:
        """Ask; a decision that does not come refuses what is new, and lets stand what was granted (RFC 2750 §4: keep while in doubt)."""
        ask: Ask = question.ask
        verdict = await self._pdp.judge(ask) if self._pdp is not None else None
        if verdict is None:
            self.node.counts["undecided"] += 1
            if ask.installed:
                again = wall() + self.settings.period
                verdict = Verdict(True, 0, "not asked: the decision stands on", again, "")
            else:
                verdict = unreachable()
        until = monotonic() + max(0.0, verdict.until - wall()) if verdict.until else None
        self.node.decided(question.ticket, verdict, until, monotonic())
        self.act()

    async def _enforce(self) -> None:
        """Traffic control, one change at a time in their order."""
        while True:
            action = await self._work.get()
            try:
                await self._apply(action)
            except HostError as error:
                self.node.counts["not-enforced"] += 1
                log.error("a reservation is not enforced", extra={"error": error.why})
                if isinstance(action, Install):
                    self.enforced[action.handle] = (action.traffic, error.why)
            if isinstance(action, Install):
                self.node.installed(action.handle, monotonic())
                self.act()

    async def _apply(self, action: Install | Uninstall) -> None:
        if isinstance(action, Uninstall):
            gone = self.enforced.pop(action.handle, None)
            if gone is not None and self._shaped(gone[0].interface):
                await self._host.release(self.device(gone[0].interface), action.handle)
            return
        traffic = action.traffic
        if not self._shaped(traffic.interface):
            self.enforced[action.handle] = (traffic, "the device has no rate_mbit")
            return
        await self._host.reserve(_flow(self.device(traffic.interface), action.handle, traffic))
        self.enforced[action.handle] = (traffic, "")

    def _shaped(self, interface: int) -> bool:
        link = self._links.get(self.device(interface))
        return link is not None and link.rate_mbit is not None


def _flow(device: str, handle: int, traffic: Traffic) -> FlowReserve:
    """A flow as the host helper takes it: whole numbers, none smaller than what was granted."""
    tspec = traffic.flowspec.tspec
    return FlowReserve(
        device=device,
        handle=handle,
        protocol=traffic.session.protocol,
        destination=str(traffic.session.destination),
        port=traffic.session.port,
        senders=tuple((str(sender.address), sender.port) for sender in traffic.senders if not sender.labelled),
        rate=max(1, round(tspec.rate)),
        bucket=max(1, min(round(tspec.bucket), 1 << 30)),
        served=max(1, round(tspec.rate), round(traffic.flowspec.rate)),
        max_packet=min(tspec.max_packet, 65_535),
    )


def read_keys(path: Path) -> tuple[Key, ...]:
    """Keys of a link; raises ``ConfigError`` without telling what stands in the file."""
    keys = []
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), "key_file", f"cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, secret = line.strip().partition(" ")
        try:
            keys.append(Key(int(name), bytes.fromhex(secret)))
        except (ValueError, RsvpError):
            raise ConfigError(str(path), "key_file", "not `NUMBER HEX` with a secret of at least 16 bytes", number) from None
    if not keys:
        raise ConfigError(str(path), "key_file", "no key is in it")
    return tuple(keys)
