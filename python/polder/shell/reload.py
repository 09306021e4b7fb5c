"""What a configuration that was read again changes, and what of it can be put in force at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polder.settings.process import ServiceSettings

ALWAYS = frozenset({"log_level", "log_repeats", "drain", "upgrade_drain", "upgrade_wait"})
"""The process itself sees to these."""


@dataclass(frozen=True)
class Reloaded:
    """``effective``: the settings in force from now on. ``changed`` and ``waiting`` are dotted keys; those that wait need an
    upgrade, or a restart where a service hands nothing over."""

    effective: Any
    changed: tuple[str, ...]
    waiting: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """For whoever asked."""
        return {"changed": list(self.changed), "needs_upgrade": list(self.waiting)}


def compare(before: ServiceSettings, after: ServiceSettings, live: frozenset[str]) -> Reloaded:
    """What differs. ``live``: keys of the first level that may change while the process runs."""
    differing = _differences(before.model_dump(), after.model_dump())
    now = tuple(key for key in differing if key.partition(".")[0] in live | ALWAYS)
    update = {first: getattr(after, first) for first in {key.partition(".")[0] for key in now}}
    return Reloaded(before.model_copy(update=update), now, tuple(key for key in differing if key not in now))


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], at: str = "") -> list[str]:
    found = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _differences(old, new, f"{at}{key}.")
        elif old != new:
            found.append(f"{at}{key}")
    return found
