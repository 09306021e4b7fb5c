"""Signed statements: making and checking them.

The signature is ECDSA P-256 with SHA-256 over ``b"polder/1\\0" + payload``: the prefix keeps it from being taken for a signature
made for another purpose with the same key (a TLS handshake's begins with 64 spaces, RFC 8446 §4.4.3; a certificate's with 0x30).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from polder.model import Kind, Refused, RevocationList, Signed, SpiffeId, Verdict, decode, encode
from polder.model.spread_messages import RelayList
from polder.trust.chain import Vouched, check_validity, verify_chain
from polder.trust.profiles import AUTHORITY, Identity
from polder.trust.revocation import Revoked

T = TypeVar("T", bound=msgspec.Struct)

CONTEXT = b"polder/1\0"

MAX_PAYLOAD = 65_536
"""Bytes of a member's statement: a site with 64 hosts and 100 rules has some 6 KiB."""

MAX_LIST = 786_432
"""Bytes of a revocation list, which must fit a control call of 1 MiB: some 9,000 identities with one key each."""


def sign(record: msgspec.Struct, key: ec.EllipticCurvePrivateKey, chain: tuple[bytes, ...]) -> Signed:
    """Sign ``record`` with the key of ``chain[0]`` (DER, leaf first)."""
    payload = encode(record)
    signature = key.sign(CONTEXT + payload, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    return Signed(payload, signature, chain)


@dataclass
class ChainVerifier:
    """``polder.model.Verifier``: believes what certificates under ``roots`` sign, unless revoked.

    Chains that verified are remembered by their bytes (``cache`` of them, some 2 KiB each) until they expire: a site's many
    statements cost one chain. Times and revocation are checked at every call.
    """

    roots: tuple[bytes, ...]
    trust_domain: str
    revoked: Revoked = Revoked()
    cache: int = 1024

    def __post_init__(self) -> None:
        self._known: OrderedDict[tuple[bytes, ...], Vouched] = OrderedDict()

    def __call__(self, signed: Signed, now: float) -> SpiffeId:
        """Who signed; the authority itself is ``admin/authority``. Raises ``Refused``."""
        vouched = self._chain(signed.chain, now)
        most = MAX_PAYLOAD if vouched.identity else MAX_LIST
        if len(signed.payload) > most:
            raise Refused(Verdict.MALFORMED, f"a statement of {len(signed.payload)} bytes; {most} is the most")
        try:
            vouched.key.verify(signed.signature, CONTEXT + signed.payload, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise Refused(
                Verdict.BAD_SIGNATURE, f"the statement is not signed by {vouched.name}, whose certificate it carries"
            ) from None
        if vouched.identity is None:
            return SpiffeId(self.trust_domain, Kind.ADMIN, AUTHORITY)
        return vouched.identity.id

    def identity(self, chain: tuple[bytes, ...], now: float) -> Identity:
        """What the verified leaf ``chain[0]`` says; raises ``Refused``."""
        vouched = self._chain(chain, now)
        if vouched.identity is None:
            raise Refused(Verdict.FOREIGN, "an issuer's certificate where a member's was expected")
        return vouched.identity

    def open(self, signed: Signed, kind: type[T], now: float) -> tuple[SpiffeId, T]:
        """Verify and decode a statement of type ``kind``; raises ``Refused``."""
        who = self(signed, now)
        try:
            return who, decode(signed.payload, kind)
        except ValueError as error:
            raise Refused(Verdict.MALFORMED, str(error)) from error

    def open_revocations(self, signed: Signed, now: float) -> RevocationList:
        """The list, if the authority signed it; raises ``Refused``."""
        return self._of_authority(signed, RevocationList, now, "a revocation list")

    def open_relays(self, signed: Signed, now: float) -> RelayList:
        """The list of relays, if the authority signed it; raises ``Refused``."""
        listed = self._of_authority(signed, RelayList, now, "a list of relays")
        if not listed.is_whole():
            raise Refused(Verdict.MALFORMED, "a list of relays whose version is another list's")
        return listed

    def _of_authority(self, signed: Signed, kind: type[T], now: float, what: str) -> T:
        who, listed = self.open(signed, kind, now)
        if (who.kind, who.name) != (Kind.ADMIN, AUTHORITY):
            raise Refused(Verdict.WRONG_HOLDER, f"{what} signed by {who}; only the authority may")
        return listed

    def _chain(self, chain: tuple[bytes, ...], now: float) -> Vouched:
        vouched = self._known.get(chain)
        if vouched is None:
            vouched = verify_chain(chain, self.roots, self.trust_domain, now)
            self._known[chain] = vouched
            if len(self._known) > self.cache:
                self._known.popitem(last=False)
        check_validity(vouched, now)
        self.revoked.check(vouched.identity, vouched.issuer)
        return vouched
