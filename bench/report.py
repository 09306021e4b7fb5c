"""How every measurement ends: rows and claims are printed, and written if this was a run that counts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from polder.lab import enclosure, results
from polder.lab.results import Draw, Result


def finish(result: Result, draw: Draw | None = None, *, record: bool, rows: bool = True) -> int:
    """Print, and with ``record`` write ``NAME.json`` and ``.svg``; exit status 3 if a claim does not hold."""
    if rows:
        show(result.rows)
    judged = result.record()["claims"]
    for claim in judged:
        verdict = "holds" if claim["holds"] else "FAILS"
        print(f"{verdict}  {claim['text']}: {results.shown(claim['measured'])} ({claim['target']})")
    if record:
        print(f"wrote {results.write(result, draw)}")
    return 0 if all(claim["holds"] for claim in judged) else 3


def enclosed(main: Callable[[], int]) -> int:
    """Run ``main`` in namespaces of its own; exit status 77, and why, where this machine gives none."""
    try:
        return enclosure.run(main)
    except enclosure.NoNamespacesError as error:
        print(error, file=sys.stderr)
        return 77


def show(rows: Sequence[Any]) -> None:
    """One line per row."""
    for row in rows:
        print(" ".join(f"{key}={value}" for key, value in row.items() if key != "peer"))


def arguments(program: str, about: str | None, quick: str = "less of everything") -> argparse.ArgumentParser:
    """The options that measurements share."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{program}", description=about)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--no-record", action="store_true", help="print only")
    return parser
