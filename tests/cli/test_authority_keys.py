"""``polder rotate issuer``, ``backup``, ``restore``, ``authority offline``: as an operator types them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_identity_commands import polder
from tests.support.overlay import Process, free_port, until


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A founded authority that does not run."""
    state = tmp_path / "authority"
    polder(state, "init", "--trust-domain", "o.test", "--listen", f"127.0.0.1:{free_port()}")
    return state


@pytest.fixture
def running(place: Path, tmp_path: Path) -> Iterator[Process]:
    """It runs."""
    process = Process(("authority", "serve"), place, tmp_path / "authority.log").start()
    yield process
    process.stop()


def issuer(place: Path, *arguments: str, status: int = 0) -> dict[str, object]:
    return polder(place, "rotate", "issuer", *arguments, status=status)


def test_a_rotation_step_by_step(place: Path, running: Process) -> None:
    """Every step says where it stands; the running authority switches by itself."""
    assert issuer(place)["phase"] == issuer(place, "status")["phase"] == "none"
    assert "drain" in str(issuer(place, "--plan")["plan"])
    assert "bring its medium" in str(issuer(place, "--start", status=2)["error"])
    assert issuer(place, "--abort", status=2)["verdict"] == issuer(place, "--finish", status=2)["verdict"] == "unknown"
    issuer(place, "--start", "--offline", str(place / "offline"), "--announce", "1h")
    assert issuer(place)["phase"] == "announced" and issuer(place, "--finish", status=1)["retry_may_help"] is True
    assert issuer(place, "--abort")["phase"] == "none"
    issuer(place, "--start", "--offline", str(place / "offline"), "--announce", "0s")
    until(lambda: issuer(place)["phase"] == "draining", "the switch")
    assert issuer(place, "--start", status=2)["verdict"] == "denied"
    assert issuer(place, "--finish")["phase"] == "none"
    assert "one of status" in str(issuer(place, "--plan", "--abort", status=2)["error"])
    assert running.process.poll() is None


def test_a_step_without_a_running_authority_is_a_finding(place: Path) -> None:
    told = issuer(place, "--start", "--offline", str(place / "offline"), status=3)
    assert told["phase"] == "announced" and told["told"] is None


def test_backup_verify_restore(place: Path, tmp_path: Path) -> None:
    password, file, there = tmp_path / "password", str(tmp_path / "backup"), tmp_path / "there"
    password.write_text("a password of twenty-four letters and more\n")
    given = ("--password-file", str(password))
    made = polder(place, "backup", file, *given)
    assert Path(file).stat().st_mode & 0o077 == 0 and made["trust_domain"] == "o.test"
    assert polder(there, "restore", file, *given, "--verify")["verified"] is True
    assert not there.exists(), "verifying changes nothing"
    assert polder(there, "restore", file, *given)["epoch"] > made["epoch"]
    assert polder(there, "authority", "list")["identities"] == []
    assert polder(there, "restore", file, *given, status=2)["verdict"] == "denied"
    assert polder(there, "restore", file, *given, "--replace")["restored"] is True
    password.write_text("another password of that length\n")
    assert "wrong password" in polder(there, "restore", file, *given, "--verify", status=2)["error"]
    assert "no such backup" in polder(there, "restore", file + "x", *given, status=2)["error"]


def test_nothing_is_restored_over_a_living_authority(place: Path, running: Process, tmp_path: Path) -> None:
    password, file = tmp_path / "password", str(tmp_path / "backup")
    password.write_text("a password of twenty-four letters and more\n")
    polder(place, "backup", file, "--password-file", str(password))
    refused = polder(place, "restore", file, "--password-file", str(password), "--replace", status=2)
    assert "runs in" in refused["error"] and running.process.poll() is None


def test_the_root_goes_off_line(place: Path, tmp_path: Path) -> None:
    """Copied, verified, removed here; a copy that does not open, or of another overlay, is refused and nothing is removed."""
    medium = tmp_path / "medium"
    assert polder(place, "authority", "offline", "--copy-to", str(medium))["root_key_here"] is True
    assert "on this machine" in polder(place, "authority", "offline", "--copy-to", str(place / "x"), status=2)["error"]
    broken = tmp_path / "broken"
    shutil.copytree(medium, broken)
    (broken / "root.key.pem").write_bytes(b"nothing")
    polder(place, "authority", "offline", "--verify", str(broken), "--remove", status=2)
    other = tmp_path / "other"
    polder(other, "init", "--trust-domain", "p.test", "--listen", f"127.0.0.1:{free_port()}")
    foreign = polder(place, "authority", "offline", "--verify", str(other / "offline"), "--remove", status=2)
    assert foreign["verdict"] == "foreign-identity" and (place / "offline" / "root.key.pem").exists()
    assert polder(place, "authority", "offline", "--verify", str(medium), "--remove")["root_key_here"] is False
    assert not (place / "offline").exists()
    issuer(place, "--start", "--offline", str(medium), status=3)
