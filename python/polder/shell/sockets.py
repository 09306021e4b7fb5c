"""Descriptors that were open before this process: listening sockets from systemd, and all that an upgrade hands over.

Each has a name: a TCP listener its ``ip:port``, a Unix listener its path, anything else what the shells agree on.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, MutableMapping

from polder.settings.quantities import parse_address

_FIRST = 3
"""``SD_LISTEN_FDS_START`` (``sd_listen_fds(3)``)."""


class Inherited:
    """Take what you need; ``close`` closes the rest."""

    def __init__(self, named: Iterable[tuple[str, int]] = ()) -> None:
        """Descriptors are this object's from now on."""
        self._open = list(named)
        self._used: set[str] = set()

    @classmethod
    def from_systemd(cls, env: MutableMapping[str, str], pid: int) -> Inherited:
        """The sockets of ``LISTEN_FDS``, if they are meant for ``pid``. The variables are removed, so that no child believes them."""
        count, meant = env.pop("LISTEN_FDS", ""), env.pop("LISTEN_PID", "")
        env.pop("LISTEN_FDNAMES", None)
        if meant != str(pid) or not count.isdigit():
            return cls()
        descriptors = range(_FIRST, _FIRST + int(count))
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        return cls((name, descriptor) for descriptor in descriptors if (name := _name(descriptor)))

    def engine(self, addresses: Iterable[str]) -> tuple[tuple[str, int], ...]:
        """Those of ``addresses`` that listen already, for ``EngineConfig.inherit``. They stay here until ``close``."""
        wanted = {parse_address(address): address for address in addresses}
        found = tuple((wanted[name], descriptor) for name, descriptor in self._open if name in wanted)
        self._used |= {parse_address(address) for address, _ in found}
        return found

    def listener(self, name: str) -> socket.socket | None:
        """The listening socket called ``name``; it is the caller's now."""
        for index, (known, descriptor) in enumerate(self._open):
            if known == name:
                del self._open[index]
                return socket.socket(fileno=descriptor)
        return None

    def take(self, prefix: str) -> dict[str, int]:
        """The descriptors whose names begin with ``prefix``, by the rest of their names; they are the caller's now."""
        taken = {name.removeprefix(prefix): descriptor for name, descriptor in self._open if name.startswith(prefix)}
        self._open = [(name, descriptor) for name, descriptor in self._open if not name.startswith(prefix)]
        return taken

    def close(self) -> tuple[str, ...]:
        """Close what is left; returns the names that nobody asked for."""
        for _, descriptor in self._open:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        idle = tuple(name for name, _ in self._open if name not in self._used)
        self._open = []
        return idle


def _name(descriptor: int) -> str | None:
    """What an inherited descriptor is called; ``None``: it is no listening socket that we know."""
    try:
        sock = socket.socket(fileno=os.dup(descriptor))
    except OSError:
        return None
    with sock:
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return None
        at = sock.getsockname()
        match sock.family:
            case socket.AF_INET:
                return f"{at[0]}:{at[1]}"
            case socket.AF_INET6:
                return f"[{at[0]}]:{at[1]}"
            case socket.AF_UNIX:
                return str(at)
    return None
