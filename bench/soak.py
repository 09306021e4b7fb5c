"""``make soak``: a real overlay under load while everything happens to it at once, and nothing leaks, and no request fails.

In the laboratory's wide area: authority, six nodes, a site behind a filter and GRE tunnels (mode ``beacon``), one that dials out (mode
``ring``), two users who read both all the time, each page over a fresh connection with one retry, as browsers do. Servlets
rotate every 40 s. Meanwhile, one after another without a pause: nodes are killed and started again, end and come back, identities of a
node and of a user are revoked and enrolled anew with other keys, processes are reloaded and upgraded, owners rotate by hand.

Some parts are never replaced, only reloaded: authority, two nodes, the first site's agent, one forwarder, the host helpers. Every 5 s
their memory, descriptors, threads, tasks and objects are counted, and the filter's rules and the gateway's tunnels. ``polder.lab.leaks``
judges. Writes ``bench/results/soak.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bench.soak_parts import HOSTS, SPARE, Soaked
from polder.lab import enclosure, experiment, results, topology
from polder.lab.leaks import blocks, leaks, slope
from polder.lab.overlay import SITE
from polder.lab.plots import CYCLE
from polder.lab.processes import ProcessError, Processes, wait_until_listening
from polder.lab.results import Claim, Measure, Result
from polder.lab.world import World
from polder.model import Kind
from polder.shell.clock import wall

Row = dict[str, Any]

NODES, USERS = 6, 2
RATE = 4.0
"""Pages a second of each user."""
LASTING = ("authority", "node5", "node6", f"site {SITE}", "user1")
"""Parts that are reloaded and never replaced."""
REPLACED = ("node1", "node2", "node3", "node4", "site blog", "user2")
HELPERS = ("helper-node5", "helper-node6", "helper-gateway", "helper-isp")
EVERY_S, BLOCK_S, WARM_S = 5.0, 30.0, 600.0
"""Between two looks; what is folded into one; left out at the beginning, or half of a short soak: for ten minutes each process fills the
fine part of its history and the tail of its log."""
ALLOWED = {
    "rss_mib": 8.0, "live_mib": 8.0, "fds": 12.0, "threads": 4.0, "tasks": 12.0, "objects": 20_000.0, "blocks": 60_000.0,
    "rules": 6.0, "tunnels": 4.0,
}  # fmt: skip
"""Growth an hour that counts as none: what a soak of a quarter of an hour can tell from nothing."""
MBIT = 100.0


class Watch:
    """Counts what the lasting parts hold."""

    def __init__(self, overlay: Soaked, processes: Processes) -> None:
        self._overlay, self._processes = overlay, processes
        self.samples: dict[tuple[str, str], list[tuple[float, float]]] = {}
        self.pids: dict[str, set[int]] = {}

    async def forever(self) -> None:
        """A look every ``EVERY_S``."""
        for number in itertools.count(1):
            due = time.monotonic() + EVERY_S
            for part in LASTING:
                with contextlib.suppress(OSError, ValueError):
                    facts = await self._overlay.facts(part)
                    self._add(part, _of_itself(facts) | _of_kernel(int(facts["pid"])))
                    self.pids.setdefault(part, set()).add(int(facts["pid"]))
            for name in HELPERS:
                self._add(name, _of_kernel(self._overlay.helper(name)))
            if number % 2:
                rules = (await self._processes.run("isp", "nft", ["nft", "-a", "list", "ruleset"])).decode()
                links = (await self._processes.run("gateway", "ip", ["ip", "-o", "link"])).decode()
                self._add("filter", {"rules": rules.count("# handle")})
                self._add("gateway", {"tunnels": len(links.splitlines())})
            await asyncio.sleep(max(0.1, due - time.monotonic()))

    def _add(self, part: str, counted: dict[str, float]) -> None:
        now = time.monotonic()
        for what, value in counted.items():
            self.samples.setdefault((part, what), []).append((now, float(value)))

    def rows(self, begin: float, warm: float) -> list[Row]:
        """A row for each part and quantity: where it was, where it is, how it grows from ``warm`` seconds on."""
        made = []
        for (part, what), samples in self.samples.items():
            judged = [sample for sample in samples if sample[0] >= begin + warm] or samples
            found = slope(blocks(judged, BLOCK_S))
            row: Row = {"part": part, "what": what, "samples": len(judged), "first": judged[0][1], "last": judged[-1][1]}
            row |= {"least": min(value for _, value in judged), "most": max(value for _, value in judged)}
            row["series"] = [[round(at - begin), round(value, 2)] for at, value in blocks(samples, BLOCK_S)]
            if found is not None:
                row |= {"per_hour": round(found.per_hour, 2), "low": round(found.low, 2), "high": round(found.high, 2)}
                row |= {"leaks": int(leaks(found, ALLOWED[what]))} if what in ALLOWED else {}
            made.append(row)
        return made


def warm_up(minutes: float) -> float:
    """Seconds that are left out at the beginning of a soak."""
    return min(WARM_S, 30 * minutes)


def _of_itself(facts: dict[str, Any]) -> dict[str, float]:
    """What a part counts of itself: what lives, and what the allocator keeps around it."""
    mib = {what: facts[name] / (1 << 20) for what, name in (("live_mib", "heap_used"), ("heap_mib", "heap_held"))}
    return {"tasks": facts["tasks"], "objects": facts["objects"], "blocks": facts["blocks"], **mib}


def _of_kernel(pid: int) -> dict[str, float]:
    """What the kernel counts of a process; nothing when it is gone."""
    place = Path(f"/proc/{pid}")
    try:
        status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
        return {
            "rss_mib": int(status["VmRSS"].split()[0]) / 1024,
            "threads": int(status["Threads"]),
            "fds": len(list((place / "fd").iterdir())),
        }
    except (OSError, KeyError, ValueError):
        return {}


class Happenings:
    """Everything that happens, one after another, in an order drawn anew each round."""

    def __init__(self, overlay: Soaked, rng: random.Random) -> None:
        self._overlay, self._rng = overlay, rng
        self.counts: Counter[str] = Counter()
        self.troubles: list[str] = []

    def _all(self) -> dict[str, Callable[[], Awaitable[None]]]:
        return {
            "node killed": self._kill,
            "node ended": self._end,
            "node revoked and enrolled again": self._revoke_node,
            "user revoked and enrolled again": self._revoke_user,
            "reload": self._reload,
            "upgrade": self._upgrade,
            "rotation by hand": self._rotate,
        }

    async def until(self, end: float) -> None:
        """One after another until ``end``; the overlay is whole before each that takes a node away."""
        while time.monotonic() < end:
            order = list(self._all().items())
            self._rng.shuffle(order)
            for name, happen in order:
                if time.monotonic() >= end:
                    break
                print(f"  {wall():.1f} {name}", flush=True)
                try:
                    await happen()
                except (OSError, ValueError, TimeoutError, ProcessError) as error:
                    self.troubles.append(f"{wall():.1f} {name}: {type(error).__name__}: {error}"[:300])
                    print(f"  {self.troubles[-1]}", file=sys.stderr, flush=True)
                self.counts[name] += 1

    def _node(self) -> str:
        return self._rng.choice([part for part in REPLACED if part.startswith("node")])

    async def _kill(self) -> None:
        await self._overlay.whole()
        node = self._node()
        await self._overlay.stop(node, signal.SIGKILL)
        await asyncio.sleep(self._rng.uniform(1, 6))
        await self._overlay.begin(node)

    async def _end(self) -> None:
        await self._overlay.whole()
        node = self._node()
        await self._overlay.stop(node, signal.SIGTERM)
        await self._overlay.begin(node)

    async def _revoke_node(self) -> None:
        await self._overlay.whole()
        node = self._node()
        await self._overlay.revoke(Kind.NODE, node)
        await self._overlay.stop(node, signal.SIGTERM)
        await self._overlay.again(Kind.NODE, node, node)
        await self._overlay.begin(node)

    async def _revoke_user(self) -> None:
        await self._overlay.revoke(Kind.USER, SPARE)
        await self._overlay.again(Kind.USER, SPARE, "bot")

    async def _reload(self) -> None:
        for part in self._rng.sample([*LASTING, *REPLACED], 4):
            await self._overlay.reload(part)

    async def _upgrade(self) -> None:
        await self._overlay.whole()
        await self._overlay.upgrade(self._rng.choice(REPLACED))

    async def _rotate(self) -> None:
        for site in HOSTS:
            # Six nodes are few: while the last rotation still drains there may be nobody to draw.
            with contextlib.suppress(ValueError):
                await self._overlay.rotate(site)


async def soak(folder: Path, minutes: float, seed: int) -> list[Row]:
    """Build, let it all happen, judge."""
    described = topology.load("demo").resized({"node": NODES, "user": USERS, "bot": 1})
    site = described.site.model_copy(update={"up_mbit": MBIT, "down_mbit": MBIT}) if described.site else None
    described = described.model_copy(update={"site": site, "seed": seed})
    world = World(described, folder)
    more: dict[str, Any] = {"rotation": "40s", "grace": "8s", "drain_max": "120s", "origins": {}, "ports": [80]}
    more["origin"] = f"http://{world.hosts['site'].ipv4}:80"
    protection = {"transport": "gre", "mode": "beacon", "servlets": 2, "more": more}
    parts = [sys.executable, "-m", "bench.soak_parts"]
    try:
        async with Processes(folder) as processes:
            for host in ("site", "bot"):
                await wait_until_listening(host, 80, await processes.start(host, f"origin-{host}", [*parts, "origin"]))
            overlay = Soaked(processes, world, folder, protection, print)
            await overlay.build(HOSTS[SITE])
            for node in ("node5", "node6"):
                await overlay.fill(node)
            readers = [
                await processes.start(user, f"reader-{user}", [*parts, "reader", proxy, str(RATE)], piped=True)
                for user, proxy in overlay.proxies.items()
            ]
            begin = time.monotonic()
            watch, happenings = Watch(overlay, processes), Happenings(overlay, random.Random(seed))
            watching = asyncio.create_task(watch.forever())
            await happenings.until(begin + 60 * minutes)
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            told = []
            for reader in readers:
                reader.process.terminate()
                told.append(json.loads(await reader.output(60)))
            lasted = time.monotonic() - begin
            await overlay.end()
    finally:
        world.close()
    replaced = [part for part, pids in watch.pids.items() if len(pids) > 1]
    assert not replaced, f"these were to last: {replaced}"
    return [
        *watch.rows(begin, warm_up(minutes)),
        *({"part": "happenings", "what": name, "count": count} for name, count in happenings.counts.items()),
        {"part": "troubles", "count": len(happenings.troubles), "said": happenings.troubles[:20]},
        {"part": "panics", "count": panics(folder)},
        *({"part": "reader", **one, "pages_per_s": round(one["pages"] / lasted, 2)} for one in told),
    ]


def panics(folder: Path) -> int:
    """Tasks of native code that ended with a panic, by the logs: the process lives on, so nothing else need tell of it."""
    return sum(log.read_text(errors="replace").count(" panicked at ") for log in folder.glob("*.log"))


CLAIMS = [
    Claim("soak.failed", "pages that failed, after one retry as a browser makes it", "== 0", Measure("failed", {"part": "reader"}, "sum")),
    # Nothing fails where nothing is asked: the reading must have gone on.
    Claim("soak.pages", f"pages a second of each user, of {RATE:g} asked", ">= 3.8", Measure("pages_per_s", {"part": "reader"}, "min")),
    *(
        Claim(f"soak.{what}", f"parts of which {words} surely grow", "== 0", Measure("leaks", {"what": what}, "sum"))
        for what, words in (
            ("rss_mib", f"memory (by more than {ALLOWED['rss_mib']:g} MiB an hour)"),
            ("live_mib", f"what is held of the C library's heap (by more than {ALLOWED['live_mib']:g} MiB an hour)"),
            ("blocks", f"Python's small objects (by more than {ALLOWED['blocks']:g} an hour)"),
            ("fds", "descriptors"), ("threads", "threads"), ("tasks", "tasks"), ("objects", "objects of Python"),
            ("rules", "rules of the filter"), ("tunnels", "tunnel devices"),
        )
    ),
    Claim("soak.kinds", "kinds of happenings, each several times", "== 7", Measure("count", {"part": "happenings"}, "count")),
    Claim("soak.troubles", "happenings that failed", "== 0", Measure("count", {"part": "troubles"})),
    Claim("soak.panics", "tasks of native code that panicked", "== 0", Measure("count", {"part": "panics"})),
    Claim("soak.least", "of the rarest of them", ">= 3", Measure("count", {"part": "happenings"}, "min")),
]  # fmt: skip


def draw(drawn: Any, rows: Any) -> None:
    """Memory and descriptors of the parts that last."""
    axes = drawn.subplots(2, 2, sharex=True).flat
    for axis, what, title in zip(
        axes,
        ("rss_mib", "live_mib", "fds", "rules"),
        ("Memory, MiB", "Of it held of the C library's heap, MiB", "Descriptors", "Rules of the filter, and tunnel devices"),
        strict=True,
    ):
        chosen = [row for row in rows if row.get("what") in {what, "tunnels" if what == "rules" else what} and "series" in row]
        for number, row in enumerate(chosen):
            style = "--" if number >= len(CYCLE) else "-"
            axis.plot([at / 60 for at, _ in row["series"]], [value for _, value in row["series"]], style, label=row["part"])
        axis.set(title=title, ylim=(0, None))
        axis.legend(fontsize=6, ncols=2)
    for axis in list(drawn.axes)[2:]:
        axis.set(xlabel="minutes")


def main() -> int:
    """Run, print, write; exit status 3 if a claim does not hold."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="four minutes; nothing is written")
    arguments = parser.parse_args()
    minutes = 4.0 if arguments.quick else arguments.minutes
    folder = experiment.new_directory("soak").resolve()
    return enclosure.run(lambda: _inside(folder, minutes, arguments.seed, arguments.quick))


def _inside(folder: Path, minutes: float, seed: int, quick: bool) -> int:
    rows = asyncio.run(soak(folder, minutes, seed))
    parameters = {
        "minutes": minutes, "seed": seed, "nodes": NODES, "users": USERS, "pages_per_s_each": RATE, "sites": HOSTS, "rotation_s": 40,
        "warm_up_s": warm_up(minutes), "block_s": BLOCK_S, "allowed_per_hour": ALLOWED, "lasting": LASTING, "replaced": REPLACED,
    }  # fmt: skip
    result = Result("soak", parameters, rows, CLAIMS, "Everything at once, for a long time")
    for row in rows:
        print({key: value for key, value in row.items() if key != "series"})
    judged = result.record()["claims"]
    for claim in judged:
        print(f"{claim['id']}: {claim['measured']} ({claim['target']}): {'holds' if claim['holds'] else 'DOES NOT HOLD'}")
    if not quick:
        print(f"wrote {results.write(result, draw)}")
    # Slopes need more than a few minutes; failures do not.
    counted = [claim for claim in judged if not quick or claim["id"] in ("soak.failed", "soak.pages")]
    return 0 if all(claim["holds"] for claim in counted) else 3


if __name__ == "__main__":
    sys.exit(main())
