"""The native GRE endpoint over real raw sockets, in namespaces of its own; a pair of sockets stands in for the TUN device."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from polder.engine.gre import GreConfig, GreEndpoint, GrePeer
from polder.host.tunnels import open_raw, open_tun
from polder.lab import enclosure
from tests.perimeter.craft import Packet, gre

pytestmark = pytest.mark.lab

A4, B4, A6, B6 = "198.18.5.7", "198.19.1.2", "2001:db8:18:5::7", "2001:db8:19:1::2"
A_IN, B_IN = "fd00::a", "fd00::b"
KEY, NEXT = 0x1234ABCD, 0x0BADF00D
CASES: dict[str, Callable[[], None]] = {}


def case(function: Callable[[], None]) -> Callable[[], None]:
    """Run a test in namespaces and a process of its own."""
    CASES[function.__name__] = function

    def test() -> None:
        command = [sys.executable, "-m", "tests.host.test_gre", function.__name__]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode == 77:
            pytest.skip(done.stderr)
        assert done.returncode == 0, done.stdout + done.stderr

    test.__name__, test.__doc__ = function.__name__, function.__doc__
    return test


class End:
    """An endpoint whose device we hold."""

    def __init__(self, local: str, config: GreConfig) -> None:
        self.device, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.device.settimeout(10)
        far.setblocking(False)
        self.endpoint = GreEndpoint({"tun": far.detach(), f"raw{6 if ':' in local else 4}": open_raw(local)}, config)

    def counters(self) -> dict[str, int]:
        """Those that are not zero."""
        return {name: value for name, value in self.endpoint.counters().items() if value}

    def expect(self, **wanted: int) -> None:
        """Wait until these counters have these values: a packet is counted a moment after it has gone."""
        deadline = time.monotonic() + 20
        while not wanted.items() <= self.counters().items():
            assert time.monotonic() < deadline, f"{self.counters()} is not {wanted}"
            time.sleep(0.005)


def config(outer: str, inner: str, key: int = KEY, accept: tuple[int, ...] = (KEY,), mtu: int = 1400) -> GreConfig:
    """One peer."""
    return GreConfig((GrePeer(outer, key, accept, (f"{inner}/128",)),), mtu)


@contextlib.contextmanager
def pair(family: int = 4) -> Iterator[tuple[End, End]]:
    """Both ends of a tunnel over outer IPv4 or IPv6."""
    a_out, b_out = (A4, B4) if family == 4 else (A6, B6)
    a, b = End(a_out, config(b_out, B_IN)), End(b_out, config(a_out, A_IN))
    try:
        yield a, b
    finally:
        for each in (a, b):
            each.endpoint.stop()
            each.device.close()


def inner(source: str, dest: str, data: bytes) -> bytes:
    """An inner packet."""
    return Packet(source, dest, 17, b"\0\7\0\7" + (8 + len(data)).to_bytes(2, "big") + b"\0\0" + data).bytes()


def inject(packet: Packet) -> None:
    """Send an outer packet as an attacker would."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(packet.bytes(), (packet.dest, 0))


@case
def test_packets_cross_in_both_directions_over_both_families() -> None:
    for family in (4, 6):
        with pair(family) as (a, b):
            for size in (0, 1, 1000, 1352):
                there, back = inner(A_IN, B_IN, b"x" * size), inner(B_IN, A_IN, b"y" * size)
                a.device.send(there)
                assert b.device.recv(9000) == there
                b.device.send(back)
                assert a.device.recv(9000) == back
            size = sum(48 + size for size in (0, 1, 1000, 1352))
            a.expect(gre_sent_packets=4, gre_received_packets=4, gre_sent_bytes=size, gre_received_bytes=size)


@case
def test_what_is_not_from_a_known_peer_is_refused_and_counted() -> None:
    with pair() as (_, b):
        good = inner(A_IN, B_IN, b"good")
        bad = [
            gre(A4, B4, KEY + 1, good),
            gre(A4, B4, KEY, inner("fd00::c", B_IN, b"foreign")),
            gre(A4, B4, KEY, good, flags=0x3000),
            gre(A4, B4, KEY, good, protocol=0x0800),
            gre("198.18.9.9", B4, KEY, good),
            Packet(A4, B4, 47, gre(A4, B4, KEY, good).payload, options=b"\1\1\1\1"),
            Packet(A4, B4, 47, b"\x20\0\x86"),
        ]
        for packet in [*bad, gre(A4, B4, KEY, good)]:
            inject(packet)
        assert b.device.recv(9000) == good, "the first and only one that came through"
        b.expect(gre_received_packets=1, gre_received_bytes=len(good), gre_unknown_pair=2, gre_foreign_inner=1, gre_bad_header=4)


@case
def test_a_known_peer_reaches_our_own_addresses_and_nothing_behind_them() -> None:
    with pair() as (a, b):
        peer = config(A4, A_IN).peers
        b.endpoint.update(GreConfig(peer, accept=(f"{B_IN}/128",)))
        a.endpoint.update(GreConfig((GrePeer(B4, KEY, (KEY,), ("fd00::/64",)),)))
        a.device.send(inner(A_IN, "fd00::77", b"to the network behind"))
        a.device.send(inner(A_IN, B_IN, b"to us"))
        assert b.device.recv(9000).endswith(b"to us")
        b.expect(gre_foreign_target=1)


@case
def test_a_key_is_rotated_without_losing_a_packet() -> None:
    with pair() as (a, b):
        steps = [
            (b, config(A4, A_IN, KEY, (KEY, NEXT))),
            (a, config(B4, B_IN, NEXT, (KEY, NEXT))),
            (b, config(A4, A_IN, NEXT, (NEXT,))),
            (a, config(B4, B_IN, NEXT, (NEXT,))),
        ]
        for end, wanted in [(a, config(B4, B_IN)), *steps]:
            end.endpoint.update(wanted)
            for number in range(20):
                for source, sink, packet in (
                    (a, b, inner(A_IN, B_IN, b"%d" % number)),
                    (b, a, inner(B_IN, A_IN, b"%d" % number)),
                ):
                    source.device.send(packet)
                    assert sink.device.recv(9000) == packet
        assert not {"gre_unknown_pair", "gre_no_peer", "gre_send_failed"} & {*a.counters(), *b.counters()}
        inject(gre(A4, B4, KEY, inner(A_IN, B_IN, b"old")))
        a.device.send(inner(A_IN, B_IN, b"end"))
        assert b.device.recv(9000).endswith(b"end")
        b.expect(gre_unknown_pair=1)


@case
def test_a_syn_from_behind_the_tunnel_is_told_its_mtu() -> None:
    with pair() as (a, b):
        syn = bytes(12) + b"\x60\x02\xff\xff\0\0\0\0" + b"\2\4" + (1440).to_bytes(2, "big")
        a.device.send(Packet(A_IN, B_IN, 6, syn).bytes())
        assert b.device.recv(9000)[-2:] == (1340).to_bytes(2, "big")
        a.expect(gre_mss_clamped=1)


@case
def test_what_goes_to_nobody_is_counted() -> None:
    with pair() as (a, b):
        a.device.send(inner(A_IN, "fd00::77", b"nobody"))
        a.device.send(b"no packet")
        a.device.send(inner(A_IN, B_IN, b"end"))
        assert b.device.recv(9000).endswith(b"end")
        a.expect(gre_no_peer=2)


@case
def test_an_endpoint_notices_that_its_device_is_gone() -> None:
    device = open_tun("pldgone")
    endpoint = GreEndpoint({"tun": device, "raw4": open_raw(A4)}, config(B4, B_IN))
    assert endpoint.alive
    subprocess.run(["ip", "link", "delete", "pldgone"], check=True)
    deadline = time.monotonic() + 20
    while endpoint.alive:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    endpoint.stop()


@case
def test_a_hundred_lives_leave_nothing_behind() -> None:
    def held() -> tuple[int, int]:
        return len([*Path("/proc/self/fd").iterdir()]), len([*Path("/proc/self/task").iterdir()])

    def life() -> None:
        with pair() as (a, b):
            a.device.send(inner(A_IN, B_IN, b"x"))
            b.device.recv(9000)
            for _ in range(5):
                a.device.send(inner(A_IN, B_IN, b"on the way when it ends"))

    life()
    before = held()
    for _ in range(100):
        life()
    assert held() == before


@case
def test_a_stop_does_not_wait_for_packets_that_never_come() -> None:
    one = End(A4, config(B4, B_IN))
    stopper = threading.Thread(target=one.endpoint.stop)
    stopper.start()
    stopper.join(20)
    assert not stopper.is_alive()
    assert not one.endpoint.alive


def test_contradictions_are_refused() -> None:
    def endpoint(wanted: GreConfig) -> GreEndpoint:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with near:
            return GreEndpoint({"tun": far.detach()}, wanted)

    one, other = GrePeer(B4, KEY, (KEY,), (f"{B_IN}/128",)), GrePeer(B6, KEY, (KEY,), (f"{B_IN}/128",))
    wrong = {
        "behind two peers": GreConfig((one, other)),
        "same key": GreConfig((one, GrePeer(B4, KEY, (KEY,), ("fd00::c/128",)))),
        "MTU": GreConfig((one,), mtu=500),
        "schema": GreConfig((GrePeer("not an address", KEY, (KEY,), ()),)),
    }
    for words, wanted in wrong.items():
        with pytest.raises(ValueError, match=words):
            endpoint(wanted)
    alive = endpoint(GreConfig((one,)))
    with pytest.raises(ValueError, match="behind two peers"):
        alive.update(GreConfig((one, other)))
    with pytest.raises(OSError, match="GRE endpoint"):
        GreEndpoint({"tun": os.dup(0), "raw4": os.open("/dev/null", os.O_RDONLY)}, GreConfig((one,)))
    assert str(KEY) not in repr(one)


def main() -> int:
    """Run one case inside."""

    def inside() -> int:
        for address in (A4, B4, A6, B6):
            flag = ["nodad"] if ":" in address else []
            subprocess.run(["ip", "address", "add", address, "dev", "lo", *flag], check=True)
        CASES[sys.argv[1]]()
        return 0

    try:
        return enclosure.run(inside)
    except enclosure.NoNamespacesError as error:
        print(error, file=sys.stderr)
        return 77


if __name__ == "__main__":
    sys.exit(main())
