"""``RevokedList``: the revocation list of a process that is no node: a site's agent, a reader's forwarder."""

from __future__ import annotations

import logging

from polder.model import Kind, Member, Refused, RevocationList, Signed, SpiffeId
from polder.model.spread_messages import RelayList
from polder.settings.identity import IdentityDir
from polder.trust import ChainVerifier, Revoked, is_newer, is_retired

log = logging.getLogger("polder.identity")


class RevokedList:
    """The newest list that was offered and believed; begins with the one beside the identity."""

    def __init__(self, identity: IdentityDir, now: float) -> None:
        self.listed: RevocationList | None = None
        self._verifier = ChainVerifier(identity.roots, identity.id.trust_domain)
        if identity.revocations is not None:
            self.offer(identity.revocations, now)

    def offer(self, signed: Signed, now: float) -> bool:
        """Take a list if it is newer; whether its epoch is. One that is refused is logged and left out."""
        try:
            listed = self._verifier.open_revocations(signed, now)
        except Refused as refused:
            log.warning("a revocation list was refused", extra={"why": str(refused), "verdict": str(refused.verdict)})
            return False
        if not is_newer(listed, self.listed):
            return False
        news = self.listed is None or listed.epoch != self.listed.epoch
        self.listed = listed
        if news:
            self._verifier.revoked = Revoked.of(listed)
        return news

    def open_relays(self, signed: Signed, now: float) -> RelayList:
        """A list of relays that the authority signed; raises ``Refused``."""
        return self._verifier.open_relays(signed, now)

    def has_retired(self, identity: IdentityDir) -> bool:
        """Whether the issuer of ``identity`` is believed no more."""
        return self.listed is not None and is_retired(identity.chain, self.listed)

    def is_revoked(self, node: Member) -> bool:
        """Whether a node is on the list by its name; its key, only a handshake shows."""
        domain = self._verifier.trust_domain
        return self.listed is not None and str(SpiffeId(domain, Kind.NODE, node.name)) in self.listed.identities
