"""Knobs of Chord."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ChordConfig:
    """Knobs. Times in seconds. ``hold`` must stay well below the deadline that shells give to a call."""

    successors: int = 4
    """r: this many neighbours in a row may die between two stabilisations. 2 is the least that can heal."""
    stabilise_every: float = 2.0
    """A dead successor is noticed within this time plus the call's deadline; costs two small calls each time."""
    finger_every: float = 5.0
    """One finger is checked each time; ten times as often until the first round is through."""
    reunite_every: float = 30.0
    """One lookup through somebody outside of the neighbourhood; bounds the life of a split."""
    attempts: int = 2
    """Failures in a row that count as death."""
    retry_after: float = 0.25
    """Pause before a query is repeated after silence, or an operation begun anew after ``Busy``; jittered."""
    suspect_for: float = 10.0
    """A failure counts for so long: those that were silent to a ping need not be waited for again."""
    hold: float = 0.5
    """How long a state query waits for an operation to end before it is told ``Busy``."""
    busy_limit: int = 20
    """``Busy`` answers to one query of a joiner before it begins anew with another contact."""
    delayed_limit: int = 64
    """State queries that may wait."""
    found_after: float = 15.0
    """A node that finds no living member for so long begins a ring of its own, if it is the lowest of those it can hear."""
    join_retry: float = 1.0
    """Pause between rounds over the contacts while joining, and between attempts of a lone node to find others."""
    remembered: int = 32
    """Lost members that are remembered, to look for them when a split heals."""
