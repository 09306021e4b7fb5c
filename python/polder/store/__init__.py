"""Tables of what must survive a restart."""

from polder.store.database import open_database, open_engine, sqlite_url, transaction
from polder.store.entries import Entry, Issued, RevokedRow
from polder.store.issuers import Dependants, IssuerRow, Stage
from polder.store.ledger import Ledger

__all__ = [
    "Dependants",
    "Entry",
    "Issued",
    "IssuerRow",
    "Ledger",
    "RevokedRow",
    "Stage",
    "open_database",
    "open_engine",
    "sqlite_url",
    "transaction",
]
