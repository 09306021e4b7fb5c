"""A private PostgreSQL cluster for tests and benchmarks: on a Unix socket in a directory of its own, gone when the block ends.

PostgreSQL refuses to run as root; there it runs as ``nobody`` (or the user ``postgres``, where the package made one).
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def binaries() -> Path | None:
    """Where ``initdb`` and ``postgres`` are: on the path, or where Debian keeps them."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return places[-1].parent if places else None


def missing() -> str:
    """Why no cluster can be started here; nothing if one can."""
    return "" if binaries() else "PostgreSQL is not installed: initdb is neither on the path nor below /usr/lib/postgresql"


def _user() -> int | None:
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    raise RuntimeError("neither a user postgres nor nobody is there to run PostgreSQL as")


@contextmanager
def cluster(*, durable: bool = False) -> Iterator[str]:
    """The URL of an empty database. ``durable``: commits are synced to the disk, as they are by default in PostgreSQL.

    Raises ``RuntimeError`` with what PostgreSQL said when it does not start.
    """
    where, user = binaries(), _user()
    if where is None:
        raise RuntimeError(missing())
    root = Path(tempfile.mkdtemp(prefix="polder-pg-"))
    try:
        if user is not None:
            os.chown(root, user, -1)
        data = root / "data"
        _run([where / "initdb", "-D", data, "-U", "polder", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"], user)
        quick = "" if durable else " -c fsync=off -c synchronous_commit=off"
        options = f"-c listen_addresses='' -c unix_socket_directories={root} -c shared_buffers=16MB -c max_connections=40{quick}"
        control = where / "pg_ctl"
        _run([control, "-D", data, "-l", root / "log", "-o", options, "-w", "-t", "300", "start"], user)
        try:
            yield f"postgresql+psycopg://polder@/postgres?host={root}"
        finally:
            _run([control, "-D", data, "-m", "immediate", "-w", "-t", "300", "stop"], user)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _run(command: list[str | Path], user: int | None) -> None:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, user=user, cwd="/", timeout=600
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]}: {done.stdout}{done.stderr}")
