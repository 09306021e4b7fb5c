"""What a user sees of the spread plane: by which plane his tunnels go, and how each relay does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polder.dashboard import words
from polder.dashboard.values import Cell, Level, Sign, Table, Tile

_STATES = {"live": Level.GOOD, "suspect": Level.WARN, "untried": Level.PLAIN, "unusable": Level.NOTE}
_COLUMNS = ("relay", "state", "share", "loss", "delay", "twice", "sent", "came")


def tile(found: Mapping[str, Any]) -> Tile:
    """The plane in use; ``found`` is what the forwarder's ``paths`` answers."""
    sessions = [session for session in found["sessions"] if session["up"]]
    note = f"chosen: {found['plane']}"
    if not sessions or found["plane"] == "tunnel":
        return Tile("plane", "Plane", "tunnel", note)
    if any(session["carrier"] == "tunnel" for session in sessions):
        return Tile("plane", "Plane", "tunnel", "no relay answers", Level.WARN)
    if not any(session["prefer"] for session in sessions):
        return Tile("plane", "Plane", "tunnel", "quicker than relays", Level.PLAIN)
    return Tile("plane", "Plane", "relays", note, Level.GOOD)


def tables(found: Mapping[str, Any]) -> tuple[Table, ...]:
    """One for each session."""
    return tuple(_table(session) for session in found["sessions"])


def signs(found: Mapping[str, Any]) -> list[Sign]:
    """What is amiss."""
    lost = [session["site"] for session in found["sessions"] if session["up"] and session["carrier"] == "tunnel"]
    if not lost:
        return []
    advice = "Nothing to do: relays are asked again and again. If it stays so, this network may block UDP."
    return [Sign(Level.WARN, f"No relay answers: what is open to {', '.join(lost)} goes on through an access point", advice)]


def _table(session: Mapping[str, Any]) -> Table:
    paths = sorted(session["paths"], key=lambda path: (-path["weight"], path["relay"]))
    lost = session["carrier"] == "tunnel"
    state = ": connecting" if not session["up"] else ": none answers, an access point carries" if lost else ""
    title = f"Relays to {session['site']}{state}"
    rows = tuple(_row(path) for path in paths)
    return Table(f"relays-{session['site']}", title, _COLUMNS, rows, tuple(range(2, len(_COLUMNS))), "none is known yet")


def _row(path: Mapping[str, Any]) -> tuple[Cell, ...]:
    delay = "–" if path["delay_us"] is None else f"{path['delay_us'] / 1000:.1f} ms"
    loss = Level.WARN if path["loss"] >= 0.1 else Level.PLAIN
    return (
        Cell(path["relay"]),
        Cell(path["state"], _STATES[path["state"]]),
        Cell(f"{path['weight']:.0%}"),
        Cell(f"{path['loss']:.1%}", loss),
        Cell(delay),
        *(Cell(words.count(path[name])) for name in ("duplicates", "sent", "received")),
    )
