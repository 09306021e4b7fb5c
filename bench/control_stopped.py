"""``make bench`` part ``control-stopped``: the control plane of one node stands still for ten minutes, and users notice nothing.

Real processes on loopback: five nodes, two sites that dial out to two servlets each, two users. The node that is stopped is the only
access point of one user, and was a servlet and a beacon at that moment. Stopped is its main thread, where Python runs; the
threads of the data plane go on. The users load pages, hold WebSockets and download all the time. Writes
``bench/results/control-stopped.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.support.frozen import frozen, states
from tests.support.origin import Origin
from tests.support.overlay import Overlay, until
from tests.support.readers import Readers, Seen

from bench import report
from polder.lab.plots import DIKE, SEA
from polder.lab.results import Claim, Measure, Result

PHASES = ("before", "stopped", "after")
NODES = ("n1", "n2", "n3", "n4", "n5")
SITES = {"wiki": "beacon", "blog": "ring"}
SERVLETS = 2
ROTATION = "2m"
"""Servlets change several times while the node stands still: what it knows grows old."""
RATE = 5.0
SOCKETS = 3
BEFORE_S, STOPPED_S, AFTER_S = 20.0, 600.0, 30.0
QUICK_S = 30.0


class Found:
    """The overlay, and the node that plays every role."""

    def __init__(self, root: Path, origin: Origin) -> None:
        self.overlay = Overlay(root)
        self.overlay.found()
        for name in NODES:
            self.overlay.enrol_node(name)
            (self.overlay.state(name) / "node" / "conf.d" / "test.toml").unlink()  # timers as they are by default
        for name in NODES:
            self.overlay.run_node(name)
        for name, mode in SITES.items():
            self.overlay.enrol_site(name, f"{name}.test")
            settings = f'name = "{name}"\norigin = "http://{origin.address}"\nallow = ["anyone"]\nmode = "{mode}"\n'
            self.overlay.run_site(name, settings + f'servlets = {SERVLETS}\nrotation = "{ROTATION}"\n')
        self.overlay.wait_ring(len(NODES))
        for name in SITES:
            self.overlay.wait_site(name)
        until(lambda: self._busy() is not None, "a node that is beacon and servlet")
        self.node = str(self._busy())
        self.roles = self.overlay.node_status(self.node)
        for user in ("ann", "bob"):
            self.overlay.enrol_user(user)
        pinned = self.overlay.state("user-ann") / "user" / "ann" / "client.toml"
        pinned.write_text(f'access_points = ["{self.node}"]\n')
        self.proxies = {user: str(self.overlay.connect(user).hello["proxy"]) for user in ("ann", "bob")}

    def _busy(self) -> str | None:
        status = {name: self.overlay.node_status(name) for name in NODES}
        return next((name for name, told in status.items() if told["servlet_for"] and told["beacon_for"]), None)


def difference(before: dict[str, Any], seen: Seen) -> dict[str, Any]:
    """What came since ``before``."""
    now = asdict(seen) | {"troubles": len(seen.troubles), "dropped": seen.dropped}
    return {key: now[key] - before.get(key, 0) for key in now if key != "slowest"}


async def measure(found: Found, seconds: float) -> list[dict[str, Any]]:
    """Rows by phase, user and site."""
    rows: list[dict[str, Any]] = []
    readers = {
        (user, site): Readers(proxy, f"{site}.test", rate=RATE, sockets=SOCKETS)
        for user, proxy in found.proxies.items()
        for site in SITES
    }
    pid = found.overlay.nodes[found.node].pid
    async with AsyncExitStack() as stack:
        seen = {who: await stack.enter_async_context(one.reading()) for who, one in readers.items()}

        async def phase(name: str, length: float) -> None:
            before = {who: asdict(one) | {"troubles": len(one.troubles), "dropped": one.dropped} for who, one in seen.items()}
            for one in seen.values():
                one.slowest = 0.0
            began = time.monotonic()
            await asyncio.sleep(length)
            for (user, site), one in seen.items():
                took = {"phase": name, "user": user, "site": site, "seconds": round(time.monotonic() - began, 1)}
                rows.append(took | difference(before[user, site], one) | {"slowest_page_s": round(one.slowest, 3)})

        await phase("before", BEFORE_S)
        with frozen(pid):
            held = states(pid)
            assert held[str(pid)] == "t" and "t" not in [state for thread, state in held.items() if thread != str(pid)]
            await phase("stopped", seconds)
            known = await asyncio.to_thread(knowing, found)
        resumed = time.monotonic()
        await asyncio.to_thread(until, lambda: back(found), f"{found.node} in the ring again")
        rows.append({"phase": "recovered", "recovered_s": round(time.monotonic() - resumed, 2), "kept_as_successor_by": known})
        await phase("after", AFTER_S)
    for one in seen.values():
        for trouble in one.troubles:
            print(trouble, file=sys.stderr)
    return rows


def knowing(found: Found) -> int:
    """How many of the others hold the node for a living member of the ring."""
    others = [found.overlay.node_status(name) for name in NODES if name != found.node]
    return sum(found.node in other["successors"] for other in others)


def back(found: Found) -> bool:
    """Whether the node answers, and all others know it."""
    return bool(found.overlay.node_status(found.node)["joined"]) and knowing(found) == len(NODES) - 1


def claims() -> list[Claim]:
    """What must hold."""
    stopped = {"phase": "stopped"}
    return [
        Claim("control-stopped.dropped", "pages, WebSockets and downloads lost while the control plane stood", "== 0",
              Measure("dropped", stopped, "sum")),
        Claim("control-stopped.access-point", "lost by the user whose only access point it was", "== 0",
              Measure("dropped", {**stopped, "user": "ann"}, "sum")),
        Claim("control-stopped.pages", "pages read meanwhile, of those that were asked for before", ">= 0.95",
              Measure("pages_per_s", stopped, "sum", Measure("pages_per_s", {"phase": "before"}, "sum"))),
        Claim("control-stopped.recovered", "seconds until the node is in the ring again", "<= 30",
              Measure("recovered_s", {"phase": "recovered"})),
    ]  # fmt: skip


def draw(drawn: Any, rows: Any) -> None:
    """Pages per second and the slowest page, before, while it stood, and after."""
    left, right = drawn.subplots(1, 2)
    users = {"ann": ("through the stopped node", SEA), "bob": ("through any node", DIKE)}
    for at, (user, (label, colour)) in enumerate(users.items()):
        for axes, key, fold in ((left, "pages_per_s", sum), (right, "slowest_page_s", max)):
            values = [fold(row[key] for row in rows if row["phase"] == phase and row["user"] == user) for phase in PHASES]
            axes.bar([place + (at - 0.5) * 0.38 for place in range(len(PHASES))], values, 0.36, color=colour, label=label)
            axes.set_xticks(range(len(PHASES)), PHASES)
    left.set(title="Pages per second; none was lost", ylabel="pages/s")
    right.set(title="Slowest page", ylabel="seconds")
    left.set_ylim(top=1.2 * left.get_ylim()[1])
    left.legend(loc="upper center", ncols=2)


def main() -> int:
    """Measure; exit status 3 if a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_S:g} s instead of ten minutes, and nothing is written")
    quick = parser.parse_args().quick
    seconds = QUICK_S if quick else STOPPED_S
    with tempfile.TemporaryDirectory(prefix="polder-stopped-") as folder:
        origin = Origin().start()
        found = Found(Path(folder), origin)
        try:
            rows = asyncio.run(measure(found, seconds))
        finally:
            found.overlay.close()
            origin.stop()
    for row in rows:
        if "pages" in row:
            row["pages_per_s"] = round(row["pages"] / row["seconds"], 3)
        print(row)
    roles = {"beacon_for": len(found.roles["beacon_for"]), "servlet_for": len(found.roles["servlet_for"])}
    parameters = {
        "nodes": len(NODES), "sites": SITES, "servlets": SERVLETS, "stopped_s": seconds, "pages_per_s_each": RATE,
        "sockets_each": SOCKETS, "rotation": ROTATION, "roles_of_the_stopped_node": roles, "timers": "default",
    }  # fmt: skip
    title = "A node's control plane stands still for ten minutes"
    result = Result("control-stopped", parameters, rows, claims(), title)
    return report.finish(result, draw, record=not quick, rows=False)


if __name__ == "__main__":
    sys.exit(main())
