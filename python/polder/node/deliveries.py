"""The ways from this servlet to its sites: makes tunnels where deliveries want them and says which sites can be reached."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from polder.engine.gre import GrePeer
from polder.host.commands import HostError
from polder.model.overlay_messages import Delivery, Transport
from polder.shell.gre import GreDevice
from polder.shell.handover import recall
from polder.shell.metrics import Number
from polder.shell.sockets import Inherited
from polder.snapshot.fold import Delivery as Way
from polder.snapshot.fold import DialOut, TcpDelivery

log = logging.getLogger("polder.node")

_MTU = 1400
_RETRY = 2.0
_EXPECT = 5.0
"""Seconds after an upgrade within which sites' agents have dialled the new process."""


class Deliveries:
    """``on_ready(site, ready)`` is told of every change. ``helper``: socket of the host helper, without which GRE is refused."""

    def __init__(self, helper: Path | None, outer: str, on_ready: Callable[[str, bool], None]) -> None:
        self._device = GreDevice(helper, "pldnode", (outer,), _MTU) if helper else None
        self._on_ready = on_ready
        self._helper_up = False
        self._wanted: Mapping[str, Delivery] = {}
        self._ready: set[str] = set()
        self._dialled_in: set[str] = set()
        self._expected: set[str] = set()

    def descriptors(self) -> list[tuple[str, int]]:
        """The tunnel device, for the process that takes over; they stay ours."""
        return self._device.descriptors() if self._device else []

    def memory(self) -> dict[str, bytes]:
        """What stands, for the process that takes over."""
        ready = {"dialled_in": msgspec.msgpack.encode(self._dialled_in)}
        return ready | (self._device.memory() if self._device else {})

    def resume(self, sockets: Inherited, memory: Mapping[str, bytes]) -> None:
        """Go on with the tunnels of the process before this one, and expect the agents that had dialled it: they dial again."""
        if self._device is not None:
            self._device.resume(sockets, memory)
        self._expected = recall(memory, "dialled_in", set[str]) or set()
        self._dialled_in |= self._expected
        asyncio.get_running_loop().call_later(_EXPECT, self._expect_no_more)

    def release(self) -> None:
        """The next process carries."""
        if self._device is not None:
            self._device.release()

    def _expect_no_more(self) -> None:
        self._dialled_in -= self._expected
        self._expected = set()
        self._tell()

    async def set(self, wanted: Mapping[str, Delivery]) -> None:
        """What the appointments want now. On return the tunnels stand, or a retry is due."""
        self._wanted = dict(wanted)
        await self._settle()

    def dialled_in(self, site: str, up: bool) -> None:
        """A site's agent came or went."""
        self._expected.discard(site)
        (self._dialled_in.add if up else self._dialled_in.discard)(site)
        self._tell()

    async def forever(self) -> None:
        """Try again what failed: the helper may have been started later, or anew."""
        if self._device is not None:
            self._helper_up = await asyncio.to_thread(self._device.helper_answers)
        await asyncio.sleep(_RETRY)
        await self._settle()

    def counters(self) -> dict[str, int]:
        """Counters of the GRE endpoint."""
        return self._device.counters() if self._device else {}

    def numbers(self) -> dict[str, Number]:
        """What ``/metrics`` tells."""
        return {} if self._device is None else {**self.counters(), "host_helper_up": self._helper_up}

    async def close(self) -> None:
        """Take the tunnels away."""
        if self._device is not None:
            await self._device.close()

    async def _settle(self) -> None:
        gre = {site: way for site, way in self._wanted.items() if way.transport is Transport.GRE}
        stands = await self._tunnels(gre)
        self._ready = {site for site, way in self._wanted.items() if way.transport is Transport.TCP or (site in gre and stands)}
        self._tell()

    async def _tunnels(self, gre: Mapping[str, Delivery]) -> bool:
        if self._device is None:
            return False
        addresses = tuple(sorted({_host_network(way.inner_local) for way in gre.values()}))
        peers = tuple(
            GrePeer(way.outer_remote, way.key, (way.key,), (_host_network(way.inner_remote),)) for _, way in sorted(gre.items())
        )
        try:
            await self._device.set(addresses, peers)
        except (HostError, ValueError, OSError) as error:
            log.warning("no tunnel to a site; it is tried again", extra={"error": str(error)})
            return False
        return True

    def _tell(self) -> None:
        for site, way in self._wanted.items():
            self._on_ready(site, site in (self._dialled_in if way.transport is Transport.DIALOUT else self._ready))


def way_of(delivery: Delivery) -> Way:
    """A delivery as the data plane wants it."""
    match delivery.transport:
        case Transport.DIALOUT:
            return DialOut()
        case Transport.GRE:
            return TcpDelivery(delivery.inner_remote, delivery.inner_local, delivery.ports, delivery.preface)
        case Transport.TCP:
            return TcpDelivery(delivery.inner_remote, None, delivery.ports)


def _host_network(address: str) -> str:
    parsed = ipaddress.ip_address(address)
    return f"{parsed}/{parsed.max_prefixlen}"
