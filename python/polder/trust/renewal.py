"""When to renew, how to prove that one may, and what to do when it fails."""

from __future__ import annotations

import random

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from polder.model import Refused, Verdict

CONTEXT = b"polder-renew/1\0"

_JITTER = 0.1
"""Part of a life over which renewals are spread: a thousand nodes born in one minute do not come back in one minute."""

_BACKOFF_FIRST = 1.0
_BACKOFF_MAX = 300.0


def renew_at(not_before: float, not_after: float, rng: random.Random) -> float:
    """Unix time of the first attempt: two thirds of the life, less up to a tenth of it."""
    life = not_after - not_before
    return not_before + life * (2 / 3 - rng.uniform(0, _JITTER))


def backoff(attempt: int, rng: random.Random) -> float:
    """Seconds before attempt number ``attempt`` (1, 2, …): doubling from a second to five minutes, between half and all of it."""
    full = min(_BACKOFF_MAX, _BACKOFF_FIRST * 2.0 ** min(attempt - 1, 16))
    return full * rng.uniform(0.5, 1.0)


def prove(key: ec.EllipticCurvePrivateKey, nonce: str) -> bytes:
    """Sign the authority's nonce: whoever can is the holder of the certificate, expired or not."""
    return key.sign(CONTEXT + nonce.encode(), ec.ECDSA(hashes.SHA256(), deterministic_signing=True))


def check_proof(key: ec.EllipticCurvePublicKey, nonce: str, signature: bytes) -> None:
    """Raise ``Refused`` unless ``signature`` is ``key``'s over ``nonce``."""
    try:
        key.verify(signature, CONTEXT + nonce.encode(), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise Refused(Verdict.BAD_SIGNATURE, "the renewal is not signed by the certificate's key") from None
