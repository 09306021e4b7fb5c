"""The readable part of an export: one HTML page that stands alone, with the courses as SVG."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from polder.dashboard import words
from polder.incident.peaks import Course

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640, 120, 60, 20

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark"><title>Incident export, {made}</title>
<style>
:root {{ --ink: #16232b; --dim: #56666f; --line: #d6dee2; --ground: #ffffff; --curve: #0b6a8a; --bad: #b3261e; --good: #1a7f4b }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e6edf0; --dim: #9badb6; --line: #2b3840; --ground: #10181c;
 --curve: #62c4e3; --bad: #ff8a80; --good: #5ed39a }} }}
body {{ font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); max-width: 62rem;
 margin: 2rem auto; padding: 0 1rem }}
h1 {{ font-size: 1.5rem }} h2 {{ font-size: 1.1rem; margin-top: 2rem }} .dim {{ color: var(--dim) }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line) }}
th {{ color: var(--dim); font-weight: 500 }} td.n {{ text-align: right; font-variant-numeric: tabular-nums }}
.bad {{ color: var(--bad) }} .good {{ color: var(--good) }}
figure {{ margin: 1rem 0 }} figcaption {{ font-weight: 600 }} svg {{ width: 100%; max-width: {width}px; display: block }}
path {{ fill: none; stroke: var(--curve); stroke-width: 1.6 }} line {{ stroke: var(--line) }} text {{ fill: var(--dim); font-size: 11px }}
</style></head><body>
<h1>Incident export</h1>
<p class="dim">Made {made} by Polder {version}. {privacy}</p>
<h2>Peaks</h2>{peaks}
<h2>Parts</h2>{parts}
<h2>What the doctor found</h2>{findings}
<h2>What the logs say most</h2>{logs}
<h2>Courses</h2>{plots}
<p class="dim">Times are UTC. The raw data lies beside this page; manifest.json names every file's SHA-256.</p>
</body></html>
"""
_PSEUDONYMS = "Names of users and nodes and addresses are pseudonyms, the same throughout this export."
_PLAIN = "Names and addresses are real: do not pass it on lightly."


def page(
    facts: Mapping[str, Any],
    parts: Sequence[tuple[str, str]],
    findings: Sequence[Mapping[str, Any]],
    talk: Sequence[tuple[int, str, str]],
    courses: Sequence[Course],
) -> str:
    """The page. ``parts``: name and state; ``talk``: count, level and text of log lines. All of it already redacted."""
    peaks = [(c.part, c.name, _number(c), _stamp(c.peak_at)) for c in sorted(courses, key=lambda c: (c.name, -c.peak))]
    wrong = [(each["check"], each["what"], each["cure"]) for each in findings if each["good"] is False]
    return _PAGE.format(
        width=_WIDTH,
        made=_stamp(facts["made"]),
        version=html.escape(str(facts["version"])),
        privacy=_PLAIN if facts["revealed"] else _PSEUDONYMS,
        peaks=_table(("part", "what", "most", "when"), peaks, "Nothing was counted."),
        parts=_table(("part", "state"), parts, "Nothing is set up here."),
        findings=_table(("check", "what", "cure"), wrong, "Nothing wrong."),
        logs=_table(("times", "level", "text"), [(str(n), level, text) for n, level, text in talk], "No log lines."),
        plots="".join(_plot(course) for course in courses) or "<p>None.</p>",
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> str:
    if not rows:
        return f"<p>{empty}</p>"
    head = "".join(f"<th>{html.escape(each)}</th>" for each in heads)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _plot(course: Course) -> str:
    start, end = course.times[0], course.times[-1]
    span, height = max(end - start, 1.0), _HEIGHT - _BOTTOM - 8
    data, open_ = "", False
    for at, value in zip(course.times, course.values, strict=True):
        if value is None:
            open_ = False
            continue
        x = _LEFT + (at - start) / span * (_WIDTH - _LEFT - 8)
        y = 8 + height * (1 - value / course.peak)
        data += f"{'L' if open_ else 'M'}{x:.1f} {y:.1f}"
        open_ = True
    title = html.escape(f"{course.part}: {course.name}")
    base = _HEIGHT - _BOTTOM
    return (
        f'<figure><figcaption>{title}</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}, '
        f'peak {_number(course)} at {_stamp(course.peak_at)}"><line x1="{_LEFT}" x2="{_WIDTH}" y1="8" y2="8"/>'
        f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{base}" y2="{base}"/><path d="{data}"/>'
        f'<text x="{_LEFT - 6}" y="12" text-anchor="end">{_number(course)}</text>'
        f'<text x="{_LEFT - 6}" y="{base}" text-anchor="end">0</text><text x="{_LEFT}" y="{_HEIGHT - 4}">{_stamp(start)}</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT - 4}" text-anchor="end">{_stamp(end)}</text></svg></figure>'
    )


def _number(course: Course) -> str:
    return words.data(course.peak) if "bytes" in course.name else words.rate(course.peak)


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
