"""``Source``: asks the parts that run, here by their administrator's sockets, elsewhere by control calls of an enrolled admin."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from polder.api.admin import ask
from polder.api.operator import open_console
from polder.dashboard.values import Round, Sample
from polder.engine import CallFailed
from polder.model import Member, Refused
from polder.model.admin_messages import Past, PastQuery, Report, ReportQuery
from polder.model.overlay_messages import MembersQuery
from polder.settings.identity import IdentityDir
from polder.settings.state import StateDir
from polder.shell.clock import monotonic, wall
from polder.shell.console import Console

log = logging.getLogger("polder.watch")

_PATIENCE = 2.0
"""Seconds that a part may take to answer before it counts as silent."""
_MEMBERS_EVERY = 10.0
_RENEW_EVERY = 600.0
_REMEMBERED = 300


class Source:
    """``look`` is one round. ``close`` at the end."""

    def __init__(self, state: StateDir) -> None:
        self.state = state
        self._console: Console | None = None
        self._members: tuple[Member, ...] = ()
        self._asked_members = 0.0
        self._opened = 0.0
        self._node = ""
        self._heard: set[str] = set()

    def parts(self) -> dict[str, Path]:
        """Part → its directory, for everything that is set up here."""
        found = {"authority": self.state.authority} if self.state.authority.is_dir() else {}
        for kind in ("node", "site", "user"):
            for path in self.state.enrolled(kind):
                found[f"{kind}/{self._name(path) if kind == 'node' else path.name}"] = path
        return found

    def _name(self, node: Path) -> str:
        self._node = self._node or IdentityDir.load(node).id.name
        return self._node

    @property
    def admin(self) -> Path | None:
        """The identity of the operator enrolled here, if any (the first by name)."""
        return next(iter(self.state.enrolled("admin")), None)

    async def look(self) -> Round:
        """Ask everybody, at once. The local node goes by its own name, as the others do."""
        at = wall()
        parts = self.parts()
        answers = await asyncio.gather(*(_ask_here(part, path) for part, path in parts.items()))
        found: dict[str, Sample | str] = {}
        for part, answer in zip(parts, answers, strict=True):
            found[part] = answer
        found |= await self._reports(found)
        return Round(at, found)

    async def histories(self) -> dict[str, Mapping[str, Any]]:
        """What the local parts remember of the last minutes."""
        found: dict[str, Mapping[str, Any]] = {}
        for part, path in self.parts().items():
            try:
                found[part] = await ask(path / "admin.sock", "history", {"seconds": _REMEMBERED})
            except (OSError, ValueError, TimeoutError):
                continue
        return found | await self.pasts()

    async def pasts(self) -> dict[str, Mapping[str, Any]]:
        """The same from every other node, if an operator is enrolled here; times by our clock."""
        console = await self.console()
        if console is None:
            return {}
        here = self.parts()
        others = [member for member in await self.members() if f"node/{member.name}" not in here]
        answers = await console.ask_all(others, "past", PastQuery(_REMEMBERED), _PATIENCE)
        now = wall()
        return {f"node/{name}": _by_our_clock(past, now) for name, past in answers.items() if isinstance(past, Past)}

    async def console(self) -> Console | None:
        """The admin's console, opened when it is first needed, with a certificate that is renewed in time."""
        path = self.admin
        if path is None:
            return None
        if self._console is not None and monotonic() - self._opened > _RENEW_EVERY:
            await self._leave()
        if self._console is None:
            try:
                self._console = await open_console(path)
            except (OSError, ValueError, Refused) as error:
                log.warning("no console for the admin enrolled here", extra={"error": str(error)})
                return None
            self._opened = monotonic()
            self._members = self._members or IdentityDir.load(path).members
        return self._console

    async def members(self) -> tuple[Member, ...]:
        """Every node that the admin can learn of; looked up again every ten seconds, those gone silent are kept."""
        console = await self.console()
        if console is None:
            return ()
        if monotonic() - self._asked_members > _MEMBERS_EVERY or not self._asked_members:
            self._asked_members = monotonic()
            self._members = await self._named(console)
        return self._members

    async def _named(self, console: Console) -> tuple[Member, ...]:
        """Those that the first node to answer names, and those that have answered us before."""
        for member in self._members:
            try:
                answer = await console.call(member, "members", MembersQuery(1024), _PATIENCE)
            except CallFailed:
                continue
            known = {each.ring_id: each for each in self._members if each.name in self._heard}
            return tuple(sorted((known | {each.ring_id: each for each in answer.members}).values()))
        return self._members

    async def close(self) -> None:
        """End the console."""
        await self._leave()

    async def _leave(self) -> None:
        if self._console is not None:
            await self._console.close(0.0)
            self._console = None

    async def _reports(self, known: Iterable[str]) -> dict[str, Sample | str]:
        """From every node but the local one, whose own socket tells more."""
        console = await self.console()
        if console is None:
            return {}
        here = set(known)
        others = [member for member in await self.members() if f"node/{member.name}" not in here]
        answers = await console.ask_all(others, "report", ReportQuery(), _PATIENCE)
        self._heard |= {name for name, answer in answers.items() if isinstance(answer, Report)}
        return {f"node/{name}": _sample(answer) for name, answer in answers.items()}


def _by_our_clock(past: Past, now: float) -> dict[str, Any]:
    return {"step": past.step, "times": [at + now - past.clock for at in past.times], "values": past.values}


def _sample(answer: Report | CallFailed) -> Sample | str:
    if isinstance(answer, CallFailed):
        return str(answer)
    facts = msgspec.structs.asdict(answer)
    counters = facts.pop("counters")
    return Sample(wall(), facts, {**counters, "cpu_ms": answer.cpu_ms, "rss_bytes": answer.rss_bytes})


async def _ask_here(part: str, directory: Path) -> Sample | str:
    socket = directory / "admin.sock"
    try:
        async with asyncio.timeout(_PATIENCE):
            facts = await ask(socket, "status")
            if part == "authority":
                return Sample(wall(), facts, {k: v for k, v in facts.items() if type(v) is int})
            if part.startswith("user/"):
                facts["relays"] = await ask(socket, "paths")
            counters, links = await asyncio.gather(ask(socket, "counters"), ask(socket, "links"))
    except (OSError, ValueError, TimeoutError) as error:
        return str(error) or "it did not answer in time"
    used: list[Mapping[str, Any]] = links.get("links", [])
    if part.startswith("node/"):
        nodes = [link for link in used if link["lane"] != "dialout"]
        rtts = sorted(link["rtt_us"] for link in nodes if link["up"] and link["rtt_us"])
        facts |= {
            "links": len(nodes),
            "links_up": sum(link["up"] for link in nodes),
            "rtt_us": rtts[len(rtts) // 2] if rtts else 0,
        }
    return Sample(wall(), facts, counters, tuple(used))
