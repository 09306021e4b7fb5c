"""Two ISPs with narrow last hops: the scene.

```text
 node1, node2 (Amsterdam) ─┐                                              ┌─ node9, node10 (Madrid)
 node3 … node8, authority ─┤ switch: delays of the wide area ─────────────┤
 market, bot ──────────────┘         │                │                   │
                                   edge ═ line ═ user isp ═ line ═ gateway ─ site
```

A line is a switch of its own with a rate, a delay and a queue, whatever the routers at its ends do. Addresses: the site's side is
that of ``World``, the user's 198.18.200.0/24; behind the site's line its neighbours are 198.19.3.10, for traffic that is not the site's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from polder.lab import links, topology
from polder.lab.switch import PathSpec, PortSpec, Switch
from polder.lab.world import GATEWAY_LAN, GATEWAY_UP, ISP_ADDRESS, ISP_DOWN, SITE_ADDRESS, SITE_PREFIXES, Host, World

LINE_MBIT, LINE_DELAY_MS, QUEUE_MS = 10.0, 2.0, 50
USER_NODES, SITE_NODES = ("node1", "node2"), ("node9", "node10")
"""The nodes in the user's ISP and in the site's: the nearest, to which bandwidth is reserved."""
USER_PLACE, SITE_PLACE = "Amsterdam", "Madrid"
USER_PREFIXES = (("198.18.200.0", 24), ("2001:db8:18:c8::", 64))
EDGE, EDGE_DOWN, USER = "198.18.200.1", "198.18.200.5", "198.18.200.6"
NEIGHBOURS = "198.19.3.10"
NARROW, OUT = "narrow", "out"
"""The line's devices: the ISP's end, and the customer's."""
_ROUTER = {"ipv4.ip_forward": 1, "ipv4.conf.all.rp_filter": 0, "ipv4.conf.default.rp_filter": 0}
_MOST = 65_536
_EVERYWHERE = (("0.0.0.0", 0),)  # noqa: S104 - a prefix


@dataclass(frozen=True)
class Side:
    """One end of the story: whose line it is, at which ISP's router, and which nodes are near."""

    isp: str
    customer: str
    address: str
    """The customer's, at the line."""
    crossed: str
    """Where cross traffic through the line goes."""
    nodes: tuple[str, ...]
    behind: tuple[tuple[str, int], ...] = ()
    """Networks behind the customer's end of the line."""


SIDES = (
    Side("edge", "user", USER, USER, USER_NODES),
    Side("isp", "gateway", GATEWAY_UP[0], NEIGHBOURS, SITE_NODES, (("198.19.2.0", 23),)),
)


class TwoIsps(World):
    """The scene, built inside the enclosure. ``close`` ends its switches."""

    def __init__(self, directory: Path) -> None:
        """Raises ``LinkError``, ``SwitchError``."""
        self._lines: list[Switch] = []
        super().__init__(topology.load("olintserv"), directory)

    def close(self) -> None:
        """End the switches."""
        for line in self._lines:
            line.close()
        super().close()

    def plug(self, hosts: Sequence[str], *, plugged: bool) -> None:
        """Pull the cables of hosts in the wide area, or put them in again. Nobody is told."""
        for name in hosts:
            port = self.hosts[name].port
            assert port is not None
            self.switch.plug(port, plugged)

    def _add_customers(self, ports: list[PortSpec]) -> None:
        links.ip([f"netns add {name}" for name in ("edge", "user", "isp", "gateway", "site")])
        for side in SIDES:
            for router in (side.isp, side.customer):
                links.sysctl(router, _ROUTER)
                links.ip(["link set lo up"], router)
            self._line(side)
        self._user_side(ports)
        self._site_side(ports)

    def _line(self, side: Side) -> None:
        rate = int(LINE_MBIT * 1e6)
        ends = (side.isp, NARROW, _EVERYWHERE), (side.customer, OUT, ((side.address, 32), *side.behind))
        ports = [
            PortSpec(links.open_tun(host, device), prefixes, place, rate, rate, QUEUE_MS * 1000)
            for place, (host, device, prefixes) in enumerate(ends)
        ]
        self._lines.append(Switch(ports, [PathSpec(round(LINE_DELAY_MS * 1000))] * 4, 1, _MOST, self._switch_log))

    def _user_side(self, ports: list[PortSpec]) -> None:
        place = self.matrix.place(USER_PLACE)
        fd = links.open_tun("edge", "wan")
        links.ip([*_device("wan", EDGE, 32), *_device(NARROW, EDGE_DOWN, 30), "route add default dev wan"], "edge")
        links.ip([*_device(OUT, USER, 30), f"route add default via {EDGE_DOWN}"], "user")
        ports.append(self._port(fd, USER_PREFIXES, place, 0, 0))
        self.hosts["edge"] = Host("edge", EDGE, "2001:db8:18:c8::1", place, len(ports) - 1)
        self.hosts["user"] = Host("user", USER, "2001:db8:18:c8::6", place, None)

    def _site_side(self, ports: list[PortSpec]) -> None:
        place = self.matrix.place(SITE_PLACE)
        fd = links.open_tun("isp", "wan")
        links.ip(["link add lan netns gateway type veth peer name eth0 netns site"])
        links.ip([*_device("wan", ISP_ADDRESS[0], 32), *_device(NARROW, ISP_DOWN[0], 30), "route add default dev wan"], "isp")
        links.ip([f"route add 198.19.2.0/23 via {GATEWAY_UP[0]}"], "isp")
        inside = [*_device("lan", GATEWAY_LAN[0], 24), f"address add {NEIGHBOURS}/32 dev lo"]
        links.ip([*_device(OUT, GATEWAY_UP[0], 30), *inside, f"route add default via {ISP_DOWN[0]}"], "gateway")
        links.ip(["link set lo up", *_device("eth0", SITE_ADDRESS[0], 24), f"route add default via {GATEWAY_LAN[0]}"], "site")
        ports.append(self._port(fd, SITE_PREFIXES, place, 0, 0))
        self.hosts["isp"] = Host("isp", *ISP_ADDRESS, place, len(ports) - 1)
        self.hosts["gateway"] = Host("gateway", *GATEWAY_UP, place, None)
        self.hosts["site"] = Host("site", *SITE_ADDRESS, place, None)


def _device(name: str, address: str, length: int) -> list[str]:
    return [f"address add {address}/{length} dev {name}", f"link set {name} up"]
