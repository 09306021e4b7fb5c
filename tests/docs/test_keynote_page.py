"""The page on KeyNote does what it says: its commands are typed, its program is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs/site/keynote.md").read_text()


def blocks(kind: str) -> list[str]:
    """The fenced blocks of one kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_commands(tmp_path: Path) -> None:
    typed = blocks("sh keynote")
    assert len(typed) == 4
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    script = "set -e\n" + "\n".join(typed)
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Signature verified." in done.stdout
    assert "Query result = true" in done.stdout
    assert 'operation == "read" is false (operation is "write")' in done.stdout


def test_program() -> None:
    (program,) = blocks("python")
    exec(compile(program, "docs/site/keynote.md", "exec"), {})
