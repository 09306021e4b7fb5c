"""``python -m bench.punishment.readers``: one user's steady requests, timed.

A ``Task`` comes as JSON on stdin; (when it was due, seconds since, whether it succeeded) of every request leaves as JSON on stdout. Every
request is on a connection of its own: ``forwarder`` opens a tunnel over a warm link, ``browser`` shakes hands with the access point.
"""

from __future__ import annotations

import contextlib
import gc
import json
import socket
import ssl
import sys
import time

import msgspec

GIVE_UP_S = 5.0
_GET = b"GET /1k.bin HTTP/1.1\r\nHost: wiki.test\r\nConnection: close\r\n\r\n"


class Task(msgspec.Struct, frozen=True):
    """``identity``: (certificate, key) files of a browser without a forwarder; ``start`` and ``end`` are monotonic times."""

    dial: str
    rate: float
    start: float
    end: float
    identity: tuple[str, str] | None = None
    source: str = ""


def one(task: Task, context: ssl.SSLContext | None) -> None:
    """CONNECT and a GET; raises ``OSError`` when it does not come whole."""
    host, _, port = task.dial.rpartition(":")
    with contextlib.ExitStack() as stack:
        address = (task.source, 0) if task.source else None
        sock: socket.socket = stack.enter_context(socket.create_connection((host, int(port)), GIVE_UP_S, source_address=address))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            sock = stack.enter_context(context.wrap_socket(sock))
        sock.sendall(b"CONNECT wiki.test:80 HTTP/1.1\r\nHost: wiki.test:80\r\n\r\n")
        head = sock.recv(4096)
        if b" 200 " not in head[:20]:
            raise OSError(head[:60])
        sock.sendall(_GET)
        taken = 0
        while piece := sock.recv(65536):
            taken += len(piece)
        if taken < 1000:
            raise OSError("cut")


def main() -> None:
    """Ask until the end."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    context = None
    if task.identity:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(*task.identity)
    gc.disable()
    samples: list[tuple[float, float, bool]] = []
    due = task.start
    while due < task.end:
        time.sleep(max(0.0, due - time.monotonic()))
        good = True
        try:
            one(task, context)
        except OSError:
            good = False
        # From when it was due: whoever waits for the one before waits too.
        samples.append((due, time.monotonic() - due, good))
        due += 1 / task.rate
    print(json.dumps(samples))


if __name__ == "__main__":
    main()
