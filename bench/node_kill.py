"""``make bench`` part ``node-kill``: nodes die or hang under a steady page load, and readers notice nothing.

Real processes on loopback: eight nodes, a site in path mode ``ring`` and one in ``beacon`` (both dial out to two servlets), four
users with forwarders on different access points, 20 pages a second. In each repetition a ring hop, a beacon, the servlet in use
and the access point in use are struck one after another, then three of the eight nodes at once, drawn at random, then both
servlets of a site with one of its beacons. Who is struck is found out at that moment through the administrators' sockets. Between
two strikes the struck are started again, and eight nodes live before each. ``SIGKILL`` kills; ``SIGSTOP`` makes hang.
Writes ``bench/results/node-kill.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.support.kills import Load, Roles, choose, revive, strike, summary
from tests.support.origin import Origin
from tests.support.overlay import Overlay

from polder.lab import results
from polder.lab.plots import DIKE, SEA
from polder.lab.results import Claim, Measure, Result

NODES = tuple(f"n{n}" for n in range(1, 9))
RING_SITE, BEACON_SITE = "blog", "wiki"
SITES = {RING_SITE: "ring", BEACON_SITE: "beacon"}
SERVLETS = 2
USERS = 4
RATE = 20.0
STEPS = ("ring hop", "beacon", "servlet", "access point", "three of eight", "both servlets and a beacon")
HOW = {"killed": signal.SIGKILL, "hung": signal.SIGSTOP}
BEFORE_S, AFTER_S = 2.0, 10.0


def build(folder: Path, origin: Origin) -> tuple[Overlay, list[str]]:
    """The overlay, and the users' proxies."""
    overlay = Overlay(folder)
    overlay.found()
    for name in NODES:
        overlay.enrol_node(name, "", plain=True)
    for name in NODES:
        overlay.run_node(name)
    for site, mode in SITES.items():
        overlay.enrol_site(site, f"{site}.test")
        overlay.run_site(
            site,
            f'name = "{site}"\norigin = "http://{origin.address}"\nallow = ["anyone"]\nmode = "{mode}"\nservlets = {SERVLETS}\n'
            f'[origins]\n443 = "{origin.secure_address}"\n',
        )
    overlay.wait_ring(len(NODES))
    for site in SITES:
        overlay.wait_site(site)
    proxies = []
    for number in range(USERS):
        state = overlay.enrol_user(f"u{number}")
        first = 2 * number % len(NODES)
        points = ", ".join(f'"{name}"' for name in (*NODES[first:], *NODES[:first]))
        file = next(state.glob("user/*/chain.pem"), next(state.glob("user/*/*"))).parent / "client.toml"
        file.write_text(f"access_points = [{points}]\n")
        proxies.append(overlay.connect(f"u{number}").hello["proxy"])
    return overlay, proxies


async def run(overlay: Overlay, load: Load, seed: int, how: str, steps: tuple[str, ...] = STEPS) -> list[dict[str, Any]]:
    """One repetition: a row for each strike."""
    rng, roles, rows = random.Random(seed), Roles(overlay), []
    async with load.running():
        for step in steps:
            await roles.until_served(dict.fromkeys(SITES, SERVLETS), 4)
            await asyncio.sleep(BEFORE_S)
            victims = await choose(overlay, step, RING_SITE, BEACON_SITE, rng)
            began = time.monotonic()
            await strike(overlay, victims, HOW[how])
            alive = [name for name in overlay.nodes if name not in victims]
            ring_s = await roles.until_in_order(alive)
            await asyncio.sleep(max(0.0, began + AFTER_S - time.monotonic()))
            pages = load.between(began - BEFORE_S, time.monotonic() - 3)
            row = {
                "seed": seed,
                "how": how,
                "step": step,
                "struck": len(victims),
                **summary(pages),
                "ring_repaired_s": round(ring_s, 2),
            }
            rows.append(row)
            print(row, flush=True)
            for page in pages:
                if page.trouble or page.seconds > 3:
                    print(f"  {page.began - began:+.2f} s: {page.site}: {page.seconds:.2f} s {page.trouble}", file=sys.stderr)
            await revive(overlay, victims, HOW[how])
        await roles.until_served(dict.fromkeys(SITES, SERVLETS), 4)
    return rows


def claims() -> list[Claim]:
    """What must hold."""
    killed = {"how": "killed"}
    return [
        Claim("node-kill.failed", "pages that failed", "== 0", Measure("failed", killed, "sum")),
        Claim("node-kill.slowest", "slowest page, seconds", "<= 3", Measure("slowest_s", killed, "max")),
        Claim("node-kill.ring", "ring repaired after seconds at most", "<= 10", Measure("ring_repaired_s", killed, "max")),
        Claim("node-kill.pages", "pages read around kills", ">= 1000", Measure("pages", killed, "sum")),
        Claim("node-kill.hung-failed", "pages that failed when nodes hung", "== 0", Measure("failed", {"how": "hung"}, "sum")),
        Claim(
            "node-kill.hung-slowest",
            "slowest page when nodes hung, seconds",
            "<= 5",
            Measure("slowest_s", {"how": "hung"}, "max"),
        ),
    ]


def draw(drawn: Any, rows: Any) -> None:
    """The slowest page and the ring's repair, by what was struck."""
    left, right = drawn.subplots(1, 2, sharey=True)
    for axis, name, title, colour in (
        (left, "slowest_s", "Slowest page, seconds", DIKE),
        (right, "ring_repaired_s", "Ring repaired after seconds", SEA),
    ):
        labels = [f"{step}, {how}" for how in HOW for step in STEPS]
        worst = [max((r[name] for r in rows if f"{r['step']}, {r['how']}" == label), default=0) for label in labels]
        axis.barh(labels, worst, color=colour)
        axis.set(title=title)


async def measure(overlay: Overlay, proxies: list[str], origin: Origin, seeds: int, hows: list[str]) -> list[dict[str, Any]]:
    """All repetitions."""
    rows = []
    for how in hows:
        for seed in range(1, seeds + 1):
            load = Load(proxies, [f"{site}.test" for site in SITES], origin.certificate, RATE)
            rows += await run(overlay, load, seed, how)
    return rows


def main() -> int:
    """Run, write, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.node_kill", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one repetition; nothing is written")
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--how", choices=HOW, help="that only; nothing is written")
    arguments = parser.parse_args()
    repetitions = 1 if arguments.quick else arguments.repetitions
    with tempfile.TemporaryDirectory(prefix="polder-node-kill-") as folder:
        origin = Origin().start()
        overlay = Overlay(Path(folder))
        try:
            overlay, proxies = build(Path(folder), origin)
            rows = asyncio.run(measure(overlay, proxies, origin, repetitions, [arguments.how] if arguments.how else [*HOW]))
        finally:
            overlay.close()
            origin.stop()
    parameters = {
        "nodes": len(NODES),
        "users": USERS,
        "pages_per_s": RATE,
        "sites": SITES,
        "servlets": SERVLETS,
        "repetitions": repetitions,
        "steps": list(STEPS),
        "settings": "defaults",
    }
    result = Result("node-kill", parameters, rows, claims(), "Nodes die or hang under a steady page load")
    for claim in result.record()["claims"]:
        print(f"{claim['id']}: {claim['measured']} ({claim['target']}): {'holds' if claim['holds'] else 'DOES NOT HOLD'}")
    if not arguments.quick and not arguments.how:
        print(f"wrote {results.write(result, draw)}")
    return 0 if all(claim["holds"] for claim in result.record()["claims"]) else 3


if __name__ == "__main__":
    sys.exit(main())
