"""The spread plane's keys and sealed destination, made from the document alone, equal those that the native part makes."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from polder.model import Member
from polder.model.spread_messages import Granted, Terms
from polder.overlay import spread_keys

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


def test_issuers_and_relays_make_the_same() -> None:
    v = {name: bytes.fromhex(text) for name, text in json.loads(VECTORS.read_text()).items()}
    number = {name: int.from_bytes(v[name], "big") for name in ("epoch", "node", "starts", "lasts", "pace", "rate")}
    epoch_key = spread_keys.epoch_key(v["secret"], number["epoch"])
    granted = Granted(
        number["epoch"],
        0,
        v["grant"],
        spread_keys.grant_key(epoch_key, v["grant"]),
        spread_keys.peer_key(epoch_key, number["node"]),
    )
    assert (epoch_key, granted.grant_key, granted.peer_key) == (v["epoch_key"], v["grant_key"], v["peer_key"])
    terms = Terms(*(number[name] for name in ("starts", "lasts", "pace", "rate")))
    relay = Member("n1", bytes(16), "192.0.2.1:8443")
    (issued,) = spread_keys.issue(v["session"], v["session_key"], number["node"], terms, [(relay, granted)])
    assert (issued.mac, issued.destination) == (v["mac_key"], v["destination"])
