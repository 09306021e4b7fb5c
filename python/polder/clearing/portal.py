"""A provider's portal: hands a user the credit authorisation that its checks are written against.

A user is who its certificate names. How much a provider risks on one user is bounded twice: by each credit's total and life, and by what
one user gets within a period. A request that is repeated gets the same credit, so that a lost answer costs nobody anything.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
from sqlalchemy import Column, Engine, Float, Index, Integer, MetaData, String, Table, Text, delete, func, insert, select

from polder.bandex import CreditTerms, GuaranteeTerms, normal
from polder.bandex.writing import BACKDATE, write
from polder.clearing.messages import CreditRequest, Granted
from polder.clearing.serving import Route
from polder.keynote.signing import PrivateKey, identifier
from polder.model import Refused, Verdict
from polder.settings.money import ProviderSettings
from polder.store import open_engine, transaction

TITLE = "Polder provider's portal"

metadata = MetaData()
grants = Table(
    "grants",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("who", String(400), nullable=False),
    Column("key", String(64), nullable=False),
    Column("at", Float, nullable=False),
    Column("total", Integer, nullable=False),
    Column("answer", Text, nullable=False),
    Index("grants_by_who", "who", "at"),
    Index("grants_by_time", "at"),
)
"""What was given to whom, for as long as it counts or is good.

``id``: SHA-256 of user and request; ``key``: of the user's key; ``answer``: as it was sent."""


@dataclass(frozen=True)
class Link:
    """A bank's guarantee, which goes out with every credit."""

    terms: GuaranteeTerms
    text: str


class Portal:
    """Gives credits signed by ``key`` within ``settings``. Blocking; one thread at a time. ``counters`` counts requests by what became
    of them.
    """

    def __init__(
        self,
        settings: ProviderSettings,
        key: PrivateKey,
        links: tuple[Link, ...],
        url: str,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self.settings = settings
        self._key = key
        self._links = links
        self._clock = clock
        self._rng = rng
        self.counters: Counter[str] = Counter()
        self._engine: Engine = open_engine(url)
        with self._engine.begin() as db:
            metadata.create_all(db)

    def close(self) -> None:
        """Close the database."""
        self._engine.dispose()

    def routes(self) -> tuple[Route, ...]:
        """The portal's operations."""
        summary = "A credit for your KeyNote key. Safe to repeat with the same request."
        return (Route("post", "/v1/credits", summary, CreditRequest, Granted, {}, self._credit),)

    def grant(self, who: str, key: str, request: str) -> Granted:
        """A credit for ``who``, to be spent with ``key``; raises ``Refused`` (``EXCEEDED`` when he has had enough for now)."""
        try:
            granted = self._grant(who, key, request)
        except Refused as refused:
            self.counters[str(refused.verdict)] += 1
            raise
        self.counters["repeated" if granted.repeated else "granted"] += 1
        return granted

    def prune(self) -> int:
        """Forget credits that have ended and no longer count for anybody; returns how many."""
        ended = self._clock() - max(self.settings.period, self.settings.life)
        with transaction(self._engine) as db:
            return int(db.execute(delete(grants).where(grants.c.at <= ended)).rowcount)

    def _grant(self, who: str, key: str, request: str) -> Granted:
        if not re.match(r"[0-9a-f]{32}\Z", request):
            raise Refused(Verdict.MALFORMED, "a request is named by 32 hexadecimal digits that you make up")
        holder = hashlib.sha256(normal(key)).hexdigest()
        name = hashlib.sha256(f"{who}\0{request}".encode()).hexdigest()
        if who.startswith("spiffe://") and "/user/" not in who:
            raise Refused(Verdict.DENIED, f"{who} is not a user's identity: credits are for users")
        now, settings = self._clock(), self.settings
        g = grants.c
        with transaction(self._engine) as db:
            found = db.execute(select(g.key, g.answer).where(g.id == name)).first()
            if found is not None:
                if found.key != holder:
                    raise Refused(Verdict.USED, "this request was made with another key; make up a new one")
                return msgspec.structs.replace(msgspec.json.decode(found.answer, type=Granted), repeated=True)
            begin = now - settings.period
            had = db.scalar(select(func.coalesce(func.sum(g.total), 0)).where(g.who == who, g.at > begin)) or 0
            if had + settings.total > settings.most_per_user:
                raise Refused(Verdict.EXCEEDED, "you have had as much credit as one user gets in this period; come back later")
            given = db.scalar(select(func.count()).select_from(grants).where(g.at > begin)) or 0
            if given >= settings.most_credits:
                raise Refused(Verdict.BUSY, "the provider gives no more credits in this period; ask again later", retry=True)
            granted = self._write(key, now)
            told = msgspec.json.encode(granted).decode()
            db.execute(insert(grants).values(id=name, who=who, key=holder, at=now, total=settings.total, answer=told))
        return granted

    def _write(self, key: str, now: float) -> Granted:
        settings = self.settings
        terms = CreditTerms(
            not_before=int(now) - BACKDATE,
            not_after=int(now + settings.life),
            provider=identifier(self._key),
            user=key,
            currency=settings.currency,
            nonce=f"{self._rng.getrandbits(128):032x}",
            least=settings.least,
            most=settings.most,
            total=settings.total,
        )
        links = [link.text for link in self._links if link.terms.not_after > now]
        if self._links and not links:
            raise Refused(Verdict.EXPIRED, "the bank's guarantees have ended: the provider must fetch new ones", retry=True)
        credit = write(terms, self._key)
        return Granted((credit, *links), terms.currency, terms.most, terms.total, terms.not_after)

    def _credit(self, who: str, body: CreditRequest, _query: Mapping[str, str]) -> Granted:
        return self.grant(who, body.key, body.request)
