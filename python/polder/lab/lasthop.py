"""A last hop in the laboratory: sender, routers in a row, a narrow line to the receiver, and somebody whose traffic fills it.

```text
 sender ── r1 ── … ── rN ═══ line: narrow, with delay ═══ receiver
                      │
                    cross
```

The line is the switch's: its rate, queue and delay are there whatever the routers do. With ``delay_ms`` every link is such a one.
Addresses: link ``k`` is 10.0.k.0/24, its end towards the sender .1; ``cross`` is 10.9.0.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from polder.lab import links
from polder.lab.switch import PathSpec, PortSpec, Switch, log_file

OUT, IN = "out", "in"
_CROSS = ("10.9.0.1", "10.9.0.2")
_QUEUE_US = 50_000


@dataclass
class LastHop:
    """Built by ``build``; ``close`` ends the switches, the namespaces end with the enclosure."""

    routers: int
    line_mbit: float = 25.0
    line_delay_ms: float = 2.0
    delay_ms: float | None = None
    hosts: list[str] = field(default_factory=list)
    switches: list[Switch] = field(default_factory=list)

    @property
    def sender(self) -> str:
        """The sender's address."""
        return "10.0.1.1"

    @property
    def receiver(self) -> str:
        """The receiver's address."""
        return f"10.0.{self.routers + 1}.2"

    @property
    def cross(self) -> str:
        """Address of the host whose traffic fills the line."""
        return _CROSS[1]

    def build(self, directory: Path) -> None:
        """Inside the enclosure only. Raises ``LinkError``, ``SwitchError``."""
        self.hosts = ["sender", *(f"r{number}" for number in range(1, self.routers + 1)), "receiver"]
        links.ip([f"netns add {name}" for name in [*self.hosts, "cross"]])
        links.ip(["link set lo up"], "cross")
        for name in self.hosts:
            links.ip(["link set lo up"], name)
            links.sysctl(name, {"ipv4.conf.all.rp_filter": 0, "ipv4.conf.default.rp_filter": 0})
        log = log_file(directory)
        last = self.routers + 1
        for number in range(1, last + 1):
            a, b = self.hosts[number - 1], self.hosts[number]
            if number == last or self.delay_ms is not None:
                self._line(number, a, b, number == last, log)
            else:
                links.ip([f"link add {OUT} netns {a} type veth peer name {IN} netns {b}"])
            for host, device, end in ((a, OUT, 1), (b, IN, 2)):
                links.ip([f"address add 10.0.{number}.{end}/24 dev {device}", f"link set {device} up"], host)
        self._cross_link()
        self._routes()

    def close(self) -> None:
        """End the switches."""
        for switch in self.switches:
            switch.close()

    def _line(self, number: int, a: str, b: str, narrow: bool, log) -> None:  # type: ignore[no-untyped-def]
        before = (*((f"10.0.{n}.0", 24) for n in range(1, number)), (f"10.0.{number}.1", 32), ("10.9.0.0", 16))
        behind = (*((f"10.0.{n}.0", 24) for n in range(number + 1, self.routers + 2)), (f"10.0.{number}.2", 32))
        rate = int(self.line_mbit * 1e6) if narrow else 0
        delay = round((self.line_delay_ms if narrow else self.delay_ms or 0.0) * 1000)
        ports = [
            PortSpec(links.open_tun(a, OUT), before, 0, rate, rate, _QUEUE_US),
            PortSpec(links.open_tun(b, IN), behind, 1, rate, rate, _QUEUE_US),
        ]
        self.switches.append(Switch(ports, [PathSpec(delay)] * 4, number, 65_536, log))

    def _cross_link(self) -> None:
        last = f"r{self.routers}"
        links.ip([f"link add {OUT} netns cross type veth peer name cross netns {last}"])
        links.ip([f"address add {_CROSS[0]}/24 dev cross", "link set cross up"], last)
        links.ip([f"address add {_CROSS[1]}/24 dev {OUT}", f"link set {OUT} up", f"route add default via {_CROSS[0]}"], "cross")

    def _routes(self) -> None:
        """Towards the receiver out, towards the sender in; devices without neighbours (TUN) take packets as they are."""
        for number, host in enumerate(self.hosts):
            towards = number + 1
            if host != "receiver":
                links.ip([f"route add 10.0.{n}.0/24 via 10.0.{towards}.2" for n in range(towards + 1, self.routers + 2)], host)
            if host != "sender":
                links.ip([f"route add 10.0.{n}.0/24 via 10.0.{number}.1" for n in range(1, number)], host)
            if host not in {"sender", "receiver"}:
                links.sysctl(host, {"ipv4.ip_forward": 1})
            if host == "receiver":
                links.ip([f"route add 10.9.0.0/24 via 10.0.{number}.1"], host)
