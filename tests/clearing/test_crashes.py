"""The measurement of crash points in its short form: nothing acknowledged is lost, nothing is paid twice, the books balance."""

from __future__ import annotations

import subprocess
import sys


def test_a_few_kills_lose_nothing_and_pay_nothing_twice() -> None:
    done = subprocess.run([sys.executable, "-m", "bench.bandex_crashes", "--quick"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
