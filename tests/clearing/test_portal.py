"""A provider's portal: who gets credit, how much, and what a repetition gets."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from polder.bandex import CreditTerms, pack
from polder.bandex.writing import order, pay, write
from polder.clearing.portal import TITLE, Link, Portal
from polder.clearing.serving import openapi
from polder.model import Refused
from polder.settings.money import ProviderSettings
from polder.store import sqlite_url
from tests.support.money import HOUR, NOW, Alice, Ask, desk, guarantee, key, name_of, nonce, wanted

ANN, BOB = "spiffe://o.test/user/ann", "spiffe://o.test/user/bob"


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


def open_portal(directory: Path, clock: Clock, links: tuple[Link, ...] = (), **limits: Any) -> Portal:
    given = {"most": "0.55", "total": "1.00", "most_per_user": "2.00", "period": "1d", "life": "1h"} | limits
    settings = ProviderSettings(tls={"identity": "/nowhere"}, **given)
    return Portal(settings, key("martha"), links, sqlite_url(directory / "grants.sqlite3"), clock, random.Random(1))


def request(number: int) -> str:
    return f"{number:032x}"


def test_a_credit_pays_for_a_film(tmp_path: Path) -> None:
    portal, alice = open_portal(tmp_path, Clock()), Alice()
    granted = portal.grant(ANN, name_of("alice"), request(1))
    (text,) = granted.credentials
    terms = CreditTerms.read(text)
    assert (terms.most, terms.total, terms.not_after) == (550_000, 1_000_000, NOW + HOUR)
    check, signed = pay(wanted(), alice.offer, terms, key("alice"), nonce(alice.rng), NOW)
    texts = order([(signed, check), (text, terms), (alice.offer_text, alice.offer)])
    assert desk().decide(Ask(pack(texts)), NOW).accepted


def test_a_repetition_gets_the_same_and_costs_nothing(tmp_path: Path) -> None:
    portal = open_portal(tmp_path, Clock())
    first = portal.grant(ANN, name_of("alice"), request(1))
    portal.close()
    portal = open_portal(tmp_path, Clock())  # also after a restart
    for _ in range(5):
        again = portal.grant(ANN, name_of("alice"), request(1))
        assert again.repeated and again.credentials == first.credentials
    with pytest.raises(Refused, match="with another key"):
        portal.grant(ANN, name_of("bob"), request(1))
    assert portal.grant(BOB, name_of("bob"), request(1)).credentials != first.credentials


def test_a_user_and_all_users_get_so_much(tmp_path: Path) -> None:
    clock = Clock()
    portal = open_portal(tmp_path, clock, most_credits=3)
    portal.grant(ANN, name_of("alice"), request(1))
    portal.grant(ANN, name_of("alice"), request(2))
    with pytest.raises(Refused, match="as one user gets in this period") as found:
        portal.grant(ANN, name_of("mallory"), request(3))  # another key does not help
    assert found.value.verdict == "exceeded"
    portal.grant(BOB, name_of("bob"), request(1))
    with pytest.raises(Refused, match="no more credits in this period") as full:
        portal.grant("spiffe://o.test/user/eve", name_of("eve"), request(1))
    assert full.value.retry
    clock.now += 24 * HOUR - 1
    assert portal.prune() == 0
    clock.now += 2
    assert not portal.grant(ANN, name_of("alice"), request(3)).repeated
    assert (portal.prune(), portal.prune()) == (3, 0)
    assert portal.counters == {"granted": 4, "exceeded": 1, "busy": 1}


def test_the_portal_describes_itself(tmp_path: Path) -> None:
    told = json.loads(openapi(TITLE, open_portal(tmp_path, Clock()).routes()))
    (operation,) = told["paths"]["/v1/credits"].values()
    assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/CreditRequest")
    assert told["components"]["schemas"].keys() >= {"CreditRequest", "Granted", "Problem"}


def test_who_gets_none(tmp_path: Path) -> None:
    portal = open_portal(tmp_path, Clock())
    with pytest.raises(Refused, match="credits are for users"):
        portal.grant("spiffe://o.test/node/n1", name_of("alice"), request(1))
    for bad in ("", "x", request(1).upper() + "A", request(1) + "0"):
        with pytest.raises(Refused, match="32 hexadecimal digits"):
            portal.grant(ANN, name_of("alice"), bad)
    for bad in ("", "alice", "ed25519-hex:00", "rsa-base64:!"):
        with pytest.raises(Refused, match="key"):
            portal.grant(ANN, bad, request(1))
    with pytest.raises(ValueError, match="must rise"):
        open_portal(tmp_path, Clock(), most="3.00")


def test_guarantees_go_along_until_they_end(tmp_path: Path) -> None:
    terms, clock = guarantee(), Clock()
    portal = open_portal(
        tmp_path, clock, (Link(terms, write(terms, key("bank"))),), life="2d", period="30d", most_per_user="9.00"
    )
    assert len(portal.grant(ANN, name_of("alice"), request(1)).credentials) == 2
    clock.now = terms.not_after
    with pytest.raises(Refused, match="guarantees have ended") as found:
        portal.grant(ANN, name_of("alice"), request(2))
    assert found.value.retry
