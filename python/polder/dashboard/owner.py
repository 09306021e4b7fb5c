"""``Owner``: the view of a site's owner: readers, servlets, the perimeter, and how exposed the way in is.

Servlets are numbered, not named, unless the owner asks: a screen is easily photographed, and their names are the site's secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polder.dashboard import signs, words
from polder.dashboard.rates import Track
from polder.dashboard.values import Action, Cell, Level, Line, Plot, Round, Sample, Sign, Table, Tile, View, headline, worst

_FILTER_ATTACK = 100.0
"""Packets per second that the filter refuses: a scan makes fewer."""


class Owner:
    """The part ``site/NAME``. ``reveal``: tell servlets' names."""

    def __init__(self, site: str, *, reveal: bool = False) -> None:
        self.site = site
        self._part = f"site/{site}"
        self._reveal = reveal
        self._track = Track()
        self._sample: Sample | str = "not asked yet"
        self._at = 0.0

    def take(self, look: Round) -> None:
        """One look at everything."""
        self._at = look.at
        self._sample = look.parts.get(self._part, "not set up here")
        if isinstance(self._sample, Sample):
            self._track.add(self._sample.at, self._sample.counters)

    def load(self, part: str, history: Mapping[str, Any]) -> None:
        """What the agent remembers from before."""
        if part == self._part:
            self._track.load(history)

    def view(self) -> View:
        """Everything on the screen."""
        title = f"Site {self.site}"
        if not isinstance(self._sample, Sample):
            sign = Sign(Level.BAD, f"The agent of {self.site} does not answer", f"Start it: `polder site run {self.site}`")
            return View("owner", title, self._at, Level.BAD, sign.text, signs=(sign,), next=sign.advice)
        facts = self._sample.facts
        found = self._signs(facts)
        return View(
            kind="owner",
            title=title,
            at=self._at,
            level=worst(*(sign.level for sign in found)),
            headline=headline(found, "Quiet: readers are served, nothing needs you."),
            tiles=self._tiles(facts),
            plots=self._plots(),
            tables=(self._servlets(facts),),
            signs=tuple(found),
            actions=self._actions(facts),
            next=found[0].advice if found else f"polder site rotate {self.site} draws fresh servlets",
        )

    # Parts of the view

    def _tiles(self, facts: Mapping[str, Any]) -> tuple[Tile, ...]:
        track = self._track
        serving, wanted = int(facts["serving"]), _wanted(facts)
        rotation = facts.get("rotation_in_s")
        exposed, pool = int(facts["exposed"]), int(facts["pool"])
        left = int(facts["certificate_valid_for_s"])
        refused = track.rate("filter_refused_packets")
        known = "filter_refused_packets" in self._sample.counters if isinstance(self._sample, Sample) else False
        return (
            Tile("streams", "Streams/s", words.rate(track.rate("tunnels")), f"{words.count(track.last('tunnels_open'))} open",
                 series=track.rates("tunnels"), unit="per second"),
            Tile("traffic", "To readers", words.data(track.rate("bytes_down")) + "/s",
                 f"{words.data(track.rate('bytes_up'))}/s from them", series=track.rates("bytes_down"), unit="B/s"),
            Tile("servlets", "Servlets", str(serving), "serve", _serving(serving, wanted), track.gauge("serving"), "servlets"),
            Tile("attack", "Filter refuses", f"{words.count(refused)} /s" if known else "–",
                 f"{words.data(track.rate('filter_refused_bytes'))}/s" if known else "no helper to ask",
                 Level.WARN if refused >= _FILTER_ATTACK else Level.PLAIN, track.rates("filter_refused_packets"), "packets/s"),
            Tile("exposure", "Exposure", f"{exposed} of {max(pool, exposed)}", "knew the way in",
                 Level.NOTE if pool and exposed > pool / 2 else Level.PLAIN, track.gauge("exposed"), "nodes"),
            Tile("rotation", "Next rotation", "–" if rotation is None else words.duration(float(rotation)), f"epoch {facts['epoch']}"),
            Tile("failed", "Failed/s", words.rate(track.rate(("tunnels_failed",))), "streams to the origin",
                 Level.BAD if track.rate("tunnels_failed") >= 0.5 else Level.PLAIN, track.rates("tunnels_failed"), "per second"),
            Tile("certificate", "Certificate", words.duration(left), "left", Level.WARN if left < 3600 else Level.GOOD),
        )  # fmt: skip

    def _servlets(self, facts: Mapping[str, Any]) -> Table:
        stages: Mapping[str, str] = facts.get("servlets", {})
        links = {str(link["name"]): link for link in (self._sample.links if isinstance(self._sample, Sample) else ())}
        rows = []
        for number, (name, stage) in enumerate(sorted(stages.items()), 1):
            link = links.get(name)
            level = {"serving": Level.GOOD, "draining": Level.NOTE}.get(stage, Level.WARN)
            rows.append(
                (
                    Cell(name if self._reveal else f"servlet {number}"),
                    Cell(stage, level),
                    Cell("–" if link is None else "up" if link["up"] else "down", Level.PLAIN),
                    Cell(words.millis(float(link["rtt_us"])) if link else "–"),
                )
            )
        title = "Servlets" if self._reveal else "Servlets (--reveal names them)"
        return Table("servlets", title, ("servlet", "state", "link", "rtt"), tuple(rows), (3,), "no servlet is drawn yet")

    def _plots(self) -> tuple[Plot, ...]:
        track = self._track
        return (
            Plot("streams", "Streams opened", "per second", track.times,
                 (Line("opened", track.rates("tunnels")), Line("failed", track.rates("tunnels_failed")))),
            Plot("traffic", "Traffic", "B/s", track.times,
                 (Line("to readers", track.rates("bytes_down")), Line("from readers", track.rates("bytes_up")))),
            Plot("filter", "At the perimeter", "packets/s", track.times,
                 (Line("refused", track.rates("filter_refused_packets")), Line("admitted", track.rates("filter_gre_packets")))),
        )  # fmt: skip

    def _signs(self, facts: Mapping[str, Any]) -> list[Sign]:
        track, found = self._track, []
        refused = track.rate("filter_refused_packets")
        if refused >= _FILTER_ATTACK:
            text = f"The perimeter refuses {words.count(refused)} packets/s ({words.data(track.rate('filter_refused_bytes'))}/s): an attack"
            advice = "Readers come through the overlay and notice nothing. `polder incident export` keeps the evidence."
            found.append(Sign(Level.WARN, text, advice))
        elif (peak := max((v or 0.0 for v in track.rates("filter_refused_packets")), default=0.0)) >= _FILTER_ATTACK:
            text = f"The perimeter refused up to {words.count(peak)} packets/s within the last minutes: an attack has ended"
            found.append(Sign(Level.NOTE, text, "`polder incident export` keeps the evidence; it reaches back six hours."))
        if not facts["serving"]:
            found.append(Sign(Level.BAD, "No servlet serves: readers cannot come in", "Look at the agent's log: `polder doctor`"))
        elif int(facts["serving"]) < _wanted(facts):
            found.append(Sign(Level.NOTE, "A servlet is being replaced", "Nothing to do: readers use the other one."))
        if int(facts["pool"]) and 2 * int(facts["exposed"]) > int(facts["pool"]) > 4:
            text = f"{facts['exposed']} of {facts['pool']} nodes have known the way in"
            found.append(Sign(Level.NOTE, text, "Each may have kept it. Rotate less often, or move the edge address."))
        found += signs.of([track])
        ending = signs.certificate(f"site {self.site}", float(facts["certificate_valid_for_s"]))
        found += [ending] if ending else []
        return sorted(found, key=lambda sign: (sign.level is not Level.BAD, sign.level is not Level.WARN))

    def _actions(self, facts: Mapping[str, Any]) -> tuple[Action, ...]:
        rotate = Action("rotate", "Rotate now", "Draw fresh servlets now? Open streams are kept.")
        names = tuple(sorted(facts.get("servlets", {})))
        if not self._reveal or not names:
            return (rotate,)
        return rotate, Action("burn", "Burn a servlet", "Take it out of filter and beacons at once, for good?", names)


def _wanted(facts: Mapping[str, Any]) -> int:
    """Servlets that should serve: those in place that are not on their way out."""
    return sum(stage != "draining" for stage in facts.get("servlets", {}).values())


def _serving(serving: int, wanted: int) -> Level:
    return Level.BAD if not serving else Level.WARN if serving < wanted else Level.GOOD
