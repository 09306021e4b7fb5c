"""``User``: the view of somebody who reads: is it quick, through whom, and does my certificate hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polder.dashboard import relays, signs, words
from polder.dashboard.rates import Track
from polder.dashboard.values import Cell, Level, Line, Plot, Round, Sample, Sign, Table, Tile, View, headline, worst


class User:
    """The part ``user/NAME``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._part = f"user/{name}"
        self._track = Track()
        self._sample: Sample | str = "not asked yet"
        self._at = 0.0

    def take(self, look: Round) -> None:
        """One look at everything."""
        self._at = look.at
        self._sample = look.parts.get(self._part, "not set up here")
        if isinstance(self._sample, Sample):
            self._track.add(self._sample.at, {**self._sample.counters, "rtt_us": _rtt(self._sample)})

    def load(self, part: str, history: Mapping[str, Any]) -> None:
        """What the forwarder remembers from before."""
        if part == self._part:
            self._track.load(history)

    def view(self) -> View:
        """Everything on the screen."""
        title = f"Reading as {self.name}"
        if not isinstance(self._sample, Sample):
            sign = Sign(Level.BAD, "The forwarder does not run", "Start it: `polder connect`")
            return View("user", title, self._at, Level.BAD, sign.text, signs=(sign,), next=sign.advice)
        found = self._signs(self._sample)
        return View(
            kind="user",
            title=title,
            at=self._at,
            level=worst(*(sign.level for sign in found)),
            headline=headline(found, "All is well."),
            tiles=self._tiles(self._sample),
            plots=self._plots(),
            tables=(_points(self._sample), *relays.tables(self._sample.facts["relays"]), _sites(self._sample)),
            signs=tuple(found),
            next=found[0].advice if found else f"set {self._sample.facts['pac']} in a browser, or `polder browse SITE`",
        )

    # Parts of the view

    def _tiles(self, sample: Sample) -> tuple[Tile, ...]:
        track, facts = self._track, sample.facts
        requests, failed = ("front_requests",), ("front_failed", "front_internal")
        used = _in_use(sample)
        left = int(facts["certificate_valid_for_s"])
        return (
            Tile("point", "Access point", used or "none", f"of {len(facts['access_points'])}", Level.GOOD if used else Level.BAD),
            relays.tile(facts["relays"]),
            Tile("rtt", "Latency", words.millis(_rtt(sample)), "to it and back", series=track.gauge("rtt_us"), unit="µs"),
            Tile("requests", "Requests/s", words.rate(track.rate(requests)), f"{words.count(track.last('front_tunnels_open'))} open",
                 series=track.rates(requests), unit="per second"),
            Tile("traffic", "To you", words.data(track.rate("front_bytes_down")) + "/s", "through the overlay",
                 series=track.rates("front_bytes_down"), unit="B/s"),
            Tile("failovers", "Failovers", words.count(track.last("failovers")), "nobody noticed",
                 series=track.rates("failovers"), unit="per second"),
            Tile("failed", "Failed", words.count(sum(track.last(name) for name in failed)), "requests since the start",
                 Level.BAD if track.rate(failed) > 0 else Level.PLAIN, track.rates(failed), "per second"),
            Tile("certificate", "Certificate", words.duration(left), "renewed by itself", Level.WARN if left < 3600 else Level.GOOD),
        )  # fmt: skip

    def _plots(self) -> tuple[Plot, ...]:
        track = self._track
        rtt = tuple(None if value is None else value / 1000 for value in track.gauge("rtt_us"))
        return (
            Plot("requests", "Requests", "per second", track.times,
                 (Line("asked", track.rates("front_requests")), Line("failed", track.rates(("front_failed", "front_internal"))))),
            Plot("traffic", "Traffic", "B/s", track.times,
                 (Line("to you", track.rates("front_bytes_down")), Line("from you", track.rates("front_bytes_up")))),
            Plot("latency", "Latency to the access point", "ms", track.times, (Line("round trip", rtt),)),
        )  # fmt: skip

    def _signs(self, sample: Sample) -> list[Sign]:
        found = []
        if not _in_use(sample):
            text = "No access point answers: nothing can be read"
            found.append(Sign(Level.BAD, text, "Look whether this machine has a network; others are tried without end."))
        found += relays.signs(sample.facts["relays"])
        if self._track.rate(("front_failed", "front_internal")) > 0:
            found.append(Sign(Level.WARN, "Requests fail", "The site itself may be down: ask its owner."))
        if self._track.rate("front_refused_denied") > 0:
            found.append(Sign(Level.NOTE, "A site refuses you", "Its access rules do not name you: ask its owner."))
        ending = signs.certificate("you", float(sample.facts["certificate_valid_for_s"]), life=2_592_000.0)
        found += [ending] if ending else []
        return found


def _bulk(sample: Sample) -> dict[str, Mapping[str, Any]]:
    """Access point → the link that carries."""
    return {str(link["name"]): link for link in sample.links if link.get("lane") == "bulk"}


def _in_use(sample: Sample) -> str:
    """The access point that is asked first: linked, with the shortest measured round trip (crates/http, ``Forwarder``)."""
    links = _bulk(sample)
    up = [name for name in sample.facts["access_points"] if name in links and links[name]["up"]]
    return min(up, key=lambda name: float(links[name]["rtt_us"] or 1e12), default="")


def _rtt(sample: Sample) -> float:
    link = _bulk(sample).get(_in_use(sample))
    return float(link["rtt_us"]) if link else 0.0


def _points(sample: Sample) -> Table:
    links, used = _bulk(sample), _in_use(sample)
    rows = []
    for name in sample.facts["access_points"]:
        link = links.get(name)
        state = Cell("in use", Level.GOOD) if name == used else Cell("not linked")
        if link is not None and name != used:
            state = Cell("ready", Level.PLAIN) if link["up"] else Cell("down", Level.WARN)
        rows.append((Cell(name), state, Cell(words.millis(float(link["rtt_us"])) if link else "–")))
    return Table("points", "Access points", ("access point", "state", "latency"), tuple(rows), (2,), "none is known")


def _sites(sample: Sample) -> Table:
    rows = tuple((Cell(str(host)),) for host in sample.facts["sites"])
    return Table("sites", "Sites", ("host",), rows, (), "none yet: the operator has registered no site")
