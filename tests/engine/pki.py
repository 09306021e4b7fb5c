"""A private authority for tests of the engine: only what certificates must say."""

from __future__ import annotations

import datetime as dt
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from polder.snapshot.schema import IdentityMaterial

DOMAIN = "o.test"
RING_ID = ObjectIdentifier("2.25.235711131719232931.1")
GROUPS = ObjectIdentifier("2.25.235711131719232931.2")


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@dataclass
class Authority:
    """One self-signed root that issues leaves directly."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test root")])
        self.root = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(self.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_now() - dt.timedelta(hours=1))
            .not_valid_after(_now() + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    @property
    def root_der(self) -> bytes:
        """The pinned root."""
        return self.root.public_bytes(serialization.Encoding.DER)

    def leaf(self, kind: str, name: str, ring_id: int | None = None, groups: str = "", until: float = 3600) -> IdentityMaterial:
        """An identity that ends ``until`` seconds from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"spiffe://{DOMAIN}/{kind}/{name}")]
        if kind == "node":
            names.append(x509.DNSName(f"{name}.node.{DOMAIN}"))
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_now() - dt.timedelta(hours=1))
            .not_valid_after(_now() + dt.timedelta(seconds=until))
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
            )
        )
        if ring_id is not None:
            builder = builder.add_extension(x509.UnrecognizedExtension(RING_ID, ring_id.to_bytes(16, "big")), critical=False)
        if groups:
            builder = builder.add_extension(x509.UnrecognizedExtension(GROUPS, groups.encode()), critical=False)
        cert = builder.sign(self.key, hashes.SHA256())
        encoded = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return IdentityMaterial((cert.public_bytes(serialization.Encoding.DER),), encoded)

    def context(self, material: IdentityMaterial | None, folder: Path, alpn: str = "http/1.1") -> ssl.SSLContext:
        """A client's TLS settings, as a browser's with a client certificate."""
        context = ssl.create_default_context(cadata=self.root_der)
        context.set_alpn_protocols([alpn])
        if material is not None:
            cert = x509.load_der_x509_certificate(material.chain[0]).public_bytes(serialization.Encoding.PEM)
            key = serialization.load_der_private_key(material.key, None).private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            path = folder / f"{hashes.Hash(hashes.SHA256()).finalize().hex()[:8]}-{id(material)}.pem"
            path.write_bytes(cert + key)
            context.load_cert_chain(path)
        return context
