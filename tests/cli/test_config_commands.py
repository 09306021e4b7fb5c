"""``polder config check``: one file, and a whole state directory with what contradicts what."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.overlay import polder


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = tmp_path_factory.mktemp("config") / "state"
    polder(
        state, "init", "--trust-domain", "a.test", "--listen", "127.0.0.1:7400", "--name", "n1", "--node-listen", "127.0.0.1:7443"
    )
    return state


def findings(state: Path, status: int) -> list[tuple[str, int | None, str, bool]]:
    """File, line, key and severity of each."""
    told = polder(state, "config", "check", status=status)["findings"]
    return [(Path(one["file"]).name, one["line"], one["key"], one["error"]) for one in told]


def test_what_init_writes_is_good(state: Path) -> None:
    told = polder(state, "config", "check")
    assert [Path(file).name for file in told["files"]] == ["authority.toml", "node.toml"]
    assert told["findings"] == []


@pytest.mark.parametrize(
    ("drop_in", "status", "found"),
    [
        ('listen = ["127.0.0.1:7400"]\n', 3, ("late.toml", 1, "listen", False)),
        ('\nlisten = ["0.0.0.0:7400"]\nadvertise = "127.0.0.1:7400"\n', 3, ("late.toml", 2, "listen", False)),
        ('metrics_listen = "127.0.0.1:7400"\n', 3, ("late.toml", 1, "metrics_listen", False)),
        ('name = "other"\n', 3, ("late.toml", 1, "name", False)),
        ('host_helper = "/nowhere/host.sock"\n', 3, ("late.toml", 1, "host_helper", False)),
        ("[limits]\nconections = 5\n", 2, ("late.toml", 2, "limits.conections", True)),
    ],
)
def test_each_contradiction_is_named(state: Path, drop_in: str, status: int, found: tuple[str, int, str, bool]) -> None:
    late = state / "node" / "conf.d" / "late.toml"
    late.parent.mkdir(exist_ok=True)
    late.write_text(drop_in)
    try:
        assert findings(state, status) == [found]
    finally:
        late.unlink()


def test_one_file_is_refused_with_its_line_for_programs_too(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("workers = 2\nworker = 1\n")
    told = polder(tmp_path, "config", "check", str(file), status=2)
    assert (told["source"], told["line"], told["key"]) == (str(file), 2, "worker")
    assert "did you mean 'workers'?" in told["error"]


def test_an_empty_state_is_said(tmp_path: Path) -> None:
    assert polder(tmp_path, "config", "check")["next"] == "polder init"
