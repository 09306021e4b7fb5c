"""``Finding``: the outcome of one check."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One check: ``good`` is ``None`` when it could not be made or is a matter of taste. ``cure``: what to do about it."""

    check: str
    good: bool | None
    what: str
    cure: str = ""
