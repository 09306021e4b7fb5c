"""A served authority for each test that asks for one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.support.authority import Served, serve


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """An authority on loopback."""
    async with serve(tmp_path / "authority-state") as authority:
        yield authority
