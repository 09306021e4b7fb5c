"""Certificates for the hops of a peer's chain: one authority, ``node1.test`` … in the forms that each program wants."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


def write(directory: Path, hops: int) -> None:
    """``ca.pem``, and ``node0`` (the user's machine) to ``node<hops>`` as ``.crt``, ``.key`` and ``.pem`` (both)."""
    directory.mkdir(parents=True)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = _name("Chain CA")
    basic = x509.BasicConstraints(ca=True, path_length=0)
    ca = _certificate(ca_name, ca_name, ca_key.public_key()).add_extension(basic, critical=True).sign(ca_key, hashes.SHA256())
    (directory / "ca.pem").write_bytes(ca.public_bytes(Encoding.PEM))
    for number in range(hops + 1):
        name, key = f"node{number}", ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(f"{name}.test")])
        leaf = _certificate(_name(f"{name}.test"), ca_name, key.public_key()).add_extension(names, critical=False)
        chain = leaf.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.PEM)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        for suffix, data in ((".crt", chain), (".key", private), (".pem", chain + private)):
            (directory / name).with_suffix(suffix).write_bytes(data)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + 30 * day)
