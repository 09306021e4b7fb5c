"""The agent's keys for telling its origin who the users are (``docs/design/site-users.md``)."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from polder.model import Tell
from polder.settings.site import SiteSettings
from polder.settings.state import write_atomic
from polder.snapshot.schema import Told

FILE = "tell.mp"


class TellingKeys(msgspec.Struct, frozen=True):
    """Contents of ``tell.mp`` (mode 0600): ``seal`` is a raw X25519 key, ``sign`` a P-256 key (PKCS #8 DER)."""

    seal: bytes
    sign: bytes

    @classmethod
    def load(cls, directory: Path) -> TellingKeys:
        """Read them, or make fresh ones. A damaged file raises ``ValueError``: origins would distrust a new key unseen."""
        path = directory / FILE
        if path.exists():
            try:
                keys = msgspec.msgpack.decode(path.read_bytes(), type=cls)
                keys.jwk()
            except (msgspec.DecodeError, ValueError) as error:
                raise ValueError(f"{path} is damaged ({error}); move it away, restart, give the origin the new key") from error
            return keys
        key = generate_private_key(SECP256R1())
        sign = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        keys = cls(X25519PrivateKey.generate().private_bytes_raw(), sign)
        write_atomic(path, msgspec.msgpack.encode(keys), 0o600)
        return keys

    def tell(self, settings: SiteSettings) -> Tell:
        """What the record says."""
        return Tell(self._seal_public(), settings.tell_address)

    def told(self, settings: SiteSettings) -> Told:
        """What the data plane needs."""
        return Told(
            how=settings.tell,
            seal_secret=self.seal,
            seal_public=self._seal_public(),
            sign_key=self.sign,
            sign_id=self.jwk()["kid"],
            window=round(settings.tell_window),
        )

    def jwk(self) -> dict[str, Any]:
        """The public half of the signing key (RFC 7517); ``kid`` is its thumbprint (RFC 7638)."""
        key = load_der_private_key(self.sign, None)
        if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
            raise ValueError("the signing key is not on P-256")
        numbers = key.public_key().public_numbers()
        x, y = (_base64url(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
        required = json.dumps({"crv": "P-256", "kty": "EC", "x": x, "y": y}, separators=(",", ":"))
        kid = _base64url(hashlib.sha256(required.encode()).digest())
        return {"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": kid, "use": "sig", "alg": "ES256"}

    def _seal_public(self) -> bytes:
        return X25519PrivateKey.from_private_bytes(self.seal).public_key().public_bytes_raw()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
