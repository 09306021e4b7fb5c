"""Principals and signatures: normal forms, algorithms old and new, files of the reference tool."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from polder.keynote import Checker, KeyNoteError, Limits, Why, parse, principal
from polder.keynote.keys import do_ascii, encode, integers, sequence, show
from polder.keynote.signatures import ALGORITHMS, OLD, verify
from polder.keynote.signing import (
    KINDS,
    decode_private,
    encode_private,
    identifier,
    make_key,
    make_signature,
    read_attributes,
    read_key,
    read_private,
    sign,
    wrap,
)
from tests.keynote.worlds import credential, key, policy, who

ALL = frozenset(ALGORITHMS)


@pytest.mark.parametrize("kind", KINDS)
def test_keys_have_one_normal_form(kind: str) -> None:
    """In hex or base64, the name in any case; private keys read back; no name passes for a key."""
    one = key("k", kind)
    forms = {principal(identifier(one, "hex")), principal(identifier(one, "base64"))}
    name, _, digits = identifier(one, "hex").partition(":")
    forms |= {principal(f"{name.upper()}:{digits}"), principal(f"{name}:{digits.upper()}")}
    assert len(forms) == 1
    (form,) = forms
    assert isinstance(form, bytes)
    assert show(form).startswith(kind + ":")
    for encoding in ("hex", "base64"):
        assert principal(identifier(decode_private(encode_private(one, encoding)))) == form
    assert principal(form.decode("latin-1")) != form


@given(st.integers(2**510, 2**600), st.integers(3, 2**32 - 1))
def test_rsa_numbers_in_either_order(n: int, e: int) -> None:
    """RFC 2792 §3.2 says exponent first, its example and the reference tool modulus first."""
    first = "rsa-hex:" + do_ascii("hex", sequence(integers(n, e)))
    second = "rsa-base64:" + do_ascii("base64", sequence(integers(e, n)))
    assert principal(first) == principal(second)
    assert principal(first) != principal("rsa-hex:" + do_ascii("hex", sequence(integers(n + 1, e))))


def test_points_of_either_form() -> None:
    """Compressed or not, a P-256 key is the same."""
    public = key("k", "ecdsa-p256").public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    long = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    assert principal("ecdsa-p256-hex:" + long.hex()) == principal(encode(public))


@pytest.mark.parametrize(
    "text",
    [
        "rsa-hex:zz",
        "rsa-hex:",
        "rsa-base64:!!!",
        "rsa-hex:3003020101",
        "rsa-hex:" + sequence(integers(2**5000, 65537)).hex(),
        "rsa-hex:" + sequence(integers(2**2048, 2**2000)).hex(),
        "rsa-hex:" + sequence(integers(2**2048, 65537)).hex() + "00",
        "rsa-hex:" + sequence(integers(0, 65537)).hex(),
        "rsa-hex:3006020180020103",
        "rsa-hex:30840000000602010302010500",
        "dsa-hex:" + sequence(integers(1, 2, 3)).hex(),
        "dsa-hex:" + sequence(integers(2**4000, 2**4000, 7, 7)).hex(),
        "ed25519-hex:00",
        "ecdsa-p256-hex:05" + "00" * 32,
        "ecdsa-p256-hex:04" + "01" * 64,
        "x509-base64:MIIB",
    ],
)
def test_what_is_no_key(text: str) -> None:
    """A known algorithm with digits that are none of its keys is refused; a credential with one counts for nothing, others do."""
    with pytest.raises(KeyNoteError) as caught:
        principal(text)
    assert caught.value.kind is Why.KEY
    answer = Checker().query([policy('"me"'), policy(f'"{text}"')], [], ["me"], {})
    assert answer.passed
    assert answer.entries[1].error is not None


def test_opaque_names() -> None:
    """Unknown algorithms and plain names are compared as text, with case (§5.2)."""
    assert principal("RSA:abc") == "RSA:abc" != principal("rsa:abc")
    assert principal("binary-hex:00ff") == principal("binary-base64:AP8=") == b"binary:\0\xff"


@pytest.mark.parametrize(
    ("kind", "algorithm"),
    [
        ("ed25519", "sig-ed25519"),
        ("ecdsa-p256", "sig-ecdsa-p256"),
        ("rsa", "sig-rsa-sha256"),
        ("rsa", "sig-rsa-sha1"),
        ("rsa", "sig-rsa-md5"),
        ("dsa", "sig-dsa-sha1"),
    ],
)
def test_signatures(kind: str, algorithm: str) -> None:
    """Good ones verify in either encoding; a changed byte, another key and another algorithm do not; old ones only where named."""
    for encoding in ("hex", "base64"):
        text = credential("signer", '"me"', 'a == "b";', kind, f"{algorithm}-{encoding}:")
        root = policy(f'"{who("signer", kind, encoding="hex")}"')
        answer = Checker(accept=[algorithm]).query([root], [text], ["me"], {"a": "b"})
        assert answer.passed, answer.entries[1].error
        plain = Checker().query([root], [text], ["me"], {"a": "b"})
        assert plain.passed is (algorithm not in OLD)
        if algorithm in OLD:
            named = policy('"nobody"', constants=f'_ACCEPT_SIGNATURES = "sig-dsa-sha1 {algorithm}"')
            assert Checker().query([root, named], [text], ["me"], {"a": "b"}).passed
            assert plain.entries[1].error is not None
            assert plain.entries[1].error.kind is Why.ALGORITHM
        changed = text.replace('a == "b"', 'a != "b"')
        answer = Checker(accept=[algorithm]).query([root], [changed], ["me"], {"a": "c"})
        assert not answer.passed
        assert answer.entries[1].error is not None
        assert answer.entries[1].error.kind is Why.SIGNATURE
        other = text.replace(who("signer", kind), identifier(key("other", kind)))
        assert not Checker(accept=[algorithm]).query([policy('"me"', "false;"), root], [other], ["me"], {"a": "b"}).passed


def test_signed_with_another_algorithm_than_the_key() -> None:
    """The algorithm's name is signed too, and must be one of the key's."""
    text = credential("signer", '"me"', "true;")
    one = parse(text)
    with pytest.raises(KeyNoteError, match="not an algorithm"):
        verify(
            one.signed, (one.signature or "").replace("sig-ed25519", "sig-rsa-sha256"), principal(who("signer")), ALL, Limits()
        )
    with pytest.raises(KeyNoteError, match="not known"):
        verify(one.signed, "sig-none-hex:00", principal(who("signer")), ALL, Limits())
    with pytest.raises(KeyNoteError, match="a name"):
        verify(one.signed, one.signature or "", "signer", ALL, Limits())
    with pytest.raises(KeyNoteError, match="a label"):
        verify(one.signed, one.signature or "", principal("binary-hex:00"), ALL, Limits())


def test_small_rsa_keys_are_old() -> None:
    """1,024 bits sign under an old name only."""
    small = key("small", "rsa", 1024)
    body = f'Authorizer: "{identifier(small)}"\nLicensees: "me"\nConditions: true;\n'
    with pytest.raises(KeyNoteError, match="1024 bits"):
        sign(body, small)
    assert sign(body, small, "sig-rsa-sha1-hex:")


def test_rsa_signatures_as_the_rfc_may_be_read() -> None:
    """An OCTET STRING around a PKCS#1 signature verifies too (RFC 2792 §4.2)."""
    from cryptography.hazmat.primitives.asymmetric import padding

    signer = key("signer", "rsa")
    assert isinstance(signer, rsa.RSAPrivateKey)
    text = f'Authorizer: "{identifier(signer)}"\nConditions: true;\n'
    raw = signer.sign((text + "sig-rsa-sha1-hex:").encode(), padding.PKCS1v15(), hashes.SHA1())
    wrapped = b"\x04\x82" + len(raw).to_bytes(2, "big") + raw
    assert verify(text, "sig-rsa-sha1-hex:" + wrapped.hex(), principal(identifier(signer)), ALL, Limits()) == "sig-rsa-sha1"
    with pytest.raises(KeyNoteError, match="follows"):
        verify(text, "sig-rsa-sha1-hex:" + wrapped.hex() + "00", principal(identifier(signer)), ALL, Limits())


@pytest.mark.parametrize("kind", ["rsa", "ecdsa-p256"])
def test_certificates_are_containers_of_keys(kind: str) -> None:
    """x509-base64: stands for the key inside, and sig-x509-* for its signatures."""
    signer = key("signer", kind)
    assert isinstance(signer, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "signer")])
    day = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(signer.public_key()).serial_number(1)
    built = builder.not_valid_before(day).not_valid_after(day + datetime.timedelta(days=1)).sign(signer, hashes.SHA256())
    named = "x509-base64:" + do_ascii("base64", built.public_bytes(Encoding.DER))
    assert principal(named) == principal(identifier(signer))
    body = f'Authorizer: "{named}"\nLicensees: "me"\nConditions: true;\n'
    for algorithm in ("sig-x509-sha256", "sig-x509-sha1"):
        text = sign(body, signer, f"{algorithm}-base64:")
        assert Checker(accept=["sig-x509-sha1"]).query([policy(f'"{identifier(signer)}"')], [text], ["me"], {}).passed


def test_private_keys_in_pem() -> None:
    """As OpenSSL writes them; what has a password, or no name in KeyNote, is refused without a word of it."""
    for kind in KINDS:
        one = key("k", kind)
        pem = one.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        assert identifier(read_private(pem)) == identifier(one)
        assert identifier(read_private(wrap(encode_private(one)))) == identifier(one)
    locked = key("k").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")).decode()
    other = ec.generate_private_key(ec.SECP384R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    ed448 = Ed448PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for wrong in (locked, other, ed448, "-----BEGIN NOTHING-----"):
        with pytest.raises(KeyNoteError) as caught:
            read_private(wrong)
        assert caught.value.kind is Why.KEY


def test_files() -> None:
    """Keys over lines, with comments; attributes; and what is neither."""
    text = who("k", "rsa")
    assert read_key("# mine\n" + wrap(text, 3, 40)) == text
    assert all(len(line) == 3 + 40 for line in wrap(text, 3, 40).splitlines()[:-1])
    assert read_attributes('a = "1"\n# no\nb="x\\\n   y"') == {"a": "1", "b": "xy"}
    for wrong in ("", "a b", '"a" "b"'):
        with pytest.raises(KeyNoteError):
            read_key(wrong)
    for wrong in ("a", 'a "b"', "a = b"):
        with pytest.raises(KeyNoteError):
            read_attributes(wrong)
    for wrong in ("private-rsa-hex:00", "private-none-hex:00", "rsa-hex:00", "private-ed25519-hex:00", "private-dsa-hex:3000"):
        with pytest.raises(KeyNoteError) as caught:
            decode_private(wrong)
        assert "00" not in str(caught.value)
    with pytest.raises(KeyNoteError, match="needs a last line"):
        make_signature('Authorizer: "a"\n', key("k"), "sig-ed25519-hex:")
    with pytest.raises(KeyNoteError, match="another key"):
        make_signature('Authorizer: "a"\nSignature:\n', key("k"), "sig-rsa-sha256-hex:")
    for kind, bits in (("rsa", 512), ("dsa", 1), ("none", 1)):
        with pytest.raises(KeyNoteError):
            make_key(kind, bits)
