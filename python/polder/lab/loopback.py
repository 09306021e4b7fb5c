"""Where no namespaces can be had: the same hosts as addresses of the loopback network, without anything between them."""

from __future__ import annotations

from pathlib import Path

from polder.lab.topology import SITE_HOSTS, Topology, names_of
from polder.lab.world import Host, Ports

LEFT_OUT = (
    "no flood, no unprotected site, no perimeter filter, no GRE (the site dials out), no delays and no narrow link: "
    "what remains is a real overlay that real readers read through"
)


class LoopbackWorld:
    """A ``Scene`` of 127.18.0.0/15: every host has an address of its own, all share one network."""

    ports = Ports(http=8080, https=8443)
    separate = False

    def __init__(self, topology: Topology, directory: Path) -> None:
        """Nothing is built: Linux answers for all of 127.0.0.0/8."""
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.hosts: dict[str, Host] = {}
        for number, group in enumerate(topology.groups, 1):
            for index, name in enumerate(names_of(group), 1):
                self.hosts[name] = Host(name, f"127.18.{number}.{index}", "::1", 0, None)
        for number, name in enumerate(SITE_HOSTS if topology.site else ()):
            self.hosts[name] = Host(name, f"127.19.{number}.10", "::1", 0, None)

    def counts(self, _names: list[str]) -> dict[str, int]:
        """There is no switch that counts."""
        return {}

    def narrow(self) -> dict[str, int]:
        """There is no narrow link."""
        return {"bytes": 0, "packets": 0, "drops": 0}

    def close(self) -> None:
        """Nothing to end."""
