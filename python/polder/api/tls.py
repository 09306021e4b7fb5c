"""TLS between members and the authority: TLS 1.3 with the pinned root; names are SPIFFE ids, not host names."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from polder.model import Kind, SpiffeId
from polder.settings.identity import pem_encode
from polder.trust.keys import certificates_to_pem, key_to_der
from polder.trust.profiles import AUTHORITY


class WrongServer(ssl.SSLCertVerificationError):
    """The server's certificate leads to the pinned root but is not the authority's."""


def authority_id(trust_domain: str) -> SpiffeId:
    """Who an authority's server must be."""
    return SpiffeId(trust_domain, Kind.ADMIN, AUTHORITY)


def server_tls(roots: tuple[bytes, ...]) -> ssl.SSLContext:
    """A context for the authority: asks for a member's certificate, and lets in those who have none yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=certificates_to_pem(roots).decode())
    context.num_tickets = 0  # no resumption: a handshake is rare, and every one is checked in full
    return context


def set_identity(context: ssl.SSLContext, key: ec.EllipticCurvePrivateKey, chain: tuple[bytes, ...], directory: Path) -> None:
    """Present ``chain`` from the next handshake on. OpenSSL takes files only: one of mode 0600 exists for a moment."""
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".tls-", suffix=".pem") as file:
        file.write(pem_encode("PRIVATE KEY", key_to_der(key)) + certificates_to_pem(chain))
        file.flush()
        context.load_cert_chain(file.name)


def blind_tls() -> ssl.SSLContext:
    """A context that believes anybody: only to fetch the root, which is then compared with the pin."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def client_tls(roots: tuple[bytes, ...], trust_domain: str) -> ssl.SSLContext:
    """A context that completes a handshake with this overlay's authority only, whatever its host name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=certificates_to_pem(roots).decode())
    context.sslobject_class = _checking(str(authority_id(trust_domain)))
    return context


def _checking(wanted: str) -> type[ssl.SSLObject]:
    """An ``SSLObject`` whose handshake fails unless the peer's only URI name is ``wanted``: before a byte of ours is sent."""

    class Checked(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            certificate: dict[str, Any] = self.getpeercert() or {}
            uris = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
            if uris != [wanted]:
                raise WrongServer(f"the server is {uris or 'nobody'}, not {wanted}")

    return Checked


KeyMaker = Callable[[], ec.EllipticCurvePrivateKey]


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key from the operating system's randomness."""
    return ec.generate_private_key(ec.SECP256R1())
