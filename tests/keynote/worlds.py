"""Keys and credentials for these tests: made once, of every kind."""

from __future__ import annotations

from functools import cache

from polder.keynote.signing import PrivateKey, identifier, make_key, sign


@cache
def _key(name: str, kind: str, bits: int) -> PrivateKey:
    return make_key(kind, bits)


def key(name: str, kind: str = "ed25519", bits: int = 0) -> PrivateKey:
    """The private key of somebody; 2,048 bits for RSA and 1,024 for DSA unless told otherwise."""
    return _key(name, kind, bits or {"rsa": 2048, "dsa": 1024}.get(kind, 0))


def who(name: str, kind: str = "ed25519", bits: int = 0, encoding: str = "base64") -> str:
    """Somebody's principal identifier."""
    return identifier(key(name, kind, bits), encoding)


def credential(author: str, licensees: str, conditions: str | None, kind: str = "ed25519", algorithm: str | None = None) -> str:
    """A signed credential; ``licensees`` is KeyNote text."""
    end = "" if conditions is None else f"\nConditions: {conditions}"
    return sign(f'Authorizer: "{who(author, kind)}"\nLicensees: {licensees}{end}\n', key(author, kind), algorithm)


def policy(licensees: str, conditions: str | None = None, constants: str = "") -> str:
    """An assertion of POLICY."""
    return (
        (f"Local-Constants: {constants}\n" if constants else "")
        + f'Authorizer: "POLICY"\nLicensees: {licensees}\n'
        + (f"Conditions: {conditions}\n" if conditions is not None else "")
    )
