"""What the machine decided is done with the links, by the host helper: one change at a time, in order; all again when it comes back."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from polder.host.client import Host
from polder.host.commands import HostError
from polder.host.messages import FlowReserve
from polder.rsvp.state import Install, Traffic, Uninstall

log = logging.getLogger("polder.rsvpd")

UNORDERED = "the device has no rate_mbit"
_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class _Order:
    """From now on these devices have ordered queues, each with its rate in bytes/s, and no others."""

    rates: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Again:
    """The host helper went away, and took its queues with it."""


class Enforcer:
    """See the module. ``flows``: what is installed, by handle: the flow, and why it is not enforced (empty: it is)."""

    def __init__(
        self,
        connect: Callable[[], Host],
        device: Callable[[int], str],
        done: Callable[[int, str], None],
        counts: Counter[str],
    ) -> None:
        """``connect`` reaches the host helper, in a thread, and may raise ``HostError``; ``device`` names an interface; ``done`` hears of
        each ``Install`` that nothing has overtaken, by its handle: empty when it is in force, else why it cannot be.
        """
        self.flows: dict[int, tuple[Traffic, str]] = {}
        self._connect = connect
        self._device = device
        self._done = done
        self._counts = counts
        self._host: Host | None = None
        self._rates: dict[str, int] = {}
        self._work: asyncio.Queue[Install | Uninstall | _Order | _Again] = asyncio.Queue()
        self._latest: dict[int, Install | Uninstall] = {}
        self._coming = False

    async def open(self, rates: Mapping[str, int]) -> dict[str, int]:
        """Reach the helper, order these queues; raw sockets of RSVP by name. Raises ``HostError``."""
        self._host = await asyncio.to_thread(self._connect)
        self._rates = dict(rates)
        for device, rate in rates.items():
            await self._host.shape(device, rate)
        return await self._host.rsvp_sockets()

    async def close(self) -> None:
        """Leave: links get their usual queue back."""
        if self._host is not None:
            await self._host.close()

    def put(self, change: Install | Uninstall) -> None:
        """Do that after what was put before; an ``Install`` that still waits for its turn then need not be done."""
        self._latest[change.handle] = change
        self._work.put_nowait(change)

    def order(self, rates: Mapping[str, int]) -> None:
        """Other devices, or other rates; reservations stay."""
        self._work.put_nowait(_Order(dict(rates)))

    async def run(self) -> None:
        """Work, for ever."""
        while True:
            change = await self._work.get()
            match change:
                case Install() if self._latest.get(change.handle) is change:
                    why = await self._install(change.handle, change.traffic)
                    if self._over(change):  # else the handle means something else by now, of which this says nothing
                        self._done(change.handle, why)
                case Uninstall():
                    await self._uninstall(change.handle)
                    self._over(change)
                case _Order():
                    await self._reorder(change.rates)
                case _Again():
                    await self._return()

    async def watch(self) -> None:
        """Notice, for ever, when the helper has gone: nobody else may have anything to ask of it."""
        while True:
            await asyncio.sleep(_LOOK_S)
            if not self._coming and self._host is not None and self._host.gone():
                self._coming = True
                self._work.put_nowait(_Again())

    async def carried(self, device: str) -> dict[int, tuple[int, int, int, int]]:
        """Counters of flows on a device; none when its queue is not ordered."""
        if device not in self._rates or self._host is None:
            return {}
        try:
            return await self._host.carried(device)
        except HostError as error:
            log.warning("no counters", extra={"device": device, "error": error.why})
            return {}

    def _over(self, change: Install | Uninstall) -> bool:
        """It was done; whether it is still the last word on its handle."""
        latest = self._latest.get(change.handle) is change
        if latest:
            del self._latest[change.handle]
        return latest

    async def _install(self, handle: int, traffic: Traffic) -> str:
        """Why it is not done; empty when it is, or when the device is one without an order."""
        device, why = self._device(traffic.interface), ""
        if device not in self._rates or self._host is None:
            self.flows[handle] = (traffic, UNORDERED)
            return ""
        if any(sender.labelled for sender in traffic.senders):
            why = "packets are told apart by ports here, not by flow labels"
        else:
            try:
                await self._host.reserve(_flow(device, handle, traffic))
            except HostError as error:
                why = error.why
        if why:
            self._counts["not-enforced"] += 1
            log.error("a reservation is not enforced", extra={"error": why})
        self.flows[handle] = (traffic, why)
        return why

    async def _uninstall(self, handle: int) -> None:
        gone = self.flows.pop(handle, None)
        device = self._device(gone[0].interface) if gone is not None else ""
        if device not in self._rates or self._host is None:
            return
        try:
            await self._host.release(device, handle)
        except HostError as error:
            log.error("a reservation was not let go", extra={"error": error.why})

    async def _reorder(self, rates: Mapping[str, int]) -> None:
        before, self._rates = self._rates, dict(rates)
        for device in before.keys() - rates.keys():
            await self._shape(device, None, anew=False)
            self._unenforced(device, UNORDERED)
        for device, rate in rates.items():
            await self._shape(device, rate, anew=device not in before)

    async def _shape(self, device: str, rate: int | None, *, anew: bool) -> None:
        """Order a queue; ``anew``: its device's reservations are not in it yet."""
        assert self._host is not None
        try:
            await self._host.shape(device, rate)
        except HostError as error:
            self._counts["not-enforced"] += 1
            log.error("a link's queue is not ordered", extra={"device": device, "error": error.why})
            if anew:
                self._unenforced(device, error.why)
            return
        for handle, (traffic, _) in [*self.flows.items()] if anew else ():
            if self._device(traffic.interface) == device:
                await self._install(handle, traffic)

    async def _return(self) -> None:
        """Everything once more, at a helper that has started anew."""
        self._coming = False
        if self._host is not None:
            await self._host.close()
        try:
            self._host = await asyncio.to_thread(self._connect)
        except HostError as error:
            log.error("reservations are not enforced: the host helper is away", extra={"error": error.why})
            for device in self._rates:
                self._unenforced(device, error.why)
            return
        self._counts["helper-back"] += 1
        for device, rate in self._rates.items():
            await self._shape(device, rate, anew=True)

    def _unenforced(self, device: str, why: str) -> None:
        """Say so of what is granted on a device."""
        for handle, (traffic, _) in self.flows.items():
            if self._device(traffic.interface) == device:
                self.flows[handle] = (traffic, why)


def _flow(device: str, handle: int, traffic: Traffic) -> FlowReserve:
    """A flow as the host helper takes it: whole numbers, none smaller than what was granted."""
    tspec = traffic.flowspec.tspec
    return FlowReserve(
        device=device,
        handle=handle,
        protocol=traffic.session.protocol,
        destination=str(traffic.session.destination),
        port=traffic.session.port,
        senders=tuple((str(sender.address), sender.port) for sender in traffic.senders),
        rate=max(1, round(tspec.rate)),
        bucket=max(1, min(round(tspec.bucket), 1 << 30)),
        served=max(1, round(tspec.rate), round(traffic.flowspec.rate)),
        max_packet=min(tspec.max_packet, 65_535),
    )
