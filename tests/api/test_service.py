"""The authority's decisions without HTTP: whatever a stranger says, the answer is a refusal, never a fault."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polder.api.authority_dir import found, load_authority
from polder.api.messages import EnrolRequest, RenewRequest
from polder.api.service import AuthorityService, invite
from polder.api.tls import new_key
from polder.model import Kind, Refused, Verdict
from polder.settings import AuthoritySettings, StateDir
from polder.shell.clock import chance, wall
from polder.trust import make_csr, read_identity
from polder.trust.keys import certificates_to_pem
from polder.trust.renewal import prove
from polder.trust.tokens import PREFIX, Grant
from tests.support.identities import DOMAIN, NOW, Pki, who

KEY = new_key()
CSR = make_csr(KEY).decode()
LEAF = certificates_to_pem(Pki().member("user", "ann").chain[:1]).decode()
TEXT = st.text(st.characters(codec="utf-8"), max_size=60)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthorityService]:
    state = StateDir(tmp_path_factory.mktemp("state"))
    found(state, AuthoritySettings(trust_domain=DOMAIN, url="https://127.0.0.1:1"), wall(), chance(), new_key)
    authority = load_authority(state, {})
    yield AuthorityService(authority.ledger, authority.issuers, authority.roots, authority.settings, wall, chance())
    authority.ledger.close()


def token(service: AuthorityService, kind: Kind = Kind.NODE, name: str = "n1") -> str:
    return invite(service._ledger, Grant(kind, name), DOMAIN, wall(), 60.0, chance()).token


LONG = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@LONG
@given(text=TEXT | TEXT.map(lambda text: PREFIX + text), csr=TEXT | st.just(CSR), address=st.none() | TEXT)
def test_any_enrolment_without_a_token_is_refused(service: AuthorityService, text: str, csr: str, address: str | None) -> None:
    with pytest.raises(Refused):
        service.enrol(EnrolRequest(text, csr, address))


@LONG
@given(
    csr=TEXT
    | TEXT.map(lambda text: CSR[:100] + text + CSR[100:]).filter(lambda text: "".join(text.split()) != "".join(CSR.split()))
)
def test_any_other_request_is_refused_and_the_token_stays_good(service: AuthorityService, csr: str) -> None:
    one = token(service)
    try:
        service.enrol(EnrolRequest(one, csr, None))
    except Refused:
        assert service._ledger.granted(msgspec.convert(_hash(one), bytes)) == who("node", "n1")


def _hash(text: str) -> bytes:
    from polder.trust.tokens import token_hash

    return token_hash(text)


@LONG
@given(address=TEXT)
def test_any_address_is_one_or_refused(service: AuthorityService, address: str) -> None:
    try:
        enrolled = service.enrol(EnrolRequest(token(service), CSR, address))
    except Refused as refused:
        assert refused.verdict is Verdict.MALFORMED
    else:
        assert enrolled.uri == str(who("node", "n1"))


@LONG
@given(leaf=TEXT | st.just(LEAF), nonce=st.none() | TEXT, signature=st.none() | st.binary(max_size=80), address=st.none() | TEXT)
def test_any_renewal_of_a_stranger_is_refused(
    service: AuthorityService, leaf: str, nonce: str | None, signature: bytes | None, address: str | None
) -> None:
    asked = service.nonce() if nonce is None else nonce
    signed = prove(KEY, asked) if signature is None else signature
    with pytest.raises(Refused):
        service.renew(RenewRequest(leaf, asked, signed, address))


@LONG
@given(
    body=st.recursive(
        st.none() | st.integers() | TEXT, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
    )
)
def test_any_json_is_a_request_or_a_validation_error(body: Any) -> None:
    for kind in (EnrolRequest, RenewRequest):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(msgspec.json.encode(body), type=kind)


@pytest.mark.parametrize(
    ("address", "source", "ips"),
    [
        ("192.0.2.7:1", "192.0.2.7", ["192.0.2.7"]),
        ("192.0.2.7:1", "::ffff:192.0.2.7", ["192.0.2.7"]),
        ("192.0.2.7:1", None, ["192.0.2.7"]),
        ("[2001:db8::7]:1", "2001:db8::9", ["2001:db8::7"]),  # one /64 is one owner
        ("192.0.2.7:1", "192.0.2.8", []),
        ("[2001:db8::7]:1", "192.0.2.7", []),
        (None, "192.0.2.7", []),
    ],
)
def test_a_certificate_names_only_an_address_that_the_node_speaks_from(
    service: AuthorityService, address: str | None, source: str | None, ips: list[str]
) -> None:
    key = new_key()
    one = token(service, name=f"m{chance().getrandbits(60)}")
    enrolled = service.enrol(EnrolRequest(one, make_csr(key).decode(), address), source)
    nonce = service.nonce()
    renewed = service.renew(RenewRequest(enrolled.chain, nonce, prove(key, nonce), None), source)
    for answer in (enrolled, renewed):
        assert list(read_identity(x509.load_pem_x509_certificate(answer.chain.encode())).ips) == ips


def test_bootstrap_members_are_some_and_bounded(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    given_settings = AuthoritySettings(trust_domain=DOMAIN, url="https://127.0.0.1:1", bootstrap=3)
    found(state, given_settings, NOW, chance(), new_key)
    authority = load_authority(state, {})
    service = AuthorityService(authority.ledger, authority.issuers, authority.roots, authority.settings, lambda: NOW, chance())
    seen: set[str] = set()
    for n in range(8):
        one = invite(authority.ledger, Grant(Kind.NODE, f"n{n}"), DOMAIN, NOW, 60.0, chance()).token
        enrolled = service.enrol(EnrolRequest(one, make_csr(new_key()).decode(), f"127.0.0.1:{n + 1}"))
        assert len(enrolled.members) == min(n + 1, 3)
    for _ in range(60):
        seen |= {member.name for member in service.members().members}
    assert seen == {f"n{n}" for n in range(8)}
    authority.ledger.close()
