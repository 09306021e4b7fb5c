"""Over which nodes the user's bytes come: counters in the kernel of her ISP's router."""

from __future__ import annotations

import json
import subprocess

from polder.lab import links
from polder.lab.attacks import group_hosts
from polder.lab.world import Scene

_HOST, _TABLE = "edge", "inet lab_tally"


class Tally:
    """``open`` once, ``read`` at will."""

    def __init__(self, world: Scene) -> None:
        self._nodes = {node: world.hosts[node].ipv4 for node in group_hosts(world, "node")}
        self._user = world.hosts["user"].ipv4

    def open(self) -> None:
        """Begin to count. Raises ``LinkError``."""
        lines = [f"add table {_TABLE}", f"add chain {_TABLE} pass {{ type filter hook forward priority 0; }}"]
        for node, address in self._nodes.items():
            lines += [
                f"add counter {_TABLE} {node}",
                f"add rule {_TABLE} pass ip saddr {address} ip daddr {self._user} counter name {node}",
            ]
        links.nft(lines, _HOST)

    def read(self) -> dict[str, int]:
        """Bytes by node that passed towards the user, before her line."""
        command = [*links.enter(_HOST), "nft", "-j", "list", "counters", "table", *_TABLE.split()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise links.LinkError(f"nft on {_HOST}: {done.stderr.strip()}")
        listed = json.loads(done.stdout)["nftables"]
        found = {one["counter"]["name"]: int(one["counter"]["bytes"]) for one in listed if "counter" in one}
        return {node: found[node] for node in self._nodes}
