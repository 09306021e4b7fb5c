"""Python's garbage in cycles, collected by the clock: a closed connection of asyncio leaves some behind.

CPython looks at old objects only after 70,000 more have come than gone, and a quarter as many as there are (``gc`` in the library's
reference, ``gc.set_threshold``). A process that hardly grows waits hours for that, while its memory does grow.
"""

from __future__ import annotations

import asyncio
import gc

EVERY_S = 60.0


def settle() -> None:
    """Take what is there once a process serves out of the collector's sight, for good: modules, classes, what was read. Some 0.1 s."""
    gc.collect()
    gc.freeze()


async def collect() -> None:
    """Wait ``EVERY_S`` seconds, then collect all cycles: milliseconds, after ``settle``."""
    await asyncio.sleep(EVERY_S)
    gc.collect()
