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
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.overlay import Overlay, until

from bench.masking_probes import INSIDE, Address, Opened, User, open_tunnel, strangers
from bench.masking_world import DEAD, MODES, Size, build, roles, site_names, sites_of
from polder.lab import results
from polder.lab.plots import DIKE, FLOOD, SAND
from polder.lab.results import Claim, Measure, Result
from polder.lab.telling import corrected, distinct, tell

ROLES = ("beacon", "servlet")
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


# Looking


def look(size: Size, folder: Path, shortcuts: bool, rng: random.Random) -> Seen:
    """Build an overlay and measure everything. Roles must be the same before and after."""
    overlay, other = Overlay(folder / "overlay"), Overlay(folder / "foreign", "foreign.test")
    seen = Seen(modes=site_names(size))
    try:
        nodes = build(overlay, size, shortcuts)
        with sites_of(overlay, seen.modes):
            ann = User(overlay.state("user-ann") / "user" / "ann")
            other.found()
            foreign = User(other.enrol_user("eve") / "user" / "eve")
            for site in seen.modes:
                overlay.wait_site(site)
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
    live = [site for site in sites if not site.startswith(DEAD)]
    context = ann.context()
    return all("200" in open_tunnel(at, context, f"{site}.test").answer[:20] for at in nodes.values() for site in live)


def _tunnels(size: Size, nodes: dict[str, Address], ann: User, seen: Seen, rng: random.Random) -> None:
    context = ann.context()
    cells = [(site, node) for site in seen.modes for node in nodes]
    for number in range(max(size.rounds, size.dead_rounds)):
        rng.shuffle(cells)
        for site, node in cells:
            dead = site.startswith(DEAD)
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
        began = time.perf_counter() * 1000
        if name in seen.outside:
            words = doors[name.removeprefix("stranger: ")].knock(nodes[node])
            seen.requests["outside"] += 1
        else:
            words = INSIDE[name](nodes[node], ann)
            seen.requests["inside"] += 1
        seen.times[name, "", node].append(time.perf_counter() * 1000 - began)
        seen.answers[name][node].add(words)


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
    arguments = parser.parse_args()
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
