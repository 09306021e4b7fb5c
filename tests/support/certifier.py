"""Certificates of one's own, for clearing houses and ISPs that are in no overlay."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from polder.settings.money import Tls


class Certifier:
    """A certificate authority of one's own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"certifier {directory.name}")])
        made = self._build(self.name, self.key.public_key()).add_extension(x509.BasicConstraints(True, 0), True)
        self.root = made.sign(self.key, hashes.SHA256())
        (directory / "root.pem").write_bytes(self.root.public_bytes(serialization.Encoding.PEM))

    def tls(self, who: str, *names: x509.GeneralName) -> Tls:
        """A certificate for ``who``."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, who)])
        made = self._build(subject, key.public_key()).add_extension(x509.BasicConstraints(False, None), True)
        if names:
            made = made.add_extension(x509.SubjectAlternativeName(names), False)
        leaf = made.sign(self.key, hashes.SHA256())
        certificate, private = self.directory / f"{who}.pem", self.directory / f"{who}.key"
        certificate.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
        private.touch(0o600)
        form = serialization.PrivateFormat.PKCS8
        private.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
        return Tls(certificate=str(certificate), private_key=str(private), authorities=str(self.directory / "root.pem"))

    def _build(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        day = datetime.timedelta(days=1)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key)
        return builder.serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day)
