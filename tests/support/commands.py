"""``polder`` commands in this process: their own entry point, as fast as a call."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from polder.cli import main


def polder(state: Path, *arguments: str, stdin: str = "", status: int = 0) -> dict[str, Any]:
    """Run the command's own entry point in this process and return its JSON answer."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["polder", *arguments, "--json"])
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        patch.setenv("POLDER_STATE", str(state))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
            main.main()
    assert end.value.code == status, f"{arguments}: {end.value.code}: {out.getvalue()}{err.getvalue()}"
    answer: dict[str, Any] = json.loads((out if status in (0, 3) else err).getvalue().strip().splitlines()[-1])
    return answer
