"""Sessions of the spread plane between hosts of a world: relays, a servlet beside the site, a user's forwarder.

Relays and ends are the product's own Rust (``crates/spread``, ``crates/quic``); keys and tickets come from one description instead of
a control plane (``crates/lab/src/spread``). Relays of all hosts share one process, each with a socket on its own host; the servlet
is a member, but its own relay stays out of the ticket, so that every packet crosses some other host.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import random
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from polder.lab import links
from polder.lab.attacks import socket_record
from polder.lab.processes import ProcessError
from polder.lab.world import World
from polder.shell.clock import wall

END_NAME = "servlet.polder.invalid"
"""The name that forwarders expect of a servlet (``polder_tls::SPREAD_NAME``)."""
PORT, LISTEN = 7443, 8443
LIFE_S = 3600
_LENGTH = struct.Struct(">I")
_PATIENCE_S = 40.0


class Mode(msgspec.Struct, frozen=True):
    """How both ends spread: ``naive`` as in the paper (no feedback, every packet over a relay of its own)."""

    naive: bool
    copies: float
    fec: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """For tables."""
        return "naive" if self.naive else "feedback"


class Tool:
    """A native tool on a host; what it writes to stdout are frames."""

    def __init__(
        self, directory: Path, host: str | None, name: str, tool: str, config: dict[str, Any], fds: Sequence[int] = ()
    ) -> None:
        """Start it. The descriptors stay the caller's."""
        self.name, self.out, self.log = name, directory / f"{name}.frames", directory / f"{name}.log"
        words = [*(links.enter(host) if host else []), sys.executable, "-m", "polder.lab.tool", tool]
        with self.out.open("wb") as out, self.log.open("wb") as log:
            self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=out, stderr=log, pass_fds=fds)
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.msgpack.encode(config))
        self.process.stdin.close()

    def frames(self) -> list[dict[str, Any]]:
        """All whole frames so far."""
        data, at, found = self.out.read_bytes(), 0, []
        while at + _LENGTH.size <= len(data):
            (length,) = _LENGTH.unpack_from(data, at)
            at += _LENGTH.size
            if at + length > len(data):
                break
            found.append(msgspec.msgpack.decode(data[at : at + length]))
            at += length
        return found

    async def ready(self) -> None:
        """Wait for its first frame; raises ``ProcessError`` when it ends or takes too long."""
        deadline = time.monotonic() + _PATIENCE_S
        while not self.frames():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise ProcessError(f"{self.name} is not ready, status {self.process.poll()}: {self.log.read_text()[-2000:]}")
            await asyncio.sleep(0.05)

    def stop(self) -> None:
        """End it: it keeps nothing."""
        self.process.kill()
        self.process.wait()


@dataclass(frozen=True)
class Member:
    """A host of the overlay."""

    host: str
    id: int
    address: str
    secret: bytes
    port: int = PORT

    def record(self) -> dict[str, Any]:
        """As the tools read it."""
        return {"id": self.id, "address": socket_record(self.address, self.port), "secret": self.secret}


def describe(members: Sequence[Member], mode: Mode, rng: random.Random) -> dict[str, Any]:
    """What all tools of a new session are told; the last member is the servlet. Ids and keys guard nothing but this run."""
    return {
        "members": [one.record() for one in members],
        "servlet": members[-1].id,
        "session": rng.randbytes(16),
        "key": rng.randbytes(32),
        "starts": int(wall()) - 1,
        "lasts": LIFE_S,
        "mode": mode,
    }


class Overlay:
    """Relays that run on some hosts of a world, and sessions over them."""

    def __init__(self, world: World, directory: Path, relays: Sequence[str], servlet: str, rng: random.Random) -> None:
        """Start the relays. Ids and keys come from ``rng``: they guard nothing but this run."""
        self.world, self.directory, self._rng = world, directory, rng
        self.members = [self._member(host) for host in (*relays, servlet)]
        self.servlet = self.members[-1]
        self._sessions = 0
        sockets = [links.open_udp(one.host, one.address, PORT) for one in self.members[:-1]]
        try:
            pairs = [(one.id, fd) for one, fd in zip(self.members, sockets, strict=False)]
            config = {"overlay": describe(self.members, Mode(naive=True, copies=0.0), rng), "sockets": pairs}
            self.relays = Tool(directory, None, f"relays-{time.monotonic_ns()}", "spread-relays", config, sockets)
        finally:
            for fd in sockets:
                os.close(fd)

    def _member(self, host: str) -> Member:
        return Member(host, self._rng.getrandbits(63), self.world.hosts[host].ipv4, self._rng.randbytes(32))

    async def session(self, user: str, site: tuple[str, int], mode: Mode) -> Session:
        """A session from ``user`` to the site (address and port), ready for readers. Raises ``ProcessError``."""
        self._sessions += 1
        overlay, name = describe(self.members, mode, self._rng), f"{len(self.members) - 1}-{self._sessions}"
        chain, key = certificate()
        config: dict[str, Any] = {"overlay": overlay, "chain": chain, "key": key, "site": socket_record(*site)}
        servlet = Tool(self.directory, self.servlet.host, f"servlet-{name}", "spread-servlet", config)
        session = Session(servlet, None)
        try:
            await self.relays.ready()
            await servlet.ready()
            listen = socket_record("127.0.0.1", LISTEN)
            config = {"overlay": overlay, "root": chain, "listen": listen, "seed": self._rng.getrandbits(63)}
            session.forwarder = Tool(self.directory, user, f"forwarder-{name}", "spread-forwarder", config)
            await session.forwarder.ready()
        except BaseException:
            session.stop()
            raise
        return session

    def stop(self) -> None:
        """End the relays."""
        self.relays.stop()


@dataclass
class Session:
    """Both ends of a session."""

    servlet: Tool
    forwarder: Tool | None

    def ends(self) -> list[Tool]:
        """Those that were started."""
        return [end for end in (self.forwarder, self.servlet) if end is not None]

    def counts(self, begin: float, end: float) -> dict[str, float]:
        """What both ends together counted between two moments (Unix seconds), and ``extra``: packets beyond datagrams, by datagram."""
        total: dict[str, float] = {}
        for tool in self.ends():
            looks = [frame for frame in tool.frames() if begin * 1e6 <= frame["at_us"] <= end * 1e6]
            if len(looks) < 2:
                continue
            for key, value in looks[-1]["tallies"].items():
                total[key] = total.get(key, 0) + value - looks[0]["tallies"][key]
        datagrams = total.get("datagrams", 0)
        if datagrams:
            total["extra"] = (total["packets"] - datagrams) / datagrams
        return total

    def rtt_ms(self) -> float:
        """The round trip as QUIC saw it last."""
        assert self.forwarder is not None
        return float(self.forwarder.frames()[-1]["quic"]["rtt_us"]) / 1000

    def last(self, field: str) -> Any:
        """A field of the servlet's last look."""
        return self.servlet.frames()[-1][field]

    def stop(self) -> None:
        """End both."""
        for tool in self.ends():
            tool.stop()


def certificate() -> tuple[bytes, bytes]:
    """A servlet's own certificate and key (DER), as a ticket would pin it."""
    key = ec.generate_private_key(ec.SECP256R1())
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "servlet")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(END_NAME)]), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    form = serialization.PrivateFormat.PKCS8
    private = key.private_bytes(serialization.Encoding.DER, form, serialization.NoEncryption())
    return certificate.public_bytes(serialization.Encoding.DER), private
