"""The spread plane's keys and sealed destination, made from the document alone, equal those that the native part makes."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VECTORS = Path(__file__).parents[2] / "docs" / "design" / "spread-vectors.json"


def derive(key: bytes, label: bytes, *parts: bytes) -> bytes:
    return hmac.digest(key, label + b"".join(parts), hashlib.sha256)


def test_the_document_suffices_to_make_tickets() -> None:
    v = {name: bytes.fromhex(text) for name, text in json.loads(VECTORS.read_text()).items()}
    epoch_key = derive(v["secret"], b"polder epoch", v["epoch"])
    grant_key = derive(epoch_key, b"polder grant", v["grant"])
    choice = derive(v["session_key"], b"polder choice", v["session"])[:16]
    plain = v["node"] + choice + v["starts"] + v["lasts"] + v["pace"] + v["rate"]
    sealing = derive(grant_key, b"polder destination", v["session"])[:16]
    made = {
        "epoch_key": epoch_key,
        "grant_key": grant_key,
        "peer_key": derive(epoch_key, b"polder peer", v["node"]),
        "mac_key": derive(grant_key, b"polder mac", v["session"])[:16],
        "destination": AESGCM(sealing).encrypt(bytes(12), plain, v["session"]),
    }
    assert made == {name: v[name] for name in made}
