"""``python -m bench.punishment.readers``: users' steady requests, timed.

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
from concurrent.futures import ThreadPoolExecutor

import msgspec

GIVE_UP_S = 5.0
AT_ONCE = 32
_GET = b"GET /1k.bin HTTP/1.1\r\nHost: wiki.test\r\nConnection: close\r\n\r\n"


class Task(msgspec.Struct, frozen=True):
    """``identities``: (certificate, key) files of browsers without a forwarder, who ask in turn, each from one of ``sources``;
    ``start`` and ``end`` are monotonic times."""

    dial: str
    rate: float
    start: float
    end: float
    identities: tuple[tuple[str, str], ...] = ()
    sources: tuple[str, ...] = ()


def one(task: Task, context: ssl.SSLContext | None, source: str) -> None:
    """CONNECT and a GET; raises ``OSError`` when it does not come whole."""
    host, _, port = task.dial.rpartition(":")
    with contextlib.ExitStack() as stack:
        address = (source, 0) if source else None
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


def _context(files: tuple[str, str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(*files)
    return context


def main() -> None:
    """Ask until the end; each request in its own time, whatever became of the one before."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    contexts: list[ssl.SSLContext | None] = [*map(_context, task.identities)] or [None]
    sources = task.sources or ("",)
    gc.disable()

    def ask(number: int, due: float) -> tuple[float, float, bool]:
        good = True
        try:
            one(task, contexts[number % len(contexts)], sources[number % len(sources)])
        except OSError:
            good = False
        # From when it was due: whoever found no thread free waits too.
        return due, time.monotonic() - due, good

    samples = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number in range(int((task.end - task.start) * task.rate)):
            due = task.start + number / task.rate
            time.sleep(max(0.0, due - time.monotonic()))
            samples.append(pool.submit(ask, number, due))
    print(json.dumps([sample.result() for sample in samples]))


if __name__ == "__main__":
    main()
