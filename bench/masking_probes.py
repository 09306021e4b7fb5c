"""What users and strangers can say to a node, and what they hear: each probe gives words that must be the same at every node.

Words leave out what differs from answer to answer by design: dates, ``Retry-After`` (drawn), names and places in certificates.
"""

from __future__ import annotations

import re
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509

PATIENCE_S = 20.0
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_EMPTY_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
_PING = b"\0\0\x08\6\0\0\0\0\0polder??"
_PING_ANSWER = b"\0\0\x08\6\1\0\0\0\0polder??"
_VARIES = re.compile(rb"(?im)^(date|retry-after):[^\r\n]*")
_WAIT = re.compile(rb"Try again in \d+ seconds")

Address = tuple[str, int]


@dataclass(frozen=True)
class User:
    """An enrolled user's identity directory."""

    directory: Path

    def context(self, *alpn: str) -> ssl.SSLContext:
        """TLS as that user; nodes are known by their SPIFFE names, which a probe does not check."""
        context = bare_context(*alpn)
        context.load_cert_chain(self.directory / "chain.pem", self.directory / "key.pem")
        return context


def bare_context(*alpn: str) -> ssl.SSLContext:
    """TLS without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(list(alpn or ("http/1.1",)))
    return context


@contextmanager
def connected(address: Address, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    """A TLS connection."""
    with socket.create_connection(address, timeout=PATIENCE_S) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(raw) as tls:
            yield tls


def read_until(stream: socket.socket, end: bytes) -> bytes:
    """Bytes up to and with ``end``, or all there are."""
    seen = b""
    while end not in seen and (piece := stream.recv(65536)):
        seen += piece
    return seen


def read_all(stream: socket.socket) -> bytes:
    """Bytes until the other side ends, and how it ended when not in good order."""
    seen = b""
    try:
        while piece := stream.recv(65536):
            seen += piece
    except ssl.SSLError as error:
        return seen + b" <" + str(error.reason).encode() + b">"
    except (ConnectionError, OSError) as error:
        return seen + b" <" + type(error).__name__.encode() + b">"
    return seen


def words(answer: bytes) -> str:
    """An answer without what differs each time."""
    return _WAIT.sub(b"Try again in N seconds", _VARIES.sub(rb"\1: *", answer)).decode("latin-1")


# As an enrolled user


def said(request: bytes) -> Callable[[Address, User], str]:
    """Sends raw bytes over HTTP/1.1; the words of all that comes back."""

    def probe(address: Address, user: User) -> str:
        with connected(address, user.context()) as tls:
            tls.sendall(request)
            return words(read_all(tls))

    return probe


def _asked(line: str, *fields: str) -> Callable[[Address, User], str]:
    return said("\r\n".join((line, *fields, "Connection: close", "", "")).encode())


def _frames(*frames: bytes) -> Callable[[Address, User], str]:
    """HTTP/2: what a node says at the beginning, and to these frames (of stream 1), in whatever order it says it."""

    def probe(address: Address, user: User) -> str:
        with connected(address, user.context("h2")) as tls:
            tls.sendall(_PREFACE + _EMPTY_SETTINGS + b"".join(frames) + _PING)
            stream, heard, awaited = tls.makefile("rb"), [], {_PING_ANSWER, *([b"end of stream 1"] if frames else [])}
            while awaited and len(head := stream.read(9)) == 9:
                frame = head + stream.read(int.from_bytes(head[:3], "big"))
                awaited.discard(frame)
                kind, flags, number = frame[3], frame[4], int.from_bytes(frame[5:9], "big")
                if kind in (3, 7) or (number == 1 and kind in (0, 1) and flags & 1):
                    awaited.discard(b"end of stream 1")
                heard.append(frame.hex())
            return f"{tls.selected_alpn_protocol()} {sorted(heard)}"

    return probe


def _get_over_h2(scheme: int, host: bytes) -> bytes:
    """A HEADERS frame: GET / with a literal authority (RFC 7541, static table only)."""
    block = b"\x82" + bytes([scheme]) + b"\x84\x41" + bytes([len(host)]) + host
    return struct.pack(">I", len(block))[1:] + b"\1\5\0\0\0\1" + block


def certificate_form(address: Address, user: User) -> str:
    """What a node shows of itself in TLS, but for names, numbers, keys and times."""
    with connected(address, user.context("h2", "http/1.1")) as tls:
        der = tls.getpeercert(binary_form=True) or b""
        leaf = x509.load_der_x509_certificate(der)
        forms = [(e.oid.dotted_string, e.critical) for e in leaf.extensions]
        length = leaf.not_valid_after_utc - leaf.not_valid_before_utc
        chosen = (tls.version(), tls.cipher(), tls.selected_alpn_protocol(), leaf.signature_algorithm_oid.dotted_string)
        return f"{chosen} {forms} {leaf.issuer.rfc4514_string()} {length}"


INSIDE: dict[str, Callable[[Address, User], str]] = {
    "certificate": certificate_form,
    "HTTP/2 greeting": _frames(),
    "HTTP/2 to an unregistered name": _frames(_get_over_h2(0x86, b"nowhere.test")),
    "HTTP/2 to the node itself": _frames(_get_over_h2(0x87, b"x.node.overlay.test")),
    "CONNECT to an unregistered name": _asked("CONNECT nowhere.test:443 HTTP/1.1", "Host: nowhere.test:443"),
    "GET of an unregistered name": _asked("GET http://nowhere.test/ HTTP/1.1", "Host: nowhere.test"),
    "the same as a page": _asked("GET http://nowhere.test/ HTTP/1.1", "Host: nowhere.test", "Accept: text/html"),
    "CONNECT to an address": _asked("CONNECT 127.0.0.1:22 HTTP/1.1", "Host: 127.0.0.1:22"),
    "no proxy request": _asked("GET / HTTP/1.1", "Host: x.node.overlay.test"),
    "metrics": _asked("GET /metrics HTTP/1.1", "Host: x.node.overlay.test"),
    "well-known": _asked("GET /.well-known/polder HTTP/1.1", "Host: x.node.overlay.test"),
    "control call": _asked("POST /polder/v1/members HTTP/1.1", "Host: x.node.overlay.test", "Content-Length: 0"),
    "TRACE": _asked("TRACE http://nowhere.test/ HTTP/1.1", "Host: nowhere.test"),
    "unknown method": _asked("BREW http://nowhere.test/ HTTP/1.1", "Host: nowhere.test"),
    "both lengths": _asked("POST http://nowhere.test/ HTTP/1.1", "Host: x", "Content-Length: 3", "Transfer-Encoding: chunked"),
    "101 fields": _asked("GET http://nowhere.test/ HTTP/1.1", "Host: nowhere.test", *[f"X-{n}: 1" for n in range(101)]),
    "big header": _asked("GET http://nowhere.test/ HTTP/1.1", "Host: nowhere.test", "X: " + "x" * 15_000, "Y: " + "y" * 1500),
    "junk": said(b"\x16\x03\x01 what is this\r\n\r\n"),
}
"""Probes that name no registered site."""


@dataclass(frozen=True)
class Opened:
    """One tunnel: milliseconds until it was open and until the site's first bytes; the words of the answer."""

    open_ms: float
    page_ms: float
    answer: str


def open_tunnel(address: Address, context: ssl.SSLContext, host: str, port: int = 80) -> Opened:
    """CONNECT, and when that is granted a GET through the tunnel."""
    with connected(address, context) as tls:
        began = time.perf_counter()
        tls.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        head = read_until(tls, b"\r\n\r\n")
        opened = time.perf_counter()
        if not head.startswith(b"HTTP/1.1 200"):
            rest = words(head + read_all(tls))
            return Opened((opened - began) * 1000, 0.0, rest)
        tls.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        page = read_until(tls, b"\n.")
        done = time.perf_counter()
        return Opened((opened - began) * 1000, (done - opened) * 1000, words(head + page))


# As a stranger


@dataclass(frozen=True)
class Stranger:
    """How somebody without an identity of the overlay knocks: plain bytes, or TLS with this context."""

    context: Callable[[], ssl.SSLContext] | None = None
    says: bytes = b""
    server_name: str | None = None

    def knock(self, address: Address) -> str:
        """What he hears."""
        try:
            with socket.create_connection(address, timeout=PATIENCE_S) as raw:
                return self._over(raw)
        except ssl.SSLError as error:
            return f"handshake <{error.reason}>"
        except OSError as error:
            return f"<{type(error).__name__}>"

    def _over(self, raw: socket.socket) -> str:
        if self.context is None:
            raw.sendall(self.says)
            raw.shutdown(socket.SHUT_WR)
            return read_all(raw).hex()
        with self.context().wrap_socket(raw, server_hostname=self.server_name) as tls:
            chosen = f"{tls.version()} {tls.cipher()} {tls.selected_alpn_protocol()}"
            return f"{chosen} {read_all(tls)!r}"


def _old_context() -> ssl.SSLContext:
    context = bare_context("h2")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def strangers(foreign: User) -> dict[str, Stranger]:
    """Everybody who has no identity here; ``foreign`` belongs to another overlay."""
    bare = Stranger(bare_context)
    return {
        "TLS without a certificate": bare,
        "the same with a server name": replace(bare, server_name="n1.node.overlay.test"),
        "TLS with a foreign certificate": Stranger(foreign.context),
        "the same, HTTP/2": Stranger(lambda: foreign.context("h2")),
        "the same, dial-out": Stranger(lambda: foreign.context("polder-dialout")),
        "an unknown protocol": Stranger(lambda: bare_context("spdy/1")),
        "TLS 1.2": Stranger(_old_context),
        "plain HTTP": Stranger(says=b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        "plain CONNECT": Stranger(says=b"CONNECT nowhere.test:443 HTTP/1.1\r\nHost: nowhere.test:443\r\n\r\n"),
        "plain HTTP/2": Stranger(says=_PREFACE + _EMPTY_SETTINGS),
        "junk": Stranger(says=bytes(range(256)) * 4),
        "half a record": Stranger(says=b"\x16\x03\x01\x02\x00\x01"),
        "silence, then the end": Stranger(),
    }
