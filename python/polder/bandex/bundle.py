"""A bundle: the credentials that pay for one reservation, as POLICY_DATA carries them in one element (trap 39).

MessagePack: an array of assertion texts. Exactly one check, one credit, one offer, and any number of guarantees between them; nothing
else, and guarantees only where they cannot stand in for one of the three: then every chain of delegation from whom the verifier trusts
to the requester passes through the check, the credit and the offer, and KeyNote's answer speaks of them.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from polder.bandex.terms import KINDS, CheckTerms, CreditTerms, GuaranteeTerms, OfferTerms, Terms
from polder.bandex.texts import kind_of
from polder.keynote import KeyNoteError, principal
from polder.model import Refused, Verdict

MOST_ASSERTIONS = 16
MOST_BYTES = 16_384

T = TypeVar("T", bound=Terms)


@dataclass(frozen=True)
class Bundle:
    """What a bundle says. Nothing is verified but form and structure. ``texts`` are the assertions in the order in which they came."""

    texts: tuple[str, ...]
    check: CheckTerms
    check_text: str
    credit: CreditTerms
    offer: OfferTerms
    guarantees: tuple[GuaranteeTerms, ...]

    @functools.cached_property
    def charge(self) -> str:
        """Which payment this is, whoever spells the key how: SHA-256 of the payer's key and the check's nonce, in hex."""
        return charge_of(self.check.payer, self.check.nonce)

    @functools.cached_property
    def credit_id(self) -> str:
        """Which credit is spent: the same of the provider's key and the credit's nonce."""
        return charge_of(self.credit.provider, self.credit.nonce)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the check with its signature, in hex."""
        return hashlib.sha256(self.check_text.encode()).hexdigest()

    @functools.cached_property
    def until(self) -> int:
        """When the first of the credentials ends."""
        return min(terms.not_after for terms in (self.check, self.credit, self.offer, *self.guarantees))

    @functools.cached_property
    def since(self) -> int:
        """When the last of the credentials begins."""
        return max(terms.not_before for terms in (self.check, self.credit, self.offer, *self.guarantees))


def pack(texts: Sequence[str]) -> bytes:
    """The bytes of a bundle."""
    return msgspec.msgpack.encode([text.encode() for text in texts])


def unpack(data: bytes) -> tuple[str, ...]:
    """The assertions in ``data``; raises ``Refused`` before it looks into one of them."""
    if not data:
        raise Refused(Verdict.UNKNOWN, "the reservation carries no credentials: pay with a check (`polder reserve --pay`)")
    if len(data) > MOST_BYTES:
        raise Refused(Verdict.MALFORMED, f"the bundle has {len(data)} bytes; {MOST_BYTES} are allowed")
    try:
        parts = msgspec.msgpack.decode(data, type=list[bytes])
        if not 1 <= len(parts) <= MOST_ASSERTIONS:
            raise Refused(Verdict.MALFORMED, f"the bundle has {len(parts)} assertions; {MOST_ASSERTIONS} are allowed")
        return tuple(part.decode("ascii") for part in parts)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(Verdict.MALFORMED, f"the bundle is not a MessagePack array of ASCII texts: {error}") from None


def read(texts: Sequence[str]) -> Bundle:
    """What ``texts`` say together; raises ``Refused`` for what is missing, too much or out of place."""
    if sum(map(len, texts)) > MOST_BYTES or len(texts) > MOST_ASSERTIONS:
        raise Refused(Verdict.MALFORMED, f"a bundle has at most {MOST_ASSERTIONS} assertions of {MOST_BYTES} bytes together")
    found: dict[type[Terms], list[tuple[str, Terms]]] = {}
    for text in texts:
        kind = KINDS[kind_of(text).kind]
        found.setdefault(kind, []).append((text, kind.read(text)))
    check_text, check = _only(found, CheckTerms)
    _, credit = _only(found, CreditTerms)
    _, offer = _only(found, OfferTerms)
    guarantees = tuple(terms for _, terms in found.get(GuaranteeTerms, ()) if isinstance(terms, GuaranteeTerms))
    bundle = Bundle(tuple(texts), check, check_text, credit, offer, guarantees)
    _fits(bundle)
    return bundle


def normal(key: str) -> bytes:
    """A key's normal form, by which keys are compared (trap 26: not by their text); raises ``Refused``."""
    try:
        form = principal(key)
    except KeyNoteError as error:
        raise Refused(Verdict.MALFORMED, f"{key[:40]!r} is not a key: {error}") from None
    if isinstance(form, str):
        raise Refused(Verdict.MALFORMED, f"{key[:40]!r} is a name, not a key: nobody can sign for it")
    return form


def charge_of(key: str, nonce: str) -> str:
    """SHA-256 over a key's normal form and a nonce, in hex."""
    return hashlib.sha256(normal(key) + b"\0" + nonce.encode()).hexdigest()


def _only(found: dict[type[Terms], list[tuple[str, Terms]]], kind: type[T]) -> tuple[str, T]:
    here = found.get(kind, [])
    if not here:
        raise Refused(Verdict.UNKNOWN, f"the bundle has no {kind.FORM.kind}")
    if len(here) > 1:
        raise Refused(Verdict.MALFORMED, f"the bundle has {len(here)} assertions of the kind {kind.FORM.kind}; it may have one")
    text, terms = here[0]
    assert isinstance(terms, kind)
    return text, terms


def _fits(bundle: Bundle) -> None:
    """Whether check, credit, offer speak of the same, and no guarantee can replace one of them."""
    check, credit, offer = bundle.check, bundle.credit, bundle.offer
    payer, isp, provider = normal(check.payer), normal(check.isp_key), normal(credit.provider)
    if normal(credit.user) != payer:
        raise Refused(Verdict.WRONG_HOLDER, "the credit is for another user's key than the one that signed the check")
    if check.credit_nonce != credit.nonce:
        raise Refused(Verdict.DENIED, "the check is written against another credit than the one in the bundle")
    if normal(offer.isp_key) != isp or (offer.isp, offer.route) != (check.isp, check.route):
        raise Refused(
            Verdict.DENIED, f"the check pays {check.isp} for {check.route}; the offer is of {offer.isp} for {offer.route}"
        )
    if len({check.currency, credit.currency, offer.currency, *(one.currency for one in bundle.guarantees)}) > 1:
        raise Refused(Verdict.DENIED, "check, credit, offer and guarantees speak of different currencies")
    if len({payer, isp, provider}) < 3:
        raise Refused(Verdict.DENIED, "payer, ISP and provider must have different keys: an ISP that is a provider too has two")
    for one in bundle.guarantees:
        if normal(one.provider) in (payer, isp) or normal(one.guarantor) in (payer, isp):
            raise Refused(
                Verdict.DENIED, "a guarantee speaks for a provider or another bank, never by or for the payer or the ISP"
            )
