"""Keys and certificates in files: encrypted PEM, pins, PKCS #12 that OpenSSL reads."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs12

from polder.model import Refused, Verdict
from polder.trust.keys import (
    MIN_PASSWORD,
    certificates_from_pem,
    certificates_to_pem,
    check_pin,
    key_from_der,
    key_from_pem,
    key_to_der,
    key_to_pem,
    make_password,
    pin_of,
    to_pkcs12,
)
from tests.support.identities import Pki

PKI = Pki()
ANN = PKI.member("user", "ann")
PASSWORD = make_password(random.Random(1))


def same(a: ec.EllipticCurvePrivateKey, b: ec.EllipticCurvePrivateKey) -> bool:
    return a.private_numbers() == b.private_numbers()


def test_passwords_have_160_bits() -> None:
    passwords = {make_password(random.Random(seed)) for seed in range(100)}
    assert len(passwords) == 100
    assert all(len(password.replace("-", "")) == 32 >= MIN_PASSWORD for password in passwords)


def test_an_encrypted_key_opens_with_its_password_only() -> None:
    pem = key_to_pem(ANN.key, PASSWORD)
    assert pem.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert same(key_from_pem(pem, PASSWORD), ANN.key)
    for wrong in (PASSWORD + "x", "", None):
        with pytest.raises(Refused, match="cannot be read"):
            key_from_pem(pem, wrong)


def test_a_weak_password_is_refused() -> None:
    with pytest.raises(Refused, match="at least 24"):
        key_to_pem(ANN.key, "correct horse")


def test_plain_keys_and_der() -> None:
    assert same(key_from_pem(key_to_pem(ANN.key)), ANN.key)
    assert same(key_from_der(key_to_der(ANN.key)), ANN.key)


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65_537, 2048)])
def test_other_keys_are_refused(key: ec.EllipticCurvePrivateKey) -> None:
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(Refused, match="not ECDSA P-256"):
        key_from_der(der)
    with pytest.raises(Refused, match="cannot be read"):
        key_from_der(der[:-5])


def test_certificates_round_trip() -> None:
    assert certificates_from_pem(certificates_to_pem(ANN.chain)) == ANN.chain
    with pytest.raises(Refused, match="no certificate"):
        certificates_from_pem(b"nothing")


def test_pins() -> None:
    pin = pin_of(PKI.roots[0])
    check_pin(PKI.roots[0], f" {pin.upper()}\n")
    with pytest.raises(Refused) as caught:
        check_pin(Pki().roots[0], pin)
    assert caught.value.verdict is Verdict.FOREIGN
    for malformed in ("", pin[:-1], pin.removeprefix("sha256:"), "md5:" + pin):
        with pytest.raises(Refused) as caught:
            check_pin(PKI.roots[0], malformed)
        assert caught.value.verdict is Verdict.MALFORMED


@pytest.mark.parametrize("compatible", [False, True])
def test_the_p12_holds_key_leaf_and_issuer_but_no_root(tmp_path: Path, compatible: bool) -> None:
    data = to_pkcs12("ann (o.test)", ANN.key, ANN.chain, PASSWORD, compatible=compatible)
    key, leaf, above = pkcs12.load_key_and_certificates(data, PASSWORD.encode())
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert same(key, ANN.key)
    assert leaf is not None
    assert (leaf.public_bytes(Encoding.DER), *(c.public_bytes(Encoding.DER) for c in above)) == ANN.chain
    with pytest.raises(ValueError, match="password"):
        pkcs12.load_key_and_certificates(data, b"wrong")
    file = tmp_path / "ann.p12"
    file.write_bytes(data)
    command = ["openssl", "pkcs12", "-in", str(file), "-passin", "stdin", "-nodes", "-info", *(["-legacy"] if compatible else [])]
    done = subprocess.run(command, input=PASSWORD + "\n", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("BEGIN CERTIFICATE") == 2
    assert ("pbeWithSHA1And3-KeyTripleDES-CBC" if compatible else "AES-256-CBC") in done.stderr
