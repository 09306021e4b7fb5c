"""The clearing house's tables. Amounts are micro-units, times Unix seconds; ids of accounts, charges and credits are SHA-256 in hex."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, Integer, LargeBinary, MetaData, String, Table, Text

SCHEMA = 1

metadata = MetaData()

Number = BigInteger().with_variant(Integer, "sqlite")
"""64 bits; SQLite counts up only columns that it calls INTEGER."""

meta = Table("meta", metadata, Column("key", String(64), primary_key=True), Column("value", Text, nullable=False))
"""``schema``."""

accounts = Table(
    "accounts",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(80), nullable=False, unique=True),
    Column("kind", String(10), nullable=False),
    Column("key", Text, nullable=False),
    Column("identity", String(400), nullable=True, unique=True),
    Column("guarantor", String(64), ForeignKey("accounts.id"), nullable=True),
    Column("most", BigInteger, nullable=False),
    Column("opened_at", Float, nullable=False),
)
"""ISPs, providers and banks are registered; users, and providers that a bank answers for, open with their first check.

``most``: greatest amount of one check that a provider or bank is trusted for; 0 for all others.
"""

movements = Table(
    "movements",
    metadata,
    Column("id", Number, primary_key=True, autoincrement=True),
    Column("kind", String(8), nullable=False),
    Column("at", Float, nullable=False),
    Column("charge", String(64), nullable=True, unique=True),
    Column("settlement", Number, ForeignKey("settlements.id"), nullable=True),
)
"""``check``: a check was paid (``charge`` says which, for ever); ``bill``: a debt moved to its guarantor; ``payment``: money came."""

postings = Table(
    "postings",
    metadata,
    Column("id", Number, primary_key=True, autoincrement=True),
    Column("movement", Number, ForeignKey("movements.id"), nullable=False),
    Column("account", String(64), ForeignKey("accounts.id"), nullable=False),
    Column("currency", String(3), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("balance", BigInteger, nullable=False),
    Index("postings_by_account", "account", "id"),
    Index("postings_by_movement", "movement"),
)
"""Halves of movements; ``balance``: the account's after it."""

balances = Table(
    "balances",
    metadata,
    Column("account", String(64), ForeignKey("accounts.id"), primary_key=True),
    Column("currency", String(3), primary_key=True),
    Column("amount", BigInteger, nullable=False),
)
"""The sums of the postings, kept beside them; ``Books.audit`` compares."""

checks = Table(
    "checks",
    metadata,
    Column("charge", String(64), primary_key=True),
    Column("deposit", String(64), nullable=False),
    Column("isp", String(64), ForeignKey("accounts.id"), nullable=False),
    Column("payer", String(64), ForeignKey("accounts.id"), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("currency", String(3), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("paid_at", Float, nullable=False),
    Column("keep_until", Float, nullable=False),
    Column("evidence", LargeBinary, nullable=False),
    Index("checks_by_end", "keep_until"),
)
"""Checks that were paid: the nonces' memory, until nobody may deposit them any more. ``evidence``: the deposit as it came."""

spent = Table(
    "credits",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("spent", BigInteger, nullable=False),
    Column("keep_until", Float, nullable=False),
)
"""How much of each credit is spent, over all ISPs."""

settlements = Table(
    "settlements",
    metadata,
    Column("id", Number, primary_key=True, autoincrement=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("at", Float, nullable=False),
)
"""``name``: given by who settles, so that a repetition after a lost answer finds the same."""

payments = Table(
    "payments",
    metadata,
    Column("settlement", Number, ForeignKey("settlements.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("currency", String(3), nullable=False),
    Column("debtor", String(64), ForeignKey("accounts.id"), nullable=False),
    Column("creditor", String(64), ForeignKey("accounts.id"), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("paid_at", Float, nullable=True),
)
"""What a settlement asks for; ``paid_at``: when the creditor said that it came."""
