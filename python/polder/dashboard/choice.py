"""Which views there are for the people who use this machine, in the order in which they are offered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from polder.dashboard.operator import Operator
from polder.dashboard.owner import Owner
from polder.dashboard.source import Source
from polder.dashboard.user import User
from polder.dashboard.values import Round, View


class Model(Protocol):
    """What the three views have in common."""

    def take(self, look: Round) -> None: ...

    def load(self, part: str, history: Mapping[str, Any]) -> None: ...

    def view(self) -> View: ...


class NothingHere(ValueError):
    """There is nothing to watch."""


def models(source: Source, site: str | None = None, *, reveal: bool = False) -> dict[str, Model]:
    """Name → view-model; the one asked for is first. Raises ``NothingHere`` saying what to do."""
    parts = source.parts()
    sites = [part.partition("/")[2] for part in parts if part.startswith("site/")]
    users = [part.partition("/")[2] for part in parts if part.startswith("user/")]
    if site is not None and site not in sites:
        raise NothingHere(f"no site {site!r} is enrolled here; known: {', '.join(sites) or 'none'}")
    found: dict[str, Model] = {}
    if any(part.startswith("node/") for part in parts) or source.admin is not None or "authority" in parts:
        found["overlay"] = Operator(admin=source.admin is not None)
    found |= {f"site {name}": Owner(name, reveal=reveal) for name in sites}
    found |= {f"user {name}": User(name) for name in users}
    if not found:
        raise NothingHere(f"nothing is set up in {source.state.root}: `polder status` says how to begin")
    if site is not None:
        found = {f"site {site}": found[f"site {site}"]} | found
    return found


class Watcher:
    """Looks, and feeds every model."""

    def __init__(self, source: Source, known: Mapping[str, Model]) -> None:
        self.source = source
        self.models = list(known.values())
        self.names = list(known)

    async def begin(self) -> None:
        """What the parts remember, so that graphs are full from the start."""
        for part, history in (await self.source.histories()).items():
            for model in self.models:
                model.load(part, history)

    async def look(self, number: int) -> View:
        """One look; the view ``number``."""
        await self._take()
        return self.models[number].view()

    async def every_view(self) -> list[View]:
        """One look; all views."""
        await self._take()
        return [model.view() for model in self.models]

    async def _take(self) -> None:
        look = await self.source.look()
        for model in self.models:
            model.take(look)
