"""What a node answers to control calls: method → role, with who may call what."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from polder.model import Kind, Refused, Verdict
from polder.model.overlay_messages import (
    Advertise,
    Advertised,
    Appoint,
    Appointed,
    Caller,
    Dismiss,
    Done,
    Heed,
    Heeded,
    Members,
    MembersQuery,
    Secrets,
    SecretsQuery,
    ServletsAnswer,
    ServletsQuery,
    Sync,
    Synced,
    Withdraw,
)
from polder.node.probe import Prober
from polder.node.report import Reporter
from polder.shell.clock import monotonic, wall
from polder.shell.linked import Handler, typed

if TYPE_CHECKING:
    from polder.node.shell import Node

_TUNNEL_PATIENCE = 2.0
"""Seconds that an appointing site waits for the tunnel within one call; it asks again otherwise."""


class Calls:
    """Handlers over one node's roles."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._roles = node.roles
        self._prober = Prober(monotonic)

    def handlers(self) -> dict[str, Handler]:
        """By method."""
        reporter = Reporter(self._node)
        return {
            "ring": self._node.ring.handle,
            "advertise": typed(self._advertise, "advertise"),
            "withdraw": typed(self._withdraw, "withdraw"),
            "servlets": typed(self._servlets, "servlets"),
            "appoint": typed(self._appoint, "appoint"),
            "dismiss": typed(self._dismiss, "dismiss"),
            "sync": typed(self._sync, "sync"),
            "members": typed(self._members, "members"),
            "secrets": typed(self._secrets, "secrets"),
            "revocations": typed(self._revocations, "revocations"),
            "probe": typed(self._prober.answer, "probe"),
            "report": typed(reporter.answer, "report"),
            "past": typed(reporter.past, "past"),
            "drill": typed(self._node.drills.answer, "drill"),
        }

    def _advertise(self, caller: Caller, _source: str, body: Advertise) -> Advertised:
        answer = self._roles.beacons.advertise(body, caller, wall())
        self._node.pump()
        return answer

    def _withdraw(self, caller: Caller, _source: str, body: Withdraw) -> Done:
        answer = self._roles.beacons.withdraw(body, caller, wall())
        self._node.pump()
        return answer

    def _servlets(self, caller: Caller, _source: str, body: ServletsQuery) -> ServletsAnswer:
        return self._roles.beacons.query(body, caller, wall())

    async def _appoint(self, caller: Caller, _source: str, body: Appoint) -> Appointed:
        answer = self._roles.servlet.appoint(body, caller, wall())
        self._node.pump()
        if not answer.ready:
            site = caller.name
            async with asyncio.timeout(_TUNNEL_PATIENCE):
                await self._node.deliveries.set(self._roles.servlet.deliveries())
            answer = Appointed(site in self._roles.servlet.ready(), answer.beacons)
        return answer

    def _dismiss(self, caller: Caller, _source: str, body: Dismiss) -> Done:
        answer = self._roles.servlet.dismiss(body, caller, wall())
        self._node.pump()
        return answer

    def _sync(self, caller: Caller, _source: str, body: Sync) -> Synced:
        answer = self._roles.directory.sync(body, caller, wall())
        self._node.pump()
        return answer

    def _members(self, _caller: Caller, _source: str, body: MembersQuery) -> Members:
        """Any node, site or administrator may ask; at most ``limit``, spread evenly over what is known."""
        known = [self._node.me, *self._node.ring.router.members()]
        limit = max(1, min(body.limit, 1024))
        step = max(1.0, len(known) / limit)
        return Members(tuple(known[int(i * step)] for i in range(min(limit, len(known)))))

    def _revocations(self, caller: Caller, _source: str, body: Heed) -> Heeded:
        """Whoever brings it: the list carries the authority's signature."""
        if caller.kind is Kind.SITE:
            raise Refused(Verdict.DENIED, f"{caller.kind} {caller.name}: nodes and operators bring lists; ask with sync")
        return self._node.heed(body.revocations, caller)

    def _secrets(self, caller: Caller, _source: str, body: SecretsQuery) -> Secrets:
        if caller.kind is not Kind.NODE:
            raise Refused(Verdict.DENIED, f"{caller.kind} {caller.name}: only members share the beacon keys' secret")
        return Secrets(self._roles.secrets.newer_than(body.after))
