"""Real daemons on real links, in namespaces."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.namespaces import need_namespaces

pytestmark = pytest.mark.lab


def test_two_routers_reserve_enforce_and_forget(tmp_path: Path) -> None:
    need_namespaces()
    command = [sys.executable, "-m", "tests.rsvpd.inside", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    logs = "\n".join(f"== {path.name}\n{path.read_text()[-1500:]}" for path in sorted(tmp_path.glob("*.log")))
    assert done.returncode == 0, done.stdout + done.stderr + logs
