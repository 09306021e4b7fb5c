"""The demo's report: one figure (PNG and SVG) and one HTML page that stands alone."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polder.lab.phases import Outcome
from polder.lab.plots import DIKE, FLOOD, INK, MIST, SEA, figure, save
from polder.lab.results import shown
from polder.lab.story import goodput_series

_SLICES = 40
_COLOURS = {"unprotected": FLOOD, "quiet": SEA, "protected": DIKE}

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.6 system-ui, sans-serif; color: #1f2933; max-width: 62rem; margin: 3rem auto; padding: 0 1.2rem }}
h1 {{ font-size: 1.7rem; margin-bottom: .2rem }} .sub {{ color: #5f6c7b; margin-top: 0 }}
table {{ border-collapse: collapse; margin: 1.4rem 0; width: 100% }}
th, td {{ text-align: right; padding: .45rem .7rem; border-bottom: 1px solid #e3e8ed }}
th:first-child, td:first-child {{ text-align: left }} th {{ color: #5f6c7b; font-weight: 600; font-size: .86rem }}
.yes {{ color: #2f7d5a; font-weight: 700 }} .no {{ color: #b3384b; font-weight: 700 }}
img {{ width: 100%; height: auto }} code {{ background: #f2f5f8; padding: .1rem .3rem; border-radius: 3px }}
</style>
<h1>{title}</h1>
<p class="sub">{subtitle}</p>
<img alt="Goodput, page times and the flood over time" src="data:image/svg+xml;base64,{figure}">
<table>
<tr><th>phase</th><th>page loads</th><th>good within 5 s</th><th>goodput</th><th>median page</th><th>95 %</th><th>flood</th></tr>
{rows}</table>
<table><tr><th>what must hold</th><th>target</th><th>measured</th><th></th></tr>
{claims}</table>
<p>{notes}</p>
<p class="sub">Polder {commit} on {machine}. {setting} Logs: <code>{logs}</code></p>
</html>
"""


_SETTING = (
    "Every packet was real: network namespaces, a kernel-shaped link of 10 Mbit/s, nginx, nftables on the router before that link; "
    "nothing outside this machine was touched."
)


def write(record: dict[str, Any], outcomes: Sequence[Outcome], folder: Path, logs: Path, notes: str = "") -> Path:
    """Write ``demo.png``, ``demo.svg`` and ``index.html``; returns the page's path. ``record`` is the result's JSON object."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = figure(10.5, 7.2)
    draw(drawn, outcomes)
    for suffix in ("png", "svg"):
        save(drawn, folder / f"demo.{suffix}")
    picture = base64.b64encode((folder / "demo.svg").read_bytes()).decode()
    titles = {outcome.plan.name: outcome.plan.title for outcome in outcomes}
    machine = record["machine"]
    page = _PAGE.format(
        title=html.escape(record["title"]),
        subtitle="The same readers, the same flood. Only the way to the site differs.",
        figure=picture,
        rows="\n".join(_row(titles[row["phase"]], row) for row in record["rows"]),
        claims="\n".join(map(_claim, record["claims"])),
        notes=html.escape(notes),
        setting="" if notes else _SETTING,
        commit=html.escape(record["commit"][:12]),
        machine=html.escape(f"{machine['processor']}, {machine['cores']} cores, Linux {machine['kernel']}"),
        logs=html.escape(str(logs)),
    )
    path = folder / "index.html"
    path.write_text(page)
    return path


def _row(title: str, row: dict[str, Any]) -> str:
    def ms(value: float | None) -> str:
        return "–" if value is None else f"{value:.0f} ms"

    cells = [
        html.escape(title),
        row["pages"],
        f"{100 * row['success']:.1f} %",
        f"{row['goodput_mbit_s']:.2f} Mbit/s",
        ms(row["median_ms"]),
        ms(row["p95_ms"]),
        f"{row['flood_mbit_s']:.0f} Mbit/s" if row["flood_mbit_s"] else "none",
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _claim(claim: dict[str, Any]) -> str:
    verdict = '<span class="yes">holds</span>' if claim["holds"] else '<span class="no">fails</span>'
    cells = [html.escape(claim["text"]), html.escape(claim["target"]), shown(claim["measured"]), verdict]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def draw(drawn: Any, outcomes: Sequence[Outcome]) -> None:
    """Three strips over the phases: every page load, goodput, and what came at the site."""
    top, middle, bottom = drawn.subplots(3, 1, sharex=True, height_ratios=(2.2, 1.6, 1.2))
    offset = 0.0
    for outcome in outcomes:
        seconds = outcome.plan.seconds
        colour = _COLOURS.get(outcome.plan.name, SEA)
        _pages(top, outcome, offset, colour)
        _goodput(middle, outcome, offset, colour)
        _flood(bottom, outcome, offset)
        for axes in (top, middle, bottom):
            axes.axvspan(offset, offset + seconds, color=colour, alpha=0.06, linewidth=0)
        row = outcome.row()
        text = f"{outcome.plan.title}\n{100 * row['success']:.1f} % of {row['pages']} page loads"
        top.text(offset + seconds / 2, 1.03, text, transform=_above(top), ha="center", color=colour, weight="bold", fontsize=10)
        offset += seconds * 1.06
    limit = max(reader.limit for outcome in outcomes for reader in outcome.plan.readers.values())
    top.axhline(limit, color=MIST, linewidth=1, linestyle=(0, (4, 3)))
    top.text(0, limit, " given up after 5 s", va="bottom", color=MIST, fontsize=8.5)
    top.set(ylabel="page time, s", yscale="log", ylim=(0.1, 9))
    top.set_yticks([0.1, 0.2, 0.5, 1, 2, 5], labels=["0.1", "0.2", "0.5", "1", "2", "5"])
    top.minorticks_off()
    middle.set(ylabel="goodput, Mbit/s", ylim=(0, 10))
    bottom.set(ylabel="at the site's\nrouter, Mbit/s", xlabel="seconds", xlim=(-0.5, offset))
    bottom.set_ylim(0, max(12.0, 1.1 * max((one.flood_mbit_s for outcome in outcomes for one in outcome.samples), default=0.0)))
    bottom.axhline(10, color=INK, linewidth=1, linestyle=(0, (2, 2)))
    bottom.text(offset, 10, "the link's 10 ", ha="right", va="bottom", fontsize=8.5, color=INK)


def _above(axes: Any) -> Any:
    """x in data, y in the axes' height."""
    return axes.get_xaxis_transform()


def _pages(axes: Any, outcome: Outcome, offset: float, colour: str) -> None:
    good = [(offset + one.start - outcome.start, one.seconds) for one in outcome.loads if one.good]
    bad = [(offset + one.start - outcome.start, one.seconds) for one in outcome.loads if not one.good]
    if good:
        axes.scatter(*zip(*good, strict=True), s=16, color=colour, alpha=0.75, linewidths=0)
    if bad:
        axes.scatter(*zip(*bad, strict=True), s=30, color=FLOOD, marker="x", linewidths=1.4)


def _goodput(axes: Any, outcome: Outcome, offset: float, colour: str) -> None:
    seconds = outcome.plan.seconds
    slices = max(4, min(_SLICES, int(seconds)))
    values = goodput_series(outcome, seconds, slices)
    edges = [offset + seconds * index / slices for index in range(slices + 1)]
    axes.stairs(values, edges, fill=True, color=colour, alpha=0.75)


def _flood(axes: Any, outcome: Outcome, offset: float) -> None:
    within = [one for one in outcome.samples if 0 <= one.at <= outcome.plan.seconds + 0.5]
    times = [offset + min(one.at, outcome.plan.seconds) for one in within]
    axes.fill_between(times, [one.flood_mbit_s for one in within], color=FLOOD, alpha=0.35, linewidth=0, label="flood")
    axes.plot(times, [one.narrow_mbit_s for one in within], color=INK, linewidth=1.3, label="through the narrow link")
    if offset == 0:
        axes.legend(loc="upper right", ncols=2, fontsize=8.5)
