"""``python -m bench bandex-crashes``: SIGKILL of clearing house and policy decision point at a thousand random moments, on each database.

Two processes run at a time, as they would at an ISP and at its clearing house: a desk that takes checks into its till (several in one
transaction, refreshes and frauds between them), and a house that pays what waits in the till, is told old deposits again, settles and
confirms payments. Each says what it has acknowledged over a pipe. One of the two is killed at a random moment, the next one starts from the
same files, and is compared with everything that was ever said. In the end all that waits is deposited, and the books are compared
with the till: each check paid once. Writes ``bench/results/bandex-crashes.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import func
from sqlalchemy import select as query
from tests.support import postgres
from tests.support.money import HOUR, NOW, Alice, Ask, desk, key, name_of

from bench.crash_points import Child, Say
from polder.bandex import Entry, pack
from polder.clearing import tables
from polder.clearing.house import House, HouseRules
from polder.clearing.ledger import open_ledger
from polder.clearing.messages import Deposit
from polder.clearing.till import PAID, Till, open_spent
from polder.lab import results
from polder.lab.results import Claim, Measure, Result
from polder.model import Refused
from polder.store import sqlite_url, transaction

KILLS, QUICK = 1000, 8
STEP = 20.0
"""Seconds by which the processes' clock goes on from one kill to the next: checks last for half an hour, 90 kills."""
WORKING = 0.85
"""Share of kills for which the victim's first word is waited for: the others may come while it starts."""
BACKLOG = 200
"""Checks that wait to be deposited, at most."""
NICK = "spiffe://crash.test/site/nick"


@dataclass
class Word:
    """All that was acknowledged."""

    taken: dict[str, int] = field(default_factory=dict)
    paid: dict[str, int] = field(default_factory=dict)
    settled: dict[str, int] = field(default_factory=dict)
    """Settlement → its payments."""
    confirmed: set[tuple[str, int]] = field(default_factory=set)
    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    unbalanced: list[str] = field(default_factory=list)

    def hear(self, said: dict[str, Any]) -> None:
        """One line of a process."""
        match said["what"]:
            case "error":
                raise RuntimeError(said["why"])
            case "found":
                self.lost += said.get("lost", [])
                self.twice += said.get("twice", [])
                self.unbalanced += said.get("unbalanced", [])
                return
            case "taken":
                self.taken |= said["charges"]
            case "paid":
                self.paid |= said["charges"]
            case "settled":
                self.settled[said["name"]] = said["payments"]
            case "confirmed":
                self.confirmed.add((said["name"], said["number"]))
        self.acknowledged += 1


@dataclass
class World:
    """Where the till and the books are, and what was said of them."""

    till: Path
    books: str
    now: float
    word: Word = field(default_factory=Word)


def take(world: World, seed: int, say: Say) -> None:
    """The policy decision point: start from the till, compare, take checks until killed."""
    rng = random.Random(seed)
    till = open_spent(world.till)
    held = {entry.charge for entry in till.entries()}
    say(what="found", lost=[f"check {c[:8]} was taken" for c in world.word.taken if c not in held and c not in world.word.paid])
    nick = desk(till)
    # One user may have only so much credit: each incarnation is paid by another.
    alice = Alice(seed, world.now, total=2_000_000_000, nonce=f"{seed:032x}")
    while True:
        while till.totals()["waiting"] > BACKLOG:  # the house is slower: kills shall meet both at work
            time.sleep(0.01)
        asks = [alice.ask(world.now) for _ in range(rng.randint(1, 4))]
        decisions = nick.decide_many(asks, world.now)
        if not all(decision.accepted for decision in decisions):
            raise RuntimeError(f"an honest check was refused: {decisions}")
        say(what="taken", charges={decision.charge: 440_000 for decision in decisions})
        old = rng.choice(list(till.entries()))
        if old.until > world.now:
            ask = Ask(pack(old.bundle))
            again = nick.decide(ask, world.now)
            elsewhere = nick.decide(ask.but(router="south"), world.now)
            if again.charge != old.charge or elsewhere.accepted:
                say(what="found", twice=[f"check {old.charge[:8]} was taken anew"])
        if rng.random() < 0.1:
            till.sweep(world.now)
        time.sleep(rng.uniform(0.0, 0.01))


def clear(world: World, seed: int, say: Say) -> None:
    """The clearing house: start from the books, audit, compare, pay until killed."""
    rng = random.Random(seed)
    ledger = open_ledger(world.books)
    house = House(ledger, HouseRules())
    say(what="found", unbalanced=ledger.audit(), lost=_missing(house, world.word))
    nick = ledger.of_identity(NICK)
    till = Till(world.till)
    while True:
        entries = till.waiting(rng.randint(1, 8))
        if entries:
            _pay(house, nick, till, entries, world.now, say)
        if world.word.paid and rng.random() < 0.3:
            _insist(house, nick, rng.choice(sorted(world.word.paid)), world.now, say)
        if rng.random() < 0.1:
            name = f"s{seed}-{rng.randint(0, 3)}"
            say(what="settled", name=name, payments=len(ledger.settle(name, world.now)))
        if rng.random() < 0.2:
            for due in [one for one in ledger.payments(None) if one.paid_at is None][:1]:
                done = ledger.paid(due.settlement, due.number, nick.id, world.now)
                say(what="confirmed", name=done.settlement, number=done.number)
        time.sleep(rng.uniform(0.0, 0.005))


def _pay(house: House, nick: Any, till: Till, entries: list[Entry], now: float, say: Say) -> None:
    receipts = house.deposit(nick, [Deposit(entry.flow, entry.taken_at, entry.bundle) for entry in entries], now)
    refused = [receipt.why for receipt in receipts if receipt.outcome == "refused"]
    if refused:
        raise RuntimeError(f"an honest check was not paid: {refused}")
    say(what="paid", charges={receipt.charge: receipt.amount for receipt in receipts})
    till.answered([(receipt.charge, PAID) for receipt in receipts], now)


def _insist(house: House, nick: Any, charge: str, now: float, say: Say) -> None:
    """An old deposit comes again, as it was and with another time: nothing is paid twice."""
    c = tables.checks.c
    evidence = house.ledger.run(lambda db: db.scalar(query(c.evidence).where(c.charge == charge)))
    if evidence is None:
        say(what="found", lost=[f"check {charge[:8]} was paid"])
        return
    first = msgspec.json.decode(evidence, type=Deposit)
    again, other = house.deposit(nick, [first, Deposit(first.flow, first.taken_at + 1, first.bundle)], now)
    if again.outcome != "repeated" or other.verdict != "already-used":
        say(what="found", twice=[f"check {charge[:8]}: {again.outcome}, {other.outcome}"])


def _missing(house: House, word: Word) -> list[str]:
    """What was acknowledged and is not in the books."""
    c, s, p = tables.checks.c, tables.settlements.c, tables.payments.c
    with transaction(house.ledger.engine) as db:
        paid = {row.charge: row.amount for row in db.execute(query(c.charge, c.amount))}
        rows = query(s.name, p.number, p.paid_at).outerjoin(tables.payments, p.settlement == s.id)
        dues = db.execute(rows).all()
    counts: dict[str, int] = {}
    for name, number, _ in dues:
        counts[name] = counts.get(name, 0) + (number is not None)
    done = {(name, number) for name, number, at in dues if at is not None}
    wrong = [f"check {charge[:8]} was paid" for charge, amount in word.paid.items() if paid.get(charge) != amount]
    wrong += [f"settlement {name} has other payments" for name, count in word.settled.items() if counts.get(name) != count]
    return wrong + [f"payment {one} was confirmed" for one in word.confirmed - done]


def run_one(name: str, books: str, root: Path, kills: int, rng: random.Random) -> dict[str, Any]:
    """``kills`` deaths over one database; one row."""
    began = time.monotonic()
    world = World(root / "till.sqlite3", books, NOW)
    _open_accounts(books)
    work: dict[str, Callable[[World, int, Say], None]] = {"pdp": take, "house": clear}
    seeds = iter(range(10**9))
    living: dict[str, Child] = {}
    killed = dict.fromkeys(work, 0)
    for count in range(kills):
        for part in work:
            if part not in living:
                seed = next(seeds)
                living[part] = Child.fork(lambda say, part=part, seed=seed: work[part](world, seed, say))  # type: ignore[misc]
        part = rng.choice(sorted(work))
        if rng.random() < WORKING:
            _await(living[part])
        time.sleep(rng.uniform(0.0, 0.25))
        for said in living.pop(part).kill():
            world.word.hear(said)
        for child in living.values():
            for said in _said(child):
                world.word.hear(said)
        killed[part] += 1
        world.now = NOW + STEP * count
    for child in living.values():
        for said in child.kill():
            world.word.hear(said)
    twice = _finish(world)
    word = world.word
    counts = {"lost": len(word.lost), "twice": len(word.twice) + len(twice), "unbalanced": len(word.unbalanced)}
    what = [*word.lost, *word.twice, *twice, *word.unbalanced][:5]
    row = {
        "database": name,
        "kills": kills,
        **{f"{part}_kills": n for part, n in killed.items()},
        "acknowledged": word.acknowledged,
    }
    row |= {"checks": len(word.taken), "paid": len(word.paid), "settlements": len(word.settled), "payments": len(word.confirmed)}
    return row | counts | {"what": what, "seconds": round(time.monotonic() - began, 1)}


def _await(child: Child) -> None:
    """Until it has said something; raises ``RuntimeError`` when it ends without."""
    while not child.tail:
        if not (more := os.read(child.pipe, 65536)):
            raise RuntimeError("a process ended without a word")
        child.tail += more


def _said(child: Child) -> Iterator[dict[str, Any]]:
    """What a living process has said so far."""
    while select.select([child.pipe], [], [], 0)[0]:
        more = os.read(child.pipe, 65536)
        if not more:
            break
        child.tail += more
    *lines, child.tail = child.tail.split(b"\n")
    for line in lines:
        yield json.loads(line)


def _open_accounts(books: str) -> None:
    ledger = open_ledger(books)
    house = House(ledger, HouseRules())
    house.register("nick", "isp", name_of("nick"), NICK, NOW)
    house.register("martha", "provider", name_of("martha"), "spiffe://crash.test/site/martha", NOW, most=1_000_000)
    ledger.close()


def _finish(world: World) -> list[str]:
    """Deposit what waits; every check of the till, and every one that was acknowledged, has been paid once, and the books say so."""
    ledger, till = open_ledger(world.books), Till(world.till)
    house = House(ledger, HouseRules())
    nick = ledger.of_identity(NICK)
    while entries := till.waiting(32):
        _pay(house, nick, till, entries, world.now, lambda **said: world.word.hear(said))
    ledger.settle("end", world.now)
    for due in [one for one in ledger.payments(None) if one.paid_at is None]:
        ledger.paid(due.settlement, due.number, nick.id, world.now)
    world.word.unbalanced += ledger.audit()
    world.word.unbalanced += [f"{account} ends with {left}" for account, left in ledger.balances().items() if left]
    m, o = tables.movements.c, tables.postings.c
    with transaction(ledger.engine) as db:
        rows = db.execute(query(m.charge, func.count()).where(m.kind == "check").group_by(m.charge)).all()
        join = query(func.sum(o.amount)).join(tables.movements, m.id == o.movement)
        got = db.scalar(join.where(m.kind == "check", o.account == nick.id)) or 0
        came = db.scalar(join.where(m.kind == "payment", o.account == nick.id)) or 0
    ledger.close()
    till.close()
    wrong = [f"check {charge[:8]} was paid {count} times" for charge, count in rows if count != 1]
    if got != sum(world.word.paid.values()) or came != -got:
        wrong.append(f"checks over {sum(world.word.paid.values())} were paid with {got}, and settled with {-came}")
    world.word.lost += [f"check {c[:8]} was taken and never paid" for c in world.word.taken if c not in world.word.paid]
    return wrong


@contextmanager
def databases(root: Path) -> Iterator[list[tuple[str, str]]]:
    """SQLite, and PostgreSQL where it is installed: name and URL. PostgreSQL syncs its commits, as SQLite does."""
    made = [("sqlite", sqlite_url(root / "books.sqlite3"))]
    if why := postgres.missing():
        print(f"without PostgreSQL: {why}", file=sys.stderr)
        yield made
        return
    with postgres.cluster(durable=True) as url:
        yield [*made, ("postgresql", url)]


def _claims(names: list[str]) -> list[Claim]:
    claims = []
    for name in names:
        on = {"database": name}
        claims.append(Claim(f"bandex-crashes.kills.{name}", f"kills on {name}", ">= 1000", Measure("kills", on)))
        for what, text in (
            ("lost", "acknowledged, and gone after a restart"),
            ("twice", "checks taken or paid twice"),
            ("unbalanced", "audits that found books that do not add up"),
        ):
            claims.append(Claim(f"bandex-crashes.{what}.{name}", f"{text}, on {name}", "== 0", Measure(what, on)))
    return claims


def draw(drawn: Any, rows: Any) -> None:
    """What was acknowledged, and what went wrong, on each database."""
    axes = drawn.subplots()
    what = [
        ("kills", "kills"),
        ("acknowledged", "acknowledgements\ncompared"),
        ("paid", "checks paid"),
        ("lost", "acknowledged\nand lost"),
        ("twice", "taken or\npaid twice"),
        ("unbalanced", "audits that\nfound a fault"),
    ]
    width = 0.8 / len(rows)
    for number, row in enumerate(rows):
        places = [at + (number - (len(rows) - 1) / 2) * width for at in range(len(what))]
        values = [row[name] for name, _ in what]
        bars = axes.bar(places, [max(value, 0.5) for value in values], width * 0.95, label=row["database"])
        axes.bar_label(bars, [f"{value:,}" for value in values], padding=2)
    axes.set_yscale("log", base=10)
    axes.set_ylim(0.4, None)
    axes.set_xticks(range(len(what)), [label for _, label in what])
    axes.set_title("SIGKILL of clearing house or policy decision point at random moments")
    axes.legend()


def run(kills: int, seed: int) -> Result:
    """All databases."""
    rng = random.Random(seed)
    for who in ("alice", "martha", "nick"):
        key(who)  # before the forks, so that all have the same
    rows = []
    with tempfile.TemporaryDirectory(prefix="polder-bandex-") as directory:
        root = Path(directory)
        with databases(root) as found:
            for name, url in found:
                place = root / name
                place.mkdir()
                rows.append(run_one(name, url, place, kills, rng))
                print(json.dumps(rows[-1]), flush=True)
    parameters = {"kills": kills, "seed": seed, "step_s": STEP, "check_s": HOUR / 2, "working_share": WORKING, "backlog": BACKLOG}
    title = "SIGKILL of clearing house and policy decision point at random moments"
    return Result("bandex-crashes", parameters, rows, _claims([row["database"] for row in rows]), title)


def main() -> int:
    """Run and write; exit status 3 if a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} kills on each database; nothing is written")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    try:
        result = run(QUICK if arguments.quick else KILLS, arguments.seed)
    except Refused as refused:
        print(f"refused: {refused}", file=sys.stderr)
        return 1
    if arguments.quick:
        return 3 * any(row["lost"] or row["twice"] or row["unbalanced"] for row in result.rows)
    results.write(result, draw)
    return 3 * (not all(claim["holds"] for claim in result.record()["claims"]))


if __name__ == "__main__":
    sys.exit(main())
