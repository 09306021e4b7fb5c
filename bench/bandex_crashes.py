"""``python -m bench bandex-crashes``: SIGKILL of clearing house and policy decision point at a thousand random moments, on each database.

`polder pdp`, which takes checks into its till, and `polder clearing serve`, which pays them, run as commands, over their Unix socket
and their mutual TLS. A router with users and an ISP that deposits live beside them (``bench/bandex_parties.py``) and say what was
acknowledged to them: new checks, refreshes, frauds between them, deposits, old deposits again, confirmed payments. One of the two is
killed at a random moment, and now and then a `polder clearing settle` too; the files that it leaves are compared with everything that
was ever acknowledged, and it starts again from them. In the end all that waits is deposited, and the books are compared with the till:
each check paid once. Writes ``bench/results/bandex-crashes.json``.
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
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import func
from sqlalchemy import select as query
from tests.support import postgres
from tests.support.money import key

from bench import bandex_parties as parties
from bench.bandex_parties import BACKLOG, LANES, LIFE_S, NICK, PAUSE_S, Place
from bench.crash_points import Child, Say
from polder.clearing import tables
from polder.clearing.house import House, HouseRules
from polder.clearing.ledger import Ledger, open_ledger
from polder.clearing.messages import Deposit
from polder.clearing.till import PAID, Till
from polder.lab import results
from polder.lab.results import Claim, Measure, Result
from polder.shell.clock import wall
from polder.store import open_engine, transaction

KILLS, QUICK = 1000, 8
WORKING = 0.85
"""Share of kills for which the victim is waited for until it has answered somebody: the others may come while it starts."""
PATIENCE_S = 120.0
"""Seconds within which whoever serves has answered."""
AT_WORK_S = 0.15
"""Most seconds from then to the kill."""
SETTLING = 0.15
"""Share of kills beside which accounts are settled; that command is killed too, unless it was quicker."""
SAMPLE = 50
"""Acknowledgements of former rounds that are compared again after each death of the house; in the end all are."""


@dataclass
class Word:
    """All that was acknowledged."""

    taken: dict[str, int] = field(default_factory=dict)
    paid: dict[str, int] = field(default_factory=dict)
    settled: dict[str, int] = field(default_factory=dict)
    """Settlement → its payments."""
    confirmed: set[tuple[str, int]] = field(default_factory=set)
    acknowledged: int = 0
    cut: int = 0
    """Calls of the ISP that broke off: the answer never came."""
    answered: int = 0
    """Times that the house answered the ISP, whatever it was."""
    lost: set[str] = field(default_factory=set)
    twice: set[str] = field(default_factory=set)
    unbalanced: set[str] = field(default_factory=set)
    open: dict[str, int] = field(default_factory=dict)
    """Taken, and not yet seen in the books."""
    fresh: dict[str, int] = field(default_factory=dict)
    """Paid, and not yet compared with the books."""

    def hear(self, said: dict[str, Any]) -> None:
        """One line of a process."""
        match said["what"]:
            case "error":
                raise RuntimeError(said["why"])
            case "found":
                self.twice.update(said["twice"])
                return
            case "cut":
                self.cut += 1
                return
            case "answered":
                self.answered += 1
                return
            case "taken":
                self.taken |= said["charges"]
                self.open |= said["charges"]
            case "paid":
                self.paid |= said["charges"]
                self.fresh |= said["charges"]
            case "confirmed":
                self.confirmed.add((said["name"], said["number"]))
        self.acknowledged += 1


@contextmanager
def the_books(place: Place) -> Iterator[Ledger]:
    """The clearing house's books, as they lie there; closed before anything is forked, which SQLite demands."""
    ledger = Ledger(open_engine(place.books))
    try:
        yield ledger
    finally:
        ledger.close()


def compare_till(place: Place, word: Word) -> None:
    """Every check that was acknowledged is in the till, unless it was paid and forgotten."""
    with closing(Till(place.till)) as till:
        held = till.charges()
    gone = [charge for charge in word.open if charge not in held]
    with the_books(place) as ledger:
        paid = _in_books(ledger, gone)
    word.lost.update(f"check {charge[:8]} was taken" for charge in gone if charge not in paid)
    for charge in gone:
        del word.open[charge]


def compare_books(place: Place, word: Word, rng: random.Random, *, whole: bool) -> None:
    """Every payment that was acknowledged is in the books, once and over its amount; ``whole``: of all times, and they add up."""
    old = word.paid if whole else dict(rng.sample(sorted(word.paid.items()), min(SAMPLE, len(word.paid))))
    wanted = old | word.fresh
    word.fresh.clear()
    with the_books(place) as ledger:
        found = _in_books(ledger, wanted)
        if whole:
            word.unbalanced.update(ledger.audit())
            word.lost.update(_settlements_missing(ledger, word))
    word.lost.update(f"check {charge[:8]} was paid" for charge, amount in wanted.items() if found.get(charge) != amount)


def _in_books(ledger: Ledger, charges: Any) -> dict[str, int]:
    """What was paid for each of ``charges``, over all movements of it."""
    m, o, a = tables.movements.c, tables.postings.c, tables.accounts.c
    join = query(m.charge, func.sum(o.amount)).join(tables.postings, o.movement == m.id).join(tables.accounts, a.id == o.account)
    many, found = sorted(charges), {}
    with transaction(ledger.engine) as db:
        for at in range(0, len(many), 500):
            some = join.where(m.charge.in_(many[at : at + 500]), a.identity == NICK).group_by(m.charge)
            found.update({charge: int(amount) for charge, amount in db.execute(some)})
    return found


def _settlements_missing(ledger: Ledger, word: Word) -> list[str]:
    s, p = tables.settlements.c, tables.payments.c
    with transaction(ledger.engine) as db:
        dues = db.execute(query(s.name, p.number, p.paid_at).outerjoin(tables.payments, p.settlement == s.id)).all()
    counts: dict[str, int] = {}
    for name, number, _ in dues:
        counts[name] = counts.get(name, 0) + (number is not None)
    done = {(name, number) for name, number, at in dues if at is not None}
    wrong = [f"settlement {name} has other payments" for name, count in word.settled.items() if counts.get(name) != count]
    return wrong + [f"payment {one} was confirmed" for one in word.confirmed - done]


class Rounds:
    """Kills over one database."""

    def __init__(self, name: str, place: Place, seed: int) -> None:
        self.name = name
        self.place = place
        self.word = Word()
        self.rng = random.Random(seed)
        self.killed = {"pdp": 0, "house": 0, "settle": 0}
        self.clients = [
            Child.fork(lambda say: parties.router(place, seed + 1, say)),
            Child.fork(lambda say: parties.isp(place, seed + 2, say)),
        ]
        self.living: dict[str, Child] = {}

    def run(self, kills: int) -> dict[str, Any]:
        """So many deaths; one row."""
        began = time.monotonic()
        try:
            for count in range(kills):
                self.round(whole=count % 100 == 99)
            for client in self.clients:
                self.hear(client)
        finally:
            for child in (*self.clients, *self.living.values()):
                parties.end(child)
        word = self.word
        finish(self.place, word)
        counts = {"lost": len(word.lost), "twice": len(word.twice), "unbalanced": len(word.unbalanced)}
        row = {"database": self.name, "kills": kills, **{f"{part}_kills": n for part, n in self.killed.items()}}
        row |= {"acknowledged": word.acknowledged, "cut": word.cut, "checks": len(word.taken), "paid": len(word.paid)}
        row |= {"settlements": len(word.settled), "payments": len(word.confirmed)}
        what = [*word.lost, *word.twice, *word.unbalanced][:5]
        return row | counts | {"what": what, "seconds": round(time.monotonic() - began, 1)}

    def round(self, *, whole: bool) -> None:
        """One death, and what it left."""
        for part in ("pdp", "house"):
            if part not in self.living:
                self.living[part] = parties.serve(self.place, part)
        part = self.rng.choice(("pdp", "house"))
        victim = self.living[part]
        if self.rng.random() < WORKING:
            self._served(part, victim)
        settling = self.rng.random() < SETTLING
        name = f"s{self.rng.randint(0, 30)}"
        beside = parties.command(self.place, "clearing", "settle", "--name", name) if settling else None
        time.sleep(self.rng.uniform(0.0, AT_WORK_S))
        parties.end(self.living.pop(part))
        self.killed[part] += 1
        if beside is not None:
            self._settled(name, beside)
        for client in self.clients:
            self.hear(client)
        if part == "pdp":
            compare_till(self.place, self.word)
        if part == "house" or whole:
            compare_books(self.place, self.word, self.rng, whole=whole)

    def hear(self, child: Child) -> None:
        """What a living process has said so far; raises ``RuntimeError`` when it lives no more."""
        ended = False
        while not ended and select.select([child.pipe], [], [], 0)[0]:
            more = os.read(child.pipe, 65536)
            ended = not more
            child.tail += more
        *lines, child.tail = child.tail.split(b"\n")
        for line in lines:
            self.word.hear(json.loads(line))
        if ended:
            raise RuntimeError("a client ended without a word")

    def _served(self, part: str, victim: Child) -> None:
        """Wait until it has answered somebody; its log tells why it does not."""
        while b"\n" not in victim.tail:
            if not (more := os.read(victim.pipe, 65536)):
                log = self.place.root / f"{'pdp' if part == 'pdp' else 'clearing'}.log"
                raise RuntimeError(f"{part} ended without a word:\n{log.read_text()[-2000:]}")
            victim.tail += more
        client, before = self.clients[part == "house"], self._answers(part)
        until = time.monotonic() + PATIENCE_S
        while self._answers(part) == before:
            if not select.select([client.pipe], [], [], until - time.monotonic())[0]:
                raise RuntimeError(f"nobody was answered by {part} within {PATIENCE_S:g} s")
            self.hear(client)

    def _answers(self, part: str) -> int:
        return len(self.word.taken) if part == "pdp" else self.word.answered

    def _settled(self, name: str, beside: Child) -> None:
        """Kill a settlement after a moment; if it was quicker, its word counts."""
        time.sleep(self.rng.uniform(0.0, AT_WORK_S))
        lines = list(beside.kill())
        if not lines:
            self.killed["settle"] += 1
            return
        self.word.settled[name] = len(lines[0]["payments"])
        self.word.acknowledged += 1


def finish(place: Place, word: Word) -> None:
    """Deposit what waits; every check of the till, and every one that was acknowledged, has been paid once, and the books say so."""
    ledger, till = open_ledger(place.books), Till(place.till)
    house = House(ledger, HouseRules())
    nick = ledger.of_identity(NICK)
    while entries := till.waiting(32):
        receipts = house.deposit(nick, [Deposit(entry.flow, entry.taken_at, entry.bundle) for entry in entries], wall())
        word.paid |= {receipt.charge: receipt.amount for receipt in receipts if receipt.outcome != "refused"}
        word.lost.update(f"check {entry.charge[:8]}: {r.why}" for entry, r in zip(entries, receipts, strict=True) if r.why)
        till.answered([(entry.charge, PAID) for entry in entries], wall())
    till.close()
    ledger.settle("end", wall())
    for due in [one for one in ledger.payments(None) if one.paid_at is None]:
        ledger.paid(due.settlement, due.number, nick.id, wall())
    word.unbalanced.update(ledger.audit(), (f"{account} ends with {left}" for account, left in ledger.balances().items() if left))
    compare_books(place, word, random.Random(0), whole=True)
    m, o = tables.movements.c, tables.postings.c
    with transaction(ledger.engine) as db:
        rows = db.execute(query(m.charge, func.count()).where(m.kind == "check").group_by(m.charge)).all()
        join = query(func.sum(o.amount)).join(tables.movements, m.id == o.movement)
        got = int(db.scalar(join.where(m.kind == "check", o.account == nick.id)) or 0)
        came = int(db.scalar(join.where(m.kind == "payment", o.account == nick.id)) or 0)
    ledger.close()
    # A deposit whose answer never came may have been paid: the books may hold more than was acknowledged, never less.
    word.twice.update(f"check {charge[:8]} was paid {count} times" for charge, count in rows if count != 1)
    booked = {charge for charge, _ in rows}
    word.lost.update(f"check {c[:8]} was taken and never paid" for c in word.taken if c not in booked)
    if came != -got:
        word.twice.add(f"checks were paid with {got}, and settled with {-came}")


@contextmanager
def databases() -> Iterator[list[tuple[str, str | None]]]:
    """SQLite, and PostgreSQL where it is installed: name and URL. PostgreSQL syncs its commits, as SQLite does."""
    if why := postgres.missing():
        print(f"without PostgreSQL: {why}", file=sys.stderr)
        yield [("sqlite", None)]
        return
    with postgres.cluster(durable=True) as url:
        yield [("sqlite", None), ("postgresql", url)]


def _claims(names: list[str]) -> list[Claim]:
    claims = []
    for name in names:
        on = {"database": name}
        claims.append(Claim(f"bandex-crashes.kills.{name}", f"kills on {name}", ">= 1000", Measure("kills", on)))
        claims.append(
            Claim(
                f"bandex-crashes.said.{name}",
                f"acknowledgements that were compared, on {name}",
                ">= 2000",
                Measure("acknowledged", on),
            )
        )
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
        ("cut", "calls of the\nISP cut off"),
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
    """All databases, side by side."""
    for who in ("alice", "martha", "nick"):
        key(who)  # before the forks, so that all have the same
    rows = []
    with tempfile.TemporaryDirectory(prefix="polder-bandex-") as directory, databases() as found:
        children = []
        for number, (name, url) in enumerate(found):
            root = Path(directory) / name
            root.mkdir(mode=0o700)

            def work(say: Say, name: str = name, url: str | None = url, root: Path = root, number: int = number) -> None:
                say(what="row", row=Rounds(name, parties.furnish(root, url), seed + 10 * number).run(kills))

            children.append(Child.fork(work))
        for child in children:
            rows.append(child.first()["row"])
            print(json.dumps(rows[-1]), flush=True)
    parameters = {"kills": kills, "seed": seed, "check_s": LIFE_S, "working_share": WORKING, "at_work_s": AT_WORK_S}
    parameters |= {"settling_share": SETTLING, "backlog": BACKLOG, "questions_at_a_time": LANES, "pause_s": PAUSE_S}
    title = "SIGKILL of clearing house and policy decision point at random moments"
    return Result("bandex-crashes", parameters, rows, _claims([row["database"] for row in rows]), title)


def main() -> int:
    """Run and write; exit status 3 if a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} kills on each database; nothing is written")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    result = run(QUICK if arguments.quick else KILLS, arguments.seed)
    if arguments.quick:
        return 3 * any(row["lost"] or row["twice"] or row["unbalanced"] for row in result.rows)
    results.write(result, draw)
    return 3 * (not all(claim["holds"] for claim in result.record()["claims"]))


if __name__ == "__main__":
    sys.exit(main())
