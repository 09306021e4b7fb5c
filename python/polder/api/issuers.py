"""The issuers of one authority: the one that signs and, during a rotation, the other; certificates and keys together.

The ledger says where each stands; its key lies beside the ledger in ``FILE.key.pem``, encrypted, its certificate in ``FILE.pem``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from polder.settings import ConfigError, write_atomic
from polder.settings.identity import pem_blocks
from polder.store import Ledger, Stage
from polder.trust.authority import Issuer, domain_of
from polder.trust.keys import certificates_to_pem, key_from_pem, key_to_pem
from polder.trust.profiles import key_hash, p256_key

FIRST = "issuer"
"""Stem of the files of the issuer that ``polder init`` makes."""


@dataclass(frozen=True)
class Issuers:
    """``signer`` makes certificates and lists; ``others`` are believed beside it."""

    signer: Issuer
    others: tuple[Issuer, ...] = ()

    def known(self) -> tuple[Issuer, ...]:
        """All that members may meet, the one that signs first."""
        return (self.signer, *self.others)

    def announced(self) -> tuple[bytes, ...]:
        """Certificates (DER) for the revocation list: members need to be told while there are two."""
        return tuple(issuer.chain()[0] for issuer in self.known()) if self.others else ()


def adopt_first(directory: Path, ledger: Ledger, now: float) -> None:
    """Tell the ledger of the issuer that the founding made."""
    certificate = pem_blocks(directory / f"{FIRST}.pem", "CERTIFICATE")[0] if (directory / f"{FIRST}.pem").exists() else None
    if certificate is not None:
        hashed = key_hash(p256_key(x509.load_der_x509_certificate(certificate)))
        ledger.issuers.adopt(hashed, certificate, FIRST, now)


def load_issuers(directory: Path, ledger: Ledger, trust_domain: str, password: str) -> Issuers:
    """Open every issuer that members may meet; raises ``ConfigError`` when a key is not there, ``Refused`` for a wrong password."""
    known = []
    for row in ledger.issuers.rows():
        if row.stage is not Stage.PREPARED:
            file = directory / f"{row.file}.key.pem"
            if not file.exists():
                raise ConfigError(str(file), "", "the issuer's key is missing; bring the authority back with `polder restore`")
            key = key_from_pem(file.read_bytes(), password)
            known.append(Issuer(key, x509.load_der_x509_certificate(row.certificate), trust_domain))
    if not known:
        raise ConfigError(str(directory), "", "no issuer is recorded; bring the authority back with `polder restore`")
    for stem in ledger.issuers.retired_files():
        delete_key(directory, stem)
    return Issuers(known[0], tuple(known[1:]))


def store_key(directory: Path, stem: str, issuer: Issuer, password: str) -> None:
    """Write an issuer's encrypted key and its certificate."""
    write_atomic(directory / f"{stem}.key.pem", key_to_pem(issuer.key, password), 0o600)
    write_atomic(directory / f"{stem}.pem", certificates_to_pem(issuer.chain()))


def delete_key(directory: Path, stem: str) -> None:
    """Remove an issuer's key and certificate."""
    for suffix in ("key.pem", "pem"):
        (directory / f"{stem}.{suffix}").unlink(missing_ok=True)


def open_offline(offline: Path, password: str | None = None) -> tuple[Issuer, bytes]:
    """The root in a copy of ``offline/``, as something that signs, and its certificate (DER); raises ``Refused`` or ``ConfigError``."""
    for file in ("root.key.pem", "root.pem"):
        if not (offline / file).exists():
            raise ConfigError(
                str(offline), "", f"no {file} here: give the directory that `polder init` called offline/, or its copy"
            )
    held = offline / "root-password"
    if password is None and not held.exists():
        raise ConfigError(str(offline), "", "no root-password here: give --root-password-file")
    key = key_from_pem((offline / "root.key.pem").read_bytes(), password or held.read_text(encoding="utf-8").strip())
    der = pem_blocks(offline / "root.pem", "CERTIFICATE")[0]
    root = x509.load_der_x509_certificate(der)
    if key_hash(key.public_key()) != key_hash(p256_key(root)):
        raise ConfigError(str(offline), "", "root.key.pem and root.pem do not belong together")
    try:
        return Issuer(key, root, domain_of(root)), der
    except ValueError as error:
        raise ConfigError(str(offline), "root.pem", str(error)) from error
