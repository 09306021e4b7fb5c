"""A client that measures: HTTPS GETs over a new connection and over the open one, directly or through a proxy.

``python -m bench.fetch`` takes a ``Task`` as JSON on stdin and prints one JSON object: milliseconds by kind and size.
Plain blocking sockets: what is measured is the path, not an event loop.
"""

from __future__ import annotations

import gc
import json
import random
import socket
import ssl
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec

REST = 0.01
"""Seconds between paths: the ends of ten hops' connections are not to be paid by whoever is measured next. A first connection that does
not count then wakes the path that is."""


class Path(msgspec.Struct, frozen=True):
    """One way to the server: ``dial`` is ``host:port``, and ``connect`` what a proxy there is asked for (``None``: direct)."""

    label: str
    dial: str
    connect: str | None = None


class Task(msgspec.Struct, frozen=True):
    """Every path, every size, ``rounds`` times, each round in another order.

    ``together``: paths at the same time, for delays far above CPU times.
    """

    paths: tuple[Path, ...]
    sizes: tuple[int, ...]
    rounds: int
    ca: str
    name: str
    together: bool = False
    warm: int = 1


def get(stream: ssl.SSLSocket, name: str, kilobytes: int) -> None:
    """One GET to its last byte; raises ``RuntimeError`` when the answer is not the file."""
    stream.sendall(f"GET /{kilobytes}k.bin HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(stream)
    head, _, body = data.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        raise RuntimeError(head.decode(errors="replace"))
    missing = kilobytes * 1000 - len(body)
    while missing > 0:
        missing -= len(_some(stream))


def _some(stream: ssl.SSLSocket) -> bytes:
    data = stream.recv(65536)
    if not data:
        raise RuntimeError("the connection ended early")
    return data


def take_head(sock: socket.socket, whose: str) -> None:
    """Read an answer's head, byte by byte: what comes behind it is the body's. Raises ``ConnectionError`` unless all is well."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte:
            raise ConnectionError(f"{whose}: the answer ended within its head: {head!r}")
        head += byte
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        raise ConnectionError(f"{whose}: {head.decode(errors='replace')}")


def connect(path: Path, wrap: Callable[[socket.socket], socket.socket] | None = None) -> socket.socket:
    """TCP, what ``wrap`` makes of it (TLS with the proxy), and CONNECT if there is a proxy."""
    host, _, port = path.dial.rpartition(":")
    sock = socket.create_connection((host, int(port)), timeout=60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if wrap:
        sock = wrap(sock)
    if path.connect:
        sock.sendall(f"CONNECT {path.connect} HTTP/1.1\r\nHost: {path.connect}\r\n\r\n".encode())
        take_head(sock, path.label)
    return sock


def open_stream(path: Path, name: str, tls: ssl.SSLContext) -> ssl.SSLSocket:
    """A connection, and TLS with the server."""
    return tls.wrap_socket(connect(path), server_hostname=name)


def one_round(task: Task, path: Path, tls: ssl.SSLContext) -> list[tuple[str, str, int, float]]:
    """(label, kind, size, ms) for a new connection and a second GET on it, for every size."""
    out = []
    time.sleep(REST)
    with open_stream(path, task.name, tls) as stream:
        get(stream, task.name, task.sizes[0])
    for size in task.sizes:
        start = time.perf_counter()
        stream = open_stream(path, task.name, tls)
        get(stream, task.name, size)
        middle = time.perf_counter()
        get(stream, task.name, size)
        end = time.perf_counter()
        stream.close()
        out += [(path.label, "new", size, (middle - start) * 1e3), (path.label, "open", size, (end - middle) * 1e3)]
    return out


def measure(task: Task) -> list[tuple[str, str, int, float]]:
    """All rounds; the first ``warm`` do not count."""
    tls = ssl.create_default_context(cafile=task.ca)
    samples = []
    rng = random.Random(7)
    gc.disable()
    with ThreadPoolExecutor(len(task.paths) if task.together else 1) as pool:
        for number in range(task.warm + task.rounds):
            order = rng.sample(task.paths, len(task.paths))
            results = list(pool.map(lambda path: one_round(task, path, tls), order))
            if number >= task.warm:
                samples += [sample for result in results for sample in result]
    return samples


if __name__ == "__main__":
    print(json.dumps(measure(msgspec.convert(json.load(sys.stdin), Task))))
