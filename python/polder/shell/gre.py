"""``GreDevice``: one tunnel device of a shell, and the native endpoint that carries its packets where the kernel does not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

import msgspec

from polder.engine.gre import GreConfig, GreEndpoint, GrePeer
from polder.host.client import Host, HostHelper
from polder.host.commands import HostError
from polder.host.messages import Tunnel, TunnelPeer
from polder.shell.handover import recall
from polder.shell.sockets import Inherited

log = logging.getLogger("polder.gre")

_State = tuple[tuple[str, ...], tuple[GrePeer, ...]]
"""Inner addresses and peers."""


class GreDevice:
    """Call ``set`` with the wanted state as often as it changes; the device appears with the first address."""

    def __init__(self, helper: Path, device: str, local: tuple[str, ...], mtu: int) -> None:
        self._helper = helper
        self._device = device
        self._name = f"gre/{device}/"
        self._local = local
        self._mtu = mtu
        self._host: Host | None = None
        self._endpoint: GreEndpoint | None = None
        self._descriptors: dict[str, int] = {}
        self._state: _State = ((), ())
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

    @property
    def stands(self) -> bool:
        """Whether the device is there."""
        return self._host is not None

    def counters(self) -> dict[str, int]:
        """Counters of the endpoint; empty where the kernel carries."""
        return self._endpoint.counters() if self._endpoint else {}

    def descriptors(self) -> list[tuple[str, int]]:
        """The connection to the helper, which is the life of the device, and the device itself; they stay ours."""
        if self._host is None:
            return []
        return [(f"{self._name}{name}", fd) for name, fd in [("helper", self._host.fileno()), *self._descriptors.items()]]

    def memory(self) -> dict[str, bytes]:
        """What is set, with the tunnels' keys."""
        return {self._name: msgspec.msgpack.encode(self._state)} if self._host else {}

    def resume(self, sockets: Inherited, memory: Mapping[str, bytes]) -> None:
        """Go on with the device of the process before this one; without a word of what is set it is made anew."""
        descriptors = sockets.take(self._name)
        state = recall(memory, self._name, _State)
        helper = descriptors.pop("helper", None)
        if state is None or helper is None:
            for descriptor in descriptors.values() if helper is None else [helper, *descriptors.values()]:
                os.close(descriptor)
            return
        self._host = HostHelper.adopt(helper)
        if descriptors:
            self._carry(descriptors, self._config(*state))
        self._state = state

    def release(self) -> None:
        """The next process carries: its endpoint reads the same device. The packets of our streams pass through it too."""
        if self._endpoint is not None:
            self._endpoint.stop()
            self._endpoint = None
        self._forget()
        if self._host is not None:
            self._host.let_go()
            self._host = None

    async def close(self) -> None:
        """Take the device away."""
        async with self._turn:
            self._forget()
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
        config = self._config(addresses, peers)
        ends = tuple(TunnelPeer(peer.outer, peer.send_key, peer.inner) for peer in peers)
        try:
            up, descriptors = await self._host.tunnel(Tunnel(self._device, addresses, self._local, ends, self._mtu))
        except HostError:
            # The connection is the lifetime of the device: after a failure both are made anew.
            await self._host.close()
            self._host = None
            raise
        if descriptors:
            self._carry(descriptors, config)
        elif self._endpoint is not None:
            self._endpoint.update(config)
        log.info("tunnels changed", extra={"device": self._device, "peers": len(peers), "mode": up.mode})

    def _config(self, addresses: tuple[str, ...], peers: tuple[GrePeer, ...]) -> GreConfig:
        # Only to our own inner addresses: a servlet that was taken over must not reach what is behind this host.
        own = tuple(f"{host}/{ip_address(host).max_prefixlen}" for host in (each.partition("/")[0] for each in addresses))
        return GreConfig(peers, self._mtu, own)

    def _carry(self, descriptors: dict[str, int], config: GreConfig) -> None:
        """Start the endpoint; copies are kept for a process that takes over."""
        self._forget()
        self._descriptors = {name: os.dup(descriptor) for name, descriptor in descriptors.items()}
        self._endpoint = GreEndpoint(descriptors, config)

    def _forget(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors = {}
