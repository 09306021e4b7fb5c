"""Talks to the authority: pinned root, enrolment, renewal, lists. Raises ``Refused`` (its answer) or ``OSError`` (no answer)."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from polder.api.messages import Enrolled, EnrolRequest, Members, Nonce, Problem, RenewRequest
from polder.api.tls import blind_tls, client_tls, set_identity
from polder.model import Refused, Signed, SpiffeId, Verdict
from polder.settings.identity import IdentityDir
from polder.trust.authority import domain_of
from polder.trust.keys import certificates_from_pem, certificates_to_pem, check_pin, key_from_der, key_to_der
from polder.trust.profiles import key_hash, read_identity
from polder.trust.renewal import prove
from polder.trust.requests import make_csr

_TIMEOUT = aiohttp.ClientTimeout(total=20, connect=10)
_MAX_ANSWER = 1 << 20

T = TypeVar("T")


async def fetch_root(url: str, pin: str) -> bytes:
    """The authority's root (DER) whose SHA-256 is ``pin``; trusts nothing else that the server says. Raises ``Refused``."""
    async with _session(blind_tls()) as session:
        status, body = await _exchange(session, "GET", f"{_base(url)}/v1/root")
    _raise_for(status, body)
    try:
        roots = certificates_from_pem(body)
    except Refused:
        raise Refused(Verdict.FOREIGN, f"{url} is not a Polder authority: it shows no root certificate") from None
    for root in roots[:-1]:  # several during a rotation; the last one's complaint is the clearest
        if _matches(root, pin):
            return root
    check_pin(roots[-1], pin)
    return roots[-1]


async def enrol(url: str, pin: str, token: str, key: ec.EllipticCurvePrivateKey, address: str | None = None) -> IdentityDir:
    """Turn a token into an identity for ``key``. Safe to repeat with the same key when the answer was lost."""
    url = _base(url)
    root = await fetch_root(url, pin)
    domain = domain_of(x509.load_der_x509_certificate(root))
    async with _session(client_tls((root,), domain)) as session:
        request = EnrolRequest(token.strip(), make_csr(key).decode(), address)
        enrolled = await _call(session, Enrolled, "POST", f"{url}/v1/enrol", request)
    return identity_from(enrolled, url, pin.strip().lower(), key, address)


async def renew(identity: IdentityDir, address: str | None = None) -> tuple[IdentityDir, Signed]:
    """A new certificate for the same key, also after expiry; and the revocation list of the moment."""
    url, key = _base(identity.authority_url), key_from_der(identity.key)
    async with _session(client_tls(identity.roots, identity.id.trust_domain)) as session:
        nonce = (await _call(session, Nonce, "GET", f"{url}/v1/nonce")).nonce
        leaf = certificates_to_pem(identity.chain[:1]).decode()
        address = address or identity.address
        request = RenewRequest(leaf, nonce, prove(key, nonce), address)
        enrolled = await _call(session, Enrolled, "POST", f"{url}/v1/renew", request)
    renewed = identity_from(enrolled, url, identity.pin, key, address)
    if renewed.id != identity.id:
        raise Refused(Verdict.WRONG_HOLDER, f"the authority answered with a certificate for {renewed.id}; ours is {identity.id}")
    if not renewed.secrets:
        renewed = dataclasses.replace(renewed, secrets=identity.secrets)
    return renewed, enrolled.revocations


async def fetch_revocations(identity: IdentityDir, scratch: Path) -> Signed:
    """The signed revocation list. ``scratch``: a private directory, where OpenSSL finds the key for a moment."""
    return await _as_member(identity, scratch, Signed, "revocations")


async def fetch_members(identity: IdentityDir, scratch: Path) -> Members:
    """Some nodes and the names of protected sites; ``scratch`` as in ``fetch_revocations``."""
    return await _as_member(identity, scratch, Members, "members")


async def fetch_relays(identity: IdentityDir, scratch: Path) -> Signed:
    """Every node: the signed relays of the spread plane; ``scratch`` as in ``fetch_revocations``."""
    return await _as_member(identity, scratch, Signed, "relays")


async def _as_member(identity: IdentityDir, scratch: Path, kind: type[T], name: str) -> T:
    context = client_tls(identity.roots, identity.id.trust_domain)
    set_identity(context, key_from_der(identity.key), identity.chain, scratch)
    async with _session(context) as session:
        return await _call(session, kind, "GET", f"{_base(identity.authority_url)}/v1/{name}")


def identity_from(enrolled: Enrolled, url: str, pin: str, key: ec.EllipticCurvePrivateKey, address: str | None) -> IdentityDir:
    """Check that the answer fits the key and itself; raises ``Refused``."""
    chain, roots = certificates_from_pem(enrolled.chain.encode()), certificates_from_pem(enrolled.roots.encode())
    try:
        who = SpiffeId.parse(enrolled.uri)
        said = read_identity(x509.load_der_x509_certificate(chain[0]))
    except ValueError as error:
        raise Refused(Verdict.MALFORMED, f"the authority's answer cannot be used: {error}") from error
    if said.id != who or said.key_hash != key_hash(key.public_key()):
        raise Refused(Verdict.WRONG_HOLDER, "the authority answered with a certificate for somebody else")
    return IdentityDir(
        id=who,
        key=key_to_der(key),
        chain=chain,
        roots=roots,
        authority_url=url,
        pin=pin,
        members=enrolled.members,
        hosts=enrolled.hosts,
        address=address,
        secrets=enrolled.secrets,
        browser_root=enrolled.browser_root,
        revocations=enrolled.revocations,
    )


@asynccontextmanager
async def _session(context: ssl.SSLContext) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(ssl=context, limit=2)
    # Never through a proxy of the environment: the token is for the authority alone.
    async with aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT, trust_env=False) as session:
        yield session


async def _call(session: aiohttp.ClientSession, kind: type[T], method: str, url: str, request: msgspec.Struct | None = None) -> T:
    status, body = await _exchange(session, method, url, msgspec.json.encode(request) if request is not None else None)
    _raise_for(status, body)
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(Verdict.MALFORMED, f"the authority's answer cannot be read: {error}") from error


async def _exchange(session: aiohttp.ClientSession, method: str, url: str, body: bytes | None = None) -> tuple[int, bytes]:
    headers = {"Content-Type": "application/json"} if body is not None else {}
    try:
        async with session.request(method, url, data=body, headers=headers, allow_redirects=False) as response:
            return response.status, await response.content.readexactly(_length(response))
    except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
        raise Refused(
            Verdict.FOREIGN, f"{url} is not the authority that was pinned ({_cause(error)}); compare URL and pin, and the clocks"
        ) from error
    except (aiohttp.ClientError, asyncio.IncompleteReadError) as error:
        raise ConnectionError(
            f"the authority at {url} does not answer ({_cause(error)}); is it running and reachable?"
        ) from error
    except TimeoutError as error:
        raise TimeoutError(f"the authority at {url} does not answer in time") from error


def _length(response: aiohttp.ClientResponse) -> int:
    length = response.content_length
    if length is None or length > _MAX_ANSWER:
        raise Refused(Verdict.MALFORMED, "the answer is not the authority's: no length, or too long")
    return length


def _raise_for(status: int, body: bytes) -> None:
    if status == 200:
        return
    try:
        problem = msgspec.json.decode(body, type=Problem)
        verdict = Verdict(problem.verdict)
    except (msgspec.DecodeError, ValueError):
        raise Refused(Verdict.UNKNOWN, f"the authority answered with status {status}", retry=status >= 500) from None
    raise Refused(verdict, problem.detail, retry=problem.retry)


def _matches(root: bytes, pin: str) -> bool:
    try:
        check_pin(root, pin)
    except Refused:
        return False
    return True


def _base(url: str) -> str:
    base = url.strip().rstrip("/")
    if not re.match(r"https://[^/\s@?#]+\Z", base):
        raise Refused(Verdict.MALFORMED, f"{url!r} is not an authority's URL: write https://host:port")
    return base


def _cause(error: Any) -> str:
    return str(getattr(error, "os_error", None) or getattr(error, "certificate_error", None) or error)
