"""What is shown, as plain values: the same for a terminal, a browser and ``--json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec


class Level(StrEnum):
    """How good or bad something is. Shown by colour and by a word or sign, never by colour alone."""

    GOOD = "good"
    PLAIN = "plain"
    NOTE = "note"
    WARN = "warn"
    BAD = "bad"


_ORDER = (Level.GOOD, Level.PLAIN, Level.NOTE, Level.WARN, Level.BAD)


def worst(*levels: Level) -> Level:
    """The worst of them; ``GOOD`` of none."""
    return max(levels, key=_ORDER.index, default=Level.GOOD)


class Value(msgspec.Struct, frozen=True):
    """Base of what is shown."""


class Tile(Value, frozen=True):
    """One number that matters: ``value`` is for people; ``series`` its recent course in ``unit`` (``None``: not known then)."""

    id: str
    label: str
    value: str
    note: str = ""
    level: Level = Level.PLAIN
    series: tuple[float | None, ...] = ()
    unit: str = ""


class Cell(Value, frozen=True):
    """A field of a table."""

    text: str
    level: Level = Level.PLAIN


class Table(Value, frozen=True):
    """Columns stand in the order of their importance: a narrow screen shows the first.

    ``numeric``: indices of columns that are right-aligned. ``empty``: what to say when there is no row.
    """

    id: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: tuple[int, ...] = ()
    empty: str = ""


class Line(Value, frozen=True):
    """One curve of a plot."""

    name: str
    values: tuple[float | None, ...]


class Plot(Value, frozen=True):
    """Curves over the same ``times`` (Unix seconds)."""

    id: str
    title: str
    unit: str
    times: tuple[float, ...]
    lines: tuple[Line, ...]


class Sign(Value, frozen=True):
    """Something to know about: what is seen, and what to do."""

    level: Level
    text: str
    advice: str = ""


def headline(signs: Sequence[Sign], calm: str) -> str:
    """What comes first: the worst that was seen, or ``calm`` while nothing is worse than worth a note."""
    return signs[0].text if signs and signs[0].level in (Level.WARN, Level.BAD) else calm


class Action(Value, frozen=True):
    """What may be done from here: ``id`` for the server, ``confirm`` is asked first. ``choices``: one must be chosen, if any."""

    id: str
    label: str
    confirm: str
    choices: tuple[str, ...] = ()


class View(Value, frozen=True):
    """Everything on the screen. ``at`` in Unix seconds."""

    kind: str
    title: str
    at: float
    level: Level
    headline: str
    tiles: tuple[Tile, ...] = ()
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    signs: tuple[Sign, ...] = ()
    actions: tuple[Action, ...] = ()
    next: str = ""


class Sample(NamedTuple):
    """What one part said at ``at`` (Unix seconds): its status, its counters, its links."""

    at: float
    facts: Mapping[str, Any]
    counters: Mapping[str, float]
    links: tuple[Mapping[str, Any], ...] = ()


class Round(NamedTuple):
    """One look at everything: part → sample, or the text why there is none."""

    at: float
    parts: Mapping[str, Sample | str]
