"""What the authority puts into certificates, and reads out of them again.

A leaf has an empty subject and exactly one URI SAN, the SPIFFE id (X.509-SVID §2: "MUST contain exactly one URI SAN"). Nodes
carry their ring id, users their groups, in private extensions whose value is the raw bytes; both are non-critical, because TLS
libraries refuse unknown critical ones (RFC 5280 §4.2).
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from polder.model import Kind, SpiffeId, parse_name

RING_ID = x509.ObjectIdentifier("2.25.235711131719232931.1")
"""Extension: the 16 bytes of a node's ring id."""

GROUPS = x509.ObjectIdentifier("2.25.235711131719232931.2")
"""Extension: a user's groups in UTF-8, separated by commas."""

MAX_GROUPS = 32
MAX_HOSTS = 64

UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    x509.InvalidVersion,
)
"""All that ``cryptography`` raises for bytes that parse as DER but make no sense."""

AUTHORITY = "authority"
"""The admin name of the authority itself: nobody is ever invited under it."""


@dataclass(frozen=True)
class Profile:
    """What a leaf says. ``ring_id`` and ``ip`` for nodes only, ``groups`` for users only, ``hosts`` (DNS names) for sites only.

    ``ip``: where the node is dialled; a browser that uses the node as its proxy by address checks it.
    """

    id: SpiffeId
    ring_id: bytes | None = None
    groups: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    ip: str | None = None

    def __post_init__(self) -> None:
        """Raises ``ValueError`` when kind and contents do not go together."""
        kind = self.id.kind
        parse_name(self.id.name)
        if (self.ring_id is not None) != (kind is Kind.NODE) or (self.ring_id is not None and len(self.ring_id) != 16):
            raise ValueError("a node has a ring id of 16 bytes, nobody else has one")
        if self.ip is not None and kind is not Kind.NODE:
            raise ValueError(f"a {kind} has no address; only nodes have")
        if self.groups and kind is not Kind.USER:
            raise ValueError(f"a {kind} has no groups; only users have")
        if self.hosts and kind is not Kind.SITE:
            raise ValueError(f"a {kind} has no host names of its own; only sites have")
        if len(self.groups) > MAX_GROUPS or len(self.hosts) > MAX_HOSTS:
            raise ValueError(f"at most {MAX_GROUPS} groups and {MAX_HOSTS} hosts fit a certificate")
        for group in self.groups:
            parse_name(group)

    def dns_names(self) -> tuple[str, ...]:
        """The DNS SANs: a node's ``<name>.node.<trust-domain>``, a site's hosts, nobody else's."""
        if self.id.kind is Kind.NODE:
            return (f"{self.id.name}.node.{self.id.trust_domain}",)
        return self.hosts

    def subject(self) -> x509.Name:
        """What a browser shows when it asks which certificate to use. Nothing is decided by it."""
        domain = x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.id.trust_domain[:64])
        return x509.Name([domain, x509.NameAttribute(NameOID.COMMON_NAME, self.id.name)])

    def extensions(self) -> list[tuple[x509.ExtensionType, bool]]:
        """Extensions that follow from the profile, with their criticality."""
        kind = self.id.kind
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(self.id))]
        names += [x509.DNSName(name) for name in self.dns_names()]
        if self.ip is not None:
            names.append(x509.IPAddress(ipaddress.ip_address(self.ip)))
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if kind is Kind.NODE or (kind is Kind.ADMIN and self.id.name == AUTHORITY):
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        result: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (key_usage(ca=False), True),
            (x509.ExtendedKeyUsage(usages), False),
            (x509.SubjectAlternativeName(names), False),
        ]
        if self.ring_id is not None:
            result.append((x509.UnrecognizedExtension(RING_ID, self.ring_id), False))
        if self.groups:
            result.append((x509.UnrecognizedExtension(GROUPS, ",".join(self.groups).encode()), False))
        return result


@dataclass(frozen=True)
class Identity:
    """What a verified certificate says. ``hosts`` and ``ips`` are its DNS and IP names. Times in Unix seconds.

    ``key_hash`` is SHA-256 of the SubjectPublicKeyInfo.
    """

    id: SpiffeId
    ring_id: bytes | None
    groups: tuple[str, ...]
    hosts: tuple[str, ...]
    ips: tuple[str, ...]
    key_hash: bytes
    not_before: int
    not_after: int


def key_hash(key: ec.EllipticCurvePublicKey) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo: what revocation names, and what stays over renewals."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def read_identity(leaf: x509.Certificate) -> Identity:
    """What ``leaf`` says, unverified; raises ``ValueError`` when it is not a leaf of our form."""
    try:
        return _read(leaf)
    except UNREADABLE as error:
        raise ValueError(str(error)) from error


def p256_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """The certificate's key; raises ``ValueError`` for any other kind."""
    try:
        key = certificate.public_key()
    except UNREADABLE as error:
        raise ValueError("its key cannot be read") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("its key is not ECDSA P-256")
    return key


def _read(leaf: x509.Certificate) -> Identity:
    key = p256_key(leaf)
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise ValueError("it names nobody: no subject alternative name") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise ValueError(f"it has {len(uris)} URI names where exactly one is right")
    ring_id = _private(leaf, RING_ID)
    groups = _private(leaf, GROUPS)
    profile = Profile(
        SpiffeId.parse(uris[0]),
        ring_id,
        tuple(groups.decode().split(",")) if groups else (),
        tuple(names.get_values_for_type(x509.DNSName)) if "/site/" in uris[0] else (),
    )
    return Identity(
        profile.id,
        ring_id,
        profile.groups,
        tuple(names.get_values_for_type(x509.DNSName)),
        tuple(map(str, names.get_values_for_type(x509.IPAddress))),
        key_hash(key),
        int(leaf.not_valid_before_utc.timestamp()),
        int(leaf.not_valid_after_utc.timestamp()),
    )


def _private(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> bytes | None:
    try:
        found = certificate.extensions.get_extension_for_oid(oid).value
    except x509.ExtensionNotFound:
        return None
    return found.value if isinstance(found, x509.UnrecognizedExtension) else None


def key_usage(*, ca: bool) -> x509.KeyUsage:
    """Signatures for leaves; certificates and revocations for authorities."""
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def authority_extensions(names: list[x509.GeneralName], path_length: int) -> list[tuple[x509.ExtensionType, bool]]:
    """Extensions of root (``path_length`` 1) and issuer (0)."""
    return [
        (x509.BasicConstraints(ca=True, path_length=path_length), True),
        (key_usage(ca=True), True),
        (x509.SubjectAlternativeName(names), False),
    ]
