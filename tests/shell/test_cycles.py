"""Garbage in cycles goes by the clock, not by the number of objects."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from polder.settings.client import ClientSettings
from polder.shell import cycles
from polder.shell.process import Life


class _Shell:
    LIVE: frozenset[str] = frozenset()

    def configure(self, settings: object) -> None:
        """Nothing changes."""

    def descriptors(self) -> list[tuple[str, int]]:
        return []

    def memory(self) -> dict[str, bytes]:
        return {}

    def release(self) -> None:
        """Nothing is held."""

    async def close(self, deadline: float) -> int:
        return 0

    def hurry(self) -> None:
        """Nothing lasts."""


class _Ring:
    """An object that holds itself."""

    def __init__(self) -> None:
        self.me = self


async def test_an_old_cycle_goes_though_nothing_new_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cycles, "EVERY_S", 0.01)
    life = Life.alone(ClientSettings())
    life.begin(_Shell())
    try:
        ring = _Ring()
        gc.collect(1)  # it has grown old: only a look at everything finds it
        gone = weakref.ref(ring)
        del ring
        assert gone() is not None
        async with asyncio.timeout(60):
            while gone() is not None:
                await asyncio.sleep(0.01)
    finally:
        await life.close()
        gc.unfreeze()
