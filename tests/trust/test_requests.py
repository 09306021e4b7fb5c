"""Certificate requests prove a key and ask for nothing: a self-chosen ring id, name or group is refused."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from polder.model import Refused, Verdict
from polder.trust import GROUPS, RING_ID, check_csr, key_hash, make_csr
from polder.trust.requests import MAX_CSR
from tests.support.identities import new_key, who

KEY = new_key()
N1 = who("node", "n1")
URI = x509.UniformResourceIdentifier


def csr(*extensions: x509.ExtensionType, subject: str = "", key: object = KEY, algorithm: object = None) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else [])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, algorithm or hashes.SHA256()).public_bytes(Encoding.PEM)  # type: ignore[arg-type]


def verdict(pem: bytes) -> tuple[Verdict, str]:
    with pytest.raises(Refused) as caught:
        check_csr(pem, N1)
    return caught.value.verdict, caught.value.why


def test_our_own_requests_are_good() -> None:
    assert key_hash(check_csr(make_csr(KEY), N1)) == key_hash(KEY.public_key())


def test_asking_for_exactly_the_granted_name_is_allowed() -> None:
    assert check_csr(csr(x509.SubjectAlternativeName([URI(str(N1))])), N1)


def test_a_self_chosen_ring_id_is_refused() -> None:
    kind, why = verdict(csr(x509.UnrecognizedExtension(RING_ID, b"r" * 16)))
    assert kind is Verdict.WRONG_PLACE
    assert why.startswith("self-chosen ring id")


def test_self_chosen_groups_are_refused() -> None:
    assert verdict(csr(x509.UnrecognizedExtension(GROUPS, b"staff")))[0] is Verdict.DENIED


@pytest.mark.parametrize(
    "names",
    [
        [URI(str(who("node", "n2")))],
        [URI(str(who("admin", "n1")))],
        [URI(str(N1)), URI(str(who("admin", "n1")))],
        [URI(str(N1)), x509.DNSName("wiki.example")],
        [x509.DNSName("n1.node.o.test")],
    ],
)
def test_another_name_is_refused(names: list[x509.GeneralName]) -> None:
    assert verdict(csr(x509.SubjectAlternativeName(names)))[0] is Verdict.WRONG_HOLDER


@pytest.mark.parametrize("pem", [csr(x509.BasicConstraints(ca=True, path_length=None)), csr(subject="root")])
def test_other_wishes_are_refused(pem: bytes) -> None:
    assert verdict(pem)[0] is Verdict.DENIED


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP256K1()), rsa.generate_private_key(65_537, 2048)],
)
def test_other_keys_are_refused(key: object) -> None:
    assert verdict(csr(key=key))[0] is Verdict.MALFORMED


def test_other_hashes_and_broken_signatures_are_refused() -> None:
    assert verdict(csr(algorithm=hashes.SHA512()))[0] is Verdict.BAD_SIGNATURE
    der = bytearray(x509.load_pem_x509_csr(make_csr(KEY)).public_bytes(Encoding.DER))
    der[-1] ^= 1
    broken = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    assert verdict(broken)[0] is Verdict.BAD_SIGNATURE


def test_long_requests_are_refused_unread() -> None:
    assert verdict(make_csr(KEY) + b"\n" * MAX_CSR)[0] is Verdict.MALFORMED


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda b: b"-----BEGIN CERTIFICATE REQUEST-----\n" + b))
def test_any_bytes_are_refused(pem: bytes) -> None:
    with pytest.raises(Refused):
        check_csr(pem, N1)
