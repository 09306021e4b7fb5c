"""Root and issuer: making them, and issuing leaves.

The root signs issuers and nothing else; its key is needed at ``polder init`` and at an issuer's rotation only. The issuer signs
leaves and revocation lists. All keys come as arguments; serial numbers come from ``rng``.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from polder.model import RevocationList, Signed
from polder.model.spread_messages import RelayList
from polder.trust.envelope import sign
from polder.trust.profiles import Profile, authority_extensions, key_hash, key_usage

DAY = 86_400
ROOT_LIFE = 3650 * DAY
ISSUER_LIFE = 730 * DAY

_BACKDATE = 300
"""Seconds by which a certificate begins early: clocks differ. RFC 5280 knows no tolerance of its own."""


@dataclass(frozen=True)
class Issuer:
    """The online half of the authority. ``certificate`` is signed by a root."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    trust_domain: str

    def issue(
        self, profile: Profile, public: ec.EllipticCurvePublicKey, now: float, life: float, rng: random.Random
    ) -> tuple[bytes, bytes]:
        """The chain (leaf, issuer; DER) for ``profile``. Raises ``ValueError`` for another trust domain.

        A leaf never outlives the issuer that signed it.
        """
        if profile.id.trust_domain != self.trust_domain:
            raise ValueError(f"{profile.id} is not of trust domain {self.trust_domain}")
        builder = _builder(profile.subject(), self.certificate.subject, public, now, life, rng)
        end = min(_date(now + life), self.certificate.not_valid_after_utc)
        builder = builder.not_valid_after(end)
        for extension, critical in profile.extensions():
            builder = builder.add_extension(extension, critical)
        builder = _identifiers(builder, public, self.key.public_key())
        leaf = builder.sign(self.key, hashes.SHA256(), ecdsa_deterministic=True)
        return leaf.public_bytes(Encoding.DER), *self.chain()

    @property
    def key_hash(self) -> bytes:
        """SHA-256 of the SubjectPublicKeyInfo: its name in the ledger and on revocation lists."""
        return key_hash(self.key.public_key())

    def chain(self) -> tuple[bytes]:
        """The issuer's own certificate, as the chain of what it signs itself."""
        return (self.certificate.public_bytes(Encoding.DER),)

    def sign_revocations(self, listed: RevocationList) -> Signed:
        """The list, signed by the issuer itself: it stays believable while the issuer is."""
        return sign(listed, self.key, self.chain())

    def sign_relays(self, listed: RelayList) -> Signed:
        """Who relays, signed as revocations are."""
        return sign(listed, self.key, self.chain())


def make_root(key: ec.EllipticCurvePrivateKey, trust_domain: str, now: float, rng: random.Random) -> x509.Certificate:
    """A self-signed root for ``trust_domain``; it lives ten years."""
    name = _authority_name(trust_domain, "root", rng)
    public = key.public_key()
    builder = _builder(name, name, public, now, ROOT_LIFE, rng).not_valid_after(_date(now + ROOT_LIFE))
    return _sign_authority(builder, trust_domain, 1, public, key)


def make_issuer(
    root_key: ec.EllipticCurvePrivateKey,
    root: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    now: float,
    rng: random.Random,
) -> Issuer:
    """An issuer under ``root``; it lives two years and may sign leaves only."""
    trust_domain = domain_of(root)
    public = key.public_key()
    name = _authority_name(trust_domain, "issuer", rng)
    end = min(_date(now + ISSUER_LIFE), root.not_valid_after_utc)
    builder = _builder(name, root.subject, public, now, ISSUER_LIFE, rng).not_valid_after(end)
    return Issuer(key, _sign_authority(builder, trust_domain, 0, public, root_key), trust_domain)


def make_browser_root(issuer: Issuer, now: float, rng: random.Random) -> x509.Certificate:
    """What a user's browser may trust so that it accepts nodes as TLS proxies, and nothing else.

    The issuer's name and key, self-signed and narrowed: names under ``node.<trust-domain>`` only (RFC 5280 §4.2.1.10), servers
    only. Importing the root itself would let whoever holds the issuer's key stand in for every web site. IP addresses are not
    narrowed: nodes are dialled by them.
    """
    public, name = issuer.key.public_key(), issuer.certificate.subject
    builder = _builder(name, name, public, now, ISSUER_LIFE, rng).not_valid_after(issuer.certificate.not_valid_after_utc)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(key_usage(ca=True), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    names = x509.NameConstraints([x509.DNSName(f"node.{issuer.trust_domain}")], None)
    builder = builder.add_extension(names, critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    return builder.sign(issuer.key, hashes.SHA256(), ecdsa_deterministic=True)


def domain_of(authority: x509.Certificate) -> str:
    """The trust domain that a root or issuer names (``spiffe://<trust-domain>``); raises ``ValueError``."""
    try:
        names = authority.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    match names.get_values_for_type(x509.UniformResourceIdentifier):
        case [uri] if uri.startswith("spiffe://") and "/" not in uri.removeprefix("spiffe://"):
            return uri.removeprefix("spiffe://")
    raise ValueError("not the certificate of a Polder authority: it names no trust domain")


def _authority_name(trust_domain: str, role: str, rng: random.Random) -> x509.Name:
    # A number of its own, so that two roots or issuers of one overlay differ in name as well as in key.
    common = f"Polder {role} {rng.getrandbits(32):08x}"
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain[:64]), x509.NameAttribute(NameOID.COMMON_NAME, common)]
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: float, life: float, rng: random.Random
) -> x509.CertificateBuilder:
    # A short life is not backdated by more than itself: renewal goes by its length.
    begin = _date(now - min(_BACKDATE, life / 10))
    serial = rng.getrandbits(158) | 1  # RFC 5280 §4.1.2.2: positive, at most 20 octets
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    return builder.serial_number(serial).not_valid_before(begin)


def _sign_authority(
    builder: x509.CertificateBuilder,
    trust_domain: str,
    path_length: int,
    public: ec.EllipticCurvePublicKey,
    key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]
    for extension, critical in authority_extensions(names, path_length):
        builder = builder.add_extension(extension, critical)
    builder = _identifiers(builder, public, key.public_key())
    return builder.sign(key, hashes.SHA256(), ecdsa_deterministic=True)


def _identifiers(
    builder: x509.CertificateBuilder, subject: ec.EllipticCurvePublicKey, issuer: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(subject), critical=False)
    return builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)


def _date(unix: float) -> datetime:
    return datetime.fromtimestamp(int(unix), UTC)
