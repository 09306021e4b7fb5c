"""Mutual TLS 1.3 between clearing house, ISPs, providers and users: with identities of the overlay, or certificates of one's own.

Who somebody is, is the first URI in his certificate (``spiffe://overlay/site/nick``), else its first DNS name (``dns:isp.example``).
Accounts are opened for such identities. Certificates of the overlay are also looked up in its revocation list, fetched anew all the time.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from polder.api.client import fetch_revocations
from polder.api.tls import WrongServer, server_tls, set_identity
from polder.model import Refused, RevocationList, Signed, Verdict
from polder.settings import ConfigError
from polder.settings.identity import IdentityDir
from polder.settings.money import Tls
from polder.shell.clock import wall
from polder.trust.envelope import ChainVerifier
from polder.trust.keys import key_from_der
from polder.trust.profiles import key_hash

log = logging.getLogger("polder.clearing")


def name_in(leaf: bytes) -> str:
    """Whom a verified certificate (DER) names; raises ``Refused`` when it names nobody."""
    try:
        names = x509.load_der_x509_certificate(leaf).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        names = x509.SubjectAlternativeName([])
    for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
        return uri
    for host in names.get_values_for_type(x509.DNSName):
        return f"dns:{host}"
    raise Refused(Verdict.MALFORMED, "the certificate has neither a URI nor a DNS name: nobody knows whose it is")


@dataclass
class Membership:
    """One side's certificates. ``revoked``: the overlay's list, when it is an identity of the overlay."""

    tls: Tls
    directory: Path
    """Private; where OpenSSL finds a key for a moment."""
    overlay: IdentityDir | None = None
    revoked: RevocationList | None = None

    @classmethod
    def load(cls, tls: Tls, directory: Path) -> Membership:
        """Read the files; raises ``ConfigError`` or ``OSError``."""
        if tls.identity is None:
            return cls(tls, directory)
        overlay = IdentityDir.load(Path(tls.identity))
        found = cls(tls, directory, overlay)
        if overlay.revocations is not None:
            found.revoked = _listed(overlay, overlay.revocations)
        return found

    def server(self) -> ssl.SSLContext:
        """A context that lets nobody in without a certificate."""
        if self.overlay is not None:
            context = server_tls(self.overlay.roots)
            set_identity(context, key_from_der(self.overlay.key), self.overlay.chain, self.directory)
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.num_tickets = 0
            self._own(context)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client(self, member: str | None) -> ssl.SSLContext:
        """A context that talks to nobody but ``member`` of the overlay, or to whom the host name belongs."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if self.overlay is None:
            self._own(context)
            return context
        if member is None:
            raise ConfigError(
                "configuration", "member", "name the other side: its identity in the overlay, such as spiffe://overlay/site/x"
            )
        # OpenSSL would want a certificate for servers, which nodes alone have; the overlay's own verifier asks who it is instead.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.sslobject_class = _only(member, self._believe)
        set_identity(context, key_from_der(self.overlay.key), self.overlay.chain, self.directory)
        return context

    def identify(self, leaf: bytes) -> str:
        """Whose certificate (DER; TLS has verified it) this is; raises ``Refused`` for one that was revoked."""
        name = name_in(leaf)
        if self.revoked is not None:
            public = x509.load_der_x509_certificate(leaf).public_key()
            keys = frozenset(self.revoked.keys)
            if name in self.revoked.identities or (isinstance(public, ec.EllipticCurvePublicKey) and key_hash(public) in keys):
                raise Refused(Verdict.REVOKED, f"{name} has been revoked by the overlay's authority")
        return name

    def _believe(self, chain: tuple[bytes, ...]) -> str:
        """Whom a chain (DER, leaf first) of the overlay names; raises ``Refused``."""
        assert self.overlay is not None  # asked for overlays only
        verifier = ChainVerifier(self.overlay.roots, self.overlay.id.trust_domain)
        name = str(verifier.identity(chain, wall()).id)
        self.identify(chain[0])
        return name

    async def refresh(self) -> None:
        """Read a renewed certificate, and fetch the revocation list; raises ``OSError`` or ``Refused``: the last one stays in force."""
        if self.overlay is None or self.tls.identity is None:
            return
        self.overlay = IdentityDir.load(Path(self.tls.identity))
        found = _listed(self.overlay, await fetch_revocations(self.overlay, self.directory))
        if self.revoked is None or found.epoch >= self.revoked.epoch:
            self.revoked = found

    def renew(self, context: ssl.SSLContext) -> None:
        """Show the certificate that is on the disk now, from the next handshake on."""
        if self.overlay is not None:
            set_identity(context, key_from_der(self.overlay.key), self.overlay.chain, self.directory)
        else:
            self._own(context)

    def _own(self, context: ssl.SSLContext) -> None:
        tls = self.tls
        assert tls.certificate and tls.private_key and tls.authorities  # the settings say so
        if Path(tls.private_key).stat().st_mode & 0o077:
            raise ConfigError(
                tls.private_key, "", "others can read this key; `chmod 600` it, and make a new one if somebody may have"
            )
        try:
            context.load_cert_chain(tls.certificate, tls.private_key)
            context.load_verify_locations(tls.authorities)
        except ssl.SSLError as error:
            raise ConfigError(tls.certificate, "", f"certificate, key or authorities cannot be used: {error}") from error


def _listed(overlay: IdentityDir, signed: Signed) -> RevocationList:
    """The list in ``signed``; raises ``Refused`` when the overlay's authority did not sign it."""
    return ChainVerifier(overlay.roots, overlay.id.trust_domain).open_revocations(signed, wall())


def _only(wanted: str, believe: Callable[[tuple[bytes, ...]], str]) -> type[ssl.SSLObject]:
    """An ``SSLObject`` whose handshake fails unless the peer is ``wanted``: before a byte of ours is sent."""

    class Checked(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            try:
                name = believe(_shown(self))
            except Refused as refused:
                raise WrongServer(str(refused)) from None
            if name != wanted:
                raise WrongServer(f"the server is {name}, not {wanted}")

    return Checked


def _shown(connection: Any) -> tuple[bytes, ...]:
    """The chain (DER) that the peer showed. Python has a name for it since 3.13; before, the object beneath is asked."""
    if hasattr(connection, "get_unverified_chain"):
        return tuple(connection.get_unverified_chain())
    return tuple(bytes(one.public_bytes(_DER)) for one in connection._sslobj.get_unverified_chain() or ())


_DER = 2
"""``_ssl.ENCODING_DER``."""
