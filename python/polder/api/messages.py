"""What the authority's HTTP interface says: JSON bodies. Bytes are base64, certificates PEM, times Unix seconds."""

from __future__ import annotations

import msgspec

from polder.model import Member, Signed
from polder.model.overlay_messages import EpochSecret


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of requests: an unknown field is an error."""


class Reply(msgspec.Struct, frozen=True):
    """Base of answers: a client ignores fields that it does not know, so that an authority may be newer."""


class EnrolRequest(Message, frozen=True):
    """``token``: the invitation. ``csr_pem``: PKCS #10, empty but for the key. ``address``: nodes say where others dial them."""

    token: str
    csr_pem: str
    address: str | None = None


class RenewRequest(Message, frozen=True):
    """``leaf_pem``: the certificate to renew, expired or not. ``signature``: by its key over a nonce from ``GET /v1/nonce``."""

    leaf_pem: str
    nonce: str
    signature: bytes
    address: str | None = None


class Nonce(Reply, frozen=True):
    """To be signed for a renewal, within a minute."""

    nonce: str


class Enrolled(Reply, frozen=True):
    """An identity: ``chain`` is leaf and issuer, ``roots`` what to pin. ``secrets`` (for beacon keys): for nodes only;
    ``browser_root`` for users: a narrow root under which a browser accepts nodes as its proxies.

    ``members``: some nodes to begin with; ``hosts``: names of protected sites; ``renew_after``: two thirds of the life.
    """

    uri: str
    trust_domain: str
    chain: str
    roots: str
    renew_after: int
    not_after: int
    members: tuple[Member, ...]
    hosts: tuple[str, ...]
    revocations: Signed
    secrets: tuple[EpochSecret, ...] = ()
    browser_root: str = ""


class Members(Reply, frozen=True):
    """Some nodes to begin with, and the names of protected sites."""

    members: tuple[Member, ...]
    hosts: tuple[str, ...]


class Problem(Reply, frozen=True):
    """RFC 9457. ``type`` is ``urn:polder:refused:<verdict>``; ``retry``: whether the same request may succeed later."""

    type: str
    title: str
    status: int
    detail: str
    verdict: str
    retry: bool
