"""``Keeper``: keeps one identity valid.

It renews at two thirds of the life with jitter, tries again with growing pauses, also after expiry, and writes each renewal
atomically before it tells anybody.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

from cryptography import x509

from polder.api.client import renew
from polder.model import Refused, Signed
from polder.settings.identity import IdentityDir
from polder.shell import health
from polder.shell.clock import chance, wall
from polder.shell.health import Check
from polder.shell.metrics import Number
from polder.trust.profiles import Identity, read_identity
from polder.trust.renewal import backoff, renew_at

log = logging.getLogger("polder.identity")

Renewed = Callable[[IdentityDir, Signed], None]
"""Gets the new identity and the revocation list that came with it."""

_LONGEST_SLEEP = 5.0
"""Seconds after which the wall clock is looked at again: it may have been set, or the machine may have slept."""


class Keeper:
    """Run ``forever`` as a task; ``wake`` renews at once. ``clock`` gives Unix seconds; ``via`` does the renewal."""

    def __init__(
        self,
        path: Path,
        identity: IdentityDir,
        on_renewed: Renewed,
        *,
        clock: Callable[[], float] = wall,
        rng: random.Random | None = None,
        via: Callable[[IdentityDir], Awaitable[tuple[IdentityDir, Signed]]] = renew,
        longest_sleep: float = _LONGEST_SLEEP,
    ) -> None:
        self.identity = identity
        self.renewals = 0
        self.failures = 0
        self.last_error: str | None = None
        self._path = path
        self._on_renewed = on_renewed
        self._clock = clock
        self._rng = rng or chance()
        self._via = via
        self._longest_sleep = longest_sleep
        self._woken = asyncio.Event()

    @property
    def not_after(self) -> int:
        """End of the certificate in force, Unix seconds: for the expiry metric."""
        return self._leaf().not_after

    def check(self) -> Check:
        """Whether the identity can be shown."""
        return health.certificate(self.not_after, self._clock())

    def numbers(self) -> dict[str, Number]:
        """For ``/metrics``."""
        return {
            "certificate_expiry_timestamp_seconds": {"own": self.not_after},
            "renewals": self.renewals,
            "renewals_failed": self.failures,
        }

    def wake(self) -> None:
        """Renew now: the operator asked, or a peer said that our certificate is stale."""
        self._woken.set()

    async def forever(self) -> None:
        """Keep the identity valid until cancelled. A refusal that no retry can help (revoked) slows down, but does not end it."""
        while True:
            leaf = self._leaf()
            await self._until(renew_at(leaf.not_before, leaf.not_after, self._rng))
            attempt = 0
            while not await self._renew_once():
                attempt += 1
                await self._until(self._clock() + backoff(attempt, self._rng))

    async def _renew_once(self) -> bool:
        """Whether a renewal is now on the disk and told."""
        try:
            identity, revocations = await self._via(self.identity)
            await asyncio.to_thread(identity.save_renewed, self._path)
        except (Refused, OSError) as error:
            self.failures += 1
            self.last_error = str(error)
            left = self.not_after - self._clock()
            level = logging.WARNING if left > 0 else logging.ERROR
            log.log(level, "renewal failed; it will be tried again", extra={"error": str(error), "valid_for_s": round(left)})
            return False
        self.identity, self.last_error = identity, None
        self.renewals += 1
        log.info("renewed", extra={"who": str(identity.id), "not_after": self.not_after})
        self._on_renewed(identity, revocations)
        return True

    async def _until(self, when: float) -> None:
        """Sleep until ``when`` on the wall clock, or until woken."""
        while (left := when - self._clock()) > 0 and not self._woken.is_set():
            try:
                await asyncio.wait_for(self._woken.wait(), min(left, self._longest_sleep))
            except TimeoutError:
                continue
        self._woken.clear()

    def _leaf(self) -> Identity:
        return read_identity(x509.load_der_x509_certificate(self.identity.chain[0]))
