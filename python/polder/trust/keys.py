"""Keys and certificates as files hold them: PEM, encrypted PEM, PKCS #12."""

from __future__ import annotations

import base64
import hashlib
import hmac
import random

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
    pkcs12,
)

from polder.model import Refused, Verdict

MIN_PASSWORD = 24
"""Characters of a password that protects an authority's key. PKCS #8 as OpenSSL writes it stretches little (2,048 rounds), so
the password itself must be out of reach of guessing; the ones that Polder makes have 160 bits."""


def make_password(rng: random.Random) -> str:
    """160 bits in groups of four letters and digits, for a file or a sheet of paper."""
    text = base64.b32encode(rng.getrandbits(160).to_bytes(20, "big")).decode().lower()
    return "-".join(text[i : i + 4] for i in range(0, len(text), 4))


def key_to_pem(key: ec.EllipticCurvePrivateKey, password: str | None = None) -> bytes:
    """PKCS #8 PEM, encrypted with AES-256 when there is a ``password``."""
    encryption: KeySerializationEncryption = NoEncryption()
    if password is not None:
        if len(password) < MIN_PASSWORD:
            raise Refused(Verdict.DENIED, f"the password of an authority's key needs at least {MIN_PASSWORD} characters")
        encryption = BestAvailableEncryption(password.encode())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def key_from_pem(pem: bytes, password: str | None = None) -> ec.EllipticCurvePrivateKey:
    """The P-256 key in ``pem``; raises ``Refused`` when the password is wrong or the key is of another kind."""
    try:
        key = load_pem_private_key(pem, password.encode() if password is not None else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Refused(Verdict.MALFORMED, "the private key cannot be read: wrong password, or not PKCS #8 in PEM") from error
    return _p256(key)


def key_from_der(der: bytes) -> ec.EllipticCurvePrivateKey:
    """The P-256 key in PKCS #8 ``der``; raises ``Refused``."""
    try:
        key = load_der_private_key(der, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Refused(Verdict.MALFORMED, "the private key cannot be read: not PKCS #8") from error
    return _p256(key)


def key_to_der(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #8 DER, as the data plane wants it."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def certificates_to_pem(chain: tuple[bytes, ...]) -> bytes:
    """PEM of DER certificates, in order."""
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in chain)


def certificates_from_pem(pem: bytes) -> tuple[bytes, ...]:
    """DER of every certificate in ``pem``; raises ``Refused`` when there is none."""
    try:
        return tuple(c.public_bytes(Encoding.DER) for c in x509.load_pem_x509_certificates(pem))
    except ValueError as error:
        raise Refused(Verdict.MALFORMED, "no certificate in PEM was found") from error


def pin_of(root: bytes) -> str:
    """``sha256:HEX`` of a root's DER: what an invitation carries beside the token."""
    return "sha256:" + hashlib.sha256(root).hexdigest()


def check_pin(root: bytes, pin: str) -> None:
    """Raise ``Refused`` unless ``root`` (DER) is the one that is pinned."""
    digest = pin.strip().lower()
    if len(digest) != 71 or not digest.startswith("sha256:"):
        raise Refused(Verdict.MALFORMED, "that is not a pin; it begins with sha256: and has 64 hexadecimal digits")
    if not hmac.compare_digest(digest, pin_of(root)):
        raise Refused(
            Verdict.FOREIGN,
            "the server's root is not the pinned one: this is another authority, or somebody stands in between; "
            "compare URL and pin with the invitation",
        )


def to_pkcs12(
    label: str, key: ec.EllipticCurvePrivateKey, chain: tuple[bytes, ...], password: str, *, compatible: bool = False
) -> bytes:
    """A ``.p12`` with key, leaf and issuer, for browsers and key chains.

    AES-256 with PBKDF2-SHA-256 and an HMAC-SHA-256 seal; ``compatible`` writes the triple-DES and SHA-1 form of 1999 for those
    that read no other (the password must then protect the file all the more). The root is left out: a browser that imported it
    would be asked to trust it for every site.
    """
    leaf, *above = (x509.load_der_x509_certificate(der) for der in chain)
    builder = PrivateFormat.PKCS12.encryption_builder().kdf_rounds(100_000)
    if compatible:
        builder = builder.key_cert_algorithm(pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC).hmac_hash(hashes.SHA1())  # noqa: S303
    else:
        builder = builder.key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC).hmac_hash(hashes.SHA256())
    return pkcs12.serialize_key_and_certificates(label.encode(), key, leaf, above, builder.build(password.encode()))


def _p256(key: object) -> ec.EllipticCurvePrivateKey:
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Refused(Verdict.MALFORMED, "the private key is not ECDSA P-256")
    return key
