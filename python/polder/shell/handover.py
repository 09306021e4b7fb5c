"""An upgrade between two processes of one identity: the old one starts the new program and hands over what is open.

```text
  old                                   new
   │── starts it, one end of a socket ──▶│  imports, reads its configuration
   │◀──────────── Hello ─────────────────│
   │── Handed: listening sockets, ──────▶│  serves, beside the old one
   │   descriptors, what roles know      │
   │◀──────────── Ready ─────────────────│
   │── Yours ───────────────────────────▶│  is the process from here on
   │  takes nothing new, lets streams    │
   │  end, goes without a goodbye        │
```

If the new one fails, or is not ready in time, it is ended and the old one goes on. The socket is private to the two: it is made
by ``socketpair``, inherited, and never has a name.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

VARIABLE = "POLDER_HANDOVER_FD"
_LONGEST = 1 << 28
_DESCRIPTORS = 250
"""The kernel passes 253 at once (``SCM_MAX_FD``)."""
_CONVERSE_S = 10.0

M = TypeVar("M", bound=msgspec.Struct)


class UpgradeFailed(ValueError):
    """The new process did not become ready; the old one serves as before. The text says what to look at."""


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The new process runs."""

    version: str


class Handed(msgspec.Struct, frozen=True, tag="handed"):
    """Names of the descriptors that come along, in their order, and ``memory``: soft state by room, which may be left out."""

    names: tuple[str, ...]
    memory: dict[str, bytes]


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The new process serves."""

    pid: int


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The new process gives up."""

    why: str


class Yours(msgspec.Struct, frozen=True, tag="yours"):
    """The old process takes nothing new from here on."""


Message = Hello | Handed | Ready | Failed | Yours


@dataclass(frozen=True)
class Handover:
    """What a shell gives to the next process. ``descriptors`` stay the giver's."""

    descriptors: Sequence[tuple[str, int]] = ()
    memory: Mapping[str, bytes] = field(default_factory=dict)


class Channel:
    """Messages with descriptors over a stream socket; blocking, with a deadline."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def send(self, message: Message, descriptors: Iterable[int] = ()) -> None:
        """Send one message. Raises ``OSError``."""
        body = msgspec.msgpack.encode(message)
        self._socket.settimeout(_CONVERSE_S)
        socket.send_fds(self._socket, [struct.pack("!I", len(body))], list(descriptors))
        self._socket.sendall(body)

    def receive(self, timeout: float) -> tuple[Message, list[int]]:
        """The next message and its descriptors, close-on-exec. Raises ``OSError``, ``EOFError`` or ``ValueError``."""
        self._socket.settimeout(timeout)
        head, descriptors, _, _ = socket.recv_fds(self._socket, 4, _DESCRIPTORS)
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        (length,) = struct.unpack("!I", head + self._exactly(4 - len(head)))
        if length > _LONGEST:
            raise ValueError(f"a message of {length} bytes")
        message: Message = msgspec.msgpack.decode(self._exactly(length), type=Message)
        return message, list(descriptors)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _exactly(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            more = self._socket.recv(min(length - len(data), 1 << 16))
            if not more:
                raise EOFError("the other process has gone")
            data += more
        return bytes(data)


class Successor:
    """The new process, as the old one sees it. All calls block: make them in a thread."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        """Start it. Raises ``UpgradeFailed``."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self.process = subprocess.Popen(
                    command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env={**env, VARIABLE: str(theirs.fileno())}
                )
            except OSError as error:
                ours.close()
                raise UpgradeFailed(f"the new program cannot be started: {error}") from error
        self._channel = Channel(ours)

    def greet(self, timeout: float) -> None:
        """Wait until it runs. Raises ``UpgradeFailed``."""
        self._expect(Hello, timeout)

    def hand(self, handed: Handover, timeout: float) -> None:
        """Give it what it needs and wait until it serves. Raises ``UpgradeFailed``."""
        names = tuple(name for name, _ in handed.descriptors)
        try:
            self._channel.send(Handed(names, dict(handed.memory)), [descriptor for _, descriptor in handed.descriptors])
        except OSError as error:
            raise UpgradeFailed(f"the new process does not take over: {error}{self._fate()}") from error
        self._expect(Ready, timeout)

    def release(self) -> None:
        """All is its own now."""
        try:
            self._channel.send(Yours())
        except OSError as error:
            raise UpgradeFailed(f"the new process has gone: {error}{self._fate()}") from error
        self._channel.close()

    def end(self) -> None:
        """Give it up."""
        self._channel.close()
        self.process.kill()
        self.process.wait()

    def _expect(self, kind: type[M], timeout: float) -> M:
        try:
            message, _ = self._channel.receive(timeout)
        except TimeoutError as error:
            raise UpgradeFailed(f"the new process was not ready within {timeout:g} s (upgrade_wait); see the log") from error
        except (OSError, EOFError, ValueError) as error:
            raise UpgradeFailed(f"the new process ended before it was ready{self._fate()}: see the log") from error
        if isinstance(message, Failed):
            raise UpgradeFailed(f"the new process cannot serve: {message.why}")
        if not isinstance(message, kind):
            raise UpgradeFailed(f"the new process said {type(message).__name__} instead of {kind.__name__}: another version?")
        return message

    def _fate(self) -> str:
        try:
            return f" (exit status {self.process.wait(1.0)})"
        except subprocess.TimeoutExpired:
            return ""


class Predecessor:
    """The old process, as the new one sees it. ``memory`` and the descriptors are its gift."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    @classmethod
    def find(cls, env: MutableMapping[str, str]) -> Predecessor | None:
        """The process that started us for an upgrade; ``None``: there is none. The variable is removed."""
        number = env.pop(VARIABLE, "")
        if not number.isdigit():
            return None
        sock = socket.socket(fileno=int(number))
        sock.set_inheritable(False)
        return cls(Channel(sock))

    def receive(self, version: str) -> tuple[list[tuple[str, int]], dict[str, bytes]]:
        """Say hello and take what is handed over: named descriptors and memory. Raises ``OSError``, ``EOFError``, ``ValueError``."""
        self._channel.send(Hello(version))
        message, descriptors = self._channel.receive(_CONVERSE_S)
        if not isinstance(message, Handed) or len(message.names) != len(descriptors):
            raise ValueError("the process before this one handed over nothing usable")
        return list(zip(message.names, descriptors, strict=True)), message.memory

    def ready(self) -> None:
        """Say that we serve, and wait until all is ours; if the old process is gone, it is too."""
        try:
            self._channel.send(Ready(os.getpid()))
            self._channel.receive(_CONVERSE_S)
        except EOFError:
            pass
        finally:
            self._channel.close()

    def fail(self, why: str) -> None:
        """Say that we cannot serve."""
        self._channel.send(Failed(why))
        self._channel.close()


def command() -> list[str]:
    """This program, as it was started, with whatever code its place holds now."""
    return [sys.executable, *sys.orig_argv[1:]]


def recall(memory: Mapping[str, bytes], name: str, kind: Any) -> Any | None:
    """One part of the memory; ``None``: it is not there, or of another version of the program. Then that room begins afresh."""
    try:
        return msgspec.msgpack.decode(memory[name], type=kind)
    except (KeyError, msgspec.DecodeError):
        return None
