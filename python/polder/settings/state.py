"""Where a machine keeps its identities, and how a file is replaced so that a crash leaves the old or the new one."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from polder.model import parse_name
from polder.settings.base import ConfigError

_UNIQUE = itertools.count()


@dataclass(frozen=True)
class StateDir:
    """The state directory: ``authority/``, ``node/``, ``site/NAME/``, ``user/NAME/``, ``admin/NAME/``."""

    root: Path

    @classmethod
    def find(cls, given: str | None, env: Mapping[str, str], uid: int) -> StateDir:
        """``given``, else ``POLDER_STATE``, else /var/lib/polder for root and ``$XDG_STATE_HOME/polder`` for others."""
        chosen = given or env.get("POLDER_STATE")
        if chosen:
            return cls(Path(chosen))
        if uid == 0:
            return cls(Path("/var/lib/polder"))
        home = Path(env.get("HOME") or "~").expanduser()
        return cls(Path(env.get("XDG_STATE_HOME") or home / ".local/state") / "polder")

    @property
    def authority(self) -> Path:
        """The authority's database, issuer key and certificates."""
        return self.root / "authority"

    @property
    def offline(self) -> Path:
        """The root key: made by ``polder init`` to be moved to a medium that is kept off line."""
        return self.root / "offline"

    @property
    def node(self) -> Path:
        """The node's identity."""
        return self.root / "node"

    @property
    def clearing(self) -> Path:
        """The clearing house's books."""
        return self.root / "clearing"

    @property
    def isp(self) -> Path:
        """An ISP's key, and its till."""
        return self.root / "isp"

    @property
    def provider(self) -> Path:
        """A provider's key, and what its portal gave."""
        return self.root / "provider"

    def identity(self, kind: str, name: str) -> Path:
        """Directory of one identity; there is one node in a state directory, and any number of the others."""
        return self.node if kind == "node" else self.root / kind / parse_name(name)

    def enrolled(self, kind: str) -> list[Path]:
        """Directories of the identities of ``kind`` on this machine, without those that were replaced (``NAME~1``)."""
        here = [self.node] if kind == "node" else sorted((self.root / kind).glob("*"))
        return [path for path in here if "~" not in path.name and (path / "identity.toml").exists()]

    def only(self, kind: str, name: str | None) -> Path:
        """The identity of ``kind`` called ``name``, or the only one; raises ``ConfigError`` when that is not clear."""
        if kind == "node" or name:
            path = self.identity(kind, name or "")
            found = [path] if (path / "identity.toml").exists() else []
        else:
            found = self.enrolled(kind)
        match found:
            case [path]:
                return path
            case []:
                who = f"{kind} {name}" if name else kind
                verb = "join" if kind == "node" else "enroll"
                raise ConfigError(
                    str(self.root), "", f"no {who} is enrolled here; ask the operator for an invitation, then `polder {verb}`"
                )
        names = ", ".join(p.name for p in found)
        raise ConfigError(str(self.root), "", f"several are enrolled here; name one of {names}")


def make_private(directory: Path) -> None:
    """Make ``directory`` with mode 0700, and its parents."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace ``path`` by ``data``: written beside it, synced, renamed, and the directory synced."""
    beside = path.with_name(f".{path.name}.{os.getpid()}-{next(_UNIQUE)}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        os.fchmod(descriptor, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make renames in ``directory`` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
