"""What a node remembers over a restart beside its identity: members that it knew, and the directory's signed records."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from polder.model import Member, Signed
from polder.settings.state import write_atomic

log = logging.getLogger("polder.node")

MAX_MEMBERS = 256


class Memory(msgspec.Struct, frozen=True):
    """Contents of ``memory.mp``. Nothing in it is secret or believed without its signature."""

    members: tuple[Member, ...] = ()
    records: tuple[Signed, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Memory:
        """Read it; an absent or damaged file is an empty memory."""
        try:
            return msgspec.msgpack.decode(path.read_bytes(), type=cls)
        except FileNotFoundError:
            return cls()
        except (msgspec.DecodeError, OSError) as error:
            log.warning("the memory of an earlier run cannot be read; it is left out", extra={"error": str(error)})
            return cls()

    def save(self, path: Path) -> None:
        """Replace the file."""
        write_atomic(path, msgspec.msgpack.encode(self), 0o600)
