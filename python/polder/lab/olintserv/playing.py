"""What a viewer sees of a stream: an account of frames, without I/O.

A player shows frame ``n`` at the time of its making plus a *lag*. It begins with ``LAG_S``. A frame that is not there when its time has
come freezes the picture until it comes, and the lag is longer from then on, as in every player that waits. A frame that never came is
a hole: the picture stands still for its time. Freezes that follow each other are one; shorter than ``SEEN_S`` nobody sees them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

FRAME_S = 0.04
"""25 pictures a second."""
LAG_S = 0.8
SEEN_S = 0.1


class Frame(NamedTuple):
    """A frame that came: its number, when it was made and when it was whole at the player (seconds of one clock), its bytes."""

    number: int
    made: float
    came: float
    size: int


class Stall(NamedTuple):
    """The picture stood still from ``begin`` to ``end``, in seconds of the same clock."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """How long."""
        return self.end - self.begin


@dataclass(frozen=True)
class View:
    """What was seen of the frames ``first`` to ``last``: ``lost`` never came."""

    stalls: tuple[Stall, ...]
    lost: tuple[int, ...]
    delays_ms: tuple[float, ...]
    """Of the frames that came, in their order."""
    bytes: int

    @property
    def frozen_s(self) -> float:
        """Seconds for which the picture stood still."""
        return sum(stall.seconds for stall in self.stalls)

    def delay_ms(self, share: float) -> float | None:
        """The delay that ``share`` of the frames do not exceed; ``None`` when none came."""
        ordered = sorted(self.delays_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def view(frames: Iterable[Frame], first: int, last: int, epoch: float, until: float) -> View:
    """The view of frames ``first`` … ``last`` (both included), as known at ``until``. ``epoch``: when frame 0 was made.

    Frames may come in any order and twice: the first arrival counts. What came after ``until`` has not come.
    """
    came: dict[int, Frame] = {}
    for frame in frames:
        if first <= frame.number <= last and frame.came <= until:
            known = came.get(frame.number)
            came[frame.number] = frame if known is None or frame.came < known.came else known
    lag, still = LAG_S, list[Stall]()
    for number in range(first, last + 1):
        shown = epoch + number * FRAME_S + lag
        here = came.get(number)
        if here is None:
            # its time may lie beyond the end: nobody knows yet what would have been seen
            _freeze(still, shown, min(shown + FRAME_S, until))
        elif here.came > shown:
            _freeze(still, shown, here.came)
            lag += here.came - shown
    ordered = [came[number] for number in sorted(came)]
    return View(
        stalls=tuple(stall for stall in still if stall.seconds >= SEEN_S),
        lost=tuple(number for number in range(first, last + 1) if number not in came and _due(number, epoch) <= until),
        delays_ms=tuple((frame.came - frame.made) * 1000 for frame in ordered),
        bytes=sum(frame.size for frame in ordered),
    )


def within(found: View, begin: float, end: float) -> tuple[int, float]:
    """How many stalls began in a span of time, and the seconds for which the picture stood still in it."""
    began = sum(begin <= stall.begin < end for stall in found.stalls)
    frozen = sum(max(0.0, min(stall.end, end) - max(stall.begin, begin)) for stall in found.stalls)
    return began, frozen


def _due(number: int, epoch: float) -> float:
    return epoch + number * FRAME_S + LAG_S


def _freeze(still: list[Stall], begin: float, end: float) -> None:
    """One more freeze; it goes on with the last one when it begins where that ended."""
    if end <= begin:
        return
    if still and begin - still[-1].end < 1e-6:
        still[-1] = Stall(still[-1].begin, end)
    else:
        still.append(Stall(begin, end))
