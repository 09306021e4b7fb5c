"""Alice, Martha, Nick and a bank: keys, credentials and what a policy decision point asks, for tests and benchmarks."""

from __future__ import annotations

import dataclasses
import functools
import random
from dataclasses import dataclass
from typing import Any

from polder.bandex import CheckTerms, CreditTerms, Desk, GuaranteeTerms, Isp, OfferTerms, Spent, SpentSet, Trust, pack
from polder.bandex.writing import BACKDATE, Wanted, pay, write
from polder.keynote.signing import PrivateKey, identifier, make_key

NOW = 1_195_516_800.0
"""2007-11-20, the day of the paper's check."""
HOUR = 3600
FLOWSPEC = "5f" * 32
SESSION = "udp 198.18.1.1 port 5004"
SENDERS = ("203.0.113.7 port 5004",)
RATE = 2_500_000
MEMBERS = (("edge", "lasthop"), ("core", "edge"))


@functools.cache
def key(name: str) -> PrivateKey:
    """The key of somebody: always the same in one run."""
    del name
    return make_key("ed25519")


def name_of(who: str) -> str:
    """His principal."""
    return identifier(key(who))


def nonce(rng: random.Random) -> str:
    """A check's or credit's nonce."""
    return f"{rng.getrandbits(128):032x}"


@dataclass(frozen=True)
class Ask:
    """As a policy decision point asks."""

    bundle: bytes
    router: str = "edge"
    link: str = "lasthop"
    session: str = SESSION
    senders: tuple[str, ...] = SENDERS
    style: str = "FF"
    service: str = "controlled-load"
    rate: int = RATE
    bucket: int = 30_000
    peak: int = RATE
    reserved_rate: int = RATE
    flowspec: str = FLOWSPEC
    installed: bool = False

    def but(self, **changes: Any) -> Ask:
        """The same with changes."""
        return dataclasses.replace(self, **changes)


def offer(now: float = NOW, **changes: Any) -> OfferTerms:
    """Nick's offer: 20 Mbit/s over the last hop cost 44 cents for half an hour (and the 30 s by which a check is backdated)."""
    terms = OfferTerms(
        not_before=int(now) - BACKDATE,
        not_after=int(now) + 30 * 24 * HOUR,
        isp_key=name_of("nick"),
        isp="nick",
        route="dublin-nyc",
        service="controlled-load",
        currency="USD",
        setup=33_333,
        per_mbit_hour=40_000,
        most_rate=RATE,
        most_seconds=12 * HOUR,
    )
    return dataclasses.replace(terms, **changes)


def credit(now: float = NOW, **changes: Any) -> CreditTerms:
    """Martha's word for Alice: checks up to 55 cents, two dollars in all."""
    terms = CreditTerms(
        not_before=int(now) - BACKDATE,
        not_after=int(now) + 24 * HOUR,
        provider=name_of("martha"),
        user=name_of("alice"),
        currency="USD",
        nonce=f"{int(now):032x}",
        least=1,
        most=550_000,
        total=2_000_000,
    )
    return dataclasses.replace(terms, **changes)


def guarantee(now: float = NOW, **changes: Any) -> GuaranteeTerms:
    """The bank's word for Martha."""
    terms = GuaranteeTerms(
        not_before=int(now) - BACKDATE,
        not_after=int(now) + 24 * HOUR,
        guarantor=name_of("bank"),
        provider=name_of("martha"),
        currency="USD",
        most=1_000_000,
    )
    return dataclasses.replace(terms, **changes)


def wanted(seconds: int = HOUR // 2) -> Wanted:
    """Alice's film."""
    return Wanted(SESSION, SENDERS, FLOWSPEC, RATE, seconds)


class Alice:
    """Holds a credit and writes checks."""

    def __init__(self, seed: int = 1, now: float = NOW, who: str = "alice", **changes: Any) -> None:
        self.rng = random.Random(seed)
        self.who = who
        self.credit = credit(now, user=name_of(who), **changes)
        self.credit_text = write(self.credit, key("martha"))
        self.offer = offer(now)
        self.offer_text = write(self.offer, key("nick"))
        self.links: tuple[str, ...] = ()

    def check(self, now: float = NOW, **changes: Any) -> tuple[CheckTerms, str]:
        """A check for the film, or one that differs from it."""
        terms, text = pay(wanted(), self.offer, self.credit, key(self.who), nonce(self.rng), now)
        if changes:
            terms = dataclasses.replace(terms, **changes)
            text = write(terms, key(self.who))
        return terms, text

    def texts(self, check: str) -> list[str]:
        """The bundle around a check."""
        return [check, self.credit_text, *self.links, self.offer_text]

    def ask(self, now: float = NOW, **changes: Any) -> Ask:
        """What the router asks when Alice pays with a fresh check."""
        return Ask(pack(self.texts(self.check(now, **changes)[1])))


def isp() -> Isp:
    """Nick, with one route of two links and another of one."""
    return Isp("nick", name_of("nick"), {"dublin-nyc": frozenset(MEMBERS), "dublin-rome": frozenset({("south", "lasthop")})})


def desk(spent: Spent | None = None, **trusted: int) -> Desk:
    """Nick's desk; trusts Martha up to a dollar a check unless said otherwise."""
    payers = {name_of(who): most for who, most in (trusted or {"martha": 1_000_000}).items()}
    return Desk(isp(), Trust(payers), spent if spent is not None else SpentSet())
