"""``make bench`` part ``masking``: can users or strangers tell beacons and servlets from other nodes? Writes ``masking.json``.

A real overlay on loopback, where a hop costs a fraction of a millisecond and nothing else hides it: eight nodes, sites in every path
mode (some with an origin that is down), roles as they fell. A user opens tunnels to every site through every node, in an order drawn
anew each round; users and strangers try everything else (``bench.masking_probes``). Then the roles are read from the
administrators' sockets, and ``polder.lab.telling`` looks whether they can be seen in what was measured.

Two controls show that the test can see: the same times with a millisecond added where the node is a beacon, or servlet, and a second
overlay whose nodes take the paper's short cuts (``shortcuts = true``).
"""

from __future__ import annotations

import argparse
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.overlay import Overlay, free_port, until

from bench.masking_probes import INSIDE, Address, Opened, User, open_tunnel, strangers
from polder.lab import results
from polder.lab.plots import DIKE, FLOOD, SAND
from polder.lab.results import Claim, Measure, Result
from polder.lab.telling import corrected, distinct, tell
from polder.model import PathMode

MODES = tuple(str(mode) for mode in (PathMode.BEACON, PathMode.DIRECT, PathMode.RING))
ROLES = ("beacon", "servlet")
PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\nConnection: close\r\n\r\nThe site is.\n."


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    nodes: int = 8
    sites: int = 6
    """Of each mode."""
    dead: int = 3
    """Of each mode, beside them: their origin is down."""
    rounds: int = 50
    """Tunnels for each live site and node."""
    dead_rounds: int = 15
    repeats: int = 12
    """Of each probe that names no site, at each node."""


QUICK = Size(nodes=6, sites=2, dead=1, rounds=10, dead_rounds=4, repeats=3)
CONTROL = Size(dead=0, rounds=30, repeats=0)


@dataclass
class Seen:
    """Everything that was measured in one overlay."""

    modes: dict[str, str] = field(default_factory=dict)
    times: dict[tuple[str, str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    """(what, site, node) → milliseconds."""
    answers: dict[str, dict[str, set[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))
    """Probe → node → words."""
    outside: set[str] = field(default_factory=set)
    roles: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    """(site, node) → roles."""
    requests: dict[str, int] = field(default_factory=lambda: defaultdict(int))


# The overlay


def _serve(listener: socket.socket) -> None:
    """The origin: one page, as soon as something is asked."""
    while True:
        connection, _ = listener.accept()

        def answer(connection: socket.socket = connection) -> None:
            with connection:
                if connection.recv(65536):
                    connection.sendall(PAGE)

        threading.Thread(target=answer, daemon=True).start()


def as_origin() -> None:
    """Run the origin: says its port on stdout, ends with stdin."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=_serve, args=(listener,), daemon=True).start()
    sys.stdin.read()


@contextmanager
def origin() -> Iterator[str]:
    """The origin's address."""
    command = [sys.executable, "-m", "bench.masking", "--as-origin"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield f"127.0.0.1:{int(process.stdout.readline())}"
        process.stdin.close()


def site_names(size: Size) -> dict[str, str]:
    """Every site's name with its mode; those of names ``dead-…`` have no origin."""
    live = {f"{mode}{n}": mode for mode in MODES for n in range(size.sites)}
    return live | {f"dead-{mode}{n}": mode for mode in MODES for n in range(size.dead)}


def build(overlay: Overlay, size: Size, page: str, shortcuts: bool) -> dict[str, Address]:
    """Nodes, sites and a user; returns where the nodes listen."""
    overlay.found()
    names = [f"n{n}" for n in range(size.nodes)]
    for name in names:
        folder = overlay.enrol_node(name) / "node" / "conf.d"
        (folder / "test.toml").write_text(f"shortcuts = {str(shortcuts).lower()}\n")
    for name in names:
        overlay.run_node(name)
    overlay.enrol_user("ann", "staff")
    overlay.wait_ring(size.nodes)
    for name, mode in site_names(size).items():
        where = f"127.0.0.1:{free_port()}" if name.startswith("dead-") else page
        overlay.enrol_site(name, f"{name}.test")
        overlay.run_site(name, f'name = "{name}"\norigin = "http://{where}"\nallow = ["group:staff"]\nmode = "{mode}"\n')
    for name in site_names(size):
        overlay.wait_site(name)
    where = {name: overlay.nodes[name].hello["address"].rpartition(":") for name in names}
    return {name: (host, int(port)) for name, (host, _, port) in where.items()}


def roles(overlay: Overlay, sites: dict[str, str]) -> dict[tuple[str, str], set[str]]:
    """Who is what, by the nodes' own word."""
    known: dict[tuple[str, str], set[str]] = {}
    for node in overlay.nodes:
        status = overlay.node_status(node)
        for site in sites:
            known[site, node] = {"beacon"} if site in status["beacon_for"] else set()
            known[site, node] |= {"servlet"} if site in status["servlet_for"] else set()
    return known


# Looking


def look(size: Size, folder: Path, shortcuts: bool, rng: random.Random) -> Seen:
    """Build an overlay and measure everything. Roles must be the same before and after."""
    overlay, other = Overlay(folder / "overlay"), Overlay(folder / "foreign", "foreign.test")
    seen = Seen(modes=site_names(size))
    try:
        with origin() as page:
            nodes = build(overlay, size, page, shortcuts)
            ann = User(overlay.state("user-ann") / "user" / "ann")
            other.found()
            foreign = User(other.enrol_user("eve") / "user" / "eve")
            until(lambda: _all_open(nodes, ann, seen.modes), "a way to every site from every node")
            before = roles(overlay, seen.modes)
            _tunnels(size, nodes, ann, seen, rng)
            _probes(size, nodes, ann, foreign, seen, rng)
            if roles(overlay, seen.modes) != before:
                raise RuntimeError("roles changed while they were looked for: the ring had not settled; run it again")
            seen.roles |= before
    finally:
        overlay.close()
        other.close()
    return seen


def _all_open(nodes: dict[str, Address], ann: User, sites: dict[str, str]) -> bool:
    live = [site for site in sites if not site.startswith("dead-")]
    context = ann.context()
    return all("200" in open_tunnel(at, context, f"{site}.test").answer[:20] for at in nodes.values() for site in live)


def _tunnels(size: Size, nodes: dict[str, Address], ann: User, seen: Seen, rng: random.Random) -> None:
    context = ann.context()
    cells = [(site, node) for site in seen.modes for node in nodes]
    for number in range(max(size.rounds, size.dead_rounds)):
        rng.shuffle(cells)
        for site, node in cells:
            dead = site.startswith("dead-")
            if number < (size.dead_rounds if dead else size.rounds):
                opened = open_tunnel(nodes[node], context, f"{site}.test")
                _note(seen, site, node, dead, opened)


def _note(seen: Seen, site: str, node: str, dead: bool, opened: Opened) -> None:
    mode = seen.modes[site]
    seen.requests["inside"] += 1 if dead else 2
    seen.times["refused" if dead else "open", site, node].append(opened.open_ms)
    if not dead:
        seen.times["page", site, node].append(opened.page_ms)
    seen.answers[f"{'a site that is down' if dead else 'a site'}, mode {mode}"][node].add(opened.answer)


def _probes(size: Size, nodes: dict[str, Address], ann: User, foreign: User, seen: Seen, rng: random.Random) -> None:
    doors = strangers(foreign)
    seen.outside |= {f"stranger: {name}" for name in doors}
    todo = [(name, node) for name in (*INSIDE, *seen.outside) for node in nodes] * size.repeats
    rng.shuffle(todo)
    for name, node in todo:
        began = time_ms()
        if name in seen.outside:
            words = doors[name.removeprefix("stranger: ")].knock(nodes[node])
            seen.requests["outside"] += 1
        else:
            words = INSIDE[name](nodes[node], ann)
            seen.requests["inside"] += 1
        seen.times[name, "", node].append(time_ms() - began)
        seen.answers[name][node].add(words)


def time_ms() -> float:
    """A clock for differences."""
    from time import perf_counter

    return perf_counter() * 1000


# Judging

FOLDS = {
    "fastest fifth": lambda times: statistics.quantiles(times, n=5)[0],
    "median": statistics.median,
    "slowest fifth": lambda times: statistics.quantiles(times, n=5)[-1],
}


def timing_rows(seen: Seen, overlay: str, seed: int, plant_ms: float = 0.0) -> list[dict[str, Any]]:
    """One row for each path mode, role, time and quantile; ``p_corrected`` counts all rows of the overlay as one family."""
    rows = []
    nodes = sorted({node for _, _, node in seen.times})
    for what in ("open", "page", "refused"):
        for mode in MODES:
            sites = sorted({s for w, s, _ in seen.times if w == what and s and seen.modes[s] == mode})
            for role in ROLES if sites else ():
                labels = [[role in seen.roles[site, node] for node in nodes] for site in sites]
                for fold, of in FOLDS.items():
                    table = [[of(seen.times[what, s, n]) + plant_ms * (role in seen.roles[s, n]) for n in nodes] for s in sites]
                    told = tell(table, labels, seed)
                    row = {"overlay": overlay, "time": what, "mode": mode, "role": role, "quantile": fold}
                    rows.append(row | {"difference_ms": round(told.difference, 4), "p": round(told.p, 6)})
    return _with_corrections(rows)


def stranger_rows(seen: Seen, overlay: str, seed: int) -> list[dict[str, Any]]:
    """Whether the time of an answer goes with how many roles a node has: one row for each probe that names no site."""
    nodes = sorted({node for _, _, node in seen.times})
    busy = {node: sum(len(r) for (_, n), r in seen.roles.items() if n == node) for node in nodes}
    rows = []
    for name in sorted({what for what, site, _ in seen.times if not site}):
        medians = [statistics.median(seen.times[name, "", node]) for node in nodes]
        correlation, p = _correlation(medians, [busy[node] for node in nodes], seed)
        kind = "stranger" if name in seen.outside else "user"
        rows.append({"overlay": overlay, "probe": name, "by": kind, "correlation": round(correlation, 3), "p": round(p, 6)})
    return _with_corrections(rows)


def _correlation(values: list[float], roles_of: list[int], seed: int, deals: int = 20_000) -> tuple[float, float]:
    import numpy as np

    def ranks(row: list[float] | list[int]) -> Any:
        return np.array([sum(v < w for v in row) + sum(v == w for v in row) / 2 for w in row])

    x, y = ranks(values), ranks(roles_of)
    if y.std() == 0:
        return 0.0, 1.0
    rng = np.random.default_rng(seed)
    truth = float(np.corrcoef(x, y)[0, 1])
    dealt = rng.permuted(np.broadcast_to(y, (deals, len(y))).copy(), axis=1)
    all_of_them = ((x - x.mean()) * (dealt - y.mean())).mean(axis=1) / (x.std() * y.std())
    return truth, (1 + int((np.abs(all_of_them) >= abs(truth) - 1e-12).sum())) / (1 + deals)


def _with_corrections(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    honest = corrected(row["p"] for row in rows)
    return [row | {"p_corrected": round(p, 6)} for row, p in zip(rows, honest, strict=True)]


def answer_rows(seen: Seen) -> list[dict[str, Any]]:
    """How many kinds of nodes each probe finds."""
    return [
        {
            "answers_to": name,
            "by": "stranger" if name in seen.outside else "user",
            "nodes": len(answers),
            "kinds_of_nodes": distinct(answers),
            "kinds_of_answers": len(set().union(*answers.values())),
        }
        for name, answers in sorted(seen.answers.items())
    ]


def claims() -> list[Claim]:
    """What must hold: at one in a hundred, all looks counted."""
    where = {"overlay": "masked"}
    planted = {"overlay": "masked, 1 ms later where the role is", "time": "open", "quantile": "median"}
    return [
        Claim("masking.requests", "requests from inside and outside", ">= 10000", Measure("requests", fold="sum")),
        Claim("masking.answers", "no probe finds two kinds of nodes", "== 1", Measure("kinds_of_nodes", fold="max")),
        Claim(
            "masking.timing",
            "no time of a user's tunnel or error goes with a role, nor a stranger's with the number of roles (least p)",
            ">= 0.01",
            Measure("p_corrected", where, "min"),
        ),
        Claim(
            "masking.power",
            "the test sees 1 ms wherever it is planted: largest p over path modes and roles",
            "< 0.01",
            Measure("p_corrected", planted, "max"),
        ),
        Claim(
            "masking.shortcuts",
            "it sees servlets where nodes take the paper's short cuts",
            "< 0.01",
            Measure(
                "p_corrected",
                {"overlay": "shortcuts", "time": "open", "mode": "beacon", "role": "servlet", "quantile": "median"},
            ),
        ),
    ]


def draw(drawn: Any, rows: Any) -> None:
    """Differences of the median times by role and mode, with and without short cuts."""
    axes = drawn.subplots()
    names = [f"{mode}\n{role}" for mode in MODES for role in ROLES]
    shown = {"masked": DIKE, "shortcuts": FLOOD, "masked, 1 ms later where the role is": SAND}
    for place, (overlay, color) in enumerate(shown.items()):
        of = {(r["mode"], r["role"]): r for r in rows if r.get("overlay") == overlay and r.get("time") == "open"
              and r.get("quantile") == "median"}  # fmt: skip
        heights = [of[mode, role]["difference_ms"] for mode in MODES for role in ROLES]
        at = [n + 0.27 * (place - 1) for n in range(len(names))]
        axes.bar(at, heights, 0.25, color=color, label=overlay)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(names)), names)
    axes.set(title="Does a node that has the role open tunnels faster or slower?", ylabel="difference of medians, ms")
    axes.legend()


def measure(size: Size, control: Size, folder: Path, seed: int) -> list[dict[str, Any]]:
    """All rows."""
    rng = random.Random(seed)
    masked = look(size, folder / "masked", False, rng)
    rows: list[dict[str, Any]] = [{"from": place, "requests": count} for place, count in sorted(masked.requests.items())]
    rows += answer_rows(masked)
    rows += timing_rows(masked, "masked", seed)
    rows += stranger_rows(masked, "masked", seed)
    rows += timing_rows(masked, "masked, 1 ms later where the role is", seed, plant_ms=1.0)
    return rows + timing_rows(look(control, folder / "shortcuts", True, rng), "shortcuts", seed)


def main() -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.masking", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer nodes, sites and requests; writes nothing")
    parser.add_argument("--seed", type=int, default=20261121)
    parser.add_argument("--as-origin", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_origin:
        as_origin()
        return 0
    size, control = (QUICK, QUICK) if arguments.quick else (Size(), CONTROL)
    with tempfile.TemporaryDirectory(prefix="polder-masking-") as folder:
        rows = measure(size, control, Path(folder), arguments.seed)
    parameters = {"size": vars(size), "control": vars(control), "seed": arguments.seed, "servlets": 2, "beacons": 3}
    result = Result("masking", parameters, rows, claims(), "Who is beacon or servlet, from outside")
    for row in rows:
        print(row)
    for claim in (record := result.record())["claims"]:
        print(f"{claim['id']}: {claim['measured']} ({claim['target']}): {'holds' if claim['holds'] else 'FAILS'}")
    if not arguments.quick:
        print(f"wrote {results.write(result, draw)}")
    return 0 if arguments.quick or all(claim["holds"] for claim in record["claims"]) else 3


if __name__ == "__main__":
    sys.exit(main())
