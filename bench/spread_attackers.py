"""``python -m bench.spread_attackers``: relays are flooded in turn, and chased. Writes ``spread-attackers.json`` and ``.svg``.

A long download crosses 40 relays (delays of PlanetLab, ``POLDER_DATA``) behind access links of ``RELAY_MBIT``, the user's has
``USER_MBIT``. Two attackers, each with real packets that fill the links of eight relays three times over:

- *sweeping*: every 500 ms other 20 % of the relays, in turn, whoever uses them;
- *follower*: every 500 ms the relays that carried most of this user's packets during the last look; of each relay it knows with
  probability one half whether it does; it floods 20 % of all at most, and fills up with others.

With feedback and 50 % more packets; and, for comparison, without feedback at 200 %. The download is quiet first, then attacked; its first
``BEGIN_S`` are left out: they deliver what slow start had overfilled the user's line with.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import report, spread_lab
from polder.lab import experiment, steady
from polder.lab.plots import DIKE, FLOOD, SEA
from polder.lab.processes import Process
from polder.lab.results import Claim, Measure
from polder.lab.spread import LISTEN, PORT, Mode, Overlay, Session

USER_MBIT, RELAY_MBIT, FLOOD_MBIT = 12.0, 10.0, 30.0
RELAYS, AT_ONCE = 40, 8
BEGIN_S = 4.0
STEP_S = 0.5
KNOWN = 0.5
"""With so much probability the follower knows whether a relay is used."""
BOTS = ("bot1", "bot2")
FILE = "/long.bin"
FILE_BYTES = 400 << 20
MODES = (Mode(naive=False, copies=0.5), Mode(naive=True, copies=2.0))
Choose = Callable[[int], list[str]]


def sweeping(relays: Sequence[str], rng: random.Random) -> Choose:
    """All relays in turn, in an order of its own."""
    order = rng.sample(list(relays), len(relays))
    return lambda step: [order[(step * AT_ONCE + n) % len(order)] for n in range(AT_ONCE)]


def follower(overlay: Overlay, session: Session, rng: random.Random) -> Choose:
    """The user's relays, as far as it knows them."""
    hosts = {member.id: member.host for member in overlay.members[:-1]}
    before: dict[int, int] = {}

    def choose(_: int) -> list[str]:
        looks = [frame["paths"] for frame in session.servlet.frames() if frame["paths"]]
        now = {path["relay"]: path["sent"] + path["received"] for path in looks[-1]} if looks else {}
        used = sorted(hosts, key=lambda one: before.get(one, 0) - now.get(one, 0))
        busy = [one for one in used if now.get(one, 0) > before.get(one, 0)]
        known = [hosts[one] for one in busy if rng.random() < KNOWN][:AT_ONCE]
        before.update(now)
        others = [host for host in hosts.values() if host not in known]
        return known + rng.sample(others, AT_ONCE - len(known))

    return choose


async def attack(bots: Sequence[Process], addresses: dict[str, str], choose: Choose, seconds: float) -> None:
    """Change targets every ``STEP_S``."""
    for step in range(int(seconds / STEP_S)):
        targets = [addresses[host] for host in choose(step)]
        for number, bot in enumerate(bots):
            pipe = bot.process.stdin
            assert pipe is not None
            pipe.write(json.dumps(targets[number :: len(bots)]).encode() + b"\n")
            await pipe.drain()
        await asyncio.sleep(STEP_S)


def row(mode: Mode, kind: str, outcome: dict[str, Any], quiet_s: float) -> dict[str, Any]:
    """Throughput before and during the attack; ``stall_s``: the longest pause during it."""
    per = round(1 / steady.SLICE_S)
    rates = [slice_ * 8 / steady.SLICE_S / 1e6 for slice_ in outcome["slices"]]
    quiet, attacked = rates[int(BEGIN_S * per) : int(quiet_s * per)], rates[int(quiet_s * per) :]
    gaps = [gap for at, gap in outcome["gaps"] if at + gap > quiet_s]
    return {
        "mode": mode.name,
        "copies": mode.copies,
        "attack": kind,
        "quiet_mbit_s": round(statistics.fmean(quiet), 2),
        "attacked_mbit_s": round(statistics.fmean(attacked), 2),
        "loss": round(1 - statistics.fmean(attacked) / statistics.fmean(quiet), 3),
        "stall_s": max(gaps, default=steady.GAP_S),
        "series": [round(statistics.fmean(rates[at : at + 5]), 2) for at in range(0, len(rates) - 4, 5)],
    }


def claims() -> list[Claim]:
    """The issue's targets."""
    ours = {"mode": "feedback"}
    return [
        Claim("spread-attackers.stall", "longest pause of the download under either attacker, s", "<= 1",
              Measure("stall_s", ours, "max")),
        Claim("spread-attackers.sweeping", "throughput lost to the sweeping attacker", "<= 0.15",
              Measure("loss", ours | {"attack": "sweeping"}, "max")),
        Claim("spread-attackers.follower", "throughput lost to the follower", "<= 0.15",
              Measure("loss", ours | {"attack": "follower"}, "max")),
        Claim("spread-attackers.reached", "packets of the flood that the relays' links dropped or carried, share of those sent",
              ">= 0.5", Measure("flood_arrived", {}, "min")),
    ]  # fmt: skip


def draw(drawn: Any, rows: Sequence[Any]) -> None:
    """Throughput by time, one panel for each attacker."""
    panels = drawn.subplots(1, 2, sharey=True)
    for axis, kind in zip(panels, ("sweeping", "follower"), strict=True):
        for mode, colour in (("feedback", SEA), ("naive", FLOOD)):
            for one in (r for r in rows if r["attack"] == kind and r["mode"] == mode):
                label = f"{'no feedback' if mode == 'naive' else mode}, {one['copies']:.0%} more"
                axis.plot([0.5 * n for n in range(len(one["series"]))], one["series"], color=colour, label=label)
                axis.axvline(one["quiet_s"], color=DIKE, linewidth=1)
        axis.set(title=f"{kind.capitalize()} attacker, from the line on", xlabel="s")
    panels[0].set(ylabel="Mbit/s")
    panels[0].legend(fontsize=8)


async def point(
    stage: spread_lab.Stage, overlay: Overlay, mode: Mode, kind: str, times: tuple[float, float], ca: Path
) -> dict[str, Any]:
    """One download, attacked in its second part."""
    quiet_s, attacked_s = times
    rng = random.Random(f"{kind}{mode.name}")
    relays = [member.host for member in overlay.members[:-1]]
    addresses = {member.host: member.address for member in overlay.members}
    session = await overlay.session("user", stage.target, mode)
    bots: list[Process] = []
    try:
        bounds = {"mbit": FLOOD_MBIT, "port": PORT, "payload": 1400, "targets": AT_ONCE // len(BOTS), "seconds": sum(times) + 15}
        for host in BOTS:
            argv = [sys.executable, "-m", "polder.lab.sweep", json.dumps(bounds)]
            bots.append(await stage.processes.start(host, f"sweep-{host}", argv, piped=True, open_stdin=True))
        what = {
            "address": "127.0.0.1", "port": LISTEN, "name": experiment.SITE_NAME, "path": FILE, "ca": str(ca), "seconds": sum(times),
        }  # fmt: skip
        argv = [sys.executable, "-m", "polder.lab.steady", json.dumps(what)]
        download = asyncio.create_task(stage.processes.run("user", f"steady-{kind}-{mode.name}", argv, sum(times) + 90))
        await asyncio.sleep(quiet_s + 1.0)
        choose = sweeping(relays, rng) if kind == "sweeping" else follower(overlay, session, rng)
        before = stage.world.counts(relays)
        await attack(bots, addresses, choose, attacked_s)
        after = stage.world.counts(relays)
        outcome = json.loads(await download)
        sent = 0
        for bot in bots:
            assert bot.process.stdin is not None
            bot.process.stdin.close()
            sent += json.loads(await bot.output(20.0))["sent"]
        arrived = sum(after[key] - before[key] for key in ("out_packets", "drop_down", "drop_full")) / max(1, sent)
        return row(mode, kind, outcome, quiet_s) | {"quiet_s": quiet_s, "flood_packets": sent, "flood_arrived": round(arrived, 2)}
    finally:
        session.stop()
        for bot in bots:
            await bot.stop()


async def measure(folder: Path, quick: bool) -> list[dict[str, Any]]:
    """Both attackers, both modes, over one placement."""
    rows = []
    async with spread_lab.stage(folder) as stage:
        long = stage.ca.parent / "www" / FILE.strip("/")
        long.touch()
        os.truncate(long, FILE_BYTES)
        spread_lab.put(stage.world, spread_lab.first())
        stage.shape("user", 0.0, USER_MBIT)
        for number in range(1, RELAYS + 1):
            stage.shape(f"node{number}", 0.0, RELAY_MBIT)
        with stage.overlay(RELAYS, 1) as overlay:
            for kind in ("sweeping", "follower"):
                for mode in MODES[:1] if quick else MODES:
                    times = (8.0, 5.0) if quick else (16.0, 20.0)
                    rows.append(await point(stage, overlay, mode, kind, times, stage.ca))
                    report.show([{key: value for key, value in rows[-1].items() if key != "series"}])
    return rows


def parameters() -> dict[str, Any]:
    """Beyond those that all figures share."""
    return {
        "relays": RELAYS, "user_mbit": USER_MBIT, "relay_mbit": RELAY_MBIT, "flood_mbit_each": FLOOD_MBIT, "at_once": AT_ONCE,
        "step_s": STEP_S, "begin_s": BEGIN_S, "known": KNOWN,
    } | spread_lab.first().row(RELAYS)  # fmt: skip


FIGURE = spread_lab.Figure(
    "spread-attackers", "A download while relays are flooded in turn, and chased", "short, with feedback only",
    parameters, measure, claims, draw,
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(FIGURE.main(__doc__))
