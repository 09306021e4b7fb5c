"""Principals: keys of RFC 2792 and of today, decoded, compared and encoded.

A principal's normal form is a ``str`` for an opaque name and ``bytes`` for a key, so that no name can pass for a key. RFC 2792 §3.2
writes an RSA key as exponent then modulus, the reference tool as PKCS#1 does; both are read, told apart by size, and PKCS#1 is written.
New names, because none is registered: ``ed25519-*`` (32 bytes, RFC 8032), ``ecdsa-p256-*`` (a point of SEC 1, written compressed).
``x509-*`` holds a certificate as a container of its key: neither its validity nor its issuer is looked at.
"""

from __future__ import annotations

import base64
import binascii
import re
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from polder.keynote.errors import KeyNoteError, Why

Principal = str | bytes
PublicKey = rsa.RSAPublicKey | dsa.DSAPublicKey | ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey

_FORM = re.compile(r"(rsa|dsa|ed25519|ecdsa-p256|x509|binary)-(hex|base64):", re.IGNORECASE)
_LONGEST_NUMBER = 520
_RSA, _DSA, _ED, _EC, _BINARY = b"rsa:", b"dsa:", b"ed25519:", b"ecdsa-p256:", b"binary:"


def undo_ascii(encoding: str, text: str) -> bytes:
    """Bytes of hex or base64 digits; white space between them, which continuation lines leave, does not count."""
    try:
        if encoding.lower() == "hex":
            return bytes.fromhex(text)
        try:
            return binascii.a2b_base64(text, strict_mode=True)
        except binascii.Error:
            return binascii.a2b_base64("".join(text.split()), strict_mode=True)
    except (ValueError, binascii.Error):
        raise KeyNoteError(Why.KEY, f"the {encoding} digits of {text[:20]!r} are not valid") from None


def do_ascii(encoding: str, data: bytes) -> str:
    """Hex (lower case, RFC 2704 §4.5.2) or base64 digits."""
    return data.hex() if encoding == "hex" else base64.b64encode(data).decode()


@lru_cache(maxsize=1024)
def principal(text: str) -> Principal:
    """The normal form of a principal identifier (§5.2). KeyNoteError if it names a known algorithm but is no key of it."""
    found = _FORM.match(text)
    if found is None:
        return text
    algorithm, data = found[1].lower(), undo_ascii(found[2], text[found.end() :])
    if algorithm == "rsa":
        return rsa_principal(data)
    if algorithm == "ed25519":
        if len(data) != 32:
            raise KeyNoteError(Why.KEY, f"an ed25519 key has 32 bytes, not {len(data)}")
        return _ED + data
    if algorithm == "dsa":
        numbers = _numbers(data, 4)
        if max(numbers).bit_length() > 3072 or numbers[2].bit_length() > 256:
            raise KeyNoteError(Why.KEY, "a DSA key may have a prime of 3,072 bits and a subprime of 256")
        return _DSA + integers(*numbers)
    if algorithm == "ecdsa-p256":
        return _EC + _compressed(data)
    if algorithm == "binary":
        return _BINARY + data
    return _of_certificate(data)


def rsa_principal(data: bytes) -> bytes:
    """PKCS#1 of modulus and exponent; the smaller number is the exponent. Sizes are bounded: they decide what a check costs."""
    if _is_pkcs1(data):
        return _RSA + data
    one, other = _numbers(data, 2)
    if max(one, other).bit_length() > 4096 or min(one, other).bit_length() > 32:
        raise KeyNoteError(Why.KEY, "an RSA key may have a modulus of 4,096 bits and an exponent of 32")
    return _RSA + sequence(integers(max(one, other), min(one, other)))


def _is_pkcs1(data: bytes) -> bool:
    """Whether these are already the bytes that we would write, for the commonest keys: 1,024 to 4,096 bits, exponent 65,537."""
    if data[:2] == b"\x30\x82" and data[4:6] == b"\x02\x82":
        size, begin = data[6] << 8 | data[7], 8
        whole = data[2] << 8 | data[3]
    elif data[:2] == b"\x30\x81" and data[3:5] == b"\x02\x81":
        size, begin, whole = data[5], 6, data[2]
    else:
        return False
    end = begin + size
    first = data[begin : begin + 2]
    return (
        (0x80 <= size < 0x100 if begin == 6 else 0x100 <= size <= 513)
        and whole == len(data) - begin // 2
        and (whole > 0xFF) is (begin == 8)
        and data[end:] == b"\x02\x03\x01\x00\x01"
        and (first[0] == 0 and first[1] > 0x7F if size & 1 else 0 < first[0] < 0x80)
    )


def canonical(text: str) -> str:
    """One spelling for each principal: keys in base64 with their numbers in our order, other names as they are."""
    who = principal(text)
    if isinstance(who, str):
        return who
    algorithm, _, data = who.partition(b":")
    if algorithm == b"dsa":
        data = sequence(data)
    return f"{algorithm.decode()}-base64:{do_ascii('base64', data)}"


def show(who: Principal) -> str:
    """A short name for people; two keys may share it, so that it never decides anything."""
    if isinstance(who, str):
        return who if len(who) <= 60 else who[:57] + "…"
    algorithm, _, data = who.partition(b":")
    return f"{algorithm.decode()}:{base64.b32encode(data)[-16:].decode().lower().strip('=')}"


@lru_cache(maxsize=1024)
def public_key(who: bytes) -> PublicKey:
    """The key to verify with. KeyNoteError if the numbers make none."""
    algorithm, _, data = who.partition(b":")
    try:
        if algorithm == b"rsa":
            if _is_pkcs1(data):
                key = load_der_public_key(data)
                assert isinstance(key, rsa.RSAPublicKey)  # PKCS#1 holds no other
                return key
            n, e = _numbers(data, 2)
            return rsa.RSAPublicNumbers(e, n).public_key()
        if algorithm == b"dsa":
            y, p, q, g = _numbers(data, 4)
            return dsa.DSAPublicNumbers(y, dsa.DSAParameterNumbers(p, q, g)).public_key()
        if algorithm == b"ed25519":
            return ed25519.Ed25519PublicKey.from_public_bytes(data)
        if algorithm == b"ecdsa-p256":
            return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), data)
    except ValueError as error:
        raise KeyNoteError(Why.KEY, f"{show(who)} is no key: {error}") from None
    raise KeyNoteError(Why.KEY, f"{show(who)} is a label, not a key: it cannot sign")


def encode(key: PublicKey, encoding: str = "base64") -> str:
    """A key as a principal identifier."""
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        return f"rsa-{encoding}:" + do_ascii(encoding, sequence(integers(numbers.n, numbers.e)))
    if isinstance(key, dsa.DSAPublicKey):
        d = key.public_numbers()
        p = d.parameter_numbers
        return f"dsa-{encoding}:" + do_ascii(encoding, sequence(integers(d.y, p.p, p.q, p.g)))
    if isinstance(key, ed25519.Ed25519PublicKey):
        return f"ed25519-{encoding}:" + do_ascii(encoding, key.public_bytes_raw())
    return f"ecdsa-p256-{encoding}:" + do_ascii(encoding, key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint))


def _compressed(data: bytes) -> bytes:
    if len(data) == 33 and data[0] in (2, 3):
        return data
    if len(data) != 65 or data[0] != 4:
        raise KeyNoteError(Why.KEY, "an ecdsa-p256 key is a point of 33 or 65 bytes")
    try:
        point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), data)
    except ValueError:
        raise KeyNoteError(Why.KEY, "the point of an ecdsa-p256 key is not on the curve") from None
    return point.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def _of_certificate(data: bytes) -> bytes:
    try:
        key = x509.load_der_x509_certificate(data).public_key()
    except Exception:
        raise KeyNoteError(Why.KEY, "the x509 identifier holds no certificate") from None
    if isinstance(key, ec.EllipticCurvePublicKey) and not isinstance(key.curve, ec.SECP256R1):
        raise KeyNoteError(Why.KEY, "the certificate's curve is not P-256")
    if not isinstance(key, rsa.RSAPublicKey | dsa.DSAPublicKey | ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey):
        raise KeyNoteError(Why.KEY, "the certificate's key is of no known algorithm")
    inner = principal(encode(key))
    assert isinstance(inner, bytes)  # encode writes keys alone
    return inner


# ASN.1: the few forms of RFC 2792


def read_element(data: bytes, at: int, tag: int) -> tuple[int, int]:
    """Where the contents of the element at ``at`` begin and end. Lengths are definite; more than that is not asked of old data."""
    if data[at : at + 1] != bytes([tag]) or at + 2 > len(data):
        raise KeyNoteError(Why.KEY, f"ASN.1 tag {tag} is not at byte {at}")
    size, begin = data[at + 1], at + 2
    if size >= 0x80:
        count = size & 0x7F
        begin += count
        if not 1 <= count <= 4 or begin > len(data):
            raise KeyNoteError(Why.KEY, f"the ASN.1 length at byte {at} is not valid")
        size = int.from_bytes(data[begin - count : begin], "big")
    if begin + size > len(data):
        raise KeyNoteError(Why.KEY, f"the ASN.1 element at byte {at} ends after the data")
    return begin, begin + size


def read_integers(data: bytes, count: int) -> list[int]:
    """The non-negative integers of a SEQUENCE, and nothing after it."""
    begin, end = read_element(data, 0, 0x30)
    if end != len(data):
        raise KeyNoteError(Why.KEY, "something follows the ASN.1 sequence")
    return _integers(data, begin, end, count)


def _numbers(data: bytes, count: int) -> list[int]:
    """As ``read_integers``, or of our normal form, which has no SEQUENCE around."""
    found = read_integers(data, count) if data[:1] == b"\x30" else _integers(data, 0, len(data), count)
    if min(found) < 1:
        raise KeyNoteError(Why.KEY, "a number of a key is not positive")
    return found


def _integers(data: bytes, at: int, end: int, count: int) -> list[int]:
    found = []
    while at < end:
        begin, at = read_element(data, at, 2)
        if at == begin or data[begin] & 0x80 or at - begin > _LONGEST_NUMBER:
            raise KeyNoteError(Why.KEY, "an ASN.1 integer is empty, negative or too long")
        found.append(int.from_bytes(data[begin:at], "big"))
    if at != end or len(found) != count:
        raise KeyNoteError(Why.KEY, f"the key has {len(found)} numbers; its algorithm has {count}")
    return found


def element(tag: int, body: bytes) -> bytes:
    """An ASN.1 element in DER."""
    size = len(body)
    if size < 0x80:
        return bytes([tag, size]) + body
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def integers(*values: int) -> bytes:
    """INTEGERs in DER, one after the other."""
    return b"".join(element(2, value.to_bytes(value.bit_length() // 8 + 1, "big")) for value in values)


def sequence(body: bytes) -> bytes:
    """A SEQUENCE in DER."""
    return element(0x30, body)
