"""What the doctor makes of what it sees; each trouble comes with its cure."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from polder.doctor.checks import examine
from polder.doctor.process import look, open_files, owner, sandbox
from polder.doctor.reach import family, judge, metrics
from polder.model import Member
from polder.settings import NodeSettings, StateDir
from polder.site.outside import Seen
from tests.support.overlay import free_port

SHUT_IN = {"Uid": "998 998 998 998", "CapEff": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2"}


@pytest.mark.parametrize(
    ("change", "supervised", "good", "says"),
    [
        ({}, True, True, "on"),
        ({"NoNewPrivs": "0"}, True, False, "gain privileges"),
        ({"Seccomp": "0"}, True, False, "every system call"),
        ({"Uid": "0 0 0 0", "CapEff": "000001ffffffffff"}, True, False, "root"),
        ({"Seccomp": "0"}, False, None, "by hand"),
    ],
)
def test_the_sandbox(change: dict[str, str], supervised: bool, good: bool | None, says: str) -> None:
    found = sandbox("node", SHUT_IN | change, supervised=supervised)
    assert found.good is good and says in found.what and bool(found.cure) == (good is not True)


def test_open_files() -> None:
    text = "Limit                     Soft Limit           Hard Limit           Units\nMax open files            {}   524288   files\n"
    assert open_files("node", text.format(1024)).good is False and "ulimit" in open_files("node", text.format(1024)).cure
    assert open_files("node", text.format(65536)).good and open_files("node", text.format("unlimited")).good
    assert open_files("node", "").good is None


def test_who_answers_is_asked_of_the_kernel(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    assert owner(path) is None and not list(look("node", tmp_path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert owner(path) == os.getpid()
        assert {finding.check for finding in look("node", tmp_path)} == {"node sandbox", "node open files"}


def test_what_nodes_saw_from_outside() -> None:
    seen = [Seen("n1", "192.0.2.7", (80,), None), Seen("n2", "192.0.2.7", (), None), Seen("n3", "", (), "busy")]
    wrong = judge("x", seen)
    assert wrong.good is False and "192.0.2.7 port 80" in wrong.what and wrong.cure
    assert judge("x", seen[1:]).good and judge("x", seen[2:]).good is None
    assert family(Member.of("a", 1, "192.0.2.1:7443")) == 4 and family(Member.of("a", 1, "[2001:db8::1]:7443")) == 6


def test_metrics_that_others_reach() -> None:
    port = free_port()
    here = NodeSettings(metrics_listen=f"127.0.0.1:{port}")
    assert [finding.good for finding in asyncio.run(metrics("node", here))] == [True]
    assert [finding.good for finding in asyncio.run(metrics("node", NodeSettings(metrics_listen="off")))] == [True]
    open_ = NodeSettings(metrics_listen=f"0.0.0.0:{port}", metrics_beyond_loopback=True)
    assert [finding.good for finding in asyncio.run(metrics("node", open_))] == [None]


def test_a_root_key_that_stayed_and_an_empty_place(tmp_path: Path) -> None:
    found = {finding.check: finding for finding in asyncio.run(examine(StateDir(tmp_path)))}
    assert found["identities"].good is None and "root key" not in found
    (tmp_path / "authority").mkdir()
    (tmp_path / "offline").mkdir()
    (tmp_path / "offline" / "root.key.pem").touch()
    found = {finding.check: finding for finding in asyncio.run(examine(StateDir(tmp_path)))}
    assert found["root key"].good is False and found["root key"].cure
    (tmp_path / "offline" / "root.key.pem").unlink()
    assert {finding.check: finding for finding in asyncio.run(examine(StateDir(tmp_path)))}["root key"].good
