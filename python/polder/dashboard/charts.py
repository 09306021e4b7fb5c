"""Curves made of characters."""

from __future__ import annotations

from collections.abc import Sequence

BARS = " ▁▂▃▄▅▆▇█"


def fit(values: Sequence[float | None], width: int) -> list[float | None]:
    """The course in ``width`` places, the youngest last: the greatest value of each place, for a peak must not vanish."""
    if width <= 0:
        return []
    if len(values) <= width:
        return [None] * (width - len(values)) + list(values)
    places: list[float | None] = []
    for place in range(width):
        known = [v for v in values[place * len(values) // width : (place + 1) * len(values) // width] if v is not None]
        places.append(max(known) if known else None)
    return places


def spark(values: Sequence[float | None], width: int) -> str:
    """One row of bars, ``width`` characters; a gap where nothing is known, a lowest bar where it is zero."""
    return rows(values, width, 1)[0] if width > 0 else ""


def rows(values: Sequence[float | None], width: int, height: int, top: float | None = None) -> list[str]:
    """Bars over ``height`` rows, the uppermost first; ``top`` is the value at the upper edge (default: the greatest)."""
    fitted = fit(values, width)
    greatest = top if top is not None else max((v for v in fitted if v is not None), default=0.0)
    lines = []
    for row in reversed(range(height)):
        lines.append("".join(_bar(value, greatest, row, height) for value in fitted))
    return lines


def _bar(value: float | None, greatest: float, row: int, height: int) -> str:
    if value is None:
        return BARS[0]
    eighths = 0 if greatest <= 0 else round(min(1.0, max(0.0, value / greatest)) * height * 8)
    if row == 0:
        eighths = max(1, eighths)
    return BARS[max(0, min(8, eighths - 8 * row))]
