"""The authority as a process: HTTPS server, its own certificate renewed in memory, the herald, the administrator's socket."""

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
from polder.api.herald import Herald
from polder.api.metrics import MetricsServer
from polder.api.rotation import Rotation
from polder.api.service import AuthorityService
from polder.api.tls import authority_id, new_key, server_tls, set_identity
from polder.settings import AuthoritySettings, StateDir
from polder.shell import health
from polder.shell.clock import chance, wall
from polder.shell.console import Console, Credentials
from polder.shell.health import Check
from polder.shell.metrics import Number
from polder.shell.process import Life
from polder.shell.tasks import Tasks
from polder.trust.keys import key_to_der
from polder.trust.profiles import Profile
from polder.trust.renewal import renew_at

log = logging.getLogger("polder.authority")

_LONGEST_SLEEP = 5.0
"""Seconds after which the wall clock is looked at again: it may have been set, or the machine may have slept."""


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
        self._clock = clock
        self._rng: random.Random = chance()
        self._tls: ssl.SSLContext = server_tls(authority.roots)
        self._released = False
        self._renew_at = self._not_after = 0.0
        self._service = AuthorityService(
            authority.ledger, authority.issuers, authority.roots, authority.settings, clock, self._rng
        )
        self._server = AuthorityServer(self._service, self._tls)
        self._console = Console(self._present())
        self._rotation = Rotation(authority.ledger, clock)
        self._herald = Herald(self._service, authority.ledger, self._console, self._server.work, self._rng, self._reload_issuers)
        routes = {"status": self._status, "announce": self._announce, **(life.routes() if life else {})}
        self._admin = AdminServer(directory / "admin.sock", routes)
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
        shell._service.nonce_key = (life.memory.get("nonce_key") if life else None) or shell._service.nonce_key
        host, _, port = authority.settings.listen.rpartition(":")
        inherited = life.sockets.listener(authority.settings.listen) if life else None
        try:
            bound = await shell._server.start(host.strip("[]"), int(port), inherited)
        except OSError:
            await shell._console.close(0.0)
            raise
        shell.address = f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"
        await shell._admin.start(life.sockets.listener(str(shell._admin.path)) if life else None)
        await shell.metrics.start(shell._tasks, life.sockets if life else None)
        shell._tasks.forever("own certificate", shell._keep)
        shell._tasks.forever("herald", lambda: shell._herald.look(authority.settings.revocation_refresh))
        shell._tasks.forever("rotation", shell._rotate)
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
        await self._console.close(0.0)
        self._authority.ledger.close()
        return 0

    def _present(self) -> Credentials:
        """Issue a leaf for a fresh key, and present it from the next handshake on, as a server and as a caller of nodes."""
        settings, key, now = self._authority.settings, new_key(), wall()
        profile = Profile(authority_id(settings.trust_domain))
        signer = self._service.issuers.signer
        chain = signer.issue(profile, key.public_key(), now, settings.admin_life, self._rng)
        set_identity(self._tls, key, chain, self._directory)
        self._not_after = now + settings.admin_life
        self._renew_at = renew_at(now, self._not_after, self._rng)
        return Credentials(settings.trust_domain, self._authority.roots, chain, key_to_der(key))

    async def _keep(self) -> None:
        if (left := self._renew_at - wall()) > 0:
            await asyncio.sleep(min(left, _LONGEST_SLEEP))
        else:
            self._console.present(self._present())

    async def _reload_issuers(self) -> None:
        """A rotation may have taken a step in another process: sign as the ledger says."""
        issuers = await self._server.work(self._authority.load_issuers)
        before = self._service.issuers
        if [issuer.key_hash for issuer in issuers.known()] != [issuer.key_hash for issuer in before.known()]:
            self._service.use(issuers)
            if issuers.signer.key_hash != before.signer.key_hash:
                self._console.present(self._present())

    async def _rotate(self) -> None:
        """Begin to sign with the announced issuer when it is time; the herald sees the new epoch."""
        if await self._server.work(self._rotation.switch_if_due):
            log.info("the new issuer signs")
            await self._herald.announce()
        await asyncio.sleep(1.0)

    async def _announce(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        """Tell all nodes now, and what they said."""
        return (await self._herald.announce()).record()

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
        return self._service.issuers.signer.certificate.not_valid_after_utc.timestamp()

    def _root_end(self) -> float:
        return max(x509.load_der_x509_certificate(root).not_valid_after_utc.timestamp() for root in self._authority.roots)

    def _status(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        settings = self._authority.settings
        own = {"address": self.address, "trust_domain": settings.trust_domain, "url": settings.url, "pin": self._authority.pin}
        signer = self._service.issuers.signer.certificate
        last = self._herald.last
        return (
            own
            | {"issuer_not_after": int(signer.not_valid_after_utc.timestamp()), "issuers": len(self._service.issuers.known())}
            | {"revocation_epoch": last.epoch if last else None, "silent": sorted(last.silent) if last else []}
            | self._server.status()
        )
