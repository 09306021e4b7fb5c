"""Attacks as an experiment describes them, and the native tool's configuration for every bot that takes part."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from polder.lab.processes import Processes
from polder.lab.switch import address_record
from polder.lab.world import Scene

TOOL = ["nice", sys.executable, "-m", "polder.lab.tool"]
"""Bots are other people's machines: what they compute must not slow down what is measured."""
_SLACK_S = 15.0


class _Attack(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str = "site"
    """A host's name."""
    ipv6: bool = False
    bots: str = "bot"
    """The group that attacks; the strength is shared among its hosts."""


class UdpFlood(_Attack):
    """UDP packets from the bots' true addresses, or forged ones."""

    kind: Literal["udp-flood"] = "udp-flood"
    mbit_s: float = Field(60.0, gt=0, le=1000)
    size: int = Field(1400, ge=64, le=1500)
    port: int = Field(0, ge=0, le=65535, description="0: another one for every packet")
    forged: bool = False


class SynFlood(_Attack):
    """SYN segments with forged sources."""

    kind: Literal["syn-flood"] = "syn-flood"
    rate: int = Field(2000, gt=0, le=100_000)
    port: int = Field(443, ge=1, le=65535)


class HandshakeFlood(_Attack):
    """TLS ClientHellos that nobody follows up."""

    kind: Literal["handshake-flood"] = "handshake-flood"
    rate: int = Field(200, gt=0, le=20_000)
    port: int = 7443
    name: str = "www.polder.test"


class Slowloris(_Attack):
    """Connections that send a byte now and then: a ClientHello that never ends, or (``tls`` off) a header that never ends."""

    kind: Literal["slowloris"] = "slowloris"
    connections: int = Field(500, gt=0, le=20_000)
    port: int = 7443
    tls: bool = True
    drip_s: float = Field(1.0, gt=0)

    @property
    def opening(self) -> bytes:
        """What is dripped; its last byte again and again."""
        # RFC 8446 §5.1, §4: a handshake record of 512 bytes with a ClientHello of 508; legacy_version, then endless random.
        return bytes.fromhex("160301020001 0001fc 0303 5a") if self.tls else b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "


Attack = Annotated[UdpFlood | SynFlood | HandshakeFlood | Slowloris, Field(discriminator="kind")]


def configurations(attack: Attack, world: Scene, seconds: float, seed: int) -> list[tuple[str, str, dict[str, Any]]]:
    """For every bot: its host, the native tool and the tool's configuration."""
    bots = group_hosts(world, attack.bots)
    return [(bot, *_configuration(attack, world, bot, len(bots), seconds, seed + number)) for number, bot in enumerate(bots)]


def group_hosts(world: Scene, group: str) -> list[str]:
    """The hosts of a group; raises ``ValueError`` when there is none."""
    hosts = [name for name in world.hosts if name.rstrip("0123456789") == group]
    if not hosts:
        raise ValueError(f"the topology has no hosts {group!r}")
    return hosts


def _configuration(attack: Attack, world: Scene, bot: str, share: int, seconds: float, seed: int) -> tuple[str, dict[str, Any]]:
    def address(host: str) -> str:
        return world.hosts[host].ipv6 if attack.ipv6 else world.hosts[host].ipv4

    target = address(attack.target)
    time = {"milliseconds": int(seconds * 1000), "seed": seed}
    match attack:
        case UdpFlood():
            rate = int(attack.mbit_s * 1e6 / 8 / attack.size / share)
            source = None if attack.forged else address_record(address(bot))
            flood = {"kind": "udp", "target": address_record(target), "port": attack.port, "source": source}
            return "flood", flood | {"rate": rate, "size": attack.size} | time
        case SynFlood():
            flood = {"kind": "syn", "target": address_record(target), "port": attack.port, "source": None}
            return "flood", flood | {"rate": max(1, attack.rate // share), "size": 0} | time
        case HandshakeFlood():
            rate = max(1, attack.rate // share)
            return "strangers", _crowd({"handshake": attack.name}, target, attack.port, rate, rate * 3) | time
        case Slowloris():
            count = max(1, attack.connections // share)
            drip = _crowd({"drip": attack.opening}, target, attack.port, max(1, count // 2), count)
            return "strangers", drip | {"drip_ms": int(attack.drip_s * 1000)} | time


def _crowd(act: dict[str, Any], target: str, port: int, rate: int, at_once: int) -> dict[str, Any]:
    where = [socket_record(target, port)]
    return {"act": act, "targets": where, "rate": rate, "at_once": at_once, "drip_ms": 0, "patience_ms": 3000}


def socket_record(address: str, port: int) -> dict[str, Any]:
    """As serde writes a socket address in binary formats."""
    ((family, octets),) = address_record(address).items()
    return {family: [octets, port]}


def scan(targets: Sequence[tuple[str, int]], rate: int = 500) -> dict[str, Any]:
    """A scan of ``(address, port)`` pairs with the tool ``strangers``; its report's ``found`` are open."""
    where = [socket_record(address, port) for address, port in targets]
    bounds = {"rate": rate, "at_once": 1000, "drip_ms": 0, "patience_ms": 2000}
    return {"act": "look", "targets": where, "milliseconds": int(len(where) / rate * 1000) + 1000, "seed": 1} | bounds


async def launch(
    processes: Processes, world: Scene, attacks: Sequence[Attack], seconds: float, seed: int
) -> list[dict[str, Any]]:
    """Let all attacks run for ``seconds``; the tools' reports with ``kind`` and ``bot``. Raises ``ProcessError``."""

    async def one(attack: Attack, bot: str, tool: str, config: dict[str, Any]) -> dict[str, Any]:
        stdin = msgspec.msgpack.encode(config)
        name = f"{attack.kind}-{bot}"
        output = await processes.run(bot, name, [*TOOL, tool], seconds + _SLACK_S, stdin)
        report: dict[str, Any] = json.loads(output)
        return {"kind": attack.kind, "bot": bot} | report

    runs = [
        one(attack, *configuration)
        for number, attack in enumerate(attacks)
        for configuration in configurations(attack, world, seconds, seed + 1000 * number)
    ]
    return list(await asyncio.gather(*runs))
