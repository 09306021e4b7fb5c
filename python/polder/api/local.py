"""Enrolment of the authority's own machine: the same invitation and request, without the network in between."""

from __future__ import annotations

import asyncio
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from polder.api.authority_dir import Authority
from polder.api.client import identity_from
from polder.api.enrolment import enrol_here
from polder.api.messages import EnrolRequest
from polder.api.service import AuthorityService, invite
from polder.model import Kind
from polder.settings import StateDir
from polder.settings.identity import IdentityDir
from polder.shell.clock import chance, wall
from polder.trust.requests import make_csr
from polder.trust.tokens import Grant

_TTL = 300.0


def enrol_locally(authority: Authority, state: StateDir, name: str, address: str) -> tuple[IdentityDir, Path]:
    """Enrol this machine as node ``name`` that others dial at ``address``; raises ``Refused``."""
    rng = chance()
    service = AuthorityService(authority.ledger, authority.issuers, authority.roots, authority.settings, wall, rng)
    made = invite(authority.ledger, Grant(Kind.NODE, name), authority.settings.trust_domain, wall(), _TTL, rng)

    async def via(url: str, pin: str, token: str, key: ec.EllipticCurvePrivateKey, at: str | None) -> IdentityDir:
        enrolled = service.enrol(EnrolRequest(token, make_csr(key).decode(), at))
        return identity_from(enrolled, url, pin, key, at)

    work = enrol_here(state, authority.settings.url, authority.pin, made.token, address, kinds=frozenset({Kind.NODE}), via=via)
    return asyncio.run(work)
