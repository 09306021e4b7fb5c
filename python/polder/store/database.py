"""Opens the authority's database so that what is acknowledged is on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, select, update

from polder.store import tables

_BYTES = {"sqlite": "BLOB", "postgresql": "BYTEA"}


def open_database(url: str) -> Engine:
    """An engine for ``url`` (``sqlite:///FILE`` or ``postgresql+psycopg://…``) with its tables made.

    SQLite runs in WAL mode with ``synchronous=FULL``: a commit returns after it is synced. Raises ``ValueError`` when a newer
    Polder wrote the database.
    """
    engine = open_engine(url)
    with engine.begin() as connection:
        tables.metadata.create_all(connection)
        found = connection.scalar(select(tables.meta.c.value).where(tables.meta.c.key == "schema"))
        if found is None:
            connection.execute(insert(tables.meta).values(key="schema", value=str(tables.SCHEMA)))
        elif int(found) == 1:
            connection.exec_driver_sql(f"ALTER TABLE certificates ADD COLUMN issuer {_BYTES[engine.dialect.name]}")
            connection.execute(update(tables.meta).where(tables.meta.c.key == "schema").values(value=str(tables.SCHEMA)))
        elif int(found) != tables.SCHEMA:
            raise ValueError(f"the database has schema {found}, this Polder knows {tables.SCHEMA}: use the Polder that wrote it")
    return engine


def open_engine(url: str) -> Engine:
    """An engine for ``url`` without tables. SQLite syncs every commit, and takes the write lock when a transaction begins."""
    engine = create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _sqlite_connect)
        event.listen(engine, "begin", _sqlite_begin)
    return engine


def sqlite_url(path: Path) -> str:
    """The URL of a database file."""
    return f"sqlite:///{path.absolute()}"


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """One transaction that sees no other writer: all of it or nothing. Synced when the block has ended."""
    with engine.connect() as connection:
        if engine.dialect.name != "sqlite":
            connection = connection.execution_options(isolation_level="SERIALIZABLE")
        with connection.begin():
            yield connection


def _sqlite_connect(connection: Any, _record: Any) -> None:
    # The driver must not begin transactions on its own: `_sqlite_begin` does, and takes the write lock at once, so that two
    # processes never both read and then both fail to write.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _sqlite_begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
