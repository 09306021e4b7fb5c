"""``GreDevice``: one tunnel device of a shell, and the native endpoint that carries its packets where the kernel does not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from ipaddress import ip_address
from pathlib import Path

from polder.engine.gre import GreConfig, GreEndpoint, GrePeer
from polder.host.client import Host, HostHelper
from polder.host.commands import HostError
from polder.host.messages import Tunnel, TunnelPeer

log = logging.getLogger("polder.gre")


class GreDevice:
    """Call ``set`` with the wanted state as often as it changes; the device appears with the first address."""

    def __init__(self, helper: Path, device: str, local: tuple[str, ...], mtu: int) -> None:
        self._helper = helper
        self._device = device
        self._local = local
        self._mtu = mtu
        self._host: Host | None = None
        self._endpoint: GreEndpoint | None = None
        self._state: tuple[tuple[str, ...], tuple[GrePeer, ...]] = ((), ())
        self._turn = asyncio.Lock()

    async def set(self, addresses: tuple[str, ...], peers: tuple[GrePeer, ...]) -> None:
        """Make it so: inner ``addresses`` (CIDR) on the device, a tunnel to each of ``peers``. Raises ``HostError``."""
        async with self._turn:
            if (addresses, peers) == self._state or (not addresses and self._host is None):
                return
            await self._apply(addresses, peers)
            self._state = (addresses, peers)

    def helper_answers(self) -> bool:
        """Whether somebody listens at the helper's socket. May wait for it: call it in a thread."""
        try:
            HostHelper.reach(self._helper)
        except HostError:
            return False
        return True

    def counters(self) -> dict[str, int]:
        """Counters of the endpoint; empty where the kernel carries."""
        return self._endpoint.counters() if self._endpoint else {}

    async def close(self) -> None:
        """Take the device away."""
        async with self._turn:
            if self._endpoint is not None:
                await asyncio.to_thread(self._endpoint.stop)
                self._endpoint = None
            if self._host is not None:
                with contextlib.suppress(HostError):
                    await self._host.close()
                self._host = None
            self._state = ((), ())

    async def _apply(self, addresses: tuple[str, ...], peers: tuple[GrePeer, ...]) -> None:
        if self._host is None:
            self._host = await asyncio.to_thread(HostHelper, self._helper)
        # Only to our own inner addresses: a servlet that was taken over must not reach what is behind this host.
        own = tuple(f"{host}/{ip_address(host).max_prefixlen}" for host in (each.partition("/")[0] for each in addresses))
        config = GreConfig(peers, self._mtu, own)
        ends = tuple(TunnelPeer(peer.outer, peer.send_key, peer.inner) for peer in peers)
        try:
            up, descriptors = await self._host.tunnel(Tunnel(self._device, addresses, self._local, ends, self._mtu))
        except HostError:
            # The connection is the lifetime of the device: after a failure both are made anew.
            await self._host.close()
            self._host = None
            raise
        if descriptors:
            self._endpoint = GreEndpoint(descriptors, config)
        elif self._endpoint is not None:
            self._endpoint.update(config)
        log.info("tunnels changed", extra={"device": self._device, "peers": len(peers), "mode": up.mode})
