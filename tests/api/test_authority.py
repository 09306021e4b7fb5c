"""The authority over real TLS: what it gives, what it refuses and logs, and what it never says."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from cryptography import x509

from polder.api import client, openapi
from polder.api.messages import EnrolRequest, Nonce, RenewRequest
from polder.api.tls import blind_tls, new_key, set_identity
from polder.model import Refused, Verdict
from polder.settings.identity import IdentityDir
from polder.shell.clock import wall
from polder.trust import RING_ID, ChainVerifier, make_csr, sign
from polder.trust.keys import certificates_to_pem, key_from_der
from polder.trust.profiles import key_hash, read_identity
from polder.trust.renewal import prove
from tests.support.authority import Served, serve
from tests.support.identities import DOMAIN, Pki, who

DAY = 86_400.0


def verifier(identity: IdentityDir) -> ChainVerifier:
    return ChainVerifier(identity.roots, DOMAIN)


async def post(served: Served, path: str, body: Any, context: ssl.SSLContext | None = None) -> tuple[int, dict[str, Any], Any]:
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context or blind_tls())) as session:
        method = "POST" if body is not None else "GET"
        async with session.request(method, served.url + path, data=data if body is not None else None) as response:
            return response.status, json.loads(await response.read()), response.headers


def leaf(identity: IdentityDir) -> str:
    return certificates_to_pem(identity.chain[:1]).decode()


# Enrolment


@pytest.mark.parametrize("kind", ["node", "user", "site", "admin"])
async def test_every_kind_enrols(served: Served, kind: str) -> None:
    await served.enrol("node", "n0", "127.0.0.1:7443")
    await served.enrol("site", "other", hosts=("other.example",))
    more = {"groups": ("staff", "ops")} if kind == "user" else {}
    identity = await served.enrol(kind, "x", "127.0.0.1:9" if kind == "node" else None, **more)
    said = verifier(identity).identity(identity.chain, wall())
    assert said.id == identity.id == who(kind, "x")
    assert said.groups == more.get("groups", ())
    assert (said.ring_id is not None) == (kind == "node")
    assert bool(identity.secrets) == (kind == "node")
    assert bool(identity.browser_root) == (kind == "user")
    assert {member.name for member in identity.members} == ({"n0", "x"} if kind == "node" else {"n0"})
    assert identity.hosts == (("other.example", "x.example") if kind == "site" else ("other.example",))


async def test_ring_ids_come_from_the_issuer_and_stay_with_the_name(served: Served) -> None:
    first = await served.enrol("node", "n1", "127.0.0.1:1")
    again = await served.enrol("node", "n1", "127.0.0.1:1")
    other = await served.enrol("node", "n2", "127.0.0.1:2")
    ids = [verifier(i).identity(i.chain, wall()).ring_id for i in (first, again, other)]
    assert ids[0] == ids[1] != ids[2]
    assert {member.ring_id for member in other.members} == set(ids)


async def test_a_lost_answer_is_said_again_to_the_same_key_only(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    token, key = served.token("user", "ann"), new_key()
    first = await client.enrol(served.url, served.pin, token, key)
    again = await client.enrol(served.url, served.pin, token, key)
    assert again.chain == first.chain
    with caplog.at_level(logging.WARNING, "polder.refused"), pytest.raises(Refused, match="used already") as caught:
        await client.enrol(served.url, served.pin, token, new_key())
    assert caught.value.verdict is Verdict.USED
    (record,) = caplog.records
    assert (record.verdict, record.what, record.source) == ("already-used", "/v1/enrol", "127.0.0.1")  # type: ignore[attr-defined]
    assert token not in caplog.text


async def test_many_at_once_with_one_token_get_one_identity(served: Served) -> None:
    token = served.token("node", "n1")
    tries = [client.enrol(served.url, served.pin, token, new_key(), f"127.0.0.1:{n}") for n in range(1, 9)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(result, IdentityDir) for result in results) == 1
    refused = [result for result in results if isinstance(result, Refused)]
    assert {result.verdict for result in refused} == {Verdict.USED}
    assert len(refused) == 7


async def test_expired_unknown_and_garbled_tokens(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    late = served.token("user", "ann", ttl=60.0)
    served.clock.ahead = 61.0
    async with serve(served.state.root.parent / "other") as other:
        foreign = other.token("user", "ann")
    for token, why in ((late, Verdict.EXPIRED), (foreign, Verdict.UNKNOWN), (late[:-3] + "AAA", Verdict.MALFORMED)):
        with pytest.raises(Refused) as caught:
            await client.enrol(served.url, served.pin, token, new_key())
        assert caught.value.verdict is why
        assert not caught.value.retry
    assert [record.name for record in caplog.records if record.levelno == logging.WARNING] == ["polder.refused"] * 3


async def test_a_self_chosen_ring_id_is_refused_logged_and_costs_no_token(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    key, token = new_key(), served.token("node", "n1")
    wish = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    wish = wish.add_extension(x509.UnrecognizedExtension(RING_ID, b"\x7f" * 16), critical=False)
    pem = wish.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    status, problem, _ = await post(served, "/v1/enrol", EnrolRequest(token, pem, "127.0.0.1:1"))
    assert (status, problem["verdict"]) == (421, "wrong-ring-place")
    assert "self-chosen ring id" in problem["detail"]
    assert "self-chosen ring id" in caplog.text
    assert (await client.enrol(served.url, served.pin, token, key, "127.0.0.1:1")).id == who("node", "n1")


@pytest.mark.parametrize("address", ["example.org:1", "127.0.0.1", "127.0.0.1:x"])
async def test_a_node_says_where_it_listens_or_nothing(served: Served, address: str) -> None:
    with pytest.raises(Refused, match="not an address"):
        await served.enrol("node", "n1", address)


# Renewal


async def test_renewal_keeps_identity_and_key_and_tells_news(served: Served) -> None:
    old = await served.enrol("node", "n1", "127.0.0.1:1")
    await served.enrol("node", "n2", "127.0.0.1:2")
    new, revocations = await client.renew(old, "127.0.0.1:9")
    assert (new.id, new.key, new.chain != old.chain) == (old.id, old.key, True)
    assert {member.name: member.address for member in new.members} == {"n1": "127.0.0.1:9", "n2": "127.0.0.1:2"}
    assert verifier(new).open_revocations(revocations, wall()).epoch == 0


async def test_renewal_after_expiry_with_the_same_key_and_not_too_late(served: Served) -> None:
    old = await served.enrol("node", "n1", "127.0.0.1:1")
    served.clock.ahead = 10 * DAY
    new, _ = await client.renew(old)
    assert read_identity(x509.load_der_x509_certificate(new.chain[0])).not_after > wall() + 10 * DAY
    served.clock.ahead = 60 * DAY
    with pytest.raises(Refused, match="too long ago") as caught:
        await client.renew(new)
    assert caught.value.verdict is Verdict.EXPIRED


async def test_only_the_key_renews(served: Served) -> None:
    ann, eve = await served.enrol("user", "ann"), await served.enrol("user", "eve")
    _, nonce, _ = await post(served, "/v1/nonce", None)
    stolen = RenewRequest(leaf(ann), nonce["nonce"], prove(key_from_der(eve.key), nonce["nonce"]))
    status, problem, _ = await post(served, "/v1/renew", stolen)
    assert (status, problem["verdict"]) == (403, "bad-signature")


async def test_nonces_are_the_authoritys_own_and_young(served: Served) -> None:
    ann = await served.enrol("user", "ann")
    nonce = msgspec.json.decode(msgspec.json.encode((await post(served, "/v1/nonce", None))[1]), type=Nonce).nonce
    text, _, seal = nonce.rpartition(".")
    for forged in ("", "1.2.3", nonce + "0", f"{text}.{'0' * len(seal)}", f"9{text}.{seal}", f"é.{seal}", nonce * 9):
        request = RenewRequest(leaf(ann), forged, prove(key_from_der(ann.key), forged))
        status, problem, _ = await post(served, "/v1/renew", request)
        assert (status, problem["verdict"], problem["retry"]) == (400, "malformed", True), forged
    served.clock.ahead = 61.0
    request = RenewRequest(leaf(ann), nonce, prove(key_from_der(ann.key), nonce))
    assert (await post(served, "/v1/renew", request))[1]["verdict"] == "expired"


async def test_a_key_that_was_never_certified_here_cannot_renew(served: Served) -> None:
    stranger = Pki().member("user", "ann")
    _, nonce, _ = await post(served, "/v1/nonce", None)
    pem = certificates_to_pem(stranger.chain[:1]).decode()
    request = RenewRequest(pem, nonce["nonce"], prove(stranger.key, nonce["nonce"]))
    assert (await post(served, "/v1/renew", request))[1]["verdict"] == "unknown"


# Revocation and lists


async def test_revocation_is_signed_and_ends_renewal_and_lists(served: Served, tmp_path: Path) -> None:
    ann, bob = await served.enrol("user", "ann"), await served.enrol("user", "bob")
    served.authority.ledger.revoke(ann.id, "left", served.clock())
    signed = await client.fetch_revocations(bob, tmp_path)
    listed = verifier(bob).open_revocations(signed, wall())
    assert (listed.epoch, listed.identities) == (1, (str(ann.id),))
    assert listed.keys == (key_hash(key_from_der(ann.key).public_key()),)
    for call in (client.renew(ann), client.fetch_revocations(ann, tmp_path), client.fetch_members(ann, tmp_path)):
        with pytest.raises(Refused) as caught:
            await call
        assert caught.value.verdict is Verdict.REVOKED


async def test_lists_are_for_members(served: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await served.enrol("node", "n1", "127.0.0.1:1")
    ann = await served.enrol("user", "ann")
    assert [member.name for member in (await client.fetch_members(ann, tmp_path)).members] == ["n1"]
    for path in ("/v1/members", "/v1/revocations"):
        status, problem, _ = await post(served, path, None)
        assert (status, problem["verdict"]) == (403, "denied")
    foreign = Pki(now=wall()).member("user", "ann")
    context = blind_tls()
    set_identity(context, foreign.key, foreign.chain, tmp_path)
    with caplog.at_level(logging.WARNING, "polder.refused"), pytest.raises(aiohttp.ClientError):
        await post(served, "/v1/members", None, context)
    assert "a certificate that is not a member's" in caplog.text
    assert served.shell._server.status()["handshakes_failed"] >= 1
    assert list(tmp_path.glob(".tls-*")) == []


async def test_an_expired_member_must_renew_first(served: Served, tmp_path: Path) -> None:
    ann = await served.enrol("user", "ann", life=60.0)
    served.clock.ahead = 61.0
    with pytest.raises(Refused) as caught:
        await client.fetch_members(ann, tmp_path)
    assert (caught.value.verdict, caught.value.retry) == (Verdict.EXPIRED, True)


# Trust in the server


async def test_the_pin_decides(served: Served) -> None:
    async with serve(served.state.root.parent / "other") as other:
        token = served.token("user", "ann")
        with pytest.raises(Refused, match="not the pinned one") as caught:
            await client.enrol(other.url, served.pin, token, new_key())
    assert caught.value.verdict is Verdict.FOREIGN
    assert (await client.enrol(served.url, served.pin.upper(), token, new_key())).id == who("user", "ann")


@pytest.mark.parametrize("impostor", ["node", "expired authority", "foreign authority"])
async def test_an_impostor_never_sees_the_token(served: Served, tmp_path: Path, impostor: str) -> None:
    """He can show the true root, but has not the authority's certificate: the handshake fails before the request."""
    from aiohttp import web

    from polder.api.tls import authority_id, server_tls
    from polder.trust import Profile

    key, rng, now = new_key(), __import__("random").Random(1), wall()
    if impostor == "node":
        identity = await served.enrol("node", "mallory", "127.0.0.1:1")
        key, chain = key_from_der(identity.key), identity.chain
    elif impostor == "expired authority":
        chain = served.authority.issuers.signer.issue(Profile(authority_id(DOMAIN)), key.public_key(), now - 100, 50, rng)
    else:
        chain = Pki(now=now).issuer.issue(Profile(authority_id(DOMAIN)), key.public_key(), now, 600, rng)
    seen: list[str] = []

    async def root(_: web.Request) -> web.Response:
        return web.Response(body=certificates_to_pem(served.authority.roots))

    async def anything(request: web.Request) -> web.Response:
        seen.append((await request.read()).decode())
        return web.json_response({})

    app = web.Application()
    app.router.add_get("/v1/root", root)
    app.router.add_route("*", "/{rest:.*}", anything)
    context = server_tls(served.authority.roots)
    set_identity(context, key, chain, tmp_path)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    url = f"https://127.0.0.1:{runner.addresses[0][1]}"
    with pytest.raises(Refused) as caught:
        await client.enrol(url, served.pin, served.token("user", "ann"), new_key())
    await runner.cleanup()
    assert caught.value.verdict is Verdict.FOREIGN
    assert seen == []


async def test_tls_1_2_is_not_spoken(served: Served) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(aiohttp.ClientError):
        await post(served, "/v1/root", None, context)


async def test_nobody_there_is_a_matter_for_a_retry(served: Served) -> None:
    await served.shell.close()
    with pytest.raises(OSError, match="does not answer"):
        await client.enrol(served.url, served.pin, served.token("user", "ann"), new_key())


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "https://a/b", "https://u@h", "127.0.0.1:7400", "https://"])
async def test_malformed_urls(url: str) -> None:
    with pytest.raises(Refused, match="https://host:port"):
        await client.fetch_root(url, "sha256:" + "0" * 64)


# Strangers


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/enrol", b"{", 400),
        ("/v1/enrol", b"[" * 20_000, 400),
        ("/v1/enrol", b'{"token": "t"}', 400),
        ("/v1/enrol", b'{"token": "t", "csr_pem": "c", "ring_id": "00"}', 400),
        ("/v1/enrol", b"x" * 40_000, 413),
        ("/v1/nope", b"", 404),
        ("/v1/root", b"", 405),
    ],
)
async def test_nonsense_is_a_problem(served: Served, path: str, body: bytes, status: int) -> None:
    answered, problem, headers = await post(served, path, body)
    assert (answered, problem["status"]) == (status, status)
    assert headers["Content-Type"] == "application/problem+json"
    assert set(problem) == {"type", "title", "status", "detail", "verdict", "retry"}


async def test_too_many_requests_are_told_when_to_come_back(tmp_path: Path) -> None:
    async with serve(tmp_path / "s", rate_per_source=0.01) as served, aiohttp.ClientSession() as session:
        statuses, context = [], blind_tls()
        for _ in range(10):  # on one connection: whoever opens many meets the door
            async with session.get(f"{served.url}/v1/nonce", ssl=context) as response:
                statuses.append(response.status)
                problem, headers = await response.json(content_type=None), response.headers
        assert statuses == [200] * 8 + [429] * 2
        assert problem["retry"]
        assert 1 <= int(headers["Retry-After"]) <= 100


async def test_answers_are_not_kept_by_caches_and_secrets_not_logged(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    token, key = served.token("node", "n1"), new_key()
    with caplog.at_level(logging.DEBUG):
        request = EnrolRequest(token, make_csr(key).decode(), "127.0.0.1:1")
        status, answer, headers = await post(served, "/v1/enrol", request)
    assert (status, headers["Cache-Control"]) == (200, "no-store")
    everything = caplog.text + "".join(str(vars(record)) for record in caplog.records)
    assert token not in everything
    assert answer["secrets"][0]["secret"] not in everything


async def test_readiness(served: Served) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=blind_tls())) as session:
        for path in ("/livez", "/readyz"):
            async with session.get(served.url + path) as response:
                assert response.status == 200
        served.authority.ledger._engine.dispose()
        (served.state.authority / "authority.sqlite3").write_bytes(b"not a database")
        async with session.get(served.url + "/readyz") as response:
            assert response.status == 500
        async with session.get(served.url + "/livez") as response:
            assert response.status == 200


async def test_the_description_matches_the_routes(served: Served) -> None:
    _, document, _ = await post(served, "/v1/openapi.json", None)
    assert document["openapi"] == "3.1.0"
    text = json.dumps(document)
    for reference in {part.split('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]}:
        assert reference in document["components"]["schemas"]
    described = {(route.method, route.path) for route in openapi.ROUTES}
    assert {(method, path) for path, methods in document["paths"].items() for method in methods} == described
    for method, path in described:
        status, problem, _ = (
            await post(served, path, b"{}" if method == "post" else None) if path != "/v1/root" else (200, {}, None)
        )
        assert status in {200, 400, 403}, (path, problem)


async def test_a_forged_list_from_the_authoritys_place_is_noticed(served: Served) -> None:
    """What the network delivers as revocation list is believed by its signature only."""
    ann = await served.enrol("user", "ann")
    from polder.trust import make_list

    forged = sign(make_list(9, wall(), [], []), key_from_der(ann.key), ann.chain)
    with pytest.raises(Refused):
        verifier(ann).open_revocations(forged, wall())
