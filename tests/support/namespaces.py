"""Whether this user may make network namespaces."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROBE = "from polder.lab import enclosure; import sys; sys.exit(enclosure.run(lambda: 0))"


def need_namespaces() -> None:
    """Skip the test where neither root nor user namespaces are to be had."""
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False)
    if "NoNamespacesError" in done.stderr:
        pytest.skip("neither root nor user namespaces here")
