"""How servlets reach this site: the private half of appointments, and this side of the tunnels."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from pathlib import Path

from polder.engine.gre import GrePeer
from polder.model import Member
from polder.model.overlay_messages import Delivery, Transport
from polder.overlay.site import Admitted
from polder.perimeter import inner
from polder.settings.site import SiteSettings
from polder.shell.gre import GreDevice
from polder.shell.sockets import Inherited

MTU = 1400
_LOW_PORTS = 20_000
"""Added to privileged ports inside the tunnel, so that the agent needs no right to bind them."""


def inner_port(asked: int) -> int:
    """The agent's port inside the tunnel for an asked port."""
    return asked if asked >= 1024 else asked + _LOW_PORTS


class Ways:
    """Deliveries of one site. ``secret``: behind the inner addresses."""

    def __init__(self, settings: SiteSettings, secret: bytes, device_name: str) -> None:
        self._settings = settings
        self._secret = secret
        self._transport = Transport(settings.transport)
        self._device: GreDevice | None = None
        if self._transport is Transport.GRE:
            if settings.host_helper is None or settings.edge is None:
                raise ValueError('transport = "gre" needs host_helper, the socket of `polder host-helper`, and edge')
            self._device = GreDevice(Path(settings.host_helper), device_name, (settings.edge,), MTU)

    @property
    def dials_out(self) -> bool:
        """Whether the agent keeps connections to its servlets."""
        return self._transport is Transport.DIALOUT

    @property
    def gateway(self) -> str:
        """This side's inner address."""
        return inner.gateway(self._secret, self._settings.name)

    @property
    def secret_is(self) -> str:
        """What a node that was a servlet knows for good, in words for the owner (``docs/design/roles.md``)."""
        if self.dials_out:
            return "the address from which the site dials out"
        return "the edge address" if self._transport is Transport.GRE else "the origin's address"

    def carrier(self, servlet: str) -> str:
        """By what the data plane knows the streams that come over ``servlet``."""
        return inner.servlet(self._secret, self._settings.name, servlet) if self._transport is Transport.GRE else servlet

    def listen(self) -> tuple[str, ...]:
        """Where the agent's engine listens: inside the tunnel, one port for each that users may ask for."""
        if self._device is None:
            return ()
        return tuple(f"[{self.gateway}]:{inner_port(asked)}" for asked, _ in self._settings.port_map())

    def origins(self) -> tuple[tuple[int, str], ...]:
        """Port → origin: asked ports (dial-out) and those inside the tunnel."""
        asked = self._settings.port_map()
        inside = tuple((inner_port(port), origin) for port, origin in asked if self._device is not None)
        return tuple(dict([*asked, *inside]).items())

    def deliver(self, member: Member, key: int, _slot: int) -> Delivery:
        """The private half of ``member``'s appointment."""
        asked = self._settings.port_map()
        match self._transport:
            case Transport.DIALOUT:
                return Delivery(Transport.DIALOUT)
            case Transport.TCP:
                ports = tuple((port, int(origin.rpartition(":")[2])) for port, origin in asked)
                return Delivery(Transport.TCP, inner_remote=self._settings.edge or "", ports=ports)
            case Transport.GRE:
                return Delivery(
                    Transport.GRE,
                    outer_remote=self._settings.edge or "",
                    key=key,
                    inner_local=inner.servlet(self._secret, self._settings.name, member.name),
                    inner_remote=self.gateway,
                    mtu=MTU,
                    ports=tuple((port, inner_port(port)) for port, _ in asked),
                    preface=self._settings.tell != "nothing",
                )

    def descriptors(self) -> list[tuple[str, int]]:
        """The tunnel device, for the process that takes over; they stay ours."""
        return self._device.descriptors() if self._device else []

    def memory(self) -> dict[str, bytes]:
        """What is set on it."""
        return self._device.memory() if self._device else {}

    def resume(self, sockets: Inherited, memory: Mapping[str, bytes]) -> None:
        """Go on with the device of the process before this one, if there is one."""
        if self._device is not None:
            self._device.resume(sockets, memory)

    def release(self) -> None:
        """The next process carries."""
        if self._device is not None:
            self._device.release()

    async def open(self) -> None:
        """Make the device with this side's address, if it does not stand. Raises ``HostError``."""
        if self._device is not None and not self._device.stands:
            await self._device.set((f"{self.gateway}/128",), ())

    async def admit(self, admitted: Iterable[Admitted]) -> None:
        """Tunnels to those, and to nobody else. Raises ``HostError``."""
        if self._device is None:
            return
        peers = tuple(
            GrePeer(outer(each.member), each.key, (each.key,), (f"{self.deliver(each.member, each.key, 0).inner_local}/128",))
            for each in admitted
        )
        await self._device.set((f"{self.gateway}/128",), peers)

    def counters(self) -> dict[str, int]:
        """Counters of the GRE endpoint."""
        return self._device.counters() if self._device else {}

    async def close(self) -> None:
        """Take the device away."""
        if self._device is not None:
            await self._device.close()


def outer(member: Member) -> str:
    """A node's outer address without its port."""
    return str(ipaddress.ip_address(member.address.rpartition(":")[0].strip("[]")))
