"""An outside scan finds no open relay: whatever is asked for, only registered names are carried to."""

from __future__ import annotations

import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import World
from tests.support.overlay import until

TARGETS = [
    "127.0.0.1:22",
    "localhost:80",
    "[::1]:80",
    "0.0.0.0:80",
    "10.0.0.1:80",
    "172.16.0.1:443",
    "192.168.1.1:80",
    "169.254.169.254:80",
    "[fd00::1]:80",
    "[::ffff:127.0.0.1]:80",
    "2130706433:80",
    "0x7f.1:80",
    "metadata.google.internal:80",
    "example.com:443",
    "unregistered.test:80",
    "wiki.test.example.com:80",
    "wiki.test:22",
    "wiki.test:65535",
    "xwiki.test:80",
    "127.0.0.1.nip.io:80",
]


def user_context(state: Path, user: str) -> ssl.SSLContext:
    """TLS as that user, to any node: nodes are named by their SPIFFE id, which the tests do not check."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    directory = state / "user" / user
    context.load_verify_locations(directory / "roots.pem")
    context.load_cert_chain(directory / "chain.pem", directory / "key.pem")
    return context


def ask(world: World, request: bytes) -> bytes:
    """Send raw bytes to an access point as ann; the first bytes of what comes back."""
    address = world.overlay.nodes["n1"].hello["address"]
    host, _, port = address.rpartition(":")
    context = user_context(world.overlay.state("user-ann"), "ann")
    with socket.create_connection((host, int(port)), timeout=20) as raw, context.wrap_socket(raw) as tls:
        tls.sendall(request)
        answer = b""
        while b"\r\n" not in answer and (piece := tls.recv(4096)):
            answer += piece
    return answer


@pytest.mark.parametrize("target", TARGETS)
def test_connect_is_refused_at_the_access_point_and_at_the_forwarder(world: World, target: str) -> None:
    answer = ask(world, f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    assert answer.split(b" ")[1] in {b"400", b"403"}, answer
    world.origin.requests.clear()
    command = ["curl", "-sS", "-m", "20", "-p", "-x", f"http://{world.proxy}", f"http://{target}/"]
    through = subprocess.run(command, capture_output=True, text=True, check=False)
    # The forwarder may say 200 before it knows (the first bytes travel with the open), but nothing is carried.
    assert through.returncode != 0
    assert not through.stdout
    assert not world.origin.requests


@pytest.mark.parametrize("target", TARGETS)
def test_absolute_form_is_refused(world: World, target: str) -> None:
    answer = ask(world, f"GET http://{target}/ HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    assert answer.split(b" ")[1] in {b"400", b"403"}, answer


def test_the_name_asked_for_decides_and_no_other(world: World) -> None:
    """A rebinding name in Host does not smuggle: the authority of the target counts (RFC 9112 §3.2.2)."""
    answer = ask(world, b"GET http://evil.test/ HTTP/1.1\r\nHost: wiki.test\r\n\r\n")
    assert answer.split(b" ")[1] in {b"400", b"403"}
    answer = ask(world, b"GET / HTTP/1.1\r\nHost: wiki.test\r\n\r\n")
    assert answer.split(b" ")[1] in {b"400", b"403", b"421"}


def test_the_refusal_is_logged(world: World) -> None:
    ask(world, b"CONNECT scanned.test:80 HTTP/1.1\r\nHost: scanned.test:80\r\n\r\n")

    def logged() -> bool:
        lines = world.overlay.nodes["n1"].log_lines()
        return any(line["room"] == "refused" and "scanned.test" in line["text"] for line in lines)

    until(logged, "a line in the log")


def test_without_a_certificate_nobody_is_talked_to(world: World) -> None:
    host, _, port = world.overlay.nodes["n1"].hello["address"].rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection((host, int(port)), timeout=20) as raw,
        pytest.raises((ssl.SSLError, ConnectionError)),
        context.wrap_socket(raw) as tls,
    ):
        tls.sendall(b"CONNECT wiki.test:80 HTTP/1.1\r\nHost: wiki.test\r\n\r\n")
        if not tls.recv(1):
            raise ConnectionError("closed without an answer")
