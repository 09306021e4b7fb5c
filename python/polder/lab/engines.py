"""Engines with hand-made snapshots, one process each: chains and paths for measurements, without a control plane.

``python -m polder.lab.engines`` is such a process: frames of MessagePack come on stdin (four bytes of length first), the first
is an ``EngineConfig``, every further one a ``Snapshot``; a line of JSON on stdout answers each; the end of stdin ends it.
"""

from __future__ import annotations

import asyncio
import json
import random
import struct
import sys
from dataclasses import dataclass
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from polder.engine.facade import Engine
from polder.lab.processes import Process, ProcessError, Processes
from polder.model import Kind, SpiffeId
from polder.snapshot.schema import EngineConfig, IdentityMaterial, Peer, Snapshot
from polder.trust.authority import Issuer, make_issuer, make_root
from polder.trust.keys import key_to_der
from polder.trust.profiles import Profile

_LENGTH = struct.Struct(">I")
_PATIENCE_S = 30.0
_LIFE_S = 6 * 3600.0


class Pki:
    """A throw-away root, issuer and members' identities, as the authority makes them."""

    def __init__(self, trust_domain: str, now: float, seed: int) -> None:
        """``now`` is Unix seconds. Keys come from the system, serial numbers from the seed."""
        self.trust_domain = trust_domain
        self._now = now
        self._rng = random.Random(seed)
        root_key, issuer_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        self._root = make_root(root_key, trust_domain, now, self._rng)
        self._issuer: Issuer = make_issuer(root_key, self._root, issuer_key, now, self._rng)

    @property
    def root(self) -> bytes:
        """DER of the pinned root."""
        return _der(self._root)

    def member(self, kind: Kind, name: str, ring_id: int | None = None, groups: tuple[str, ...] = ()) -> IdentityMaterial:
        """A fresh key and its chain."""
        key = ec.generate_private_key(ec.SECP256R1())
        place = None if ring_id is None else ring_id.to_bytes(16, "big")
        profile = Profile(SpiffeId(self.trust_domain, kind, name), ring_id=place, groups=groups)
        chain = self._issuer.issue(profile, key.public_key(), self._now, _LIFE_S, self._rng)
        return IdentityMaterial(chain, key_to_der(key))


def _der(certificate: object) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    assert isinstance(certificate, x509.Certificate)
    return certificate.public_bytes(Encoding.DER)


@dataclass
class Remote:
    """An engine in a process of its own."""

    name: str
    process: Process
    address: str
    snapshot: Snapshot
    spread: tuple[str, ...] = ()
    """Where its relay takes datagrams."""

    async def apply(self, **changes: object) -> dict[str, int]:
        """Put a changed snapshot in force; the engine's counters then. Raises ``ProcessError`` when the engine refuses it."""
        self.snapshot = msgspec.structs.replace(self.snapshot, version=self.snapshot.version + 1, **changes)
        answer = await _tell(self.process, self.snapshot)
        if answer.get("version") != self.snapshot.version:
            raise ProcessError(f"{self.name} refused its snapshot: {answer}")
        counters: dict[str, int] = answer["counters"]
        return counters

    def peer(self, ring_id: int, *, warm: bool = False) -> Peer:
        """How others reach it."""
        return Peer(self.name, ring_id.to_bytes(16, "big"), self.address, warm)


async def launch(
    processes: Processes,
    host: str | None,
    name: str,
    config: EngineConfig,
    snapshot: Snapshot,
) -> Remote:
    """Start an engine on ``host``; its first snapshot is put in force by ``apply``. Raises ``ProcessError``."""
    process = await processes.start(host, name, [sys.executable, "-m", "polder.lab.engines"], piped=True, open_stdin=True)
    answer = await _tell(process, config)
    return Remote(name, process, next(iter(answer["addresses"]), ""), snapshot, tuple(answer["spread"]))


async def _tell(process: Process, value: msgspec.Struct) -> dict[str, Any]:
    data = msgspec.msgpack.encode(value)
    pipe, answers = process.process.stdin, process.process.stdout
    assert pipe is not None
    assert answers is not None
    pipe.write(_LENGTH.pack(len(data)) + data)
    try:
        line = await asyncio.wait_for(answers.readline(), _PATIENCE_S)
    except TimeoutError:
        line = b""
    if not line:
        raise ProcessError(f"{process.name} does not answer:\n{process.tail()}")
    answer: dict[str, Any] = json.loads(line)
    return answer


async def _serve() -> None:
    """The process's main: obey stdin."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    config = msgspec.msgpack.decode(await _frame(reader), type=EngineConfig)
    engine = Engine(config, lambda event: print(event, file=sys.stderr, flush=True))
    print(json.dumps({"addresses": engine.addresses, "spread": engine.spread_addresses}), flush=True)
    try:
        while True:
            snapshot = msgspec.msgpack.decode(await _frame(reader), type=Snapshot)
            try:
                print(json.dumps({"version": engine.apply(snapshot), "counters": engine.counters()}), flush=True)
            except ValueError as error:
                print(json.dumps({"error": str(error)}), flush=True)
    except asyncio.IncompleteReadError:
        await engine.stop(0)


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    return await reader.readexactly(length)


if __name__ == "__main__":
    asyncio.run(_serve())
