"""A user's access: a home network behind one of two lines, each with a router that translates addresses (RFC 3022).

The user's own wide-area device goes down; what he sends crosses the router of the line in use, which gives it the line's address and
a port of its own choice. A line can forget what it translated, as a router that dials in again; the user can go from one line to the other.
"""

from __future__ import annotations

import json
import subprocess

from polder.lab import links
from polder.lab.world import World

LINES = ("line1", "line2")
_PORTS = (20_000, 1000)
"""First port of a translation, and how many each has: one that was forgotten gets another port."""


class Access:
    """Of the host ``user``; on the first line."""

    def __init__(self, world: World, user: str = "user") -> None:
        """Lay the lines. Raises ``LinkError``."""
        self._world, self._user, self._dialled = world, user, 0
        links.ip(["link set wan down"], user)
        for number, line in enumerate(LINES, 1):
            links.ip([f"link add home{number} netns {user} type veth peer name lan netns {line}"])
            links.ip([f"address add 192.168.{number}.1/24 dev lan", "link set lan up"], line)
            links.sysctl(line, {"ipv4.ip_forward": 1, "ipv4.conf.all.rp_filter": 0, "ipv4.conf.lan.rp_filter": 0})
            links.ip([f"address add 192.168.{number}.2/24 dev home{number}"], user)
            self._translate(line)
        self.line = ""
        self.take(LINES[0])

    def take(self, line: str) -> None:
        """Go over to a line; the other cable is pulled first."""
        number = LINES.index(line) + 1
        links.ip([f"link set home{3 - number} down", f"link set home{number} up"], self._user)
        links.ip([f"route replace default via 192.168.{number}.1 dev home{number}"], self._user)
        self.line = line

    def rebind(self) -> None:
        """The router of the line in use forgets its translations, and makes others: nothing that is sent to the old ones arrives."""
        self._translate(self.line)
        # Who translates to a device's address forgets all of it when the device goes down.
        links.ip(["link set wan down", "link set wan up", "route replace default dev wan"], self.line)

    def received(self) -> int:
        """Bytes that have come over both lines."""
        return sum(self._count(line) for line in LINES)

    @staticmethod
    def _count(line: str) -> int:
        command = ["ip", "-netns", line, "-json", "-statistics", "link", "show", "dev", "wan"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise links.LinkError(f"ip on {line}: {done.stderr.strip()}")
        return int(json.loads(done.stdout)[0]["stats64"]["rx"]["bytes"])

    def _translate(self, line: str) -> None:
        first = _PORTS[0] + self._dialled * _PORTS[1]
        self._dialled += 1
        rules = [
            "add table ip home",
            "delete table ip home",
            "add table ip home",
            "add chain ip home out { type nat hook postrouting priority 100 ; }",
            f'add rule ip home out oifname "wan" meta l4proto {{ tcp, udp }} masquerade to :{first}-{first + _PORTS[1] - 1}',
        ]
        links.nft(rules, line)
