"""The authority's tables. Times are Unix seconds; keys, hashes and certificates are raw bytes; lists are JSON text."""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Index, Integer, LargeBinary, MetaData, String, Table, Text

SCHEMA = 2
"""1: before issuers were recorded; ``database`` brings it up to date."""

metadata = MetaData()

meta = Table(
    "meta",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
"""``schema`` and ``trust_domain``."""

identities = Table(
    "identities",
    metadata,
    Column("uri", String(400), primary_key=True),
    Column("kind", String(8), nullable=False),
    Column("name", String(63), nullable=False),
    Column("groups", Text, nullable=False),
    Column("hosts", Text, nullable=False),
    Column("life", Float, nullable=True),
    Column("ring_id", LargeBinary(16), nullable=True, unique=True),
    Column("address", String(64), nullable=True),
    Column("created_at", Float, nullable=False),
)
"""Everybody who ever enrolled. A name keeps its place on the ring for ever."""

tokens = Table(
    "tokens",
    metadata,
    Column("hash", LargeBinary(32), primary_key=True),
    Column("kind", String(8), nullable=False),
    Column("name", String(63), nullable=False),
    Column("groups", Text, nullable=False),
    Column("hosts", Text, nullable=False),
    Column("life", Float, nullable=True),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("used_at", Float, nullable=True),
    Column("serial", String(40), ForeignKey("certificates.serial"), nullable=True),
)
"""Invitations by SHA-256. ``serial``: the certificate that the token was turned into."""

certificates = Table(
    "certificates",
    metadata,
    Column("serial", String(40), primary_key=True),
    Column("uri", String(400), ForeignKey("identities.uri"), nullable=False),
    Column("key_hash", LargeBinary(32), nullable=False),
    Column("chain", LargeBinary, nullable=False),
    Column("issued_at", Float, nullable=False),
    Column("not_after", Float, nullable=False),
    Column("issuer", LargeBinary(32), nullable=True),
    Index("certificates_by_key", "key_hash"),
    Index("certificates_by_uri", "uri"),
)
"""What was issued; ``chain`` is leaf and issuer, MessagePack; ``issuer``: SHA-256 of the issuer's SubjectPublicKeyInfo."""

revocations = Table(
    "revocations",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("epoch", Integer, nullable=False),
    Column("uri", String(400), nullable=True),
    Column("key_hash", LargeBinary(32), nullable=True),
    Column("revoked_at", Float, nullable=False),
    Column("reason", Text, nullable=False),
    Column("lifted_epoch", Integer, nullable=True),
    Index("revocations_by_uri", "uri"),
    Index("revocations_by_key", "key_hash"),
)
"""Who was revoked in which epoch; ``lifted_epoch`` ends it (an identity that was invited again; keys are never reinstated)."""

issuers = Table(
    "issuers",
    metadata,
    Column("key_hash", LargeBinary(32), primary_key=True),
    Column("certificate", LargeBinary, nullable=False),
    Column("file", String(64), nullable=False),
    Column("stage", String(8), nullable=False),
    Column("since", Float, nullable=False),
    Column("due", Float, nullable=False),
    Column("epoch", Integer, nullable=True),
)
"""Who signs, signed, or is going to (``polder.store.issuers``); ``epoch``: of the revocation list that told it."""

epochs = Table("epochs", metadata, Column("epoch", Integer, primary_key=True), Column("why", Text, nullable=False))
"""Epochs of the revocation list that were begun without a revocation, such as after a restore."""

secrets = Table(
    "secrets",
    metadata,
    Column("epoch", Integer, primary_key=True),
    Column("secret", LargeBinary(32), nullable=False),
    Column("not_before", Integer, nullable=False),
)
"""Secrets of beacon keys that nodes share; in force from ``not_before`` on."""
