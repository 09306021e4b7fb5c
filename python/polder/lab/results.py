"""Results of experiments as files: JSON with rows and claims, a plot, and one generated table over all of them.

``bench/results/NAME.json`` holds ``name``, ``commit``, ``machine``, ``parameters``, ``rows`` (flat records, units in the field
names) and ``claims``. A claim is never written by hand: it names the rows that it looks at and how it folds them, so that a
reader (``polder lab claims``) computes it again and compares.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": lambda measured, bound: measured <= bound,
    ">=": lambda measured, bound: measured >= bound,
    "==": lambda measured, bound: measured == bound,
    "<": lambda measured, bound: measured < bound,
    ">": lambda measured, bound: measured > bound,
}
_FOLD: dict[str, Callable[[Sequence[float]], float]] = {
    "only": lambda values: _only(values),
    "min": min,
    "max": max,
    "sum": sum,
    "mean": statistics.fmean,
    "median": statistics.median,
    "count": len,
}


def _only(values: Sequence[float]) -> float:
    if len(values) != 1:
        raise ValueError(f"the claim names one row, and {len(values)} match")
    return values[0]


class BadResult(ValueError):
    """A result file that is not one, or whose claims do not follow from its rows. Run the experiment again."""


class NothingMeasured(BadResult):
    """No row has the number that a claim asks for."""


@dataclass(frozen=True)
class Measure:
    """How a claim is computed: fold ``field`` of the rows whose fields equal ``where``.

    ``fold`` is one of ``only min max sum mean median count``; ``over`` divides the number by another measure's. A row that
    lacks ``field`` does not match.
    """

    field: str
    where: Mapping[str, Any] = dataclass_field(default_factory=dict)
    fold: str = "only"
    over: Measure | None = None

    def of(self, rows: Sequence[Row]) -> float:
        """The number in ``rows``; raises ``BadResult`` when no row matches or the fold is not possible."""
        values = [
            row[self.field]
            for row in rows
            if row.get(self.field) is not None and all(row.get(key) == wanted for key, wanted in self.where.items())
        ]
        if not values and self.fold != "count":
            raise NothingMeasured(f"no row has {self.field} where {dict(self.where)}")
        try:
            number = float(_FOLD[self.fold](values))
        except (KeyError, ValueError, TypeError) as error:
            raise BadResult(f"cannot fold {self.field} with {self.fold!r}: {error}") from error
        return number / self.over.of(rows) if self.over else number

    def record(self) -> dict[str, Any]:
        """As it stands in the file."""
        out: dict[str, Any] = {"field": self.field, "where": dict(self.where), "fold": self.fold}
        return out | ({"over": self.over.record()} if self.over else {})

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Measure:
        """The inverse of ``record``."""
        over = cls.read(raw["over"]) if raw.get("over") else None
        return cls(raw["field"], raw.get("where", {}), raw.get("fold", "only"), over)


@dataclass(frozen=True)
class Claim:
    """Something that the rows must show. ``target`` is a comparison and a number, such as ``"<= 1.2"``."""

    id: str
    text: str
    target: str
    measure: Measure

    def judge(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The claim's record for the file: ``id, text, target, measured, holds`` and the ``measure`` that it came from.

        ``measured`` is ``None`` when no row has the number (nothing succeeded, so nothing was timed): that claim does not hold.
        """
        measured: float | None
        try:
            measured = round(self.measure.of(rows), 6)
        except NothingMeasured:
            measured = None
        return {
            "id": self.id,
            "text": self.text,
            "target": self.target,
            "measured": measured,
            "holds": measured is not None and holds(measured, self.target),
            "measure": self.measure.record(),
        }


def holds(measured: float, target: str) -> bool:
    """Whether a number meets a target such as ``">= 0.995"``; raises ``BadResult`` when the target is not one."""
    sign, _, bound = target.partition(" ")
    try:
        return _COMPARE[sign](measured, float(bound))
    except (KeyError, ValueError) as error:
        raise BadResult(f"{target!r} is not a target: write a comparison and a number, such as '<= 1.2'") from error


@dataclass(frozen=True)
class Result:
    """One experiment's outcome, before it is a file."""

    name: str
    parameters: Mapping[str, Any]
    rows: Sequence[Row]
    claims: Sequence[Claim]
    title: str = ""

    def record(self) -> dict[str, Any]:
        """The JSON object of the file; claims are computed here."""
        return {
            "name": self.name,
            "title": self.title or self.name,
            "commit": commit(),
            "machine": machine(),
            "parameters": dict(self.parameters),
            "rows": [dict(row) for row in self.rows],
            "claims": [claim.judge(self.rows) for claim in self.claims],
        }


Draw = Callable[[Any, Sequence[Row]], None]
"""Draws rows into a matplotlib ``Figure``."""


def write(result: Result, draw: Draw | None = None, directory: Path | None = None) -> Path:
    """Write ``NAME.json``, with ``draw`` also ``NAME.svg``, and the table; returns the JSON file's path.

    Writing is atomic: a reader sees the old file or the new one. ``draw`` needs the extra ``polder[lab]`` (matplotlib).
    """
    directory = directory or results_directory()
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{result.name}.json"
    if draw is not None:
        _write_figure(directory / f"{result.name}.svg", result, draw)
    _replace(path, json.dumps(result.record(), indent=1, ensure_ascii=False) + "\n")
    write_table(directory)
    return path


def _write_figure(path: Path, result: Result, draw: Draw) -> None:
    from polder.lab.plots import figure, save

    drawn = figure()
    draw(drawn, result.rows)
    save(drawn, path)


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text)
    draft.replace(path)


def read(path: Path) -> dict[str, Any]:
    """A result file with its claims computed again from its rows; raises ``BadResult`` when they do not follow."""
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
        for claim in raw["claims"]:
            again = Claim(claim["id"], claim["text"], claim["target"], Measure.read(claim["measure"])).judge(raw["rows"])
            if (again["measured"], again["holds"]) != (claim["measured"], claim["holds"]):
                raise BadResult(f"{path.name}: claim {claim['id']} does not follow from the rows")
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise BadResult(f"{path.name} is not a result file: {error!r}") from error
    return raw


def read_all(directory: Path | None = None) -> list[dict[str, Any]]:
    """Every result of the directory, by name."""
    return [read(path) for path in sorted((directory or results_directory()).glob("*.json"))]


def write_table(directory: Path) -> None:
    """Generate ``README.md`` in ``directory``: one row per claim of every result."""
    lines = [
        "# Results",
        "",
        "Generated from the JSON files beside it by `polder lab`; do not edit. `make claims` checks every claim again.",
        "",
        "| result | claim | target | measured | holds |",
        "|---|---|---|---|---|",
    ]
    for result in read_all(directory):
        name = result["name"]
        plot = f" ([plot]({name}.svg))" if (directory / f"{name}.svg").exists() else ""
        label = f"[{result.get('title', name)}]({name}.json){plot}, commit {result['commit'][:9]}"
        for claim in result["claims"]:
            verdict = "yes" if claim["holds"] else "**no**"
            lines.append(f"| {label} | {claim['text']} | {claim['target']} | {shown(claim['measured'])} | {verdict} |")
            label = ""
        if not result["claims"]:
            lines.append(f"| {label} | none: a record only | | | |")
    _replace(directory / "README.md", "\n".join(lines) + "\n")


def shown(measured: float | None) -> str:
    """A measured number for people."""
    return "nothing" if measured is None else f"{measured:.4g}"


def results_directory() -> Path:
    """Where results live: ``POLDER_RESULTS``, else ``bench/results`` of the checkout around the working directory."""
    if named := os.environ.get("POLDER_RESULTS"):
        return Path(named)
    here = Path.cwd()
    for place in (here, *here.parents):
        if (place / "bench").is_dir() and (place / "pyproject.toml").is_file():
            return place / "bench" / "results"
    return here / "bench" / "results"


def commit() -> str:
    """The checkout's commit, with ``+`` when files other than results differ from it; ``unknown`` outside a checkout."""
    try:
        ask = ["git", "-C", str(results_directory().parent.parent)]
        head = subprocess.run([*ask, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = [*ask, "status", "--porcelain", "-uno", "--", ":(top)", ":(top,exclude)bench/results"]
        changed = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed.strip() else "")


def machine() -> dict[str, Any]:
    """What the numbers were measured on: processor, cores, memory in GiB, kernel, Python."""
    model = next((line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "processor": model or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / (1 << 20), 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
