"""``python -m polder.lab.udp_flow send|receive|swallow JSON``: a flow of numbered packets at a steady rate, and who counts them.

Only inside the laboratory: packets carry a number, and the time when they were sent by the clock that all namespaces share. ``send``
takes ``to, port, source_port, mbit`` (of IP packets), ``payload`` (bytes), ``seconds``, and ``at`` (Unix seconds) to begin later;
``receive`` ``port, idle`` (ends so many seconds after the last packet) and prints what arrived as JSON; ``swallow`` takes ``port``.
"""

from __future__ import annotations

import array
import json
import socket
import struct
import sys
import time
from typing import Any

from polder.lab import enclosure

_HEAD = struct.Struct("!Id")
_HEADERS = 28
_SO_TIMESTAMPNS = 35
_CATCH_UP_S = 0.02


def send(to: str, port: int, source_port: int, mbit: float, payload: int, seconds: float, at: float = 0.0) -> dict[str, Any]:
    """Send evenly; what a late wake-up missed is made up for, at most ``_CATCH_UP_S`` of it."""
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.bind(("", source_port))
    out.setblocking(False)
    gap = (payload + _HEADERS) * 8 / (mbit * 1e6)
    padding = bytes(payload - _HEAD.size)
    time.sleep(max(0.0, at - time.clock_gettime(time.CLOCK_REALTIME)))
    began = time.clock_gettime(time.CLOCK_MONOTONIC)
    number, behind, lost_here = 0, began, 0
    while (now := time.clock_gettime(time.CLOCK_MONOTONIC)) < began + seconds:
        behind = max(behind, now - _CATCH_UP_S)
        while behind <= now:
            try:
                out.sendto(_HEAD.pack(number, time.clock_gettime(time.CLOCK_REALTIME)) + padding, (to, port))
            except BlockingIOError:
                lost_here += 1
            number += 1
            behind += gap
        time.sleep(max(gap / 2, min(0.001, behind - now)))
    return {"sent": number, "not_sent": lost_here, "seconds": round(now - began, 3)}


def receive(port: int, idle: float) -> dict[str, Any]:
    """Count; delays are from before the sender's ``sendto`` to the kernel's stamp of arrival, in milliseconds."""
    into = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    into.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    into.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    into.bind(("", port))
    print(json.dumps({"ready": True}), flush=True)
    delays, size, first, last, numbers = array.array("d"), 0, 0.0, 0.0, set()
    into.settimeout(60.0)
    while True:
        try:
            data, ancillary, _, _ = into.recvmsg(2048, 128)
        except TimeoutError:
            break
        into.settimeout(idle)
        number, sent = _HEAD.unpack_from(data)
        stamp = next((value for level, kind, value in ancillary if kind == _SO_TIMESTAMPNS), None)
        seconds, nanos = struct.unpack("=qq", stamp[:16]) if stamp else (0, 0)
        arrived = seconds + nanos / 1e9
        first, last = first or arrived, arrived
        size += len(data) + _HEADERS
        numbers.add(number)
        delays.append((arrived - sent) * 1000)
    ordered = sorted(delays)

    def at(share: float) -> float | None:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3) if ordered else None

    span = last - first
    return {
        "arrived": len(numbers),
        "mbit": round(size * 8 / span / 1e6, 3) if span else 0.0,
        "delay_p50_ms": at(0.5),
        "delay_p99_ms": at(0.99),
        "delay_max_ms": at(1.0),
    }


def swallow(port: int) -> None:
    """Take packets and forget them, until killed."""
    into = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    into.bind(("", port))
    print(json.dumps({"ready": True}), flush=True)
    while into.recv(2048):
        pass


def main() -> int:
    """See the module."""
    if not enclosure.inside():
        print("this tool floods, and works inside the laboratory only", file=sys.stderr)
        return 2
    work, given = sys.argv[1], json.loads(sys.argv[2])
    match work:
        case "send":
            print(json.dumps(send(**given)), flush=True)
        case "receive":
            print(json.dumps(receive(**given)), flush=True)
        case "swallow":
            swallow(**given)
        case _:
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
