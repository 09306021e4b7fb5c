"""A drill from this machine: by the operator enrolled here, read by the user whose forwarder runs here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from polder.api.admin import ask
from polder.dashboard.source import Source
from polder.drill.plan import CannotDrill, Outcome
from polder.drill.probe import Probe
from polder.drill.run import Order, Rehearsal
from polder.shell.clock import chance


async def rehearse(source: Source, order: Order, say: Callable[[str], None], url: str | None = None) -> Outcome:
    """Carry out ``order``; ``url``: the page that is read (default: the user's first site). Raises ``CannotDrill``."""
    console = await source.console()
    if console is None:
        raise CannotDrill(
            "no operator is enrolled here: `polder invite admin NAME` on the authority's machine, then `polder enroll`"
        )
    user = await _user(source)
    page = url or (f"http://{user['sites'][0]}/" if user and user["sites"] else None)
    probe = Probe(user["proxy"], page) if user and page else None
    if probe is None:
        say("no forwarder runs here: without a reader only the nodes' counters tell what users saw")
    rehearsal = Rehearsal(console, await source.members(), order, probe, say, chance())
    return await rehearsal.run(user["in_use"] if user else "")


async def _user(source: Source) -> dict[str, Any] | None:
    """The status of the first forwarder that runs here, with the access point that it uses."""
    for part, path in source.parts().items():
        if part.startswith("user/"):
            try:
                status, links = await ask(path / "admin.sock", "status"), await ask(path / "admin.sock", "links")
            except (OSError, ValueError):
                continue
            up = {link["name"]: link["rtt_us"] or 1e12 for link in links["links"] if link["up"] and link["lane"] == "bulk"}
            return status | {"in_use": min(up, key=lambda name: float(up[name]), default="")}
    return None
