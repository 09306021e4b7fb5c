"""Messages about a configuration lead to the line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.settings import ConfigError, NodeSettings, load
from polder.settings.lines import line_of

TEXT = """# a node
workers = 2

[limits]   # bounds
connections = 100
"tunnels_per_identity" = 7
limits.odd = 1
"""


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (("workers",), 2),
        (("limits", "connections"), 5),
        (("limits", "tunnels_per_identity"), 6),
        (("limits", "absent"), 4),
        (("absent",), None),
    ],
)
def test_a_key_is_found_or_the_table_around_it(tmp_path: Path, keys: tuple[str, ...], line: int | None) -> None:
    file = tmp_path / "node.toml"
    file.write_text(TEXT)
    assert line_of(file, keys) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [("workers = 2\nworkrs = 3\n", 2), ("\n\nworkers = 0\n", 3), ("workers = 2\n[limits]\nconnections = 1\n", 3), ("a = \n", 1)],
)
def test_what_is_wrong_is_told_with_file_and_line(tmp_path: Path, text: str, line: int) -> None:
    file = tmp_path / "node.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"{file}:{line}: ") as caught:
        load(NodeSettings, file)
    assert caught.value.line == line


def test_the_line_is_one_of_the_drop_in_that_set_the_key(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text("workers = 2\n")
    (tmp_path / "conf.d").mkdir()
    late = tmp_path / "conf.d" / "late.toml"
    late.write_text("\nworkers = 0\n")
    with pytest.raises(ConfigError, match=f"{late}:2: workers"):
        load(NodeSettings, tmp_path / "node.toml")


@given(st.text(max_size=200), st.lists(st.text(max_size=10), max_size=3))
def test_any_text_has_lines_or_none(tmp_path_factory: pytest.TempPathFactory, text: str, keys: list[str]) -> None:
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_text(text, encoding="utf-8")
    line = line_of(file, keys)
    assert line is None or 1 <= line <= len(text.splitlines())
