"""The agent's keys for telling: made once, kept close, readable by origins."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from polder.settings.site import SiteSettings
from polder.site.telling import FILE, TellingKeys

SITE = SiteSettings(name="wiki", origin="http://127.0.0.1:80", tell="header", tell_window=7.0)


def test_keys_are_made_once_and_for_their_owner_only(tmp_path: Path) -> None:
    made = TellingKeys.load(tmp_path)
    assert TellingKeys.load(tmp_path) == made
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    told = made.told(SITE)
    assert (told.how, told.window, told.sign_id) == ("header", 7, made.jwk()["kid"])
    assert made.tell(SITE).key == told.seal_public != told.seal_secret
    assert "withheld" in repr(told) and made.seal.hex() not in repr(told)


def test_the_public_half_is_a_jwk_without_the_private_one(tmp_path: Path) -> None:
    key = TellingKeys.load(tmp_path).jwk()
    assert (key["kty"], key["crv"], key["alg"], "d" in key) == ("EC", "P-256", "ES256", False)
    assert len(key["kid"]) == len(key["x"]) == len(key["y"]) == 43


def test_damaged_keys_are_not_replaced_unseen(tmp_path: Path) -> None:
    odd = generate_private_key(SECP384R1()).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    for data in (
        b"",
        b"\x80",
        msgspec.msgpack.encode(TellingKeys(b"s" * 32, b"no key")),
        msgspec.msgpack.encode(TellingKeys(b"s" * 32, odd)),
    ):
        (tmp_path / FILE).write_bytes(data)
        with pytest.raises(ValueError, match="damaged"):
            TellingKeys.load(tmp_path)
