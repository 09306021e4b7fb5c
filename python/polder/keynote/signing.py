"""Making keys and signatures, and the files that the reference tool keeps them in (keynote(1) of OpenBSD).

A key file holds one quoted string: ``"rsa-base64:…"`` or ``"private-rsa-base64:…"``, broken over lines with backslashes.
"""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)

from polder.keynote.assertion import Assertion
from polder.keynote.errors import KeyNoteError, Why
from polder.keynote.keys import PublicKey, do_ascii, encode, integers, read_integers, sequence, undo_ascii
from polder.keynote.limits import Limits
from polder.keynote.signatures import ALGORITHMS, old_payload, verify
from polder.keynote.text import decode, split_fields, string, tokens

PrivateKey = rsa.RSAPrivateKey | dsa.DSAPrivateKey | ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
PRIVATE = "private-"
OFFSET, LENGTH = 12, 50
KINDS = ("ed25519", "ecdsa-p256", "rsa", "dsa")
BEST = {"ed25519": "sig-ed25519", "ecdsa-p256": "sig-ecdsa-p256", "rsa": "sig-rsa-sha256", "dsa": "sig-dsa-sha1"}
"""The algorithm that a kind of key signs with when nobody asks for another."""


def make_key(kind: str, bits: int = 0) -> PrivateKey:
    """A new key. ``bits`` counts for rsa (1,024 to 4,096) and dsa (1,024, 2,048 or 3,072) only."""
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind == "ecdsa-p256":
        return ec.generate_private_key(ec.SECP256R1())
    if kind == "rsa" and 1024 <= bits <= 4096:
        return rsa.generate_private_key(65537, bits)
    if kind == "dsa" and bits in (1024, 2048, 3072):
        return dsa.generate_private_key(bits)
    raise KeyNoteError(
        Why.ALGORITHM, f"no {kind} key of {bits} bits: rsa has 1024 to 4096, dsa 1024, 2048 or 3072; {KINDS} are known"
    )


def kind_of(key: PrivateKey | PublicKey) -> str:
    """``rsa``, ``dsa``, ``ed25519`` or ``ecdsa-p256``."""
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        return "rsa"
    if isinstance(key, dsa.DSAPrivateKey | dsa.DSAPublicKey):
        return "dsa"
    return "ed25519" if isinstance(key, ed25519.Ed25519PrivateKey | ed25519.Ed25519PublicKey) else "ecdsa-p256"


def encode_private(key: PrivateKey, encoding: str = "base64") -> str:
    """``private-ALGORITHM-ENCODING:…``: PKCS#1, OpenSSL's DSA form, 32 bytes of seed, or SEC 1."""
    if isinstance(key, dsa.DSAPrivateKey):
        numbers = key.private_numbers()
        public = numbers.public_numbers
        group = public.parameter_numbers
        data = sequence(integers(0, group.p, group.q, group.g, public.y, numbers.x))
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        data = key.private_bytes_raw()
    else:
        data = key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return f"{PRIVATE}{kind_of(key)}-{encoding}:" + do_ascii(encoding, data)


def decode_private(text: str) -> PrivateKey:
    """The key of ``private-…``; KeyNoteError never quotes any of it."""
    name, _, digits = text.partition(":")
    kind, _, encoding = name.lower().removeprefix(PRIVATE).rpartition("-")
    if not name.lower().startswith(PRIVATE) or encoding not in ("hex", "base64") or kind not in KINDS:
        raise KeyNoteError(Why.KEY, "this is no private key of keynote keygen")
    try:
        data = undo_ascii(encoding, digits)
        if kind == "ed25519":
            return ed25519.Ed25519PrivateKey.from_private_bytes(data)
        if kind == "dsa":
            _, p, q, g, y, x = read_integers(data, 6)
            return dsa.DSAPrivateNumbers(x, dsa.DSAPublicNumbers(y, dsa.DSAParameterNumbers(p, q, g))).private_key()
        key = load_der_private_key(data, None)
    except (ValueError, TypeError):
        raise KeyNoteError(Why.KEY, f"the private {kind} key is damaged") from None
    wanted = rsa.RSAPrivateKey if kind == "rsa" else ec.EllipticCurvePrivateKey
    if not isinstance(key, wanted):
        raise KeyNoteError(Why.KEY, f"the private key is not of the kind {kind} that it names")
    return key


def read_private(text: str) -> PrivateKey:
    """The key in a file: as ``keygen`` writes it, or PEM without a password, as the reference tool wants it for ``sig-x509-*``."""
    if "-----BEGIN " not in text:
        return decode_private(read_key(text))
    try:
        key = load_pem_private_key(text.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyNoteError(Why.KEY, "the PEM holds no private key without a password") from None
    if isinstance(key, ec.EllipticCurvePrivateKey) and not isinstance(key.curve, ec.SECP256R1):
        raise KeyNoteError(Why.KEY, "the private key's curve is not P-256")
    if not isinstance(key, PrivateKey):
        raise KeyNoteError(Why.KEY, "the private key is of no algorithm that KeyNote has a name for")
    return key


def identifier(key: PrivateKey, encoding: str = "base64") -> str:
    """The public half, as a principal."""
    return encode(key.public_key(), encoding)


def make_signature(text: str | bytes, key: PrivateKey, algorithm: str, limits: Limits | None = None) -> str:
    """The signature of an assertion whose Signature field is there, if only empty. ``algorithm``: ``sig-rsa-sha256-base64:``."""
    limits = limits or Limits()
    name = algorithm if algorithm.endswith(":") else algorithm + ":"
    base, _, encoding = name[:-1].lower().rpartition("-")
    if base not in ALGORITHMS or encoding not in ("hex", "base64"):
        known = ", ".join(sorted(ALGORITHMS))
        raise KeyNoteError(Why.ALGORITHM, f"{algorithm} is not one of {known} with -hex: or -base64: behind")
    fields, signed = split_fields(decode(text, limits))
    if "signature" not in fields:
        raise KeyNoteError(Why.SYNTAX, "the assertion needs a last line 'Signature:', because all before it is signed")
    message, digest = (signed + name).encode("ascii"), ALGORITHMS[base].hash
    kind = kind_of(key)
    if ALGORITHMS[base].key not in (kind, "x509") or (ALGORITHMS[base].key == "x509" and kind == "ed25519"):
        raise KeyNoteError(Why.ALGORITHM, f"{base} needs another key than {kind}")
    if isinstance(key, ed25519.Ed25519PrivateKey):
        data = key.sign(message)
    elif digest is None:
        raise KeyNoteError(Why.ALGORITHM, f"{base} needs another key than {kind}")
    elif isinstance(key, rsa.RSAPrivateKey):
        old = ALGORITHMS[base].old
        content, how = (old_payload(base, message), NoDigestInfo()) if old else (message, digest)
        data = key.sign(content, padding.PKCS1v15(), how)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        data = key.sign(message, ec.ECDSA(digest))
    else:
        data = key.sign(message, digest)
    return name + do_ascii(encoding, data)


def sign(body: str, key: PrivateKey, algorithm: str | None = None, limits: Limits | None = None) -> str:
    """``body`` (all fields but Signature) with a Signature field by ``key``, ready to be sent; its author must be ``key``."""
    limits = limits or Limits()
    text = body.rstrip("\n") + "\nSignature:\n"
    signature = make_signature(text, key, algorithm or BEST[kind_of(key)] + "-base64:", limits)
    whole = text[:-1] + "\n" + wrap(signature)
    assertion = Assertion(whole, limits)
    author = assertion.resolve({}, limits)[0]
    verify(assertion.signed, assertion.signature or "", author, frozenset(ALGORITHMS), limits)
    return whole


def wrap(value: str, offset: int = OFFSET, length: int = LENGTH) -> str:
    """A quoted string over lines of ``length`` characters, each ``offset`` to the right, as the reference tool prints keys."""
    pad, quoted = " " * offset, f'"{value}"'
    step = length - 1
    parts = [quoted[begin : begin + step] for begin in range(0, len(quoted), step)]
    return "".join(f"{pad}{part}\\\n" for part in parts[:-1]) + f"{pad}{parts[-1]}\n"


def read_key(text: str, limits: Limits | None = None) -> str:
    """The string of a key file; comments may stand around it."""
    found = tokens(text, limits or Limits())
    if len(found) < 2 or found[1] or not found[0].startswith('"'):
        raise KeyNoteError(Why.KEY, "a key file holds one string in quotes")
    return string(found[0])


def read_attributes(text: str, limits: Limits | None = None) -> dict[str, str]:
    """An environment file of the reference tool: ``name = "value"``, any number of them."""
    found = tokens(text, limits or Limits())
    values: dict[str, str] = {}
    at = 0
    while found[at]:
        if found[at + 1] != "=" or not found[at + 2].startswith('"'):
            raise KeyNoteError(Why.QUERY, f'near {found[at]!r}: an environment file holds name = "value"')
        values[found[at]] = string(found[at + 2])
        at += 3
    return values
