"""Control calls of operators to nodes: bodies and answers. A node answers them to admins only.

What a node reports are aggregates: never which sites it is beacon or servlet for, nor anything that counts these roles.
"""

from __future__ import annotations

import msgspec

from polder.model.records import Frozen


class ReportQuery(Frozen, frozen=True):
    """Admin → node, method ``report``: how are you?"""


class Report(msgspec.Struct, frozen=True):
    """Answer to ``report``. A newer node's further fields are ignored.

    ``clock``: the node's Unix time; ``*_s`` seconds, ``*_us`` microseconds; ``revocation_age_s`` is -1 before the first list;
    ``counters``: totals since the start, by the names of the data plane; ``silent_for_s``: what is left of a drill.
    """

    name: str
    version: str
    clock: float
    uptime_s: float
    joined: bool
    members: int
    successors: tuple[str, ...]
    sites: int
    snapshot: int
    certificate_valid_for_s: int
    revocation_epoch: int
    revocation_age_s: int
    links: int
    links_up: int
    rtt_us: int
    cpu_ms: int
    rss_bytes: int
    counters: dict[str, int]
    drills: bool = False


class PastQuery(Frozen, frozen=True):
    """Admin → node, method ``past``: how were you in the last ``seconds`` (600 at most)?"""

    seconds: float


class Past(msgspec.Struct, frozen=True):
    """Answer to ``past``: samples of the counters that a report tells. ``clock`` and ``times``: the node's Unix seconds."""

    clock: float
    step: float
    times: tuple[float, ...]
    values: dict[str, tuple[float | None, ...]]


class Drill(Frozen, frozen=True):
    """Admin → node, method ``drill``: a rehearsed failure.

    ``step``: ``announce`` (to every node: so that two drills never overlap), ``silence`` (die as by SIGKILL, for ``seconds``),
    ``cut`` (refuse all links with the nodes in ``peers``, for ``seconds``) or ``end``. ``nodes``: all that shall suffer.
    """

    id: str
    step: str
    nodes: tuple[str, ...]
    seconds: float
    peers: tuple[str, ...] = ()


class Drilled(Frozen, frozen=True):
    """Answer to ``drill``: taken, and in force for ``seconds``."""

    seconds: float
