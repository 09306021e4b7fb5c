"""Books in SQLite, and in PostgreSQL where it is installed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from polder.clearing.house import House, HouseRules
from polder.clearing.ledger import Ledger, open_ledger
from polder.store import sqlite_url
from tests.support import postgres
from tests.support.money import NOW, name_of

_COUNT = itertools.count()
DATABASES = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """A PostgreSQL server of this session's own."""
    if why := postgres.missing():
        pytest.skip(why)
    with postgres.cluster() as url:
        yield url


@pytest.fixture(params=DATABASES)
def books_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a clearing house may keep its books: empty, in a database of each kind."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "books.sqlite3")
    url: str = request.getfixturevalue("server")
    name = f"books{next(_COUNT)}"  # a schema of its own: a database would be 300 files more
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE SCHEMA {name}"))
    engine.dispose()
    return f"{url}&options=-csearch_path%3D{name}"


@pytest.fixture
def ledger(books_url: str) -> Iterator[Ledger]:
    """Empty books."""
    opened = open_ledger(books_url)
    yield opened
    opened.close()


@pytest.fixture
def house(ledger: Ledger) -> House:
    """A clearing house that knows Nick, another ISP, Martha and the bank."""
    made = House(ledger, HouseRules())
    made.register("nick", "isp", name_of("nick"), "spiffe://x/site/nick", NOW)
    made.register("rival", "isp", name_of("rival"), "spiffe://x/site/rival", NOW)
    made.register("martha", "provider", name_of("martha"), "spiffe://x/site/martha", NOW, most=1_000_000)
    made.register("bank", "bank", name_of("bank"), "spiffe://x/site/bank", NOW, most=1_000_000)
    return made
