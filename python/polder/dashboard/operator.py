"""``Operator``: the view of who runs nodes: the overlay as a whole, and signs of attack. Never who serves which site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polder.dashboard import signs, words
from polder.dashboard.rates import Track, added
from polder.dashboard.values import Action, Cell, Level, Line, Plot, Round, Sample, Sign, Table, Tile, View, headline, worst

DRILL = Action(
    "drill",
    "Rehearse a dead node",
    "One node in five (at least one) dies for 15 seconds and comes back by itself. Users should notice nothing. Now?",
)
_CALM = "Quiet: nothing needs you."
_DOOR = ("connections_refused", "handshakes_failed", "identities_refused")
_STALE = 60.0
"""Seconds after which a revocation list that nobody confirmed is worth a look: nodes ask every ten."""


class Operator:
    """Feed it with ``take``: parts ``node/NAME`` and ``authority``. ``admin``: an operator is enrolled here, who may drill."""

    def __init__(self, *, admin: bool = False) -> None:
        self._admin = admin
        self.tracks: dict[str, Track] = {}
        self._last: Round = Round(0.0, {})

    def take(self, look: Round) -> None:
        """One look at everything."""
        for part, sample in look.parts.items():
            track = self.tracks.setdefault(part, Track())
            # Silence is a sample too: courses of several parts are added up from their ends.
            track.add(look.at, sample.counters if isinstance(sample, Sample) else {})
        for gone in self.tracks.keys() - look.parts.keys():
            del self.tracks[gone]
        self._last = look

    def load(self, part: str, history: Mapping[str, Any]) -> None:
        """What a part remembers from before."""
        self.tracks.setdefault(part, Track()).load(history)

    def view(self) -> View:
        """Everything on the screen."""
        nodes = {p.partition("/")[2]: s for p, s in sorted(self._last.parts.items()) if p.startswith("node/")}
        alive = {name: sample for name, sample in nodes.items() if isinstance(sample, Sample)}
        tracks = {name: self.tracks[f"node/{name}"] for name in nodes}
        found = [*self._trouble(nodes, alive), *signs.of(tracks[name] for name in alive)]
        level = worst(*(sign.level for sign in found)) if nodes else Level.NOTE
        return View(
            kind="operator",
            title="Overlay",
            at=self._last.at,
            level=level,
            headline=headline(found, _CALM),
            tiles=self._tiles(nodes, alive, tracks),
            plots=self._plots(tracks),
            tables=(self._table(nodes, tracks),),
            signs=tuple(found),
            actions=(DRILL,) if self._admin and len(alive) > 1 and not found else (),
            next=_next(found, nodes),
        )

    # Parts of the view

    def _tiles(
        self, nodes: Mapping[str, Sample | str], alive: Mapping[str, Sample], tracks: Mapping[str, Track]
    ) -> tuple[Tile, ...]:
        live = [tracks[name] for name in alive]
        whole = whole_ring({name: sample.facts for name, sample in alive.items()})
        left = [int(sample.facts["certificate_valid_for_s"]) for sample in alive.values()]
        ages = [int(sample.facts.get("revocation_age_s", -1)) for sample in alive.values()]
        epochs = [int(sample.facts.get("revocation_epoch", 0)) for sample in alive.values()]
        behind = sum(epoch < max(epochs) for epoch in epochs)
        traffic = ("bytes_up", "bytes_down", "front_bytes_up", "front_bytes_down")
        refused = signs.REFUSED + signs.LIMITS
        dead = len(nodes) - len(alive)
        return (
            Tile("nodes", "Nodes", f"{len(alive)} / {len(nodes)}", f"{dead} silent" if dead else "all answer", _bad(dead)),
            Tile("ring", "Ring", "whole" if whole else "broken", f"{len(alive)} in it", Level.GOOD if whole else Level.BAD),
            _rate_tile("tunnels", "Tunnels/s", live, ("front_tunnels",), f"{words.count(_open(alive))} open"),
            Tile(
                "traffic",
                "Traffic",
                words.data(sum(track.rate(traffic) for track in live)) + "/s",
                "through all nodes",
                series=added([track.rates(traffic) for track in tracks.values()]),
                unit="B/s",
            ),
            _rate_tile("refused", "Refused/s", live, refused, "all kinds", warn_at=10.0),
            _rate_tile("handshakes", "Failed TLS/s", live, ("handshakes_failed",), "by strangers", warn_at=5.0),
            Tile("certificates", "Certificates", words.duration(min(left, default=0)), "the shortest left", _ending(left)),
            Tile(
                "revocations",
                "Revocation list",
                f"epoch {max(epochs, default=0)}",
                f"{words.plural(behind, 'node')} behind" if behind else f"{words.duration(max([*ages, 0]))} old",
                Level.WARN if behind or any(age > _STALE or age < 0 for age in ages) else Level.GOOD,
            ),
        )

    def _table(self, nodes: Mapping[str, Sample | str], tracks: Mapping[str, Track]) -> Table:
        rows = tuple(
            _row(name, sample, tracks[name]) if isinstance(sample, Sample) else _dead_row(name, sample)
            for name, sample in nodes.items()
        )
        columns = ("node", "state", "tunnels/s", "open", "load", "refused/s", "rtt", "cert", "links", "traffic", "list", "memory")
        return Table("nodes", "Nodes", columns, rows, tuple(range(2, len(columns))), "no node answers")

    def _plots(self, tracks: Mapping[str, Track]) -> tuple[Plot, ...]:
        longest = max(tracks.values(), key=lambda track: len(track.times), default=Track())
        every = list(tracks.values())

        def line(name: str, *names: str) -> Line:
            return Line(name, added([track.rates(names) for track in every])[-len(longest.times) :])

        return (
            Plot(
                "tunnels",
                "Tunnels that users opened",
                "per second",
                longest.times,
                (line("tunnels", "front_tunnels"), line("failed", "front_failed")),
            ),
            Plot(
                "traffic",
                "Traffic",
                "B/s",
                longest.times,
                (line("to users", "bytes_down", "front_bytes_down"), line("from users", "bytes_up", "front_bytes_up")),
            ),
            Plot(
                "refused",
                "Turned away",
                "per second",
                longest.times,
                (
                    line("connections", "connections_refused"),
                    line("handshakes", "handshakes_failed"),
                    line("requests", *(name for name in signs.REFUSED if name not in _DOOR)),
                    line("limits", *signs.LIMITS),
                ),
            ),
        )

    def _trouble(self, nodes: Mapping[str, Sample | str], alive: Mapping[str, Sample]) -> list[Sign]:
        found = []
        dead = [name for name in nodes if name not in alive]
        if dead:
            text = f"{words.plural(len(dead), 'node does', 'nodes do')} not answer: {', '.join(dead[:6])}"
            level = Level.BAD if 2 * len(dead) >= len(nodes) else Level.WARN
            found.append(Sign(level, text, "Users are carried around them. Start them again: `polder node run` there."))
        if alive and not whole_ring({name: sample.facts for name, sample in alive.items()}):
            text = "The ring is not whole: not every node is reached from every other"
            found.append(
                Sign(Level.WARN, text, "It repairs itself within seconds; if not, look at the network between the nodes.")
            )
        for name, sample in alive.items():
            found += [sign for sign in _node_signs(name, sample, self._last.at) if sign is not None]
        authority = self._last.parts.get("authority")
        if isinstance(authority, str):
            text = "The authority does not answer: users notice nothing, but nobody enrols, renews or is revoked"
            found.append(Sign(Level.WARN, text, "Start it: `polder authority serve`."))
        return sorted(found, key=lambda sign: sign.level is not Level.BAD)


def whole_ring(reports: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether every node that reports is in the ring, and following first successors from one reaches all of them once."""
    if not all(report.get("joined") for report in reports.values()):
        return False
    if len(reports) < 2:
        return True
    start = here = min(reports)
    seen = set()
    while here not in seen:
        seen.add(here)
        successors = [name for name in reports[here].get("successors", ()) if name in reports]
        first = reports[here].get("successors", ())[:1]
        if not successors or list(first) != successors[:1]:
            return False
        here = successors[0]
    return here == start and len(seen) == len(reports)


def _node_signs(name: str, sample: Sample, now: float) -> list[Sign | None]:
    found = [signs.certificate(f"node {name}", float(sample.facts["certificate_valid_for_s"]))]
    age = float(sample.facts.get("revocation_age_s", 0))
    if age > _STALE:
        text = f"The revocation list of node {name} is {words.duration(age)} old"
        found.append(Sign(Level.WARN, text, "The node hears neither the authority nor a peer that does."))
    if "clock" in sample.facts:
        found.append(signs.skew(f"node {name}", float(sample.facts["clock"]) - sample.at))
    return found


def _row(name: str, sample: Sample, track: Track) -> tuple[Cell, ...]:
    facts = sample.facts
    load = track.rate("cpu_ms", 10.0) / 10
    refused = track.rate(signs.REFUSED + signs.LIMITS)
    left = int(facts["certificate_valid_for_s"])
    links, up = int(facts.get("links", 0)), int(facts.get("links_up", 0))
    traffic = track.rate(("bytes_up", "bytes_down", "front_bytes_up", "front_bytes_down"))
    age = int(facts.get("revocation_age_s", -1))
    return (
        Cell(name),
        Cell("in the ring", Level.GOOD) if facts.get("joined") else Cell("joining", Level.WARN),
        Cell(words.rate(track.rate(("tunnels", "front_tunnels")))),
        Cell(words.count(track.last("tunnels_open") + track.last("front_tunnels_open"))),
        Cell(f"{load:.0f} %", Level.WARN if load > 90 else Level.PLAIN),
        Cell(words.rate(refused), Level.WARN if refused >= 5 else Level.PLAIN),
        Cell(words.millis(float(facts.get("rtt_us", 0)))),
        Cell(words.duration(left), _ending([left])),
        Cell(f"{up}/{links}", Level.WARN if up < links / 2 else Level.PLAIN),
        Cell(words.data(traffic) + "/s"),
        Cell("none" if age < 0 else words.duration(age), Level.WARN if age > _STALE or age < 0 else Level.PLAIN),
        Cell(words.data(track.last("rss_bytes"))),
    )


def _dead_row(name: str, why: str) -> tuple[Cell, ...]:
    return (Cell(name), Cell("silent", Level.BAD), *(Cell("–") for _ in range(10)))


def _rate_tile(
    which: str, label: str, tracks: list[Track], names: tuple[str, ...], note: str, warn_at: float | None = None
) -> Tile:
    value = sum(track.rate(names) for track in tracks)
    level = Level.WARN if warn_at is not None and value >= warn_at else Level.PLAIN
    series = added([track.rates(names) for track in tracks])
    return Tile(which, label, words.rate(value), note, level, series, "per second")


def _open(alive: Mapping[str, Sample]) -> float:
    return sum(s.counters.get("tunnels_open", 0) + s.counters.get("front_tunnels_open", 0) for s in alive.values())


def _bad(count: int) -> Level:
    return Level.BAD if count else Level.GOOD


def _ending(left: list[int]) -> Level:
    least = min(left, default=0)
    return Level.BAD if least <= 0 else Level.WARN if least < 3600 else Level.GOOD


def _next(found: list[Sign], nodes: Mapping[str, Sample | str]) -> str:
    if not nodes:
        return "start a node: `polder node run`; for all nodes of the overlay enrol an admin: `polder invite admin NAME`"
    return found[0].advice if found else "polder drill node-kill --fraction 0.2 rehearses a failure"
