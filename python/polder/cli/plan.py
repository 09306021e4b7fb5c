"""``polder plan``: how many access points, beacons and servlets keep users in while nodes are attacked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from polder.cli.answer import DURATION, answer
from polder.model import PathMode
from polder.overlay.beacon import HEIRS
from polder.planning.chances import Shape, denied
from polder.planning.choice import Choice, defaults, enough_nodes, for_attack, for_strike, largest
from polder.planning.course import Attack, Repair, denied_moving, down_ratio

_RATIOS = tuple(tenth / 10 for tenth in range(1, 10))
_TIMES = (0.25, 0.5, 1.0, 2.0, 4.0)
_MOST_NODES = 1_000_000


@dataclass(frozen=True)
class _Question:
    """What is asked, in one form for both kinds of attack. ``choose(nodes)``; ``denies(shape, times)``: the attack ``times`` as hard."""

    said: str
    attack: dict[str, Any]
    choose: Callable[[int], Choice | None]
    denies: Callable[[Shape, float], float]
    unit: str
    key: str
    rows: tuple[tuple[str, float, float], ...]
    """As said, as in JSON under ``key``, as asked of ``denies``."""


@click.command()
@click.option("--nodes", required=True, type=click.IntRange(1, _MOST_NODES), help="Nodes of the overlay.")
@click.option(
    "--attacked", type=click.IntRange(0), help="Nodes that fall silent at one moment: the attack to survive unrepaired."
)
@click.option("--strikes-per-hour", type=click.FloatRange(0, min_open=True), help="Instead: nodes struck an hour, for good.")
@click.option("--lasting", type=DURATION, default=600.0, show_default="10m", help="How long a struck node is down, in the mean.")
@click.option("--at-once", type=click.IntRange(0), default=0, help="So many at most are held down at one time (0: no bound).")
@click.option(
    "--availability",
    type=click.FloatRange(0, 100, min_open=True, max_open=True),
    default=99.9,
    show_default=True,
    help="Percent: chance that a user gets through at the moment of the strike, or share of time in which he does.",
)
@click.option(
    "--mode", type=click.Choice([str(mode) for mode in PathMode]), default=str(PathMode.BEACON), show_default=True,
    help="Path mode of the site.",
)  # fmt: skip
@click.option(
    "--heirs", type=click.IntRange(0, 8), default=HEIRS, show_default=True, help="Nodes behind each beacon that know as much."
)
@click.option(
    "--servlet-repair", type=DURATION, default=10.0, show_default="10s", help="Until another servlet serves for a dead one."
)
@click.option(
    "--beacon-repair", type=DURATION, default=20.0, show_default="20s", help="Until a dead beacon's successor knows all."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def plan(
    nodes: int,
    attacked: int | None,
    strikes_per_hour: float | None,
    lasting: float,
    at_once: int,
    availability: float,
    mode: str,
    heirs: int,
    servlet_repair: float,
    beacon_repair: float,
    as_json: bool,
) -> int:
    """Say which sizes of roles keep users in while nodes are attacked; exit status 3 when none do.

    The attacker is taken to hit nodes at random, because roles are secret and rotate; who has broken into the overlay does better.
    """
    if (attacked is None) == (strikes_per_hour is None):
        raise click.UsageError("say which attack: --attacked NODES (at one moment), or --strikes-per-hour NUMBER (for good)")
    wished, path = 1 - availability / 100, PathMode(mode)
    if attacked is not None:
        question = _strike(nodes, attacked, wished, path, heirs)
    else:
        repair = Repair(servlet_repair, beacon_repair)
        question = _attack(nodes, Attack((strikes_per_hour or 0) / 3600, lasting, at_once=at_once), repair, wished, path, heirs)
    return _tell(question, defaults(nodes, path, min(heirs, nodes - 1)), availability, as_json)


def _strike(nodes: int, attacked: int, wished: float, mode: PathMode, heirs: int) -> _Question:
    if attacked > nodes:
        raise ValueError(f"--attacked {attacked}: the overlay has {nodes} nodes; give a number from 0 to {nodes}")

    def choose(size: int) -> Choice | None:
        return for_strike(size, attacked, wished, mode, min(heirs, size - 1))

    rows = tuple((f"{ratio:.0%}", ratio, ratio) for ratio in _RATIOS)
    return _Question(
        f"{attacked} of {nodes} nodes struck at one moment",
        {"attacked": attacked},
        choose,
        lambda shape, ratio: denied(shape, attacked if ratio < 0 else round(shape.nodes * ratio)),
        "nodes struck",
        "attacked_ratio",
        rows,
    )


def _attack(nodes: int, attack: Attack, repair: Repair, wished: float, mode: PathMode, heirs: int) -> _Question:
    def choose(size: int) -> Choice | None:
        return for_attack(size, attack, repair, wished, mode, min(heirs, size - 1))

    def denies(shape: Shape, times: float) -> float:
        scale = 1.0 if times < 0 else times
        return denied_moving(shape, Attack(attack.rate * scale, attack.lasting, at_once=attack.at_once), repair)

    hourly, down = attack.rate * 3600, down_ratio(nodes, attack)
    rows = tuple((f"{hourly * times:g}", hourly * times, times) for times in _TIMES)
    return _Question(
        f"{nodes} nodes, {hourly:g} struck an hour, each down for {attack.lasting:g} s in the mean: {down:.1%} are down",
        {"strikes_per_hour": hourly, "lasting_s": attack.lasting, "at_once": attack.at_once, "down_ratio": down},
        choose,
        denies,
        "struck an hour",
        "strikes_per_hour",
        rows,
    )


_AS_GIVEN = -1.0
"""Asks ``denies`` for the attack as it was given."""


def _tell(question: _Question, now: Shape, availability: float, as_json: bool) -> int:
    """The answer; the exit status."""
    choice = question.choose(now.nodes)
    shape = choice.shape if choice else largest(now.nodes, now.mode, now.heirs)
    chosen = choice.denied if choice else question.denies(shape, _AS_GIVEN)
    usual = question.denies(now, _AS_GIVEN)
    table = [(said, name, question.denies(shape, value), question.denies(now, value)) for said, name, value in question.rows]
    facts: dict[str, Any] = {
        "nodes": now.nodes,
        "mode": str(now.mode),
        "availability": availability,
        "attack": question.attack,
        "enough": choice is not None,
        "choice": _sizes(shape) | {"denied": chosen},
        "defaults": _sizes(now) | {"denied": usual},
        "table": [{question.key: name, "chosen": one, "defaults": other} for _, name, one, other in table],
    }
    lines = [f"{question.said}; {availability:g} % wished, path mode {now.mode}."]
    if choice is None:
        more = enough_nodes(question.choose, now.nodes, _MOST_NODES)
        facts["enough_nodes"] = more
        lines.append(f"No choice is enough: the largest still denies a user with {_share(chosen)}.")
        step = f"polder plan with --nodes {more} (the same attack is spread over more nodes)" if more else (
            "wish for less availability, or plan for a smaller attack"
        )  # fmt: skip
    else:
        lines.append(f"Choose {_said(shape)}: a user is denied with {_share(chosen)}.")
        step = _step(shape, now)
    lines.append(f"By default ({_said(now)}): {_share(usual)}.")
    lines += ["", f"  {question.unit:>16} {'chosen' if choice else 'largest':>10} {'default':>10}"]
    lines += [f"  {said:>16} {_share(one):>10} {_share(other):>10}" for said, _, one, other in table]
    answer(facts, "\n".join(lines), step, as_json=as_json)
    return 0 if choice else 3


def _sizes(shape: Shape) -> dict[str, int]:
    return {
        "access_points": shape.access_points,
        "servlets": shape.servlets,
        "beacons": shape.beacons,
        "heirs": shape.heirs,
    }


def _said(shape: Shape) -> str:
    ways = "all nodes" if shape.access_points == shape.nodes else f"{shape.access_points} nodes for each user"
    behind = "1 heir" if shape.heirs == 1 else f"{shape.heirs} heirs"
    return f"{shape.servlets} servlets for each site, {shape.beacons} beacons with {behind} each, {ways} as access points"


def _share(chance: float) -> str:
    """A chance with two digits that count."""
    if chance <= 0:
        return "0"
    percent = 100 * chance
    return "< 0.0001 %" if percent < 1e-4 else f"{percent:.{max(0, 1 - math.floor(math.log10(percent)))}f} %"


def _step(shape: Shape, now: Shape) -> str:
    """What to write where."""
    steps = []
    if shape.servlets != now.servlets:
        steps.append(f"servlets = {shape.servlets} in each site.toml")
    if shape.beacons != now.beacons:
        steps.append(f"beacons = {shape.beacons} in every node.toml (all nodes must agree)")
    if shape.access_points < now.access_points:
        steps.append(f"{shape.access_points} names at least where a client.toml has access_points (default: all nodes)")
    return f"write {', '.join(steps)}; then polder config check" if steps else "nothing: the defaults are enough"
