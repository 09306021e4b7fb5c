"""The database: durable settings, several processes, a schema that is known."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from sqlalchemy import text

from polder.store import Entry, Ledger, open_database, sqlite_url
from tests.support.identities import DOMAIN, NOW, who


def test_commits_are_synced(tmp_path: Path) -> None:
    engine = open_database(sqlite_url(tmp_path / "a.sqlite3"))
    with engine.connect() as connection:
        pragmas = {name: connection.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous", "foreign_keys")}
    engine.dispose()
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "a.sqlite3")
    engine = open_database(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE meta SET value = '99' WHERE key = 'schema'"))
    engine.dispose()
    with pytest.raises(ValueError, match="schema 99"):
        open_database(url)


def _add_secrets(url: str, count: int, together: Barrier) -> None:
    ledger = Ledger(open_database(url), DOMAIN)
    together.wait()
    for _ in range(count):
        ledger.add_secret(b"s" * 32, NOW)


def test_processes_do_not_lose_each_others_writes(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "a.sqlite3")
    engine = open_database(url)
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(3)
    processes = [context.Process(target=_add_secrets, args=(url, 8, together)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert Ledger(engine, DOMAIN).add_secret(b"s" * 32, NOW) == 25
    engine.dispose()


WRITER = """
import sys
from polder.store import Entry, Ledger, open_database
from polder.model import SpiffeId
ledger = Ledger(open_database(sys.argv[1]), "o.test")
n = 0
while True:
    n += 1
    who = SpiffeId.parse(f"spiffe://o.test/user/u{n}")
    ledger.invite(n.to_bytes(32, "big"), Entry(who, (), (), None, None, None), 1.8e9, 60)
    print(n, flush=True)
"""


@pytest.mark.parametrize("kill_after", [1, 17, 60])
def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, kill_after: int) -> None:
    url = sqlite_url(tmp_path / "a.sqlite3")
    with subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) >= kill_after:
                os.kill(writer.pid, signal.SIGKILL)
                break
        acknowledged = max([kill_after, *(int(line) for line in writer.stdout if line.strip())])
    ledger = Ledger(open_database(url), DOMAIN)
    for n in range(1, acknowledged + 1):
        assert ledger.granted(n.to_bytes(32, "big")) == who("user", f"u{n}")
    ledger.invite(bytes(32), Entry(who("user", "z"), (), (), None, None, None), NOW, 60)  # and it works on
    ledger.close()
