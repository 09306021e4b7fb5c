"""Who is no longer believed: by identity and by key, never by certificate (a renewal would escape that)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cryptography import x509

from polder.model import Refused, RevocationList, SpiffeId, Verdict
from polder.trust.profiles import Identity, key_hash, p256_key


@dataclass(frozen=True)
class Revoked:
    """The list in force, indexed. Epoch 0: nobody has been revoked yet."""

    epoch: int = 0
    issued_at: int = 0
    identities: frozenset[str] = field(default=frozenset())
    keys: frozenset[bytes] = field(default=frozenset())

    @classmethod
    def of(cls, listed: RevocationList) -> Revoked:
        """Index a verified list."""
        return cls(listed.epoch, listed.issued_at, frozenset(listed.identities), frozenset(listed.keys))

    def check(self, identity: Identity | None, issuer: bytes | None = None) -> None:
        """Raise ``Refused`` when ``identity``, its key or its issuer's (SHA-256) is on the list; ``None``: the issuer speaks."""
        if issuer in self.keys:
            raise Refused(Verdict.REVOKED, "it was signed by an issuer that has been retired; renew the certificate", retry=True)
        if identity is None:
            return
        if str(identity.id) in self.identities:
            raise Refused(Verdict.REVOKED, f"{identity.id} has been revoked; only the operator can invite it again")
        if identity.key_hash in self.keys:
            raise Refused(Verdict.REVOKED, f"the key of {identity.id} has been revoked; enrol again with a new invitation")


def is_retired(chain: tuple[bytes, ...], listed: RevocationList) -> bool:
    """Whether the issuer in ``chain`` (leaf, issuer; DER) has been retired: nobody believes the leaf any more; renew it."""
    return any(key_hash(p256_key(x509.load_der_x509_certificate(der))) in listed.keys for der in chain[1:])


def is_newer(new: RevocationList, held: RevocationList | None) -> bool:
    """Whether ``new`` replaces ``held``: the higher epoch, or the same epoch issued later (a sign of life of the authority)."""
    return held is None or (new.epoch, new.issued_at) > (held.epoch, held.issued_at)


def make_list(
    epoch: int, now: float, identities: Iterable[SpiffeId], keys: Iterable[bytes], issuers: tuple[bytes, ...] = ()
) -> RevocationList:
    """The list of ``epoch``, in a fixed order, so that equal lists are equal bytes; ``issuers`` (DER) as in the record."""
    return RevocationList(epoch, int(now), tuple(sorted(str(who) for who in identities)), tuple(sorted(keys)), issuers)
