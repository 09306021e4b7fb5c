"""``make bench`` part ``upgrade``: every process is reloaded and upgraded, again and again, and nobody is dropped.

Real processes on loopback: four nodes, two sites that dial out (path modes beacon and ring), one user whose forwarder is replaced as
well. He loads pages, holds WebSockets from the first second to the last, and downloads. Each upgrade starts the installed program
beside the old process, hands over, and lets the old one drain. Writes ``bench/results/upgrade.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.support.origin import Origin
from tests.support.overlay import Overlay, Process
from tests.support.readers import Readers, Seen

from bench import report
from polder.lab.plots import DIKE, SEA
from polder.lab.results import Claim, Measure, Result

NODES = ("n1", "n2", "n3", "n4")
SITES = {"wiki": "beacon", "blog": "ring"}
ROUNDS, QUICK_ROUNDS = 5, 1
RATE = 5.0
SOCKETS = 3


def build(root: Path, origin: Origin) -> tuple[Overlay, dict[str, Process]]:
    """The overlay, and what is replaced in it, by name."""
    overlay = Overlay(root)
    overlay.found()
    for name in NODES:
        overlay.enrol_node(name)
        (overlay.state(name) / "node" / "conf.d" / "test.toml").unlink()  # timers as they are by default
    for name in NODES:
        overlay.run_node(name)
    agents = {}
    for name, mode in SITES.items():
        overlay.enrol_site(name, f"{name}.test")
        settings = f'name = "{name}"\norigin = "http://{origin.address}"\nallow = ["anyone"]\nmode = "{mode}"\n'
        agents[f"site {name}"] = overlay.run_site(name, settings)
    overlay.wait_ring(len(NODES))
    for name in SITES:
        overlay.wait_site(name)
    overlay.enrol_user("ann")
    nodes = {f"node {name}": process for name, process in overlay.nodes.items()}
    return overlay, nodes | agents | {"forwarder": overlay.connect("ann")}


async def measure(parts: dict[str, Process], rounds: int) -> list[dict[str, Any]]:
    """One row for each reload and upgrade: what the readers saw from its beginning until the next."""
    rows: list[dict[str, Any]] = []
    proxy = str(parts["forwarder"].hello["proxy"])
    readers = {site: Readers(proxy, f"{site}.test", rate=RATE, sockets=SOCKETS) for site in SITES}
    async with AsyncExitStack() as stack:
        seen = [await stack.enter_async_context(one.reading()) for one in readers.values()]

        async def settle() -> None:
            await asyncio.gather(*(one.moved() for one in readers.values()))

        await settle()
        for turn in range(1, rounds + 1):
            for name, process in parts.items():
                for what in ("reload", "upgrade"):
                    before, began = total(seen), time.monotonic()
                    if what == "reload":
                        os.kill(process.pid, signal.SIGHUP)
                    else:
                        await asyncio.to_thread(process.upgrade)
                    took = time.monotonic() - began
                    await settle()
                    rows.append({"round": turn, "part": name, "what": what, "took_s": round(took, 2)} | since(before, seen))
    rows.append({"part": "all", "what": "to the end"} | {"round": 0} | total(seen))
    for one in seen:
        for trouble in one.troubles:
            print(trouble, file=sys.stderr)
    return rows


def total(seen: list[Seen]) -> dict[str, Any]:
    """All readers together."""
    every = [asdict(one) | {"dropped": one.dropped} for one in seen]
    slowest = max(one.slowest for one in seen)
    sums = {key: sum(one[key] for one in every) for key in every[0] if key not in ("slowest", "troubles")}
    return sums | {"slowest_page_s": round(slowest, 3)}


def since(before: dict[str, Any], seen: list[Seen]) -> dict[str, Any]:
    """What came after ``before``; the slowest page of all so far."""
    now = total(seen)
    return {key: now[key] if key == "slowest_page_s" else now[key] - before[key] for key in now}


def claims(parts: int, rounds: int) -> list[Claim]:
    """What must hold."""
    whole = {"what": "to the end"}
    return [
        Claim("upgrade.dropped", "pages, WebSockets and downloads lost", "== 0", Measure("dropped", whole)),
        Claim("upgrade.upgrades", "processes replaced", f"== {parts * rounds}", Measure("took_s", {"what": "upgrade"}, "count")),
        Claim("upgrade.slowest", "slowest page, seconds", "<= 3", Measure("slowest_page_s", whole)),
    ]


def draw(drawn: Any, rows: Any) -> None:
    """How long each part's upgrades took, and the slowest page so far."""
    left, right = drawn.subplots(1, 2)
    upgrades = [row for row in rows if row["what"] == "upgrade"]
    names = list(dict.fromkeys(row["part"] for row in upgrades))
    for row in upgrades:
        left.plot(row["took_s"], names.index(row["part"]), "o", color=SEA)
    left.set_yticks(range(len(names)), names)
    left.set(title="Until the new process serves", xlabel="seconds")
    right.plot(range(1, len(upgrades) + 1), [row["slowest_page_s"] for row in upgrades], color=DIKE)
    right.set(title="Slowest page so far; none was lost", xlabel="upgrades", ylabel="seconds")
    right.set_ylim(bottom=0)


def main() -> int:
    """Measure; exit status 3 if a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} round instead of {ROUNDS}, and nothing is written")
    quick = parser.parse_args().quick
    rounds = QUICK_ROUNDS if quick else ROUNDS
    with tempfile.TemporaryDirectory(prefix="polder-upgrade-") as folder:
        origin = Origin().start()
        overlay, parts = build(Path(folder), origin)
        try:
            rows = asyncio.run(measure(parts, rounds))
        finally:
            overlay.close()
            origin.stop()
    for row in rows:
        print(row)
    parameters = {
        "nodes": len(NODES), "sites": SITES, "rounds": rounds, "pages_per_s_each": RATE, "sockets_each": SOCKETS, "timers": "default",
    }  # fmt: skip
    result = Result("upgrade", parameters, rows, claims(len(parts), rounds), "Reloads and upgrades under load")
    return report.finish(result, draw, record=not quick, rows=False)


if __name__ == "__main__":
    sys.exit(main())
