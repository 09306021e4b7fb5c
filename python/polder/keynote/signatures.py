"""Signatures over assertions: RFC 2792 §4, and modern algorithms under names of our own.

What is signed is the text from the first field to the newline before ``Signature``, and then the algorithm's name with its colon.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa

from polder.keynote.errors import KeyNoteError, Why
from polder.keynote.keys import (
    Principal,
    PublicKey,
    element,
    integers,
    public_key,
    read_element,
    read_integers,
    sequence,
    show,
    undo_ascii,
)
from polder.keynote.limits import Limits

_FORM = re.compile(r"(sig-[a-z0-9]+(?:-[a-z0-9]+)*)-(hex|base64):", re.IGNORECASE)
_PADDING = padding.PKCS1v15()
_SHA_WITH_RSA = bytes.fromhex("06052b0e03020f")


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A way to sign: the key's kind ("x509" for whatever the certificate holds), the hash, and whether its hash is broken."""

    key: str
    hash: hashes.HashAlgorithm | None
    old: bool = False


ALGORITHMS: dict[str, Algorithm] = {
    "sig-ed25519": Algorithm("ed25519", None),
    "sig-rsa-sha256": Algorithm("rsa", hashes.SHA256()),
    "sig-ecdsa-p256": Algorithm("ecdsa-p256", hashes.SHA256()),
    "sig-x509-sha256": Algorithm("x509", hashes.SHA256()),
    "sig-rsa-sha1": Algorithm("rsa", hashes.SHA1(), old=True),  # noqa: S303
    "sig-rsa-md5": Algorithm("rsa", hashes.MD5(), old=True),  # noqa: S303
    "sig-dsa-sha1": Algorithm("dsa", hashes.SHA1(), old=True),  # noqa: S303
    "sig-x509-sha1": Algorithm("x509", hashes.SHA1(), old=True),  # noqa: S303
}
MODERN = frozenset(name for name, algorithm in ALGORITHMS.items() if not algorithm.old)
OLD = frozenset(ALGORITHMS) - MODERN


def read_signature(text: str) -> tuple[str, str, bytes]:
    """Algorithm, its name as written with encoding and colon, and the signature's bytes."""
    found = _FORM.match(text)
    if found is None or found[1].lower() not in ALGORITHMS:
        raise KeyNoteError(Why.ALGORITHM, f"the signature's algorithm {text.partition(':')[0][:40]!r} is not known")
    return found[1].lower(), found[0], undo_ascii(found[2], text[found.end() :])


def verify(signed: str, signature: str, signer: Principal, accepted: frozenset[str], limits: Limits) -> str:
    """The algorithm's name, if ``signer`` made this signature with an accepted one; else KeyNoteError."""
    name, written, data = read_signature(signature)
    algorithm = ALGORITHMS[name]
    if name not in accepted:
        raise KeyNoteError(Why.ALGORITHM, f"{name} is old and refused: a policy that must take it names it in _ACCEPT_SIGNATURES")
    if isinstance(signer, str):
        raise KeyNoteError(Why.UNSIGNED, f"{show(signer)} is a name, not a key: only a policy may be written by it")
    key = public_key(signer)
    _check(algorithm, name, key, data, signed.encode("ascii") + written.encode("ascii"), limits)
    return name


def _check(algorithm: Algorithm, name: str, key: PublicKey, data: bytes, message: bytes, limits: Limits) -> None:
    wanted = algorithm.key
    try:
        if isinstance(key, ed25519.Ed25519PublicKey) and wanted == "ed25519":
            key.verify(data, message)
            return
        digest = algorithm.hash
        if digest is not None and isinstance(key, rsa.RSAPublicKey) and wanted in ("rsa", "x509"):
            if key.key_size < limits.rsa_bits and not algorithm.old:
                raise KeyNoteError(Why.ALGORITHM, f"the RSA key has {key.key_size} bits; {limits.rsa_bits} are needed")
            _check_rsa(name, key, data, message, digest)
            return
        if digest is not None and isinstance(key, ec.EllipticCurvePublicKey) and wanted in ("ecdsa-p256", "x509"):
            key.verify(_pair(data), message, ec.ECDSA(digest))
            return
        if digest is not None and isinstance(key, dsa.DSAPublicKey) and wanted in ("dsa", "x509"):
            key.verify(_pair(data), message, digest)
            return
    except (InvalidSignature, ValueError, UnsupportedAlgorithm) as error:
        if isinstance(error, KeyNoteError):
            raise
        raise KeyNoteError(
            Why.SIGNATURE, "the signature does not verify: the assertion was changed, or another key signed it"
        ) from None
    raise KeyNoteError(Why.ALGORITHM, f"{name} is not an algorithm of the authorizer's key")


def _check_rsa(name: str, key: rsa.RSAPublicKey, data: bytes, message: bytes, digest: hashes.HashAlgorithm) -> None:
    """Modern names: PKCS#1 v1.5 of RFC 8017. Old ones: as the reference tool signs, or wrapped as RFC 2792 §4.2 may be read."""
    if name in MODERN:
        key.verify(data, message, _PADDING, digest)
    elif len(data) == (key.key_size + 7) // 8:
        if key.recover_data_from_signature(data, _PADDING, None) != old_payload(name, message):
            raise InvalidSignature
    else:
        begin, end = read_element(data, 0, 4)
        if end != len(data):
            raise KeyNoteError(Why.SIGNATURE, "something follows the signature")
        key.verify(data[begin:end], message, _PADDING, digest)


def old_payload(name: str, message: bytes) -> bytes:
    """What the reference tool puts into the padding: an OCTET STRING of the hash; for x509 a DigestInfo of shaWithRSAEncryption."""
    kind = hashlib.md5 if name == "sig-rsa-md5" else hashlib.sha1
    octets = element(4, kind(message, usedforsecurity=False).digest())
    return octets if name != "sig-x509-sha1" else sequence(sequence(_SHA_WITH_RSA + b"\x05\x00") + octets)


def _pair(data: bytes) -> bytes:
    """A SEQUENCE of r and s, in strict DER."""
    return sequence(integers(*read_integers(data, 2)))
