"""Numbers for people: short, and of the same width as they change."""

from __future__ import annotations

_BYTES = ("B", "KB", "MB", "GB", "TB", "PB")


def count(value: float) -> str:
    """``7``, ``1 204``, ``38.1k``, ``2.4M``."""
    size = abs(value)
    if size < 10_000:
        return f"{value:,.0f}".replace(",", " ")
    if size < 1e6:
        return f"{value / 1e3:.1f}k"
    return f"{value / 1e6:.1f}M" if size < 1e9 else f"{value / 1e9:.1f}G"


def rate(value: float) -> str:
    """Per second: ``0``, ``0.4``, ``12``."""
    if value == 0:
        return "0"
    return f"{value:.1f}" if abs(value) < 9.95 else count(value)


def data(value: float) -> str:
    """Bytes: ``0 B``, ``38 KB``, ``1.2 GB`` (powers of 1000, as networks are measured)."""
    for unit in _BYTES:
        if abs(value) < 999.5 or unit == _BYTES[-1]:
            return f"{value:.0f} {unit}" if unit == "B" or abs(value) >= 99.5 else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("the last unit takes everything")


def duration(seconds: float) -> str:
    """The two greatest units: ``12 s``, ``4 min 10 s``, ``3 h 5 min``, ``29 d 7 h``."""
    if seconds < 0:
        return f"−{duration(-seconds)}"
    whole = int(seconds)
    for size, unit, below, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {unit} {rest} {small}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


def millis(microseconds: float) -> str:
    """``0.4 ms``, ``84 ms``; a dash for what was never measured."""
    if not microseconds:
        return "–"
    return f"{microseconds / 1000:.1f} ms" if microseconds < 10_000 else f"{microseconds / 1000:.0f} ms"


def plural(number: int, one: str, many: str = "") -> str:
    """``1 node``, ``3 nodes``."""
    return f"{number} {one if number == 1 else many or one + 's'}"
