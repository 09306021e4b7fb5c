"""Whether something grows for good: the judge of a soak.

A process that leaks grows in a line; one that does not swings around a level, and its samples hang together in time. So the samples
are folded into blocks (of each the least: what is still there when work has ended), and the slope over the blocks is estimated by
the median of all slopes between two of them (Theil 1950), with the interval that Kendall's statistic gives (Sen 1968). Neither asks
for a distribution, and outliers do not move them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

BLOCKS = 5
"""The least number of blocks from which a slope is judged."""


@dataclass(frozen=True)
class Slope:
    """Growth per hour: the estimate, and the ends of its interval."""

    per_hour: float
    low: float
    high: float


def blocks(samples: Sequence[tuple[float, float]], seconds: float) -> list[tuple[float, float]]:
    """Samples (time, value) folded into blocks of ``seconds``: the middle of each, and the least value in it."""
    if not samples:
        return []
    begin, folded = samples[0][0], dict[int, float]()
    for at, value in samples:
        block = int((at - begin) // seconds)
        folded[block] = min(folded.get(block, value), value)
    return [(begin + (block + 0.5) * seconds, least) for block, least in sorted(folded.items())]


def slope(points: Sequence[tuple[float, float]], z: float = 2.576) -> Slope | None:
    """The slope over ``points`` (seconds, value) at ``z`` standard deviations (2.576: 99 %); ``None``: too few to say."""
    if len(points) < BLOCKS:
        return None
    slopes = sorted((later[1] - earlier[1]) / (later[0] - earlier[0]) * 3600 for earlier, later in combinations(points, 2))
    count = len(points)
    spread = z * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    first = max(0, math.floor((len(slopes) - spread) / 2))
    last = min(len(slopes) - 1, math.ceil((len(slopes) + spread) / 2))
    return Slope(statistics.median(slopes), slopes[first], slopes[last])


def leaks(found: Slope, allowed: float) -> bool:
    """Whether it surely grows by more than ``allowed`` an hour: the whole interval lies beyond."""
    return found.low > allowed
