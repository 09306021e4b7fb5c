"""Invitations: one-use, expiring tokens. The authority keeps their SHA-256 only."""

from __future__ import annotations

import base64
import binascii
import hashlib
import random
from dataclasses import dataclass

from polder.model import Kind, Refused, SpiffeId, Verdict
from polder.trust.profiles import AUTHORITY, Profile

PREFIX = "polder-token-"
"""So that scanners of repositories and logs recognise a token that has leaked."""

TOKEN_BYTES = 32
_CHECK_BYTES = 3


@dataclass(frozen=True)
class Grant:
    """What an invitation allows: this identity. ``life`` is the certificate's in seconds, ``None``: the kind's usual one."""

    kind: Kind
    name: str
    groups: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    life: float | None = None

    def check(self, trust_domain: str) -> SpiffeId:
        """The identity that is granted; raises ``Refused`` when no certificate could say this."""
        who = SpiffeId(trust_domain, self.kind, self.name)
        if self.kind is Kind.ADMIN and self.name == AUTHORITY:
            raise Refused(Verdict.DENIED, f"admin/{AUTHORITY} is the authority's own identity; choose another name")
        try:
            Profile(who, bytes(16) if self.kind is Kind.NODE else None, self.groups, self.hosts)
        except ValueError as error:
            raise Refused(Verdict.MALFORMED, str(error)) from error
        if self.kind is Kind.SITE and not self.hosts:
            raise Refused(Verdict.MALFORMED, "a site needs at least one host name: --host wiki.example.org")
        own = f"node.{trust_domain}"
        for host in self.hosts:
            if host == own or host.endswith(f".{own}"):
                raise Refused(Verdict.DENIED, f"{host} is a name of the overlay's own nodes; a site cannot have it")
        return who


def mint_token(rng: random.Random) -> str:
    """A fresh token: 256 bits from ``rng``, and a check sum against slips of the hand."""
    secret = rng.getrandbits(TOKEN_BYTES * 8).to_bytes(TOKEN_BYTES, "big")
    return PREFIX + base64.urlsafe_b64encode(secret + _check(secret)).decode().rstrip("=")


def token_hash(text: str) -> bytes:
    """What the authority keeps and looks up; raises ``Refused`` for a text that is not a token, without echoing it."""
    body = text.strip()
    malformed = Refused(Verdict.MALFORMED, "that is not an invitation token; copy the whole line that `polder invite` printed")
    if not body.startswith(PREFIX) or len(body) > 128:
        raise malformed
    encoded = body.removeprefix(PREFIX)
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise malformed from None
    secret, check = raw[:TOKEN_BYTES], raw[TOKEN_BYTES:]
    # The last letter has bits that carry nothing: only its one right spelling counts.
    canonical = base64.urlsafe_b64encode(raw).decode().rstrip("=") == encoded
    if len(secret) != TOKEN_BYTES or check != _check(secret) or not canonical:
        raise malformed
    return hashlib.sha256(secret).digest()


def _check(secret: bytes) -> bytes:
    return hashlib.sha256(b"polder token check" + secret).digest()[:_CHECK_BYTES]
