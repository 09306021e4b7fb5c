"""Root and issuer: lives, limits, and what OpenSSL thinks of them."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from polder.trust import Profile, domain_of, make_issuer, make_root
from polder.trust.authority import ISSUER_LIFE, ROOT_LIFE, make_browser_root
from polder.trust.keys import certificates_to_pem
from tests.support.identities import DAY, DOMAIN, NOW, Pki, new_key, who

PKI = Pki()


def end(certificate: x509.Certificate) -> float:
    return certificate.not_valid_after_utc.timestamp()


def test_roots_and_issuers_name_their_trust_domain() -> None:
    assert domain_of(PKI.root) == domain_of(PKI.issuer.certificate) == DOMAIN
    leaf = x509.load_der_x509_certificate(PKI.member("user", "ann").chain[0])
    with pytest.raises(ValueError, match="names no trust domain"):
        domain_of(leaf)


def test_nothing_outlives_what_signed_it() -> None:
    late = NOW + ROOT_LIFE - 100 * DAY
    issuer = make_issuer(PKI.root_key, PKI.root, new_key(), late, random.Random(2))
    assert end(issuer.certificate) == end(PKI.root) < late + ISSUER_LIFE
    chain = issuer.issue(Profile(who("user", "a")), new_key().public_key(), late, 365 * DAY, random.Random(3))
    assert end(x509.load_der_x509_certificate(chain[0])) == end(PKI.root)


def test_two_roots_of_one_overlay_differ_in_name() -> None:
    rng = random.Random(4)
    assert make_root(new_key(), DOMAIN, NOW, rng).subject != make_root(new_key(), DOMAIN, NOW, rng).subject


def test_serials_are_positive_and_fit_twenty_octets() -> None:
    for seed in range(50):
        chain = PKI.issuer.issue(Profile(who("user", "a")), new_key().public_key(), NOW, DAY, random.Random(seed))
        assert 0 < x509.load_der_x509_certificate(chain[0]).serial_number < 1 << 159


def test_a_short_life_is_not_mostly_past() -> None:
    chain = PKI.issuer.issue(Profile(who("user", "a")), new_key().public_key(), NOW, 20, random.Random(1))
    leaf = x509.load_der_x509_certificate(chain[0])
    assert leaf.not_valid_before_utc.timestamp() == NOW - 2


def openssl(*arguments: str) -> str:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.mark.parametrize(
    ("kind", "purpose"), [("user", "sslclient"), ("site", "sslclient"), ("node", "sslclient"), ("node", "sslserver")]
)
def test_openssl_accepts_our_chains_strictly(tmp_path: Path, kind: str, purpose: str) -> None:
    member = PKI.member(kind, "x", hosts=("h.example",) if kind == "site" else ())
    for name, ders in {"root": PKI.roots, "leaf": member.chain[:1], "issuer": member.chain[1:]}.items():
        (tmp_path / name).write_bytes(certificates_to_pem(ders))
    files = ["-CAfile", str(tmp_path / "root"), "-untrusted", str(tmp_path / "issuer"), str(tmp_path / "leaf")]
    openssl("verify", "-x509_strict", "-attime", str(int(NOW)), "-purpose", purpose, *files)


def test_the_browsers_root_vouches_for_nodes_and_nobody_else(tmp_path: Path) -> None:
    narrow = tmp_path / "narrow"
    narrow.write_bytes(make_browser_root(PKI.issuer, NOW, random.Random(9)).public_bytes(Encoding.PEM))
    node = PKI.member("node", "n1")
    (tmp_path / "issuer").write_bytes(certificates_to_pem(node.chain[1:]))
    (tmp_path / "node").write_bytes(certificates_to_pem(node.chain[:1]))
    common = [
        "verify",
        "-attime",
        str(int(NOW)),
        "-purpose",
        "sslserver",
        "-CAfile",
        str(narrow),
        "-untrusted",
        str(tmp_path / "issuer"),
    ]
    openssl(*common, "-verify_hostname", f"n1.node.{DOMAIN}", str(tmp_path / "node"))
    site = PKI.member("site", "bank", hosts=("bank.example",))
    (tmp_path / "site").write_bytes(certificates_to_pem(site.chain[:1]))
    done = subprocess.run(["openssl", *common, str(tmp_path / "site")], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "permitted subtree violation" in done.stderr + done.stdout or "purpose" in done.stderr + done.stdout
