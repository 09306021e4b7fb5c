"""The measurement of crash points in its short form: it runs, and nothing acknowledged is lost."""

from __future__ import annotations

import subprocess
import sys


def test_a_few_kills_lose_nothing() -> None:
    done = subprocess.run([sys.executable, "-m", "bench.crash_points", "--quick"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
