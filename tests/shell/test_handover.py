"""What passes from one process to the next: named sockets, memory, and the word that all is ready; and what does not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.shell.handover import (
    VARIABLE,
    Channel,
    Handed,
    Handover,
    Hello,
    Predecessor,
    Ready,
    Successor,
    UpgradeFailed,
    recall,
)
from polder.shell.sockets import Inherited

_CHILD = """
import os, socket, sys
from polder.shell.handover import Predecessor
before = Predecessor.find(os.environ)
assert "POLDER_HANDOVER_FD" not in os.environ
named, memory = before.receive("test")
{then}
"""
_SERVE = """
[(name, fd)] = named
assert (name, memory) == ("127.0.0.1:1", {"room": b"\\x01"})
before.ready()
listener = socket.socket(fileno=fd)
guest, _ = listener.accept()
guest.sendall(b"the new one")
"""


def successor(then: str) -> Successor:
    """A new process that takes what it is given and does ``then``."""
    return Successor([sys.executable, "-c", _CHILD.format(then=then)], os.environ)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def test_the_next_process_serves_on_the_socket_of_the_one_before(listener: socket.socket) -> None:
    child = successor(_SERVE)
    child.greet(30)
    child.hand(Handover([("127.0.0.1:1", listener.fileno())], {"room": b"\x01"}), 30)
    child.release()
    address = listener.getsockname()
    listener.close()
    with socket.create_connection(address, 30) as guest:
        assert guest.recv(100) == b"the new one"
    assert child.process.wait(30) == 0


@pytest.mark.parametrize(
    ("then", "why"),
    [
        ("sys.exit(7)", r"ended before it was ready \(exit status 7\)"),
        ("before.fail('listen 0.0.0.0:1: permission denied')", "cannot serve: listen 0.0.0.0:1: permission denied"),
        ("import time; time.sleep(60)", "not ready within 0.5 s"),
    ],
)
def test_a_process_that_does_not_become_ready_is_given_up(then: str, why: str, listener: socket.socket) -> None:
    child = successor(then)
    child.greet(30)
    with pytest.raises(UpgradeFailed, match=why):
        child.hand(Handover([("x", listener.fileno())]), 0.5 if "sleep" in then else 30)
    child.end()
    assert child.process.poll() is not None


def test_a_program_that_is_not_there_is_said() -> None:
    with pytest.raises(UpgradeFailed, match="cannot be started"):
        Successor(["/nonexistent/polder"], os.environ)


def test_without_the_variable_there_was_no_process_before() -> None:
    assert Predecessor.find({}) is None
    assert Predecessor.find({VARIABLE: "x"}) is None


def test_the_next_process_goes_on_when_the_old_one_dies_before_the_last_word() -> None:
    ours, theirs = socket.socketpair()
    before = Predecessor(Channel(theirs))
    old = Channel(ours)
    ours.shutdown(socket.SHUT_WR)
    before.ready()
    assert old.receive(5)[0] == Ready(os.getpid())


@given(st.binary(max_size=200))
def test_junk_on_the_channel_is_a_value_error_or_an_end(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(data)
        ours.shutdown(socket.SHUT_WR)
        try:
            message, _ = Channel(theirs).receive(5)
        except (ValueError, EOFError, msgspec.DecodeError):
            return
        assert isinstance(message, msgspec.Struct)


def test_a_message_of_any_size_arrives_whole() -> None:
    ours, theirs = socket.socketpair()
    handed = Handed((), {"records": bytes(50_000)})
    Channel(ours).send(Hello("1"))
    Channel(ours).send(handed)
    assert Channel(theirs).receive(5)[0] == Hello("1")
    assert Channel(theirs).receive(5) == (handed, [])


def test_memory_of_another_version_is_left_out() -> None:
    memory = {"a": msgspec.msgpack.encode({"site": 1}), "b": b"\xc1"}
    assert recall(memory, "a", dict[str, int]) == {"site": 1}
    assert recall(memory, "a", dict[str, str]) is None
    assert recall(memory, "b", int) is None
    assert recall(memory, "c", int) is None


def test_systemds_sockets_are_known_by_their_addresses(tmp_path: Path) -> None:
    program = """
import os, socket, sys
from pathlib import Path
tcp = socket.create_server(("127.0.0.1", 0)); six = socket.create_server(("::1", 0), family=socket.AF_INET6)
unix = socket.socket(socket.AF_UNIX); unix.bind(sys.argv[1]); unix.listen()
mute = socket.socket()
names = [f"127.0.0.1:{tcp.getsockname()[1]}", f"[::1]:{six.getsockname()[1]}", sys.argv[1]]
for at, sock in enumerate((tcp, six, unix, mute)):
    os.dup2(sock.fileno(), 20 + at)
for at in range(4):
    os.dup2(20 + at, 3 + at)
from polder.shell.sockets import Inherited
env = {"LISTEN_FDS": "4", "LISTEN_PID": "1", "LISTEN_FDNAMES": "a:b:c:d"}
assert Inherited.from_systemd(env, os.getpid()).close() == () and not env, "meant for another process"
held = Inherited.from_systemd({"LISTEN_FDS": "4", "LISTEN_PID": str(os.getpid())}, os.getpid())
assert held.engine([names[0]]) == ((names[0], 3),)
assert held.engine(["127.0.0.1:9"]) == ()
taken = held.listener(names[2])
assert taken.getsockname() == sys.argv[1] and held.listener(names[2]) is None
assert held.close() == (names[1],), "nobody asked for it"
try:
    os.fstat(3)
except OSError:
    print("closed")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "s")], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout == "closed\n", done.stderr


def test_descriptors_are_taken_by_prefix() -> None:
    read, write = os.pipe()
    held = Inherited([("gre/pldnode/tun", read), ("gre/other/tun", write)])
    assert held.take("gre/pldnode/") == {"tun": read}
    assert held.take("gre/pldnode/") == {}
    assert held.close() == ("gre/other/tun",)
    os.close(read)
