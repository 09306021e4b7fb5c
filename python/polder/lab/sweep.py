"""``python -m polder.lab.sweep JSON``: floods UDP at targets that change while it runs. Only inside the laboratory.

The argument has ``mbit`` (of IP packets, to each target), ``port``, ``payload`` (bytes of a packet), ``targets`` (most at once) and
``seconds``, after which it ends whatever happens. Lines on stdin are JSON lists of IPv4 addresses: from that line on they are the
targets. Prints the packets sent, as JSON.
"""

from __future__ import annotations

import ipaddress
import json
import os
import selectors
import socket
import sys
import time
from typing import Any

from polder.lab import enclosure

_UDP_SEGMENT = 103
_RUN = 32
"""Packets that one system call sends: the kernel cuts them up (UDP segmentation offload)."""
_HEADERS = 28
_NETWORK = ipaddress.ip_network("198.18.0.0/15")
MOST_MBIT, MOST_SECONDS = 400.0, 120.0


class BadFloodError(ValueError):
    """A flood that leaves the laboratory or exceeds its bounds."""


def check(mbit: float, targets: int, seconds: float) -> None:
    """Raise ``BadFloodError`` unless rate and time are within bounds."""
    if mbit * targets > MOST_MBIT or seconds > MOST_SECONDS:
        raise BadFloodError(f"a flood is bounded to {MOST_MBIT:g} Mbit/s in all and {MOST_SECONDS:g} s")


def chosen(line: str, most: int) -> list[str]:
    """Addresses of a line; raises ``BadFloodError`` when one is not the laboratory's, or they are too many."""
    addresses = [str(ipaddress.ip_address(one)) for one in json.loads(line)]
    strangers = [one for one in addresses if ipaddress.ip_address(one) not in _NETWORK]
    if strangers or len(addresses) > most:
        raise BadFloodError(f"not in the laboratory: {strangers}" if strangers else f"more than {most} targets")
    return addresses


def flood(mbit: float, port: int, payload: int, targets: int, seconds: float) -> dict[str, Any]:
    """Send to whoever is named, evenly, until ``seconds`` have passed or stdin ends."""
    check(mbit, targets, seconds)
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    out.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, payload)
    run, gap = os.urandom(payload * _RUN), _RUN * (payload + _HEADERS) * 8 / (mbit * 1e6)
    begin = time.monotonic()
    now_at: list[str] = []
    due, sent, rest = begin, 0, b""
    with selectors.DefaultSelector() as ready:
        os.set_blocking(0, False)
        ready.register(0, selectors.EVENT_READ)
        while (now := time.monotonic()) < begin + seconds:
            for _ in ready.select(max(0.0, min(due, begin + seconds) - now) if now_at else 0.1):
                data = os.read(0, 1 << 16)
                if not data:
                    return {"sent": sent}
                *lines, rest = (rest + data).split(b"\n")
                if lines:
                    now_at, due = chosen(lines[-1].decode(), targets), time.monotonic()
            if now_at and time.monotonic() >= due:
                sent += _RUN * sum(_send(out, run, (one, port)) for one in now_at)
                due = max(due + gap, time.monotonic() - gap)
    return {"sent": sent}


def _send(out: socket.socket, run: bytes, target: tuple[str, int]) -> bool:
    try:
        out.sendto(run, target)
    except OSError:  # a full queue, or word of an earlier packet: a flood does not care
        return False
    return True


def main() -> int:
    """Exit status 2 outside the laboratory or its bounds."""
    if not enclosure.inside():
        print("this floods, and works only inside `polder lab`", file=sys.stderr)
        return 2
    try:
        print(json.dumps(flood(**json.loads(sys.argv[1]))))
    except BadFloodError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
