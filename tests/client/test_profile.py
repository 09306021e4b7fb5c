"""A browser's profile: it lets in to our nodes, to nobody else, and says what to do."""

from __future__ import annotations

import asyncio
import random
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs12

from polder.api.tls import server_tls, set_identity
from polder.client.profile import access_points, make_profile
from polder.model import Member, Refused
from polder.settings.identity import IdentityDir
from polder.shell.clock import wall
from polder.trust import Profile
from polder.trust.authority import make_browser_root
from polder.trust.keys import certificates_to_pem, key_to_der
from tests.support.identities import DAY, DOMAIN, Pki, new_key, who

PASSWORD = "a long enough password"
PKI = Pki(now=wall())
ANN = PKI.member("user", "ann", groups=("staff",))
IDENTITY = IdentityDir(
    ANN.profile.id,
    key_to_der(ANN.key),
    ANN.chain,
    PKI.roots,
    "https://127.0.0.1:1",
    "sha256:0",
    members=(Member.of("n1", 1, "192.0.2.1:7443"), Member.of("n2", 2, "[2001:db8::1]:7443")),
    hosts=("wiki.example",),
    browser_root=make_browser_root(PKI.issuer, PKI.now, random.Random(1)).public_bytes(Encoding.PEM).decode(),
)
MADE = make_profile(IDENTITY, access_points(IDENTITY, ()), IDENTITY.hosts, PASSWORD)


def test_the_pac_names_every_access_point_and_only_protected_hosts() -> None:
    pac = MADE.files["polder.pac"].decode()
    assert '"HTTPS 192.0.2.1:7443; HTTPS [2001:db8::1]:7443"' in pac
    assert '{"wiki.example": 1}' in pac


def test_given_access_points_come_instead() -> None:
    assert access_points(IDENTITY, ["n1.node.o.test:443"]) == ("n1.node.o.test:443",)


def test_only_the_p12_is_secret() -> None:
    assert MADE.secret == {"ann.p12"}
    private = key_to_der(ANN.key)[-60:]
    for name, data in MADE.files.items():
        assert private not in data, name
        assert PASSWORD.encode() not in data, name


def test_the_instructions_say_whose_what_and_until_when() -> None:
    for name in ("README.txt", "README.html"):
        text = MADE.files[name].decode()
        for word in ("ann", DOMAIN, "wiki.example", "Firefox", "Chromium", "Safari", "overlay-root.pem"):
            assert word in text, (name, word)
    assert "<pre>" in MADE.files["README.html"].decode()


def test_nothing_to_read_or_nowhere_to_enter_is_refused() -> None:
    with pytest.raises(Refused, match="--host"):
        make_profile(IDENTITY, ("a:1",), (), PASSWORD)
    alone = IdentityDir(ANN.profile.id, b"", (), (), "https://a", "p")
    with pytest.raises(Refused, match="--access-point"):
        access_points(alone, ())


async def proxy_handshake(tmp_path: Path, profile: Profile, name: str) -> str:
    """What a browser with this profile does first: TLS to a node as its proxy; returns who the node saw."""
    key = new_key()
    server = server_tls(PKI.roots)
    server.verify_mode = ssl.CERT_REQUIRED
    set_identity(server, key, PKI.issuer.issue(profile, key.public_key(), PKI.now, DAY, random.Random(2)), tmp_path)
    seen: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        names = writer.get_extra_info("peercert")["subjectAltName"]
        seen.set_result(dict(names)["URI"])
        writer.close()

    browser = ssl.create_default_context(cadata=MADE.files["overlay-root.pem"].decode())
    own, leaf, above = pkcs12.load_key_and_certificates(MADE.files["ann.p12"], PASSWORD.encode())
    assert own is not None
    assert leaf is not None
    (tmp_path / "own.pem").write_bytes(
        own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + certificates_to_pem((leaf.public_bytes(Encoding.DER), *(c.public_bytes(Encoding.DER) for c in above)))
    )
    browser.load_cert_chain(tmp_path / "own.pem")
    listening = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=server)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=browser, server_hostname=name)
        await reader.read()
        writer.close()
        return await seen


@pytest.mark.parametrize("name", ["127.0.0.1", f"n1.node.{DOMAIN}"])
async def test_a_browser_with_it_enters_by_address_and_by_name(tmp_path: Path, name: str) -> None:
    node = Profile(who("node", "n1"), bytes(16), ip="127.0.0.1")
    assert await proxy_handshake(tmp_path, node, name) == f"spiffe://{DOMAIN}/user/ann"


@pytest.mark.parametrize(
    ("profile", "name"),
    [
        (Profile(who("node", "n2"), bytes(16), ip="192.0.2.1"), "127.0.0.1"),
        (Profile(who("node", "n2"), bytes(16)), f"n1.node.{DOMAIN}"),
        (Profile(who("site", "bank"), hosts=("bank.example",)), "bank.example"),
        (Profile(who("admin", "authority")), "bank.example"),
    ],
)
async def test_it_accepts_nobody_else(tmp_path: Path, profile: Profile, name: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        await proxy_handshake(tmp_path, profile, name)
