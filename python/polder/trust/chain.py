"""Chains: leaf ← issuer ← pinned root (RFC 5280 §6.1), verified by ``cryptography``'s own path validation.

The root never comes from the wire. An issuer may also speak alone (chain of one): it signs revocation lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from polder.model import Refused, Verdict
from polder.trust.profiles import UNREADABLE, Identity, key_hash, p256_key, read_identity

MAX_CHAIN = 2
MAX_CERTIFICATE = 8192
"""Bytes of one certificate on the wire: a leaf with 32 groups of 63 letters has some 3 KiB."""

SKEW = 60
"""Seconds by which a certificate may lie in the future: clocks differ."""


@dataclass(frozen=True)
class Vouched:
    """A chain that led to a root. ``identity`` is ``None`` for an issuer speaking for itself."""

    identity: Identity | None
    key: ec.EllipticCurvePublicKey
    not_before: float
    not_after: float
    issuer: bytes | None = None
    """SHA-256 of the SubjectPublicKeyInfo of the issuer that signed, or that speaks."""

    @property
    def name(self) -> str:
        """For messages."""
        return str(self.identity.id) if self.identity else "the issuer"


def parse_chain(chain: tuple[bytes, ...]) -> tuple[x509.Certificate, ...]:
    """Certificates of ``chain`` (DER); raises ``Refused`` when there are too many, too long or malformed ones."""
    if not 1 <= len(chain) <= MAX_CHAIN or any(len(der) > MAX_CERTIFICATE for der in chain):
        raise Refused(Verdict.MALFORMED, "a chain is the leaf's and the issuer's certificate, of a few kilobytes each")
    unreadable = Refused(Verdict.MALFORMED, "a certificate in the chain cannot be read")
    try:
        certificates = tuple(x509.load_der_x509_certificate(der) for der in chain)
    except UNREADABLE as error:
        raise unreadable from error
    # The last field is the signature's BIT STRING; of whole bytes (X.690 §11.2), lest one certificate have several spellings.
    if any(der[: -len(each.signature)][-1] for der, each in zip(chain, certificates, strict=True)):
        raise unreadable
    return certificates


def verify_chain(chain: tuple[bytes, ...], roots: tuple[bytes, ...], trust_domain: str, now: float) -> Vouched:
    """Whom ``chain`` (DER, leaf first) speaks for under ``roots`` (DER) at ``now``; raises ``Refused``.

    Checked in order of cost: form, names, validity, then signatures.
    """
    first, *rest = parse_chain(chain)
    try:
        authority = first.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, *UNREADABLE):
        authority = False
    vouched = _vouched(
        first, None if authority else _identity(first, trust_domain), first if authority else next(iter(rest), None)
    )
    check_validity(vouched, now)
    _path(first, rest, roots, vouched, now)
    return vouched


def check_validity(vouched: Vouched, now: float) -> None:
    """Raise ``Refused`` outside the certificate's time."""
    if now > vouched.not_after:
        when = _when(vouched.not_after)
        raise Refused(Verdict.EXPIRED, f"the certificate of {vouched.name} expired at {when}; it must be renewed", retry=True)
    if now < vouched.not_before - SKEW:
        when = _when(vouched.not_before)
        raise Refused(Verdict.NOT_YET, f"the certificate of {vouched.name} begins at {when}; compare the clocks", retry=True)


def _identity(leaf: x509.Certificate, trust_domain: str) -> Identity:
    try:
        identity = read_identity(leaf)
    except ValueError as error:
        raise Refused(Verdict.MALFORMED, f"not a member's certificate: {error}") from error
    if identity.id.trust_domain != trust_domain:
        raise Refused(Verdict.FOREIGN, f"{identity.id} is not of this overlay, {trust_domain}")
    return identity


def _vouched(certificate: x509.Certificate, identity: Identity | None, issuer: x509.Certificate | None) -> Vouched:
    try:
        key = p256_key(certificate)
        signer = key_hash(p256_key(issuer)) if issuer else None
    except ValueError as error:
        raise Refused(Verdict.MALFORMED, f"a certificate in the chain: {error}") from error
    begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    return Vouched(identity, key, begin, end, signer)


def _path(first: x509.Certificate, rest: list[x509.Certificate], roots: tuple[bytes, ...], vouched: Vouched, now: float) -> None:
    anchors = [x509.load_der_x509_certificate(der) for der in roots]
    foreign = Refused(Verdict.FOREIGN, f"the certificate of {vouched.name} does not lead to a root of this overlay")
    if vouched.identity is None:
        if rest or not any(_issued_by(first, root) for root in anchors) or _path_length(first) != 0:
            raise foreign
        return
    if not anchors:
        raise foreign
    # A clock within SKEW before the beginning is as good as the beginning.
    at = datetime.fromtimestamp(max(now, vouched.not_before), UTC)
    builder = PolicyBuilder().store(Store(anchors)).time(at).max_chain_depth(1)
    try:
        builder.build_client_verifier().verify(first, rest)
    except VerificationError as error:
        raise foreign from error


def _issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:
        return False
    return True


def _path_length(certificate: x509.Certificate) -> int | None:
    return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length


def _when(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
