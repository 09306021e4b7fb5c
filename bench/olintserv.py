"""``python -m bench olintserv``: show 7 of BandEx, OLIntServ. Writes ``olintserv.json`` and ``.svg``.

A live stream of 3 Mbit/s from a site behind one narrow last hop to a user behind another, with reservations of both hops and the spread
plane, with one of the two, with neither. Cross traffic of twice the lines' rate fills both, both ways; then three of ten nodes die
unnoticed, among them the one that carries. All parts are the product's own processes (``polder demo olintserv`` is one round).
"""

from __future__ import annotations

import asyncio
import sys

from bench import report
from polder.lab import experiment
from polder.lab.olintserv.report import draw, result
from polder.lab.olintserv.run import Run

SECONDS, ROUNDS = 30.0, 3
QUICK_SECONDS = 15.0


def main() -> int:
    """Show, settle, write, print."""
    chosen = report.arguments("olintserv", __doc__, f"one round of {QUICK_SECONDS:g} s each").parse_args()
    seconds, rounds = (QUICK_SECONDS, 1) if chosen.quick else (SECONDS, ROUNDS)
    folder = experiment.new_directory("olintserv").resolve()

    def inside() -> int:
        run = Run(folder, seconds, rounds)
        run.say = lambda line: print(f"  {line}", flush=True)
        asyncio.run(run.go())
        report.show([{key: value for key, value in row.items() if not isinstance(value, list)} for row in run.rows])
        return report.finish(result(run), draw, record=not chosen.no_record, rows=False)

    return report.enclosed(inside)


if __name__ == "__main__":
    sys.exit(main())
