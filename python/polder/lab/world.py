"""A topology come to life: namespaces, TUN devices at the switch, the narrow link, addresses and routes.

```text
 node1 ─┐                                    isp                     gateway               site
 user1 ─┤ switch: delay, jitter, loss, ── wan │ narrow ═══ tbf ═══ uplink │ lan ───────── eth0
 bot1  ─┘ rate per pair                 the filter runs here
```

Addresses: wide-area host ``n`` of group ``g`` is 198.18.g.n and 2001:db8:18:g::n; the site's side is 198.19.0.0/16 and
2001:db8:19::/48 (benchmarking and documentation networks: RFC 2544, RFC 3849).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from polder.lab import enclosure, links
from polder.lab.latency import Matrix, load
from polder.lab.switch import PathSpec, PortSpec, Switch, log_file
from polder.lab.topology import SITE_HOSTS, Group, SiteLink, Topology, names_of

SITE_PREFIXES = (("198.19.0.0", 16), ("2001:db8:19::", 48))
GATEWAY_UP = ("198.19.1.2", "2001:db8:19:1::2")
ISP_DOWN = ("198.19.1.1", "2001:db8:19:1::1")
GATEWAY_LAN = ("198.19.2.1", "2001:db8:19:2::1")
SITE_ADDRESS = ("198.19.2.10", "2001:db8:19:2::10")
ISP_ADDRESS = ("198.19.0.1", "2001:db8:19::1")
_BURST_BYTES = 4 * 1514
_ROUTER = {"ipv4.ip_forward": 1, "ipv6.conf.all.forwarding": 1}
_HOST = {"ipv4.conf.all.rp_filter": 0, "ipv4.conf.default.rp_filter": 0}


@dataclass(frozen=True)
class Host:
    """A host: ``port`` is its number at the switch, ``None`` behind the ISP's router."""

    name: str
    ipv4: str
    ipv6: str
    place: int
    port: int | None


class Ports(NamedTuple):
    """Where the site's web server listens."""

    http: int
    https: int


class Scene(Protocol):
    """Hosts somewhere: what phases and overlays need to know of a world."""

    @property
    def separate(self) -> bool:
        """Whether every host has a network of its own."""

    @property
    def ports(self) -> Ports:
        """Of the site's web server."""

    @property
    def hosts(self) -> dict[str, Host]:
        """By name."""

    def counts(self, names: list[str]) -> dict[str, int]:
        """The switch's counters, summed."""

    def narrow(self) -> dict[str, int]:
        """Of the narrow link."""

    def close(self) -> None:
        """End it."""


class World:
    """All hosts of a topology, connected. ``close`` ends the switch; the namespaces end with the enclosure."""

    ports = Ports(http=80, https=443)
    separate = True

    def __init__(self, topology: Topology, directory: Path) -> None:
        """Build it, in about half a second. Raises ``LinkError``, ``NoMatrixError``, ``SwitchError``."""
        if not enclosure.inside():
            raise RuntimeError("a world is built inside the laboratory's namespaces only: enclosure.run(…)")
        directory.mkdir(parents=True, exist_ok=True)
        self.topology = topology
        self.directory = directory
        rng = random.Random(topology.seed)
        count = len(topology.host_names()) + 1
        self.matrix = load(topology.wide_area.matrix, count, rng)
        self.hosts: dict[str, Host] = {}
        self._switch_log = log_file(directory)
        self.switch = self._build()
        self._write_hosts_file()

    def close(self) -> None:
        """End the switch."""
        self.switch.close()
        self._switch_log.close()

    def counts(self, names: list[str]) -> dict[str, int]:
        """The switch's counters, summed over the hosts ``names``."""
        report = self.switch.report()["ports"]
        total: dict[str, int] = {}
        for name in names:
            port = self.hosts[name].port
            if port is None:
                raise ValueError(f"{name} is not at the switch")
            for key, value in report[port].items():
                total[key] = total.get(key, 0) + value
        return total

    def rtt_ms(self, a: str, b: str) -> float:
        """The matrix's round-trip time between two hosts, without queues."""
        return self.matrix.rtt_ms[self.hosts[a].place][self.hosts[b].place]

    def narrow(self) -> dict[str, int]:
        """Counters of the narrow link towards the site: sent and dropped, by the kernel's shaper."""
        return links.shaper_counts("isp", "narrow")

    def _build(self) -> Switch:
        topology, ports = self.topology, []
        wide = list(_wide_hosts(topology, self.matrix))
        links.ip([f"netns add {name}" for name in (host.name for host, _ in wide)])
        for host, group in wide:
            self.hosts[host.name] = host
            fd = _attach(host)
            prefixes = ((host.ipv4, 32), (host.ipv6, 128))
            ports.append(self._port(fd, prefixes, host.place, group.up_mbit, group.down_mbit))
        self._add_customers(ports)
        area = topology.wide_area
        return Switch(ports, list(_paths(self.matrix, topology)), topology.seed, area.most_packets, self._switch_log)

    def _add_customers(self, ports: list[PortSpec]) -> None:
        """Who lives behind a router: the site, if the topology has one."""
        link = self.topology.site
        if link is None:
            return
        links.ip([f"netns add {name}" for name in SITE_HOSTS])
        place = self._place(link.place, len(ports))
        ports.append(self._port(_attach_site(link), SITE_PREFIXES, place, 0, 0))
        self.hosts["isp"] = Host("isp", *ISP_ADDRESS, place, len(ports) - 1)
        self.hosts["gateway"] = Host("gateway", *GATEWAY_UP, place, None)
        self.hosts["site"] = Host("site", *SITE_ADDRESS, place, None)

    def _place(self, name: str, otherwise: int) -> int:
        """Where in the matrix; a measured one has no names."""
        return self.matrix.place(name) if name in self.matrix.names else otherwise % len(self.matrix.names)

    def _port(self, fd: int, prefixes: tuple[tuple[str, int], ...], place: int, up: float, down: float) -> PortSpec:
        queue_us = self.topology.wide_area.queue_ms * 1000
        return PortSpec(fd, prefixes, place, int(up * 1e6), int(down * 1e6), queue_us)

    def _write_hosts_file(self) -> None:
        """Every process inside resolves the hosts' names; there is no DNS and no way out to ask for it."""
        lines = ["127.0.0.1 localhost", "::1 localhost"]
        lines += [f"{address} {host.name}.lab" for host in self.hosts.values() for address in (host.ipv4, host.ipv6)]
        path = self.directory / "hosts"
        path.write_text("\n".join(lines) + "\n")
        enclosure.show_as(path, Path("/etc/hosts"))
        nowhere = self.directory / "resolv.conf"
        nowhere.write_text("# the laboratory has no DNS\noptions timeout:1 attempts:1\n")
        enclosure.show_as(nowhere, Path("/etc/resolv.conf").resolve() if Path("/etc/resolv.conf").exists() else nowhere)


def _wide_hosts(topology: Topology, matrix: Matrix) -> Iterator[tuple[Host, Group]]:
    port = 0
    for number, group in enumerate(topology.groups, 1):
        known = [matrix.place(name) for name in group.places] if matrix.source == "synthetic" else []
        for index, name in enumerate(names_of(group), 1):
            place = known[(index - 1) % len(known)] if known else port % len(matrix.names)
            yield Host(name, f"198.18.{number}.{index}", f"2001:db8:18:{number:x}::{index:x}", place, port), group
            port += 1


def _paths(matrix: Matrix, topology: Topology) -> Iterator[PathSpec]:
    """Half of the round trip each way."""
    area = topology.wide_area
    for row in matrix.rtt_ms:
        for rtt in row:
            delay = int(rtt * 500)
            yield PathSpec(delay, int(delay * area.jitter), int(area.loss * 1e6))


def _attach(host: Host) -> int:
    fd = links.open_tun(host.name, "wan")
    links.sysctl(host.name, _HOST)
    links.ip(
        [
            "link set lo up",
            f"address add {host.ipv4}/32 dev wan",
            f"address add {host.ipv6}/128 dev wan nodad",
            "link set wan up",
            "route add default dev wan",
            "route add ::/0 dev wan",
        ],
        host.name,
    )
    return fd


def _attach_site(link: SiteLink) -> int:
    """The ISP's router, the gateway and the site; returns the descriptor of the router's wide-area device."""
    fd = links.open_tun("isp", "wan")
    links.ip(["link add narrow netns isp type veth peer name uplink netns gateway"])
    links.ip(["link add lan netns gateway type veth peer name eth0 netns site"])
    for router in ("isp", "gateway"):
        links.sysctl(router, _ROUTER | _HOST)
    links.ip([*_device("wan", ISP_ADDRESS, (32, 128)), *_device("narrow", ISP_DOWN, (30, 64)), *_default(None, "wan")], "isp")
    links.ip([f"route add 198.19.2.0/24 via {GATEWAY_UP[0]}", f"route add 2001:db8:19:2::/64 via {GATEWAY_UP[1]}"], "isp")
    links.ip([*_device("uplink", GATEWAY_UP, (30, 64)), *_device("lan", GATEWAY_LAN, (24, 64)), *_default(ISP_DOWN)], "gateway")
    links.ip([*_device("eth0", SITE_ADDRESS, (24, 64)), *_default(GATEWAY_LAN)], "site")
    links.tc(_shape("narrow", link.down_mbit, link.queue_ms), "isp")
    links.tc(_shape("uplink", link.up_mbit, link.queue_ms), "gateway")
    return fd


def _shape(device: str, mbit: float, queue_ms: int) -> list[str]:
    """A token bucket over a queue that counts packets, as routers' queues do: a full one drops small packets like large ones.

    (The bucket's own queue counts bytes; in it a SYN nearly always finds the room that a flood's packet does not.)
    """
    packets = max(16, round(mbit * 1e6 / 8 * queue_ms / 1000 / 1500))
    return [
        f"qdisc add dev {device} root handle 1: tbf rate {int(mbit * 1e6)}bit burst {_BURST_BYTES} latency {queue_ms}ms",
        f"qdisc add dev {device} parent 1:1 handle 10: pfifo limit {packets}",
    ]


def _device(name: str, addresses: tuple[str, str], lengths: tuple[int, int]) -> list[str]:
    return [
        "link set lo up",
        f"address add {addresses[0]}/{lengths[0]} dev {name}",
        f"address add {addresses[1]}/{lengths[1]} dev {name} nodad",
        f"link set {name} up",
    ]


def _default(via: tuple[str, str] | None, device: str = "") -> list[str]:
    ways = [f"dev {device}"] * 2 if via is None else [f"via {address}" for address in via]
    return [f"route add default {ways[0]}", f"route add ::/0 {ways[1]}"]
