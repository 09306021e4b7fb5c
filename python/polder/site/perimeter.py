"""Keeps the perimeter's plan: written to ``filter.json``, and put in force on the filtering router where a helper is there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from pathlib import Path

from polder.host.client import Host, HostHelper
from polder.host.commands import HostError
from polder.model import Member
from polder.overlay.site import Admitted
from polder.perimeter import Flow, Pair, Place, Plan, to_json
from polder.settings.site import SiteSettings
from polder.settings.state import write_atomic
from polder.site.deliveries import outer

log = logging.getLogger("polder.perimeter")


class Perimeter:
    """``life``: seconds for which a pair is written down without an end of its own; the agent renews it long before."""

    def __init__(self, file: Path, settings: SiteSettings, life: float) -> None:
        self._file = file
        self._settings = settings
        self._life = life
        self._host: Host | None = None
        self._version = 0

    def plan(self, admitted: Iterable[Admitted], talks_to: Iterable[Member], authority: str | None, now: float) -> Plan | None:
        """The plan of this moment, or ``None`` for a site without an edge (dial-out behind somebody else's filter).

        ``talks_to``: nodes that the agent calls; ``authority``: its ``ip:port``. Their answers pass: packets of connections that
        the inside began.
        """
        if self._settings.edge is None:
            return None
        pairs = (
            tuple(Pair(outer(each.member), each.key, int(each.until or now + self._life)) for each in admitted)
            if self._settings.transport == "gre"
            else ()
        )
        addresses = [(member.address, "answers of a node") for member in talks_to]
        if authority is not None:
            addresses.append((authority, "answers of the authority"))
        flows = {_answers(address, why) for address, why in addresses}
        return Plan(
            site=self._settings.name,
            version=self._version + 1,
            edges=(str(ip_address(self._settings.edge)),),
            networks=self._settings.shut,
            pairs=tuple(sorted(pairs)),
            flows=tuple(sorted(flows, key=str)),
        )

    async def apply(self, plan: Plan | None) -> None:
        """Write the plan down and put it in force. Raises ``HostError`` when the router's helper did not take it."""
        if plan is None:
            return
        self._version = plan.version
        await asyncio.to_thread(write_atomic, self._file, to_json(plan), 0o600)
        if self._settings.filter_helper is None:
            return
        try:
            if self._host is not None and self._host.gone():
                await self.close()
            if self._host is None:
                self._host = await asyncio.to_thread(HostHelper, Path(self._settings.filter_helper))
            await self._host.filter_apply(plan, Place(self._settings.filter_place))
        except HostError:
            await self.close()
            raise
        log.info("filter in force", extra={"version": plan.version, "pairs": len(plan.pairs)})

    async def counters(self) -> dict[str, int]:
        """What the router's filter counted, ``filter_NAME_packets`` and ``_bytes``; empty where no helper is there to ask."""
        if self._host is None:
            return {}
        try:
            state = await self._host.filter_state(self._settings.name)
        except HostError as error:
            log.debug("the filter's counters cannot be had", extra={"error": str(error)})
            return {}
        packets = {f"filter_{name}_packets": count for name, (count, _) in state.counters.items()}
        return packets | {f"filter_{name}_bytes": size for name, (_, size) in state.counters.items()}

    async def close(self) -> None:
        """Leave the helper; the filter stays in force."""
        if self._host is not None:
            await self._host.close()
            self._host = None


def _answers(address: str, why: str) -> Flow:
    host, _, port = address.rpartition(":")
    source = str(ip_network(host.strip("[]")))
    return Flow(source=source, protocol="tcp", source_port=int(port), established=True, stateful=True, why=why)
