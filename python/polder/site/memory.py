"""What a site's agent remembers over a restart: epochs that must only grow, the secret behind its inner addresses, and who has
ever learnt the way in.
"""

from __future__ import annotations

import secrets
from pathlib import Path

import msgspec

from polder.settings.state import write_atomic


class SiteMemory(msgspec.Struct, frozen=True):
    """Contents of ``agent.mp`` (mode 0600)."""

    inner_secret: bytes
    appointment_epoch: int = 0
    record_epoch: int = 0
    edge: str = ""
    """The edge address (or transport, where there is none) that ``exposed`` nodes know."""
    exposed: tuple[str, ...] = ()
    exposed_since: int = 0
    """Unix seconds."""

    @classmethod
    def load(cls, path: Path) -> SiteMemory:
        """Read it, or begin with a fresh secret. A damaged file raises ``ValueError``: epochs must not fall back unseen."""
        if not path.exists():
            memory = cls(secrets.token_bytes(32))
            memory.save(path)
            return memory
        try:
            return msgspec.msgpack.decode(path.read_bytes(), type=cls)
        except msgspec.DecodeError as error:
            raise ValueError(f"{path} is damaged ({error}); move it away: epochs then continue from the clock") from error

    def at(self, edge: str, now: float) -> SiteMemory:
        """The memory of a site whose way in leads to ``edge``: another than before is a new secret, which nobody knows yet."""
        if self.edge == edge:
            return self
        secret = secrets.token_bytes(32) if self.edge else self.inner_secret
        return msgspec.structs.replace(self, edge=edge, inner_secret=secret, exposed=(), exposed_since=int(now))

    def save(self, path: Path) -> None:
        """Replace the file."""
        write_atomic(path, msgspec.msgpack.encode(self), 0o600)
