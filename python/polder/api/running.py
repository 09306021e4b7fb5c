"""The authority as a process: HTTPS server, its own certificate renewed in memory, the administrator's socket."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509

from polder.api.admin import AdminServer
from polder.api.authority import AuthorityServer
from polder.api.authority_dir import Authority
from polder.api.metrics import MetricsServer
from polder.api.service import AuthorityService
from polder.api.tls import authority_id, new_key, server_tls, set_identity
from polder.settings import AuthoritySettings, StateDir
from polder.shell import health
from polder.shell.clock import chance, wall
from polder.shell.health import Check
from polder.shell.metrics import Number
from polder.shell.process import Life
from polder.shell.tasks import Tasks
from polder.trust.profiles import Profile
from polder.trust.renewal import renew_at

log = logging.getLogger("polder.authority")


class AuthorityShell:
    """Start with ``start``; ``address`` is where it listens. Its TLS key lives in memory only and is new at every start."""

    LIVE = frozenset({"node_life", "site_life", "user_life", "admin_life", "renew_grace", "bootstrap", "url"})

    def __init__(
        self,
        authority: Authority,
        directory: Path,
        clock: Callable[[], float] = wall,
        life: Life[AuthoritySettings] | None = None,
    ) -> None:
        self.address = ""
        self._life = life
        self._authority = authority
        self._directory = directory
        self._rng: random.Random = chance()
        self._tls: ssl.SSLContext = server_tls(authority.roots)
        self._not_after = 0.0
        self._released = False
        self._service = service = AuthorityService(
            authority.ledger, authority.issuer, authority.roots, authority.settings, clock, self._rng
        )
        self._server = AuthorityServer(service, self._tls)
        self._admin = AdminServer(directory / "admin.sock", {"status": self._status, **(life.routes() if life else {})})
        self._tasks = Tasks()
        self.metrics = MetricsServer(authority.settings, directory, "authority", self.checks, self.numbers)

    @classmethod
    async def start(
        cls,
        authority: Authority,
        state: StateDir,
        clock: Callable[[], float] = wall,
        life: Life[AuthoritySettings] | None = None,
    ) -> AuthorityShell:
        """Serve ``authority``; raises ``OSError`` when the address is taken. Members' certificates go by ``clock``."""
        shell = cls(authority, state.authority, clock, life)
        shell._present()
        shell._service.nonce_key = (life.memory.get("nonce_key") if life else None) or shell._service.nonce_key
        host, _, port = authority.settings.listen.rpartition(":")
        inherited = life.sockets.listener(authority.settings.listen) if life else None
        bound = await shell._server.start(host.strip("[]"), int(port), inherited)
        shell.address = f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"
        await shell._admin.start(life.sockets.listener(str(shell._admin.path)) if life else None)
        await shell.metrics.start(shell._tasks, life.sockets if life else None)
        shell._tasks.forever("own certificate", shell._keep)
        log.info(
            "serving", extra={"address": shell.address, "trust_domain": authority.settings.trust_domain, "pin": authority.pin}
        )
        return shell

    # Reload, upgrade, end

    def configure(self, settings: AuthoritySettings) -> None:
        """Put other lives of certificates and the like in force: they hold for what is issued from here on."""
        self._service.settings = settings
        self._authority = dataclasses.replace(self._authority, settings=settings)

    def descriptors(self) -> list[tuple[str, int]]:
        """The listening sockets."""
        mine = [(self._authority.settings.listen, self._server.descriptor), (str(self._admin.path), self._admin.descriptor)]
        return [*mine, *self.metrics.descriptors()]

    def memory(self) -> dict[str, bytes]:
        """What seals the nonces that are out; all else is in the database."""
        return {"nonce_key": self._service.nonce_key}

    def release(self) -> None:
        """The next process is the authority; the database knows many writers."""
        self._released = True
        self._tasks.retire()

    def hurry(self) -> None:
        """Nothing: requests take milliseconds."""

    async def close(self, deadline: float = 5.0) -> int:
        """Finish what runs and stop; no stream is ever cut."""
        await self._tasks.close()
        await self._admin.close(remove=not self._released)
        await self.metrics.close()
        await self._server.close()
        self._authority.ledger.close()
        return 0

    def _present(self) -> None:
        """Issue a leaf for a fresh key and present it from the next handshake on."""
        settings, key, now = self._authority.settings, new_key(), wall()
        profile = Profile(authority_id(settings.trust_domain))
        chain = self._authority.issuer.issue(profile, key.public_key(), now, settings.admin_life, self._rng)
        set_identity(self._tls, key, chain, self._directory)
        self._not_after = now + settings.admin_life

    async def _keep(self) -> None:
        life = self._authority.settings.admin_life
        await asyncio.sleep(max(0.0, renew_at(self._not_after - life, self._not_after, self._rng) - wall()))
        self._present()

    def checks(self) -> tuple[Check, ...]:
        """Whether the authority is fit to work."""
        now = wall()
        issuer = Check("issuer", self._issuer_end() > now, "the issuer's certificate has ended: `polder rotate issuer`")
        return health.certificate(self._not_after, now), issuer, Check("listener", bool(self.address), "it does not listen yet")

    def numbers(self) -> dict[str, Number]:
        """What ``/metrics`` tells."""
        ends = {"own": self._not_after, "issuer": self._issuer_end(), "root": self._root_end()}
        return {"certificate_expiry_timestamp_seconds": ends, **self._server.numbers()}

    def _issuer_end(self) -> float:
        return self._authority.issuer.certificate.not_valid_after_utc.timestamp()

    def _root_end(self) -> float:
        return max(x509.load_der_x509_certificate(root).not_valid_after_utc.timestamp() for root in self._authority.roots)

    def _status(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        settings = self._authority.settings
        own = {"address": self.address, "trust_domain": settings.trust_domain, "url": settings.url, "pin": self._authority.pin}
        return (
            own
            | {"issuer_not_after": int(self._authority.issuer.certificate.not_valid_after_utc.timestamp())}
            | self._server.status()
        )
