"""Signs of an attack, and of trouble, read from what the parts count.

Each rule: counters, how fast they must grow to mean something, what that means, what to do. The thresholds are far above what an
honest crowd makes by mistake and far below what harms: they are there to be seen early, not to decide anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from polder.dashboard import words
from polder.dashboard.rates import Track
from polder.dashboard.values import Level, Sign

REFUSED = (
    "connections_refused",
    "identities_refused",
    "refused_access",
    "refused_target",
    "refused_limit",
    "refused_stale",
    "refused_hop",
    "front_refused_denied",
    "front_refused_prohibited",
    "front_refused_malformed",
)
"""Everything that a node turned away."""

LIMITS = tuple(
    f"front_over_{what}"
    for what in (
        "connections",
        "connections_per_source",
        "handshake_rate",
        "tunnels",
        "tunnel_rate",
        "header_timeout",
        "body_rate",
        "stall",
        "resets",
    )
)
"""Limits of the front that were hit."""


class Rule(NamedTuple):
    """``per_second``: for each part that is looked at."""

    names: tuple[str, ...]
    per_second: float
    level: Level
    text: str
    advice: str


RULES = (
    Rule(
        ("connections_refused", "front_over_handshake_rate", "front_over_connections_per_source", "front_over_connections"),
        5,
        Level.WARN,
        "Strangers' connections are turned away at the door: {rate}/s",
        "Nothing to do while tunnels go on. If honest users are among them, raise handshake_rate_per_source or add nodes.",
    ),
    Rule(
        ("handshakes_failed",),
        5,
        Level.WARN,
        "Handshakes fail: {rate}/s. Somebody connects who has no identity of this overlay, or floods with handshakes",
        "The budget of strangers bounds what it costs. `polder incident export` keeps the evidence.",
    ),
    Rule(
        ("identities_refused",),
        0.5,
        Level.WARN,
        "Certificates are refused: {rate}/s",
        "Foreign, expired or revoked: the log says which. An expired user enrols again; a revoked one should not be here.",
    ),
    Rule(
        ("front_over_header_timeout", "front_over_body_rate", "front_over_stall"),
        0.5,
        Level.WARN,
        "Slow clients are cut: {rate}/s (slow heads, bodies or readers)",
        "A slow-connection attack by an enrolled user, or a broken network: the log names the identity. `polder revoke user NAME`.",
    ),
    Rule(
        ("front_over_resets",),
        0.1,
        Level.WARN,
        "Clients reset streams in floods and are sent away: {rate}/s",
        "A rapid-reset attack by an enrolled user: the log names the identity. `polder revoke user NAME`.",
    ),
    Rule(
        ("front_over_tunnels", "front_over_tunnel_rate", "refused_limit"),
        1,
        Level.WARN,
        "Users ask for more tunnels than their limits allow: {rate}/s",
        "One identity asks for too much: the log names it. Raise tunnel_rate_per_identity if it is honest.",
    ),
    Rule(
        ("front_refused_malformed",),
        0.5,
        Level.WARN,
        "Malformed requests: {rate}/s",
        "A broken client, or somebody who tries for smuggling; they reach no site.",
    ),
    Rule(
        ("refused_hop",),
        0.5,
        Level.WARN,
        "Nodes ask for hops that they should not: {rate}/s",
        "A node with an old view, or a hostile one: the log names it. `polder revoke node NAME` takes it out.",
    ),
    Rule(
        ("tunnels_failed", "front_failed"),
        0.5,
        Level.BAD,
        "Tunnels fail: {rate}/s. Users see errors",
        "A site's agent or origin is down, or its servlets are: ask the site's owner to look at `polder watch SITE`.",
    ),
    Rule(
        ("failovers",),
        1,
        Level.NOTE,
        "Paths fail and are replaced before anybody notices: {rate}/s",
        "A node or a servlet is in trouble; the table shows who is missing.",
    ),
    Rule(
        ("events_lost", "calls_busy", "calls_late"),
        0.2,
        Level.WARN,
        "Control planes are late: {rate}/s calls or events lost",
        "A node's Python is starved of processor time: look at its load.",
    ),
    Rule(
        ("refused_stale",),
        0.1,
        Level.BAD,
        "Nodes refuse new work because their revocation list is too old: {rate}/s",
        "Start the authority, or open the way to it: `polder status` on its machine.",
    ),
)


def of(tracks: Iterable[Track]) -> list[Sign]:
    """What the parts show now, the worst first; each rule once, with the sum of all parts."""
    known = list(tracks)
    found = []
    for rule in RULES:
        rates = [track.rate(rule.names) for track in known]
        if any(rate >= rule.per_second for rate in rates):
            found.append(Sign(rule.level, rule.text.format(rate=words.rate(sum(rates))), rule.advice))
    return sorted(found, key=lambda sign: sign.level is not Level.BAD)


def certificate(part: str, left: float, life: float = 86_400.0) -> Sign | None:
    """A certificate that is near its end; ``left`` and ``life`` in seconds."""
    if left <= 0:
        text = f"The certificate of {part} has expired"
        return Sign(Level.BAD, text, "It renews also after expiry: look whether the authority is up.")
    if left < life / 6:
        text = f"The certificate of {part} ends in {words.duration(left)}"
        return Sign(Level.WARN, text, "Renewal is due at two thirds of its life: look whether the authority is up.")
    return None


def skew(part: str, seconds: float) -> Sign | None:
    """A clock that differs from ours by so much that certificates and records begin to fail."""
    if abs(seconds) < 10:
        return None
    side = "ahead" if seconds > 0 else "behind"
    return Sign(Level.WARN, f"The clock of {part} is {words.duration(abs(seconds))} {side}", "Run a time daemon there.")
