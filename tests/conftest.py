"""What holds for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# A slow or busy machine makes an example late, not wrong.
settings.register_profile("polder", deadline=None)
settings.load_profile("polder")


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As pytest's, but with a short name: the path of a socket has 107 characters at most."""
    return tmp_path_factory.mktemp("t")
