"""State directories, and files that are either the old or the new one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from polder.settings import ConfigError, StateDir, make_private, write_atomic
from polder.settings.state import sync_directory


@pytest.mark.parametrize(
    ("given", "env", "uid", "root"),
    [
        ("/x", {"POLDER_STATE": "/y"}, 0, "/x"),
        (None, {"POLDER_STATE": "/y"}, 0, "/y"),
        (None, {}, 0, "/var/lib/polder"),
        (None, {"HOME": "/home/ann"}, 1000, "/home/ann/.local/state/polder"),
        (None, {"HOME": "/home/ann", "XDG_STATE_HOME": "/s"}, 1000, "/s/polder"),
    ],
)
def test_where_state_is_kept(given: str | None, env: dict[str, str], uid: int, root: str) -> None:
    assert StateDir.find(given, env, uid).root == Path(root)


def test_identities_have_their_places(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    assert state.identity("node", "n1") == tmp_path / "node"
    assert state.identity("user", "ann") == tmp_path / "user/ann"
    with pytest.raises(ValueError, match="not a name"):
        state.identity("user", "../node")


def test_the_only_one_is_found_and_several_must_be_named(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    with pytest.raises(ConfigError, match="no user is enrolled here"):
        state.only("user", None)
    for name in ("ann", "bob"):
        (tmp_path / "user" / name).mkdir(parents=True)
        (tmp_path / "user" / name / "identity.toml").touch()
        assert state.only("user", name).name == name
        if name == "ann":
            assert state.only("user", None).name == "ann"
    with pytest.raises(ConfigError, match="name one of ann, bob"):
        state.only("user", None)
    with pytest.raises(ConfigError, match="no user eve is enrolled here"):
        state.only("user", "eve")


def test_atomic_writes_set_the_mode_and_leave_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "f"
    write_atomic(file, b"one", 0o644)
    write_atomic(file, b"two", 0o600)
    assert file.read_bytes() == b"two"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    file = tmp_path / "f"
    write_atomic(file, b"old")

    def fail(*_: object) -> None:
        raise OSError("disk")

    monkeypatch.setattr(os if step == "fsync" else Path, step, fail)
    with pytest.raises(OSError, match="disk"):
        write_atomic(file, b"new")
    monkeypatch.undo()
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_planted_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    monkeypatch.setattr("polder.settings.state._UNIQUE", iter([7]))
    (tmp_path / f".f.{os.getpid()}-7.new").symlink_to(target)
    with pytest.raises(OSError):
        write_atomic(tmp_path / "f", b"new")
    assert target.read_bytes() == b"precious"


def test_private_directories(tmp_path: Path) -> None:
    made = tmp_path / "a/b"
    make_private(made)
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    make_private(made)
    sync_directory(made)
