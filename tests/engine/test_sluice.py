"""A flood of connections that would be refused is dropped by the kernel, and users who were here before do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import ssl
import struct
from pathlib import Path

from polder.engine import Engine
from polder.snapshot.schema import EngineConfig, Limits, Snapshot
from tests.engine.pki import DOMAIN, Authority

GUEST = "127.5.0.1"
RETRANSMITTED = 100
"""Where ``tcpi_total_retrans`` lies in ``struct tcp_info``."""


async def greets(address: str, context: ssl.SSLContext, source: str) -> bool:
    """Whether a user from ``source`` can shake hands within a moment."""
    host, _, port = address.rpartition(":")
    connecting = asyncio.open_connection(host, int(port), ssl=context, server_hostname=f"n.node.{DOMAIN}", local_addr=(source, 0))
    try:
        _, writer = await asyncio.wait_for(connecting, 5)
    except OSError:
        return False
    writer.close()
    return True


def knock(address: str, source: str) -> None:
    """Begin to connect, and leave at once."""
    host, _, port = address.rpartition(":")
    with socket.socket() as sock, contextlib.suppress(OSError):
        sock.bind((source, 0))
        sock.setblocking(False)
        sock.connect((host, int(port)))


def repeats(address: str, source: str) -> int:
    """How often ``source`` had to say that it wants to connect, beyond the first time."""
    host, _, port = address.rpartition(":")
    with socket.socket() as sock:
        sock.bind((source, 0))
        sock.settimeout(5)
        sock.connect((host, int(port)))
        (count,) = struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), RETRANSMITTED)
        return int(count)


async def test_what_would_be_refused_is_dropped_and_guests_come_in(tmp_path: Path) -> None:
    authority = Authority()
    counted = {"over_refusals": 0}
    engine = Engine(EngineConfig(role="node", listen=("127.0.0.1:0",)), lambda event: None)
    limits = Limits(handshake_rate_per_source=2, refusal_rate=8)
    snapshot = Snapshot(1, DOMAIN, (authority.root_der,), authority.leaf("node", "n", ring_id=1), limits=limits)
    engine.apply(snapshot)
    [address] = engine.addresses
    context = authority.context(authority.leaf("user", "ann"), tmp_path)
    assert await greets(address, context, GUEST)
    async with asyncio.timeout(60):
        numbers = itertools.count()

        async def flood() -> None:
            for number in itertools.islice(numbers, 20):
                knock(address, f"127.6.{number // 250 % 250}.{1 + number % 250}")
            await asyncio.sleep(0.01)

        while not counted["over_refusals"]:
            await flood()
            counted = engine.counters()
        assert counted["connections_refused"] > 0
        # Of strangers few pass by now; she always does, at the first attempt.
        for _ in range(3):
            await flood()
            assert repeats(address, GUEST) == 0
        # Her handshake is one of two a second; the flood's were refused, and those that were dropped cost nothing.
        while not await greets(address, context, GUEST):
            await asyncio.sleep(0.1)
        # When it is over, everybody gets in again.
        while not await greets(address, context, "127.7.0.1"):
            await asyncio.sleep(0.1)
    await engine.stop(0)
