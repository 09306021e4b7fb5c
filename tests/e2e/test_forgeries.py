"""What a hostile member, a stranger and a thief try on a running overlay: refused with a clear error, and logged."""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from polder.engine import CallFailed
from polder.model import Appointment, Kind, Member, Signed, SiteRecord, encode
from polder.model.overlay_messages import Advertise, Appoint, Caller, Delivery, SecretsQuery, Sync, Transport
from polder.model.ring_messages import Ping
from polder.overlay.secrets import beacon_keys
from polder.settings.identity import IdentityDir
from polder.shell.clock import wall
from polder.shell.linked import Linked
from polder.snapshot.fold import Verdicts
from polder.snapshot.schema import EngineConfig, IdentityMaterial
from polder.trust import read_identity, sign
from polder.trust.keys import certificates_to_pem, key_from_der
from tests.e2e.conftest import NODES, World
from tests.e2e.test_no_open_relay import user_context
from tests.support.identities import Pki
from tests.support.overlay import polder, until


class Speaker(Linked):
    """Speaks control calls with somebody's real identity."""

    def __init__(self, identity: IdentityDir) -> None:
        self.identity = identity
        super().__init__(EngineConfig(role="site", listen=()))
        self.apply()

    def verdicts(self) -> Verdicts:
        """Nothing but the identity."""
        material = IdentityMaterial(self.identity.chain, self.identity.key)
        return Verdicts(self.identity.id.trust_domain, self.identity.roots, material)

    def me(self) -> Member:
        """The node n4 at its true place."""
        leaf = read_identity(x509.load_der_x509_certificate(self.identity.chain[0]))
        return Member("n4", leaf.ring_id or b"", self.identity.address or "")


@pytest.fixture
async def intruder(world: World) -> AsyncIterator[Speaker]:
    """n4: enrolled, hence a member; hostile here."""
    speaker = Speaker(IdentityDir.load(world.overlay.state("n4") / "node"))
    yield speaker
    await speaker.close(0.1)


def members(world: World) -> dict[str, Member]:
    """The running nodes."""
    known = IdentityDir.load(world.overlay.state("n4") / "node").members
    return {member.name: member for member in known if member.name in NODES}


def site_signed(world: World, record: object, site: str = "wiki") -> Signed:
    """``record`` signed with a site's real key."""
    identity = IdentityDir.load(world.overlay.state(f"site-{site}") / "site" / site)
    return sign(record, key_from_der(identity.key), identity.chain)  # type: ignore[arg-type]


def logged(world: World, *words: str) -> None:
    """Wait until a node has logged a refusal with all of ``words``."""

    def found() -> bool:
        lines = [line for name in NODES for line in world.overlay.nodes[name].log_lines() if line["room"] == "refused"]
        return any(all(word in line["text"] for word in words) for line in lines)

    until(found, f"a refusal in a log with {words}", 20)


async def advertise(world: World, speaker: Speaker, appointment: Signed, holder: Member | None = None) -> list[int]:
    """Advertise to every node for beacon key 0 of wiki; the statuses of those that own it."""
    secret = speaker.identity.secrets[-1]
    key = beacon_keys(secret.secret, "wiki")[0]
    body = Advertise(appointment, holder or speaker.me(), key, secret.epoch)
    statuses = []
    for member in members(world).values():
        try:
            await speaker.call(member, "advertise", body)
            statuses.append(200)
        except CallFailed as error:
            statuses.append(error.status)
    return [status for status in statuses if status != 421]


def appointment(speaker: Speaker, **changes: object) -> Appointment:
    """An appointment of wiki for n4, as the site would sign it."""
    now = int(wall())
    fields: dict[str, object] = {
        "site": "wiki",
        "servlet": "n4",
        "servlet_ring_id": speaker.me().ring_id,
        "epoch": now + 1000,
        "not_before": now - 10,
        "not_after": now + 600,
    }
    return Appointment(**(fields | changes))  # type: ignore[arg-type]


async def test_an_appointment_that_another_site_signed_is_refused(world: World, intruder: Speaker) -> None:
    assert await advertise(world, intruder, site_signed(world, appointment(intruder), "blog")) == [403]
    logged(world, "site/blog", "only site wiki may sign")


async def test_an_appointment_with_a_broken_signature_is_refused(world: World, intruder: Speaker) -> None:
    good = site_signed(world, appointment(intruder))
    other = encode(appointment(intruder, epoch=10**12))
    assert await advertise(world, intruder, Signed(other, good.signature, good.chain)) == [403]
    logged(world, "not signed by")


async def test_an_appointment_of_a_foreign_authority_is_refused(world: World, intruder: Speaker) -> None:
    pki = Pki(domain=world.overlay.trust_domain, now=wall() - 60, rng=random.Random(7))
    thief = pki.member("site", "wiki", hosts=("wiki.test",))
    forged = sign(appointment(intruder), thief.key, thief.chain)
    assert await advertise(world, intruder, forged) == [403]
    logged(world, "does not lead to a root")


async def test_a_replayed_appointment_of_an_older_epoch_is_refused(world: World, intruder: Speaker) -> None:
    old = site_signed(world, appointment(intruder, epoch=5))
    assert await advertise(world, intruder, old) == [409]
    logged(world, "epoch 5 of wiki is over")


async def test_an_expired_appointment_is_refused(world: World, intruder: Speaker) -> None:
    now = int(wall())
    old = site_signed(world, appointment(intruder, not_before=now - 600, not_after=now - 1))
    assert set(await advertise(world, intruder, old)) == {403}
    logged(world, "appointment of wiki ended")


async def test_an_advertisement_for_another_node_is_refused(world: World, intruder: Speaker) -> None:
    other = members(world)["n1"]
    stolen = site_signed(world, appointment(intruder, servlet="n1", servlet_ring_id=other.ring_id))
    answers = await advertise(world, intruder, stolen, holder=other)
    assert set(answers) == {403}
    logged(world, "advertised another node than itself")


async def test_an_appointment_is_taken_from_the_site_itself_only(world: World, intruder: Speaker) -> None:
    body = Appoint(
        site_signed(world, appointment(intruder)), Delivery(Transport.TCP, inner_remote="127.0.0.1", ports=((80, 22),))
    )
    with pytest.raises(CallFailed, match="may not speak for site wiki"):
        await intruder.call(members(world)["n2"], "appoint", body)


async def test_a_self_chosen_ring_id_is_refused_by_both_ends(world: World, intruder: Speaker) -> None:
    chosen = Member("n4", bytes(16), intruder.me().address)
    with pytest.raises(CallFailed, match="a place of the ring that its certificate does not give"):
        await intruder.raw_call(members(world)["n1"], "ring", encode(Ping(chosen)))
    logged(world, "a place of the ring that its certificate does not give")
    lied_about = members(world)["n1"]
    moved = Member(lied_about.name, bytes(15) + b"\1", lied_about.address)
    with pytest.raises(CallFailed, match=r"ring id|certificate|identity"):
        await intruder.raw_call(moved, "ring", encode(Ping(intruder.me())))


async def test_a_site_record_for_a_host_of_others_is_refused(world: World, intruder: Speaker) -> None:
    record = SiteRecord("blog", 10**10, ("wiki.test",), (80,), (), (), "beacon", int(wall()) + 600)  # type: ignore[arg-type]
    with pytest.raises(CallFailed, match="certificate does not name"):
        await intruder.call(members(world)["n1"], "sync", Sync(None, (site_signed(world, record, "blog"),)))


async def test_a_site_does_not_learn_the_members_secret(world: World) -> None:
    speaker = Speaker(IdentityDir.load(world.overlay.state("site-wiki") / "site" / "wiki"))
    try:
        with pytest.raises(CallFailed, match="only members share"):
            await speaker.call(members(world)["n1"], "secrets", SecretsQuery())
    finally:
        await speaker.close(0.1)


def handshake(world: World, context: ssl.SSLContext) -> bytes:
    """Connect as ``context`` says and ask for a page; what comes back, nothing if the node hangs up."""
    host, _, port = world.overlay.nodes["n1"].hello["address"].rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=20) as raw, context.wrap_socket(raw) as tls:
            tls.sendall(b"GET http://wiki.test/ HTTP/1.1\r\nHost: wiki.test\r\n\r\n")
            return tls.recv(4096)
    except (ssl.SSLError, ConnectionError):
        return b""


def foreign_context(directory: Path, domain: str) -> ssl.SSLContext:
    """A user of another authority that uses the same name."""
    pki = Pki(domain=domain, now=wall() - 60, rng=random.Random(8))
    thief = pki.member("user", "ann", groups=("staff",))
    chain, key = directory / "chain.pem", directory / "key.pem"
    chain.write_bytes(certificates_to_pem(thief.chain))
    key.write_bytes(thief.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(chain, key)
    return context


def test_a_foreign_certificate_is_refused(world: World, tmp_path: Path) -> None:
    assert b"200 OK" in handshake(world, user_context(world.overlay.state("user-ann"), "ann"))
    assert handshake(world, foreign_context(tmp_path, world.overlay.trust_domain)) == b""
    until(
        lambda: any(line.get("what") == "certificate" for line in world.overlay.nodes["n1"].log_lines()),
        "a line about the certificate",
    )


def test_an_expired_certificate_is_refused(world: World) -> None:
    overlay = world.overlay
    state = overlay.state("user-brief")
    token = overlay.token("user", "brief", "--group", "staff", "--life", "4s")
    answer = polder(state, "enroll", overlay.url, "--pin", overlay.pin, "--token-file", "-", stdin=token)
    context = user_context(state, "brief")
    until(lambda: wall() > answer["not_after"] + 1, "the end of a certificate that lives for seconds")
    assert handshake(world, context) == b""
    until(
        lambda: any("expired" in line["text"] for line in overlay.nodes["n1"].log_lines() if line.get("what") == "certificate"),
        "a line about the expired certificate",
    )


def test_a_used_token_is_refused_and_logged(world: World) -> None:
    overlay = world.overlay
    token = overlay.token("user", "once")
    arguments = ("enroll", overlay.url, "--pin", overlay.pin, "--token-file", "-")
    polder(overlay.state("user-once"), *arguments, stdin=token)
    refused = polder(overlay.state("user-twice"), *arguments, stdin=token, status=2)
    assert refused["verdict"] == "already-used"
    assert "invit" in refused["error"]
    authority = overlay.processes[0].log_lines()
    assert any("used" in str(line) for line in authority)


def test_a_wrong_pin_is_refused(world: World) -> None:
    overlay = world.overlay
    token = overlay.token("user", "misled")
    arguments = ("enroll", overlay.url, "--pin", "sha256:" + "0" * 64, "--token-file", "-")
    refused = polder(overlay.state("user-misled"), *arguments, stdin=token, status=2)
    assert "pin" in refused["error"]


def test_callers_are_who_their_certificates_say() -> None:
    """The comparison that every ring message goes through."""
    member = Member.of("n1", 7, "192.0.2.1:7443")
    assert Caller(Kind.NODE, "n1", member.ring_id).is_member(member)
    assert not Caller(Kind.NODE, "n1", bytes(16)).is_member(member)
    assert not Caller(Kind.SITE, "n1", member.ring_id).is_member(member)
