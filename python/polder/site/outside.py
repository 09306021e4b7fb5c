"""What a site looks like from where an attacker is: its origin, and whether anybody can reach it past the overlay."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

import aiohttp

from polder.engine import CallFailed
from polder.host.commands import HostError, run
from polder.model import Member
from polder.model.overlay_messages import Probe
from polder.settings.identity import IdentityDir
from polder.shell.linked import Linked
from polder.snapshot.fold import Verdicts
from polder.snapshot.schema import EngineConfig, IdentityMaterial

_PATIENCE_S = 5.0


@dataclass(frozen=True)
class Origin:
    """What the web server said: ``status``, its ``server`` header, whether it speaks TLS; ``trouble``: what is wrong."""

    url: str
    status: int | None
    server: str
    tls: bool
    trouble: str | None


async def look_at(origin: str, host: str | None = None) -> Origin:
    """Fetch ``/`` from ``origin`` (URL or ``ip:port``) as a user of ``host`` would; no certificate is checked, none is hidden."""
    url = origin if "://" in origin else f"http://{origin}"
    headers = {"Host": host} if host else {}
    blind = ssl.create_default_context()
    blind.check_hostname = False
    blind.verify_mode = ssl.CERT_NONE
    timeout = aiohttp.ClientTimeout(total=_PATIENCE_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
            session.get(url, headers=headers, ssl=blind, allow_redirects=False) as answer,
        ):
            server = answer.headers.get("Server", "")[:80]
            trouble = f"it answers {answer.status}" if answer.status >= 500 else None
            return Origin(url, answer.status, server, url.startswith("https"), trouble)
    except TimeoutError:
        return Origin(url, None, "", url.startswith("https"), f"no answer within {_PATIENCE_S:.0f} s")
    except aiohttp.ClientConnectorError as error:
        return Origin(url, None, "", url.startswith("https"), error.strerror or "it cannot be connected to")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return Origin(url, None, "", url.startswith("https"), str(error) or type(error).__name__)


def outer_addresses() -> list[str]:
    """This machine's addresses that others may reach: neither loopback, nor link-local, nor inside our tunnels."""
    try:
        listed = json.loads(run("ip", "-j", "address", "show", "up"))
    except (HostError, json.JSONDecodeError):
        return []
    found = [
        info["local"]
        for device in listed
        if not str(device.get("ifname", "")).startswith("pld")
        for info in device.get("addr_info", [])
        if "local" in info
    ]
    return [each for each in found if not (ip_address(each).is_loopback or ip_address(each).is_link_local)]


async def accepting(addresses: Iterable[str], port: int) -> list[str]:
    """Those addresses where ``port`` accepts a connection from here."""
    wanted = list(addresses)
    answers = await asyncio.gather(*(_accepts(address, port) for address in wanted))
    return [address for address, yes in zip(wanted, answers, strict=True) if yes]


async def _accepts(address: str, port: int) -> bool:
    try:
        async with asyncio.timeout(2.0):
            _, writer = await asyncio.open_connection(address, port)
    except (OSError, TimeoutError):
        return False
    writer.transport.abort()
    return True


@dataclass(frozen=True)
class Seen:
    """What one node saw: ``open`` ports at ``address``, or ``trouble`` why it did not look."""

    node: str
    address: str
    open: tuple[int, ...]
    trouble: str | None


async def seen_from(identity: IdentityDir, members: Iterable[Member], ports: tuple[int, ...]) -> list[Seen]:
    """Ask each of ``members`` whether it reaches us directly. Uses links of its own, so the agent need not run."""
    wanted = tuple(members)
    asker = _Asker(identity, wanted)
    asker.apply()
    try:
        return list(await asyncio.gather(*(_ask(asker, member, ports) for member in wanted)))
    finally:
        await asker.close(0.0)


async def _ask(asker: _Asker, member: Member, ports: tuple[int, ...]) -> Seen:
    try:
        told = await asker.call(member, "probe", Probe(ports), 8.0)
    except CallFailed as error:
        return Seen(member.name, "", (), str(error))
    return Seen(member.name, told.address, told.open, None)


class _Asker(Linked):
    """A site's identity with nothing to carry."""

    def __init__(self, identity: IdentityDir, members: tuple[Member, ...]) -> None:
        self._identity = identity
        self._members = members
        super().__init__(EngineConfig(role="site", listen=()))

    def verdicts(self) -> Verdicts:
        """Who we are and whom we ask."""
        return Verdicts(
            trust_domain=self._identity.id.trust_domain,
            roots=self._identity.roots,
            identity=IdentityMaterial(self._identity.chain, self._identity.key),
            members=self._members,
        )
