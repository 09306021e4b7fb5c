"""``Console``: the process of an operator, or the authority, that makes control calls to nodes and serves nobody.

Its engine is a forwarder's without listener: it dials the nodes that it calls, shows its certificate to the expected one only,
and opens no tunnels. Nodes see ``admin/NAME`` as the caller, or ``admin/authority``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from polder.engine import CallFailed
from polder.model import Member, RevocationList
from polder.model.overlay_messages import MembersQuery
from polder.settings.identity import IdentityDir
from polder.shell.linked import Linked
from polder.snapshot.fold import Verdicts
from polder.snapshot.schema import EngineConfig, IdentityMaterial

AT_ONCE = 64
"""Calls of one ``ask_all`` that run at the same time; each dial costs about 2 ms of CPU time."""


@dataclass(frozen=True)
class Credentials:
    """Who calls: ``chain`` (DER, leaf first), ``key`` (PKCS #8 DER), under ``roots`` (DER)."""

    trust_domain: str
    roots: tuple[bytes, ...]
    chain: tuple[bytes, ...]
    key: bytes = field(repr=False)

    @classmethod
    def of(cls, identity: IdentityDir) -> Credentials:
        """Those of an enrolled identity."""
        return cls(identity.id.trust_domain, identity.roots, identity.chain, identity.key)


class Console(Linked):
    """Construct inside a running loop; ``close`` at the end."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._revoked: RevocationList | None = None
        super().__init__(EngineConfig(role="forwarder", listen=()))
        self.apply()

    def verdicts(self) -> Verdicts:
        """Identity and revocations: whom to call comes with each call."""
        mine = self._credentials
        material = IdentityMaterial(mine.chain, mine.key)
        return Verdicts(trust_domain=mine.trust_domain, roots=mine.roots, identity=material, revocations=self._revoked)

    def present(self, credentials: Credentials) -> None:
        """Call with a renewed certificate from now on; links are made anew."""
        if credentials != self._credentials:
            self._credentials = credentials
            self.apply()

    def believe(self, listed: RevocationList) -> None:
        """Nodes on a verified revocation list are no longer called."""
        if self._revoked is None or listed.epoch != self._revoked.epoch:
            self._revoked = listed
            self.apply()

    async def ask_all(
        self, members: Iterable[Member], method: str, body: msgspec.Struct, timeout: float = 3.0
    ) -> dict[str, Any | CallFailed]:
        """Call ``method`` at every one of ``members`` at once; by name, the answer or why there is none. Never raises ``CallFailed``."""
        turn = asyncio.Semaphore(AT_ONCE)

        async def ask(member: Member) -> Any | CallFailed:
            async with turn:
                try:
                    return await self.call(member, method, body, timeout)
                except CallFailed as error:
                    return error

        asked = {member.name: member for member in members}
        answers = await asyncio.gather(*(ask(member) for member in asked.values()))
        return dict(zip(asked, answers, strict=True))

    async def find_members(self, known: Iterable[Member], timeout: float = 3.0) -> tuple[Member, ...]:
        """Every node that the nodes among ``known`` (the first that answers, in their order) name, and ``known``; by ring id."""
        found = {member.ring_id: member for member in known}
        for member in tuple(found.values()):
            try:
                answer = await self.call(member, "members", MembersQuery(1024), timeout)
            except CallFailed:
                continue
            found |= {each.ring_id: each for each in answer.members}
            break
        return tuple(member for _, member in sorted(found.items()))
