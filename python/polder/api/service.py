"""What the authority does, without HTTP: decisions of ``trust`` on the memory of ``store``. Blocking; one thread at a time."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import random
from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from polder.api.issuers import Issuers
from polder.api.limits import source_of
from polder.api.messages import Enrolled, EnrolRequest, Members, RenewRequest
from polder.model import Kind, Member, Refused, Signed, SpiffeId, Verdict
from polder.model.spread_messages import RelayList
from polder.settings import AuthoritySettings
from polder.settings.quantities import parse_address
from polder.store import Entry, Issued, Ledger
from polder.trust.authority import make_browser_root
from polder.trust.chain import MAX_CERTIFICATE
from polder.trust.envelope import ChainVerifier
from polder.trust.keys import certificates_to_pem
from polder.trust.places import assign_place
from polder.trust.profiles import UNREADABLE, Identity, Profile, key_hash, p256_key, read_identity
from polder.trust.renewal import check_proof
from polder.trust.requests import check_csr
from polder.trust.revocation import Revoked, make_list
from polder.trust.tokens import Grant, mint_token, token_hash

_NONCE_LIFE = 60
"""Seconds within which a nonce must come back; it needs no memory."""


@dataclass(frozen=True)
class Invitation:
    """A token in clear: shown once, then only its hash is known."""

    token: str
    id: SpiffeId
    expires_at: float


def invite(
    ledger: Ledger, grant: Grant, trust_domain: str, now: float, ttl: float, rng: random.Random, *, reinstate: bool = False
) -> Invitation:
    """Make a one-use token for exactly ``grant``, good for ``ttl`` seconds; raises ``Refused``."""
    who = grant.check(trust_domain)
    token = mint_token(rng)
    entry = Entry(who, grant.groups, grant.hosts, grant.life, None, None)
    ledger.invite(token_hash(token), entry, now, ttl, reinstate=reinstate)
    return Invitation(token, who, now + ttl)


class AuthorityService:
    """Enrolment, renewal, lists. ``clock`` gives Unix seconds."""

    def __init__(
        self,
        ledger: Ledger,
        issuers: Issuers,
        roots: tuple[bytes, ...],
        settings: AuthoritySettings,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self.roots = roots
        self.settings = settings
        self._ledger = ledger
        self._clock = clock
        self._rng = rng
        self.use(issuers)
        self.nonce_key = rng.getrandbits(256).to_bytes(32, "big")
        """Seals nonces; the process that takes over goes on with it, so that no renewal is refused for it."""

    def use(self, issuers: Issuers) -> None:
        """Sign with these from now on: a rotation took a step."""
        self._issuers = issuers
        roots = (make_browser_root(issuer, self._clock(), self._rng) for issuer in issuers.known())
        self._browser_root = b"".join(root.public_bytes(Encoding.PEM) for root in roots).decode()

    @property
    def issuers(self) -> Issuers:
        """Who signs, and who else is believed."""
        return self._issuers

    def enrol(self, request: EnrolRequest, source: str | None = None) -> Enrolled:
        """Turn an invitation into an identity; raises ``Refused``. Safe to repeat with the same key.

        ``source``: the IP address that the request came from; ``None``: this very machine, which is believed.
        """
        now, hashed = self._clock(), token_hash(request.token)
        who = self._ledger.granted(hashed)
        public = check_csr(request.csr_pem.encode(), who)
        address = _address(request.address, who.kind)
        issued = self._ledger.enrol(
            hashed, key_hash(public), address, now, lambda taken: assign_place(taken, self._rng), self._issue(public, now, source)
        )
        return self._enrolled(who, issued, now)

    def renew(self, request: RenewRequest, source: str | None = None) -> Enrolled:
        """A new certificate for a key that proves itself; raises ``Refused``. ``source`` as in ``enrol``."""
        now = self._clock()
        self._check_nonce(request.nonce, now)
        public = _leaf_key(request.leaf_pem)
        check_proof(public, request.nonce, request.signature)
        grace = self.settings.renew_grace
        address = _address(request.address, Kind.NODE)
        entry, issued = self._ledger.renew(key_hash(public), address, now, grace, self._issue(public, now, source))
        return self._enrolled(entry.id, issued, now)

    def nonce(self) -> str:
        """A fresh nonce: time, chance and a seal, so that nothing has to be remembered about strangers."""
        text = f"{int(self._clock())}.{self._rng.getrandbits(64):016x}"
        return f"{text}.{self._seal(text)}"

    def revocations(self) -> Signed:
        """The revocation list as of now, signed."""
        epoch, rows = self._ledger.revoked(self._clock())
        ids = [SpiffeId.parse(row.uri) for row in rows if row.uri]
        keys = [row.key_hash for row in rows if row.key_hash]
        return self._issuers.signer.sign_revocations(make_list(epoch, self._clock(), ids, keys, self._issuers.announced()))

    def verifier(self) -> ChainVerifier:
        """Believes what this overlay's certificates sign, whoever is revoked: for lists from before a restore."""
        return ChainVerifier(self.roots, self.settings.trust_domain)

    def members(self) -> Members:
        """Bootstrap members and protected host names."""
        return Members(self._some_members(), self._ledger.hosts())

    def identify(self, leaf: bytes) -> Identity:
        """Who presents ``leaf`` (DER; TLS has proved the key); raises ``Refused`` for the foreign, expired and revoked."""
        epoch, rows = self._ledger.revoked(self._clock())
        uris, keys = frozenset(r.uri for r in rows if r.uri), frozenset(r.key_hash for r in rows if r.key_hash)
        verifier = ChainVerifier(self.roots, self.settings.trust_domain, Revoked(epoch, 0, uris, keys))
        name = x509.load_der_x509_certificate(leaf).issuer
        issuer = next((each for each in self._issuers.known() if each.certificate.subject == name), self._issuers.signer)
        return verifier.identity((leaf, *issuer.chain()), self._clock())

    def _issue(self, public: ec.EllipticCurvePublicKey, now: float, source: str | None) -> Callable[[Entry], Issued]:
        def issue(entry: Entry) -> Issued:
            life = entry.life or self.settings.life(entry.id.kind)
            profile = Profile(entry.id, entry.ring_id, entry.groups, entry.hosts, _own_ip(entry.address, source))
            signer = self._issuers.signer
            chain = signer.issue(profile, public, now, life, self._rng)
            leaf = x509.load_der_x509_certificate(chain[0])
            return Issued(f"{leaf.serial_number:x}", chain, leaf.not_valid_after_utc.timestamp(), signer.key_hash)

        return issue

    def _enrolled(self, who: SpiffeId, issued: Issued, now: float) -> Enrolled:
        leaf = read_identity(x509.load_der_x509_certificate(issued.chain[0]))
        return Enrolled(
            uri=str(who),
            trust_domain=who.trust_domain,
            chain=certificates_to_pem(issued.chain).decode(),
            roots=certificates_to_pem(self.roots).decode(),
            renew_after=leaf.not_before + (leaf.not_after - leaf.not_before) * 2 // 3,
            not_after=leaf.not_after,
            members=self._some_members(),
            hosts=self._ledger.hosts(),
            revocations=self.revocations(),
            secrets=self._ledger.secrets() if who.kind is Kind.NODE else (),
            browser_root=self._browser_root if who.kind is Kind.USER else "",
        )

    def relays(self) -> Signed:
        """Every node: the relays of the spread plane, signed."""
        return self._issuers.signer.sign_relays(RelayList.of(self._ledger.members(), self._clock()))

    def _some_members(self) -> tuple[Member, ...]:
        known = self._ledger.members()
        count = min(len(known), self.settings.bootstrap)
        return tuple(sorted(self._rng.sample(known, count)))

    def _seal(self, text: str) -> str:
        return hmac.new(self.nonce_key, text.encode(), hashlib.sha256).hexdigest()[:32]

    def _check_nonce(self, nonce: str, now: float) -> None:
        text, _, seal = nonce.rpartition(".")
        stamp = text.partition(".")[0]
        if len(nonce) > 100 or not hmac.compare_digest(seal.encode(), self._seal(text).encode()) or not stamp.isdigit():
            raise Refused(Verdict.MALFORMED, "the nonce is not this authority's; fetch a new one", retry=True)
        if not -_NONCE_LIFE <= now - int(stamp) <= _NONCE_LIFE:
            raise Refused(Verdict.EXPIRED, "the nonce is too old; fetch a new one", retry=True)


def _address(text: str | None, kind: Kind) -> str | None:
    if text is None or kind is not Kind.NODE:
        return None
    try:
        return parse_address(text)
    except ValueError as error:
        raise Refused(Verdict.MALFORMED, str(error)) from error


def _own_ip(address: str | None, source: str | None) -> str | None:
    """The IP address that goes into a node's certificate: the one it says, if it speaks from there.

    Browsers believe it, so a node must not get a certificate for somebody else's address by saying so.
    """
    said = ipaddress.ip_address(address.rpartition(":")[0].strip("[]")) if address else None
    if said is None or (source is not None and source_of(source) != source_of(str(said))):
        return None
    return str(said)


def _leaf_key(pem: str) -> ec.EllipticCurvePublicKey:
    """The key of a certificate that is *not* verified: the ledger knows whether it ever was certified."""
    malformed = Refused(Verdict.MALFORMED, "the certificate to renew cannot be read")
    if len(pem) > 2 * MAX_CERTIFICATE:
        raise malformed
    try:
        return p256_key(x509.load_pem_x509_certificate(pem.encode()))
    except UNREADABLE:
        raise malformed from None
