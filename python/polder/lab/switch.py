"""The wide-area switch from Python's side: start it with the hosts' TUN descriptors, ask it, change it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

_LARGEST_REPORT = 1 << 18
_PATIENCE_S = 10.0
_PRIORITY = -10


class SwitchError(RuntimeError):
    """The switch did not start or has ended; its log says why. The run is void."""


class PathSpec(msgspec.Struct, frozen=True, array_like=True):
    """One way between two places: µs, µs, parts per million, bit/s (0: not limited)."""

    delay_us: int
    jitter_us: int = 0
    loss_ppm: int = 0
    bit_s: int = 0


@dataclass(frozen=True)
class PortSpec:
    """A host at the switch. Rates in bit/s, 0: not limited. ``prefixes`` are ``(network, length)``."""

    fd: int
    prefixes: tuple[tuple[str, int], ...]
    place: int
    up_bit_s: int
    down_bit_s: int
    queue_us: int

    def record(self) -> dict[str, Any]:
        """As the native side reads it."""
        prefixes = [(address_record(network), length) for network, length in self.prefixes]
        return {
            "fd": self.fd,
            "prefixes": prefixes,
            "place": self.place,
            "up_bit_s": self.up_bit_s,
            "down_bit_s": self.down_bit_s,
            "queue_us": self.queue_us,
        }


def address_record(text: str) -> dict[str, list[int]]:
    """An address as serde writes it in binary formats: a variant with its bytes."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return {"V6" if family == socket.AF_INET6 else "V4": list(socket.inet_pton(family, text))}


class Switch:
    """A running switch. ``report()`` gives counters by port in the order of the ports."""

    def __init__(self, ports: Sequence[PortSpec], paths: Sequence[PathSpec], seed: int, most: int, log: IO[bytes]) -> None:
        """Start it. ``paths`` are places × places, row by row. Closes the ports' descriptors: the switch holds them now."""
        self._control, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        places = round(len(paths) ** 0.5)
        config = msgspec.msgpack.encode(
            {
                "seed": seed,
                "most": most,
                "control": far.fileno(),
                "ports": [port.record() for port in ports],
                "places": places,
                "paths": list(paths),
            }
        )
        fds = [port.fd for port in ports]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "polder.lab.tool", "switch"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[*fds, far.fileno()],
        )
        with contextlib.suppress(PermissionError):  # it is the Internet: it should not wait for those who use it
            os.setpriority(os.PRIO_PROCESS, self._process.pid, _PRIORITY)
        assert self._process.stdin is not None
        self._process.stdin.write(config)
        self._process.stdin.close()
        far.close()
        for fd in fds:
            os.close(fd)
        self._control.settimeout(_PATIENCE_S)
        self.report()

    @property
    def pid(self) -> int:
        """Process id, for accounting of its processor time."""
        return self._process.pid

    def report(self) -> dict[str, Any]:
        """``ports`` (counts), ``held`` (packets), ``late`` since the last report (``count``, ``sum_us``, ``worst_us``)."""
        return self._order("report")

    def plug(self, port: int, plugged: bool) -> None:
        """Pull a host's cable, or put it in again."""
        self._order({"plug": [port, plugged]})

    def rate(self, port: int, up_bit_s: int, down_bit_s: int) -> None:
        """Change a host's access link."""
        self._order({"rate": [port, up_bit_s, down_bit_s]})

    def path(self, source: int, target: int, path: PathSpec) -> None:
        """Give one ordered pair of ports a path of its own."""
        self._order({"path": [source, target, path]})

    def close(self) -> None:
        """End the switch and wait for it."""
        self._control.close()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _order(self, order: object) -> dict[str, Any]:
        try:
            self._control.send(msgspec.msgpack.encode(order))
            answer = self._control.recv(_LARGEST_REPORT)
        except OSError as error:
            raise SwitchError(f"the wide-area switch does not answer: {error!r}") from error
        if not answer:
            raise SwitchError(f"the wide-area switch has ended, status {self._process.poll()}; see switch.log")
        report: dict[str, Any] = msgspec.msgpack.decode(answer)
        return report


def log_file(directory: Path) -> IO[bytes]:
    """Where the switch writes what goes wrong."""
    return (directory / "switch.log").open("ab")
