"""The bare relay: bytes pass two of them, under TLS between the two; other people's addresses are refused."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

from bench.chains import pki

from polder.lab.attacks import socket_record
from tests.support.overlay import until

TOOL = [sys.executable, "-m", "polder.lab.tool", "relay"]


def test_bytes_pass_two_relays(tmp_path: Path) -> None:
    pki.write(tmp_path / "pki", 1)
    origin = socket.create_server(("127.0.0.1", 0))
    ports = (_free_port(), _free_port(), origin.getsockname()[1])
    relays = []
    try:
        for number in (1, 0):
            config = {
                "listen": socket_record("127.0.0.1", ports[number]),
                "to": socket_record("127.0.0.1", ports[number + 1]),
                "chain": str(tmp_path / f"pki/node{number}.crt"),
                "key": str(tmp_path / f"pki/node{number}.key"),
                "root": str(tmp_path / "pki/ca.pem"),
                "tls_in": number == 1,
                "next": "node1.test" if number == 0 else None,
            }
            file = tmp_path / f"relay{number}.json"
            file.write_text(json.dumps(config))
            relays.append(subprocess.Popen([*TOOL, str(file)]))
            until(lambda port=ports[number]: _listens(port), "the relay listens")  # type: ignore[misc]
        threading.Thread(target=_echo, args=(origin,), daemon=True).start()
        with socket.create_connection(("127.0.0.1", ports[0]), timeout=60) as client:
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
            assert client.makefile("rb").read() == b"hello, heard"
    finally:
        for relay in relays:
            relay.kill()
            relay.wait()
        origin.close()


def test_only_here(tmp_path: Path) -> None:
    config = {"listen": socket_record("127.0.0.1", 1), "to": socket_record("192.0.2.1", 443), "tls_in": False, "next": None}
    file = tmp_path / "relay.json"
    file.write_text(json.dumps(config | {"chain": "", "key": "", "root": ""}))
    done = subprocess.run([*TOOL, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "neither loopback nor" in done.stderr


def _echo(origin: socket.socket) -> None:
    while True:
        try:
            connection, _ = origin.accept()
        except OSError:
            return
        with connection:
            heard = connection.makefile("rb").read()
            connection.sendall(heard + b", heard")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _listens(port: int) -> bool:
    socket.create_connection(("127.0.0.1", port)).close()
    return True
