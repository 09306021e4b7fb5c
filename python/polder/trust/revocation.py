"""Who is no longer believed: by identity and by key, never by certificate (a renewal would escape that)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from polder.model import Refused, RevocationList, SpiffeId, Verdict
from polder.trust.profiles import Identity


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

    def check(self, identity: Identity | None) -> None:
        """Raise ``Refused`` when ``identity`` or its key is on the list; ``None``, the issuer, is not subject to it."""
        if identity is None:
            return
        if str(identity.id) in self.identities:
            raise Refused(Verdict.REVOKED, f"{identity.id} has been revoked; only the operator can invite it again")
        if identity.key_hash in self.keys:
            raise Refused(Verdict.REVOKED, f"the key of {identity.id} has been revoked; enrol again with a new invitation")


def is_newer(new: RevocationList, held: RevocationList | None) -> bool:
    """Whether ``new`` replaces ``held``: the higher epoch, or the same epoch issued later (a sign of life of the authority)."""
    return held is None or (new.epoch, new.issued_at) > (held.epoch, held.issued_at)


def make_list(epoch: int, now: float, identities: Iterable[SpiffeId], keys: Iterable[bytes]) -> RevocationList:
    """The list of ``epoch``, in a fixed order, so that equal lists are equal bytes."""
    return RevocationList(epoch, int(now), tuple(sorted(str(who) for who in identities)), tuple(sorted(keys)))
