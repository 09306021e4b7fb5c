"""Tunnel devices: a TUN device and raw GRE sockets for our own endpoint, or the kernel's GRE devices, one per peer.

The kernel device checks source and key; our endpoint (``polder.engine.gre``) also checks the inner source address, accepts
two keys while one is rotated, and works where the kernel has no GRE. A TUN device lives as long as somebody holds its
descriptor, so it vanishes with the agent; kernel devices are removed by name.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
import struct
from collections.abc import Iterable
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

from polder.host.commands import HostError, run
from polder.host.messages import Tunnel, TunnelPeer, TunnelUp

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_GRE = 47
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE = 10, 23, 3
_SOCKET_BUFFER = 4 << 20
"""Bytes: 20 ms of 1.6 Gbit/s, so that a pump that waits for its turn on a busy core loses nothing."""


class Tunnels:
    """The devices that one agent asked for. Not thread safe: one agent, one conversation."""

    def __init__(self) -> None:
        self._kernel: dict[str, dict[str, TunnelPeer]] = {}
        self._tun: set[str] = set()

    def set(self, tunnel: Tunnel) -> tuple[TunnelUp, list[int]]:
        """Make the device, or change it to the new addresses and peers. Returns the descriptors to hand over (mode ``tun``).

        The caller closes them after sending. Raises ``HostError``; a device that could not be finished is taken away.
        """
        known = tunnel.name in self._kernel or tunnel.name in self._tun
        if (
            tunnel.mode == "kernel"
            or tunnel.name in self._kernel
            or (tunnel.mode == "auto" and not known and kernel_gre() is None)
        ):
            return self._set_kernel(tunnel), []
        if tunnel.name in self._tun and _exists(tunnel.name):
            _configure_tun(tunnel)
            return TunnelUp(tunnel.name, "tun"), []
        return self._open(tunnel)

    def remove(self, name: str) -> None:
        """Take a device of ours away; nothing to do when it is gone."""
        if name not in self._kernel and name not in self._tun:
            return
        for device in [*self._kernel.pop(name, {}), name]:
            if _exists(device):
                run("ip", "link", "delete", device)
        self._tun.discard(name)

    def clear(self) -> None:
        """Take everything away: the agent is gone."""
        for name in [*self._kernel, *self._tun]:
            self.remove(name)

    def _open(self, tunnel: Tunnel) -> tuple[TunnelUp, list[int]]:
        opened: dict[str, int] = {}
        try:
            opened["tun"] = open_tun(tunnel.name)
            for local in tunnel.local:
                opened[f"raw{ip_address(local).version}"] = open_raw(local)
            _configure_tun(tunnel)
        except (HostError, OSError) as error:
            for descriptor in opened.values():
                os.close(descriptor)
            raise error if isinstance(error, HostError) else HostError(f"cannot make tunnel {tunnel.name}: {error}") from error
        self._tun.add(tunnel.name)
        return TunnelUp(tunnel.name, "tun", tuple(opened)), list(opened.values())

    def _set_kernel(self, tunnel: Tunnel) -> TunnelUp:
        """One device per peer, and a dummy device for our addresses. New ones come before routes move, old ones go last."""
        if tunnel.name not in self._kernel:
            run("ip", "link", "add", tunnel.name, "type", "dummy")
        have = self._kernel.setdefault(tunnel.name, {})
        _enable_ipv6(tunnel)
        lines = [f"link set dev {tunnel.name} up", *_addresses(tunnel.name, tunnel)]
        want = {_device(tunnel.name, peer): peer for peer in tunnel.peers}
        for device, peer in want.items():
            if device not in have:
                run("ip", "-batch", "-", stdin=_add_kernel(device, peer, tunnel.local))
                have[device] = peer
            lines += [f"link set dev {device} mtu {tunnel.mtu} up", *_routes(device, peer.inner, tunnel.addresses)]
        run("ip", "-batch", "-", stdin="\n".join(lines) + "\n")
        for device in set(have) - set(want):
            run("ip", "link", "delete", device)
            del have[device]
        return TunnelUp(tunnel.name, "kernel")


def kernel_gre() -> str | None:
    """Why the kernel cannot make GRE devices, and the dummy device beside them; ``None`` when it can. Asks it, by making some."""
    device = f"pldprobe{os.getpid() % 10**6}"[:15]
    for kind in ("gre local 192.0.2.1 remote 192.0.2.2 key 1", "dummy"):
        try:
            run("ip", "link", "add", device, "type", *kind.split())
        except HostError as error:
            return f"{kind.split()[0]}: {error.why}"
        run("ip", "link", "delete", device)
    return None


def open_tun(name: str) -> int:
    """A descriptor of a fresh TUN device without packet information (``IFF_NO_PI``)."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def open_raw(local: str) -> int:
    """A descriptor of a raw GRE socket bound to our outer address ``local``: the filter admits no other source.

    ``IP_PMTUDISC_PROBE`` (ip(7)) sets "don't fragment", for the filter refuses fragments, and does not believe ICMP about a
    smaller MTU, which anybody can forge: the tunnel's MTU is configured.
    """
    six = ip_address(local).version == 6
    raw = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _GRE)
    try:
        raw.bind((local, 0))
        level, option = (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER) if six else (socket.IPPROTO_IP, _IP_MTU_DISCOVER)
        raw.setsockopt(level, option, _PMTUDISC_PROBE)
        for force, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
            try:
                raw.setsockopt(socket.SOL_SOCKET, force, _SOCKET_BUFFER)
            except PermissionError:  # in a user namespace: as much as the host allows everybody
                raw.setsockopt(socket.SOL_SOCKET, plain, _SOCKET_BUFFER)
    except OSError:
        raw.close()
        raise
    return raw.detach()


def _configure_tun(tunnel: Tunnel) -> None:
    """Addresses, MTU and routes as asked; routes that are not asked any more go."""
    _enable_ipv6(tunnel)
    networks = [network for peer in tunnel.peers for network in peer.inner]
    wanted = {str(ip_network(network)) for network in networks}
    stale = [route for route in _present_routes(tunnel.name) if route not in wanted]
    lines = [
        f"link set dev {tunnel.name} mtu {tunnel.mtu} up",
        *_addresses(tunnel.name, tunnel),
        *_routes(tunnel.name, networks),
        *(f"route del {route} dev {tunnel.name} proto static" for route in stale),
    ]
    run("ip", "-batch", "-", stdin="\n".join(lines) + "\n")


def _enable_ipv6(tunnel: Tunnel) -> None:
    """A host that switches IPv6 off for new devices still needs it inside ours."""
    switch = Path(f"/proc/sys/net/ipv6/conf/{tunnel.name}/disable_ipv6")
    if any(":" in address for address in tunnel.addresses) and switch.exists() and switch.read_text().strip() == "1":
        switch.write_text("0")


def _addresses(device: str, tunnel: Tunnel) -> list[str]:
    return [f"address replace {address} dev {device}{' nodad' if ':' in address else ''}" for address in tunnel.addresses]


def _routes(device: str, networks: Iterable[str], sources: Iterable[str] = ()) -> list[str]:
    """``sources``: our addresses on another device, which the kernel would not choose by itself."""
    lines = []
    for network in sorted(set(networks)):
        version = ip_network(network).version
        source = next((each.partition("/")[0] for each in sources if ip_interface(each).version == version), None)
        lines.append(f"route replace {network} dev {device} proto static" + (f" src {source}" if source else ""))
    return lines


def _present_routes(device: str) -> list[str]:
    lines = [
        line
        for family in ("-4", "-6")
        for line in run("ip", family, "route", "show", "dev", device, "proto", "static").splitlines()
        if line.strip()
    ]
    return [str(ip_network(line.split()[0])) for line in lines]


def _add_kernel(device: str, peer: TunnelPeer, local: Iterable[str]) -> str:
    """A line for ``ip -batch``: the key is a secret, so it does not stand in argv."""
    version = ip_address(peer.outer).version
    own = next((each for each in local if ip_address(each).version == version), None)
    if own is None:
        raise HostError(f"no outer IPv{version} address of ours is given, but peer {peer.outer} needs one")
    kind = "gre" if version == 4 else "ip6gre"
    return f"link add {device} type {kind} local {own} remote {peer.outer} key {peer.key}\n"


def _device(name: str, peer: TunnelPeer) -> str:
    """One name per (outer address, key): at most 15 characters."""
    return name[:8] + hashlib.sha256(f"{name} {peer.outer} {peer.key}".encode()).hexdigest()[:7]


def _exists(device: str) -> bool:
    # Not /sys/class/net: a lab's namespace may still show the mount of another one.
    return device in {name for _, name in socket.if_nameindex()}
