"""An enrolled operator's console: his certificate is renewed first if it is due, for commands run once a week."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from cryptography import x509

from polder.api.client import renew
from polder.model import Refused
from polder.settings.identity import IdentityDir
from polder.shell.clock import wall
from polder.shell.console import Console, Credentials
from polder.trust.profiles import read_identity

log = logging.getLogger("polder.identity")


async def current_identity(path: Path) -> IdentityDir:
    """The identity in ``path``, renewed if two thirds of its life have passed. An authority that does not answer is no obstacle
    while the certificate is valid; raises ``ConfigError``, and ``Refused`` or ``OSError`` once it has expired.
    """
    identity = IdentityDir.load(path)
    leaf = read_identity(x509.load_der_x509_certificate(identity.chain[0]))
    if wall() < leaf.not_before + (leaf.not_after - leaf.not_before) * 2 / 3:
        return identity
    try:
        identity, _ = await renew(identity)
    except (Refused, OSError) as error:
        if wall() > leaf.not_after:
            raise
        log.info("not renewed", extra={"error": str(error)})
        return identity
    await asyncio.to_thread(identity.save_renewed, path)
    return identity


async def open_console(path: Path) -> Console:
    """A console for the operator enrolled in ``path``; raises as ``current_identity``. Close it."""
    return Console(Credentials.of(await current_identity(path)))
