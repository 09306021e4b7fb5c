"""A real authority on loopback, in this process: TLS, HTTP, database; only its clock can be put forward."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polder.api import client
from polder.api.authority_dir import Authority, found, load_authority
from polder.api.running import AuthorityShell
from polder.api.service import invite
from polder.api.tls import new_key
from polder.model import Kind
from polder.settings import AuthoritySettings, StateDir
from polder.settings.identity import IdentityDir
from polder.shell.clock import chance, wall
from polder.trust.tokens import Grant
from tests.support.identities import DOMAIN


class Clock:
    """Wall time and what has been added to it."""

    ahead = 0.0

    def __call__(self) -> float:
        return wall() + self.ahead


@dataclass
class Served:
    """An authority that answers at ``url``."""

    url: str
    pin: str
    state: StateDir
    authority: Authority
    shell: AuthorityShell
    clock: Clock

    def token(self, kind: str, name: str, ttl: float = 60.0, **grant: Any) -> str:
        """A fresh token."""
        wished = Grant(Kind(kind), name, **grant)
        return invite(self.authority.ledger, wished, DOMAIN, self.clock(), ttl, chance()).token

    async def enrol(self, kind: str, name: str, address: str | None = None, **grant: Any) -> IdentityDir:
        """A fresh identity, over the network."""
        if kind == "site":
            grant.setdefault("hosts", (f"{name}.example",))
        return await client.enrol(self.url, self.pin, self.token(kind, name, **grant), new_key(), address)


@asynccontextmanager
async def serve(root: Path, **settings: Any) -> AsyncIterator[Served]:
    """Found an authority in ``root`` and serve it on a port that the kernel chooses."""
    state = StateDir(root)
    given = {"trust_domain": DOMAIN, "listen": "127.0.0.1:0", "url": "https://127.0.0.1:1", "rate_per_source": 1000.0} | settings
    await asyncio.to_thread(found, state, AuthoritySettings(**given), wall(), chance(), new_key)
    authority, clock = load_authority(state, {}), Clock()
    shell = await AuthorityShell.start(authority, state, clock)
    try:
        yield Served(f"https://{shell.address}", authority.pin, state, authority, shell, clock)
    finally:
        await shell.close()
