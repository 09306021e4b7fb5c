"""Tells a site whether it can be reached directly, as seen from this node.

A node that connects where others tell it would be an open relay and a port scanner. So it tries the address that the call came
from and no other, a few ports, now and then, and says only whether they accepted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

from polder.model import Kind, Refused, Verdict
from polder.model.overlay_messages import Caller, Probe, Probed

EVERY_S = 10.0
"""Seconds between two probes for one site."""
_PORTS = 8
_PATIENCE_S = 3.0
_SITES = 1024


class Prober:
    """``clock``: monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: dict[str, float] = {}

    async def answer(self, caller: Caller, source: str, body: Probe) -> Probed:
        """Try ``body.ports`` at the caller's own address. Raises ``Refused``."""
        if caller.kind is not Kind.SITE:
            raise Refused(Verdict.DENIED, f"{caller.kind} {caller.name}: only a site may ask whether it can be reached")
        if not 1 <= len(body.ports) <= _PORTS or not all(0 < port < 1 << 16 for port in body.ports):
            raise Refused(Verdict.MALFORMED, f"1 to {_PORTS} ports can be probed")
        address = ip_address(source)
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if address.is_loopback or address.is_link_local or address.is_unspecified:
            raise Refused(Verdict.DENIED, "the call came from this machine or its link: nothing is learnt from there")
        self._limit(caller.name)
        found = await asyncio.gather(*(_accepts(str(address), port) for port in dict.fromkeys(body.ports)))
        return Probed(str(address), tuple(port for port in found if port is not None))

    def _limit(self, site: str) -> None:
        now = self._clock()
        self._last = {name: at for name, at in self._last.items() if now - at < EVERY_S}
        if site in self._last or len(self._last) >= _SITES:
            raise Refused(Verdict.BUSY, f"a site is probed every {EVERY_S:.0f} s at most", retry=True)
        self._last[site] = now


async def _accepts(address: str, port: int) -> int | None:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            _, writer = await asyncio.open_connection(address, port)
    except (OSError, TimeoutError):
        return None
    writer.transport.abort()
    return port
