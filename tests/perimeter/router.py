"""A router between two TUN devices, with a real filter: a packet written on one side comes out on the other, or it does not.

The kernel handles a packet within the write to the TUN device, so there is nothing to wait for and no chance involved. Run in
namespaces of its own: ``python -m tests.perimeter.router CASE`` prints one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from polder.host.tunnels import open_tun
from polder.lab import enclosure
from polder.perimeter import Flow, Pair, Place, Plan, iptables, nftables, rule

from . import craft
from .craft import EDGE4, EDGE6, KEY, NOW, SERVLET4, SERVLET6, gre, plan, tcp

_ROUTES = """\
link set outer up
link set inner up
address add 198.18.0.1/32 dev outer
address add 198.19.0.1/32 dev inner
address add 2001:db8:18::1/128 dev outer nodad
address add 2001:db8:19::1/128 dev inner nodad
route add 198.18.0.0/15 dev outer
route add 198.19.0.0/16 dev inner
route add 2001:db8:18::/48 dev outer
route add 2001:db8:19::/48 dev inner
"""
_SETTINGS = {
    "ipv4/ip_forward": "1",
    "ipv6/conf/all/forwarding": "1",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/outer/rp_filter": "0",
    "ipv4/conf/inner/rp_filter": "0",
}


class Router:
    """The devices; ``pass_in`` and ``pass_out`` say whether a packet came through."""

    def __init__(self) -> None:
        self.outer, self.inner = open_tun("outer"), open_tun("inner")
        subprocess.run(["ip", "-batch", "-"], input=_ROUTES, text=True, check=True)
        for name, value in _SETTINGS.items():
            Path("/proc/sys/net", name).write_text(value)

    def pass_in(self, packet: bytes) -> bool:
        """From the Internet towards the site."""
        return self._through(self.outer, self.inner, packet)

    def pass_out(self, packet: bytes) -> bool:
        """From the site to the Internet."""
        return self._through(self.inner, self.outer, packet)

    def _through(self, enter: int, leave: int, packet: bytes) -> bool:
        with contextlib.suppress(OSError):  # the kernel refuses what is no IP packet: then it is not through either
            os.write(enter, packet)
        came = [*_drain(leave)]
        for _ in _drain(enter):
            pass  # errors that the router sent back
        return any(_same(packet, other) for other in came)


def _drain(descriptor: int) -> list[bytes]:
    got = []
    with contextlib.suppress(BlockingIOError):
        while True:
            got.append(os.read(descriptor, 65536))
    return got


def _same(sent: bytes, came: bytes) -> bool:
    """Equal but for what a router changes: hop limit and IPv4 checksum."""
    if sent[0] >> 4 == 4:
        return sent[:8] + sent[9:10] + sent[12:20] == came[:8] + came[9:10] + came[12:20] and sent[20:] == came[20:]
    return sent[:7] + sent[8:] == came[:7] + came[8:]


def _nft(text: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


def _nftables(place: Place) -> Callable[[Plan], None]:
    return lambda wanted: _nft(nftables.render(wanted, NOW, place))


def _iptables(place: Place) -> Callable[[Plan], None]:
    def apply(wanted: Plan) -> None:
        for family, prefix in ((4, "ip"), (6, "ip6")):
            _, jumps = iptables.chains(wanted.site)
            text = iptables.render(wanted, NOW, family, place)
            subprocess.run([f"{prefix}tables-legacy-restore", "--noflush"], input=text, text=True, check=True)
            jump = [f"{prefix}tables-legacy", "-t", "raw"]
            if subprocess.run([*jump, "-C", "PREROUTING", "-j", jumps], capture_output=True, check=False).returncode:
                subprocess.run([*jump, "-I", "PREROUTING", "-j", jumps], check=True)

    return apply


def compare(apply: Callable[[Plan], None], place: Place, seed: int, count: int) -> dict[str, object]:
    """Whether the filter lets through exactly what the plan's law lets through, over ``count`` drawn packets."""
    router, rng = Router(), random.Random(seed)
    open_way = [packet for packet in (craft.draw(rng) for _ in range(300)) if router.pass_in(packet.bytes())]
    wanted = plan()
    apply(wanted)
    rulings: dict[str, int] = {}
    wrong = []
    for _ in range(count):
        packet = craft.draw(rng)
        said, did = rule(wanted, packet.bytes(), NOW, place), router.pass_in(packet.bytes())
        rulings[said] = rulings.get(said, 0) + 1
        if said.passes != did:
            wrong.append(f"{said}, but {'passed' if did else 'dropped'}: {packet}")
    return {"wrong": wrong[:5], "wrong_count": len(wrong), "rulings": rulings, "passed_without_filter": len(open_way)}


def tracked() -> dict[str, object]:
    """A stateful flow passes after the inside began it, and fragments are refused although defragmentation is loaded."""
    router = Router()
    stateful = plan(flows=(Flow("198.18.9.1/32", "tcp", 7443, stateful=True),))
    _nft(nftables.render(stateful, NOW))
    node, answer, forged = "198.18.9.1", (7443, 40000), (7443, 40001)
    before = router.pass_in(tcp(node, EDGE4, *answer, 0x12).bytes())
    opened = router.pass_out(tcp(EDGE4, node, 40000, 7443, 0x02).bytes())
    after = router.pass_in(tcp(node, EDGE4, *answer, 0x12).bytes())
    other = router.pass_in(tcp(node, EDGE4, *forged, 0x10).bytes())
    # A connection that is older than the filter: the inside's next packet makes it known.
    router.pass_out(tcp(EDGE4, node, 40002, 7443, 0x10).bytes())
    older = router.pass_in(tcp(node, EDGE4, 7443, 40002, 0x10).bytes())
    whole = gre(SERVLET4, EDGE4, KEY)
    middle = 24
    pieces = [
        craft.Packet(SERVLET4, EDGE4, 47, whole.payload[:middle], fragment=0x2000, mark=9).bytes(),
        craft.Packet(SERVLET4, EDGE4, 47, whole.payload[middle:], fragment=middle // 8, mark=9).bytes(),
    ]
    return {
        "before": before,
        "opened": opened,
        "after": after,
        "other": other,
        "older": older,
        "fragments": [router.pass_in(piece) for piece in pieces],
        "whole": router.pass_in(whole.bytes()),
    }


def swap() -> dict[str, object]:
    """Plans replace each other while good and bad packets stream: none is dropped or let through by the change."""
    router = Router()
    plans = [plan(), plan(pairs=(*plan().pairs, Pair("198.18.5.99", 7, NOW + 100))), plan(pair_mbit=10_000)]
    _nft(nftables.render(plans[0], NOW))
    done = threading.Event()

    def change() -> None:
        for index in range(100):
            _nft(nftables.render(plans[index % len(plans)], NOW))
        done.set()

    changer = threading.Thread(target=change)
    changer.start()
    good = [gre(SERVLET4, EDGE4, KEY).bytes(), gre(SERVLET6, EDGE6, KEY).bytes()]
    bad = [gre(SERVLET4, EDGE4, KEY + 1).bytes(), gre(SERVLET6, EDGE6, KEY + 1).bytes()]
    rounds = dropped = leaked = 0
    while not done.is_set():
        rounds += 1
        dropped += sum(not router.pass_in(packet) for packet in good)
        leaked += sum(router.pass_in(packet) for packet in bad)
    changer.join()
    listed = subprocess.run(
        ["nft", "list", "counter", "inet", "polder_wiki", "refused"], capture_output=True, text=True, check=True
    )
    return {"rounds": rounds, "dropped": dropped, "leaked": leaked, "refused": int(listed.stdout.split("packets")[1].split()[0])}


def cap() -> dict[str, object]:
    """A servlet may send its share and no more; another one is not held up by it."""
    router = Router()
    _nft(nftables.render(plan(pair_mbit=1, pairs=(Pair(SERVLET4, KEY, NOW + 99), Pair(craft.OTHER4, 7, NOW + 99))), NOW))
    big = gre(SERVLET4, EDGE4, KEY, craft.INNER4 + b"\0" * 1380).bytes()
    began = time.monotonic()
    through = sum(router.pass_in(big) for _ in range(400))
    # nft's kbyte is 1024 bytes; a bucket of bytes holds a second's rate beside the burst (nft_limit_init): 125 + 64.
    most = 1024 * (125 + 64 + 125 * (time.monotonic() - began)) + len(big)
    other = router.pass_in(gre(craft.OTHER4, EDGE4, 7).bytes())
    return {"offered": 400 * len(big), "passed": through * len(big), "most": most, "other": other}


CASES: dict[str, Callable[[], dict[str, object]]] = {
    "nft-router": lambda: compare(_nftables(Place.ROUTER), Place.ROUTER, 1, 6000),
    "nft-host": lambda: compare(_nftables(Place.HOST), Place.HOST, 2, 6000),
    "iptables-router": lambda: compare(_iptables(Place.ROUTER), Place.ROUTER, 3, 6000),
    "iptables-host": lambda: compare(_iptables(Place.HOST), Place.HOST, 4, 6000),
    "tracked": tracked,
    "swap": swap,
    "cap": cap,
}


def main() -> int:
    """Run one case inside."""

    def inside() -> int:
        print(json.dumps(CASES[sys.argv[1]]()), flush=True)
        return 0

    try:
        return enclosure.run(inside)
    except enclosure.NoNamespacesError as error:
        print(error, file=sys.stderr)
        return 77


if __name__ == "__main__":
    sys.exit(main())
