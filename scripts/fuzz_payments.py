"""Fuzz targets of what payers and ISPs send: bundles to an ISP's desk, deposits to a clearing house. Used by ``scripts.fuzz_messages``."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable

import msgspec
from cryptography.hazmat.primitives.asymmetric import ed25519

from polder.bandex import CreditTerms, Desk, Flow, GuaranteeTerms, Isp, OfferTerms, SpentSet, Trust, pack, read, unpack
from polder.bandex.writing import Wanted, pay, write
from polder.clearing.messages import Deposit, Deposits
from polder.keynote.signing import identifier
from polder.model.reservations import Ask

NOW = 1_800_000_000
WORDS = (
    b"Comment: BandEx check\n",
    b"Comment: BandEx guarantee\n",
    b"@amount == ",
    b"@total",
    b"20270115080000",
    b"route:nick/r",
    b"0" * 32,
)
_WANTED = Wanted("udp 198.18.1.1 port 5004", ("203.0.113.7 port 5004",), "5f" * 32, 2_500_000, 600)


def _key(seed: int) -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.from_private_bytes(random.Random(seed).randbytes(32))  # noqa: S311 - a fuzzer's


@functools.cache
def _texts() -> tuple[str, ...]:
    """The one payment that is good: check, credit, guarantee, offer."""
    alice, martha, nick, bank = (_key(seed) for seed in (11, 12, 13, 14))
    when = {"not_before": NOW - 60, "not_after": NOW + 7200}
    offer = OfferTerms(
        **when, isp_key=identifier(nick), isp="nick", route="r", service="controlled-load", currency="USD", setup=1,
        per_mbit_hour=40_000, most_rate=2_500_000, most_seconds=7200,
    )  # fmt: skip
    credit = CreditTerms(
        **when,
        provider=identifier(martha),
        user=identifier(alice),
        currency="USD",
        nonce="1" * 32,
        least=1,
        most=10**6,
        total=10**7,
    )
    guarantee = GuaranteeTerms(**when, guarantor=identifier(bank), provider=identifier(martha), currency="USD", most=10**6)
    check = pay(_WANTED, offer, credit, alice, "2" * 32, NOW)[1]
    return check, write(credit, martha), write(guarantee, bank), write(offer, nick)


@functools.cache
def _desk() -> Desk:
    nick, bank = identifier(_key(13)), identifier(_key(14))
    return Desk(Isp("nick", nick, {"r": frozenset({("edge", "lasthop")})}), Trust({bank: 10**6}), SpentSet())


def _bundle(data: bytes) -> None:
    """No bundle but the one that was signed is ever taken, whatever is sent; what is read is written as it was."""
    w = _WANTED
    ask = Ask(
        "edge", "lasthop", w.session, w.senders, "FF", "controlled-load", w.rate, 1, 1, 1, 1, w.rate, w.flowspec, False, data
    )
    (verdict,) = _desk().decide_many([ask], NOW)
    texts = unpack(data)
    signed = {text.split("Signature:")[0] for text in _texts()}
    assert not verdict.accepted or {text.split("Signature:")[0] for text in texts} <= signed
    found = read(texts)
    assert read(unpack(pack(found.texts))) == found


def _deposit(data: bytes) -> None:
    """What is read is written as it was, and has the same fingerprint."""
    try:
        found = msgspec.json.decode(data, type=Deposits)
    except UnicodeDecodeError as error:
        raise ValueError(str(error)) from None
    again = msgspec.json.decode(msgspec.json.encode(found), type=Deposits)
    assert [one.fingerprint for one in again.deposits] == [one.fingerprint for one in found.deposits]
    for one in found.deposits:
        read(one.bundle)


TARGETS: dict[str, Callable[[bytes], None]] = {"bandex-bundle": _bundle, "bandex-deposit": _deposit}


def make_seeds(write_seed: Callable[[str, str, bytes], None]) -> None:
    """The good payment, and parts of it."""
    texts = _texts()
    write_seed("bandex-bundle", "whole", pack(texts))
    write_seed("bandex-bundle", "without-bank", pack([texts[0], texts[1], texts[3]]))
    write_seed("bandex-bundle", "short", pack(texts[:2]))
    w = _WANTED
    flow = Flow("nick", "r", "edge", "lasthop", w.session, w.senders, "FF", "controlled-load", w.rate, 1, 1, w.flowspec)
    write_seed("bandex-deposit", "one", msgspec.json.encode(Deposits((Deposit(flow, NOW, texts),))))
