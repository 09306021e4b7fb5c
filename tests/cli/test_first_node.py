"""The first node, enrolled together with its authority."""

import tomllib
from pathlib import Path

from tests.support.overlay import polder


def test_init_remembers_where_the_first_node_listens(tmp_path: Path) -> None:
    made = polder(tmp_path, "init", "--trust-domain", "o.test", "--name", "n1", "--node-listen", "127.0.0.1:17999")
    settings = tomllib.loads((Path(made["node_directory"]) / "node.toml").read_text())
    assert settings["listen"] == ["127.0.0.1:17999"]
