"""What a fraud costs who refuses it: each one that a payer or an ISP may try, beside honest payments, by the processes' own CPU time.

`polder pdp` is asked over its Unix socket, `polder clearing serve` over mutual TLS with certificates of one's own; both run as commands.
Every answer is compared with what it must be. "honest": checks that were never seen, verified and written down. Frauds and honest ones
take turns, in runs of some dozens, and the figure is the median over the runs.

Run: ``python -m bench frauds [--quick]``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from tests.support.money import FLOWSPEC, HOUR, RATE, Alice, Ask, desk, guarantee, key, name_of, nonce

from bench import bandex_parties as parties
from bench import report
from bench.bandex_parties import Place
from bench.cpu import spent_s
from polder.bandex import Flow, SpentSet, pack
from polder.bandex.writing import write as write_credential
from polder.clearing.client import Client
from polder.clearing.messages import MOST_DEPOSITS, Deposit
from polder.clearing.tls import Membership
from polder.keynote import Checker
from polder.keynote.signing import sign
from polder.lab.results import Claim, Measure, Result
from polder.pdp.client import PdpClient
from polder.shell.clock import wall

RUN = MOST_DEPOSITS // 2
"""Questions, or deposits of one request, in a row."""
Asked = Callable[[], Ask]
Deposited = Callable[[], Deposit]


def edited(alice: Alice, old: str, new: str, *, signed: bool = True) -> Ask:
    """A fresh check whose text was changed, and signed again by Alice unless it is a forgery."""
    head, _, tail = alice.check(wall())[1].partition("Signature:")
    changed = head.replace(old, new)
    assert changed != head
    return Ask(pack(alice.texts(sign(changed, key("alice")) if signed else f"{changed}Signature:{tail}")))


def asks(rng: random.Random) -> dict[str, tuple[Asked, int]]:
    """Fraud → a question that tries it, and the code of the refusal (RFC 2750; 0: paid)."""
    now = wall()
    alice = Alice(rng.getrandbits(64), now, total=2_000_000_000, nonce=nonce(rng))
    poor = Alice(rng.getrandbits(64), now, total=600_000, nonce=nonce(rng))
    banks = Alice(rng.getrandbits(64), now, nonce=nonce(rng))
    banks.credit = dataclasses.replace(banks.credit, provider=name_of("bank12"))
    banks.credit_text = write_credential(banks.credit, key("bank12"))
    names = ["martha", *(f"bank{number}" for number in range(13))]
    chain = [
        write_credential(guarantee(now, guarantor=name_of(giver), provider=name_of(taker)), key(giver))
        for giver, taker in itertools.pairwise(names)
    ]
    banks.links = (chain[0].replace("@amount <= 1000000", "@amount <= 1000001"), *chain[1:])
    used, ended = alice.ask(now), alice.ask(now - HOUR)
    bomb = f'"{"a" * 40}" ~= "(a*)*b"'
    return {
        "honest": (lambda: alice.ask(wall()), 0),
        "one check at two routers": (lambda: used.but(router="south"), 3),
        "overspending by many small checks": (lambda: poor.ask(wall()), 4),
        "expired": (lambda: ended, 6),
        "re-bound to another flow": (lambda: alice.ask(wall()).but(session="udp 198.18.1.9 port 5004"), 3),
        "forged": (lambda: edited(alice, "@amount == 440000", "@amount == 440001", signed=False), 12),
        "garbage amount": (lambda: edited(alice, "@amount == 440000", "@amount == -1"), 11),
        "below the price": (lambda: alice.ask(wall(), amount=1), 3),
        "chain of 10,000 credentials": (lambda: Ask(pack(["x"] * 10_000)), 11),
        "longest chain, its first link forged": (lambda: banks.ask(wall()), 12),
        "regex bomb": (lambda: edited(alice, "@amount == 440000", bomb), 11),
        "clock skew": (lambda: alice.ask(wall() + 600), 6),
    }


def deposits(rng: random.Random) -> dict[str, tuple[Deposited, str]]:
    """Fraud → a deposit that tries it, and its verdict or outcome."""
    now = wall()
    alice = Alice(rng.getrandbits(64), now, total=2_000_000_000, nonce=nonce(rng))

    def taken(one: Alice = alice, at: float | None = None) -> Deposit:
        spent, at = SpentSet(), wall() if at is None else at
        assert desk(spent).decide(one.ask(at), at).accepted
        (entry,) = spent.entries()
        return Deposit(entry.flow, entry.taken_at, entry.bundle)

    def moved(**changes: Any) -> Deposit:
        honest = taken()
        return Deposit(msgspec.structs.replace(honest.flow, **changes), honest.taken_at, honest.bundle)

    def check_of(ask: Ask) -> Deposit:
        return Deposit(
            taken().flow, wall(), tuple(text.decode() for text in msgspec.msgpack.decode(ask.bundle, type=list[bytes]))
        )

    poor = Alice(rng.getrandbits(64), now, total=600_000, nonce=nonce(rng))
    past = Alice(rng.getrandbits(64), now - HOUR, total=2_000_000_000, nonce=nonce(rng))
    each = itertools.count(1)

    def poorer() -> Deposit:
        return Deposit(taken().flow, wall(), tuple(poor.texts(poor.check(wall())[1])))

    flow = Flow("nick", "dublin-nyc", "edge", "lasthop", "s", (), "FF", "guaranteed", 1, 1, 1, FLOWSPEC)
    double = taken()
    bomb = f'"{"a" * 40}" ~= "(a*)*b"'
    return {
        "honest": (taken, "paid"),
        "double deposit": (lambda: double, "repeated"),
        "double deposit, changed": (lambda: Deposit(double.flow, now + next(each) / 1000, double.bundle), "already-used"),
        "overspending by many small checks": (poorer, "exceeded"),
        "expired": (lambda: msgspec.structs.replace(taken(past, now - HOUR), taken_at=now), "expired"),
        "re-bound to another flow": (lambda: moved(session="udp 198.18.1.9 port 5004"), "denied"),
        "more bandwidth than was paid": (lambda: moved(rate=2 * RATE), "denied"),
        "forged": (lambda: check_of(edited(alice, "@amount == 440000", "@amount == 440001", signed=False)), "bad-signature"),
        "garbage amount": (lambda: check_of(edited(alice, "@amount == 440000", "@amount == -1")), "malformed"),
        "chain of 10,000 credentials": (lambda: Deposit(flow, now, ("x",) * 10_000), "malformed"),
        "regex bomb": (lambda: check_of(edited(alice, "@amount == 440000", bomb)), "malformed"),
        "clock skew": (lambda: taken(at=wall() + 300), "not-yet-valid"),
    }


async def at_pdp(place: Place, pid: int, rng: random.Random, rounds: int) -> list[dict[str, Any]]:
    """Every question of ``asks``, in turns."""
    client = PdpClient.to(f"unix:{place.root}/pdp.sock", 60.0)
    running = asyncio.create_task(client.run())
    tried = asks(rng)

    async def work(made: Sequence[Ask], code: int) -> str:
        verdicts = await asyncio.gather(*(client.judge(parties.question(ask)) for ask in made))
        told = [verdict for verdict in verdicts if verdict is not None]
        assert len(told) == len(made), "no answer within a minute"
        # Of a small credit the first check is good.
        assert {verdict.code for verdict in told[1:]} == {code}, told
        return told[-1].reason

    try:
        return await in_turns("pdp", pid, {name: (make, code, work) for name, (make, code) in tried.items()}, rounds)
    finally:
        running.cancel()


async def at_house(place: Place, pid: int, rng: random.Random, rounds: int) -> list[dict[str, Any]]:
    """Every deposit of ``deposits``, in turns, so many to a request."""
    async with Client(place.url, Membership.load(place.tls, place.root).client(None)) as client:

        async def work(made: Sequence[Deposit], wanted: str) -> str:
            receipts = await client.deposit(made)
            assert {receipt.verdict or receipt.outcome for receipt in receipts[1:]} == {wanted}, receipts[-1]
            return receipts[-1].why

        tried = deposits(rng)
        return await in_turns("house", pid, {name: (make, wanted, work) for name, (make, wanted) in tried.items()}, rounds)


BOMBS = {
    "(a*)*b": "a" * 60,
    "(a|a)*b": "a" * 400,
    "((a*)*|b.?)+c": "ab" * 200,
    "(x+x+)+y": "x" * 400,
    "(a{1,50}){1,5}b": "a" * 400,
    "(a?){60}a{60}": "a" * 60,
    "(((((((a*)*)*)*)*)*)*)$": "a" * 400,
    "(.*)(.*)(.*)(.*)(.*)(.*)b": "a" * 300 + "b",
    ".*.*.*.*.*.*.*.*x": "a" * 4000,
}
"""Expressions that explode in other engines, and texts to search."""


def at_keynote(rounds: int) -> list[dict[str, Any]]:
    """A policy decision point without an ISP evaluates what strangers write: a regular expression in one credential, CPU of the thread."""
    rows = []
    for bomb, text in BOMBS.items():
        credential = f'Authorizer: "POLICY"\nLicensees: "me"\nConditions: "{text}" ~= "{bomb}" -> "true";\n'
        times, value = [], ""
        for _ in range(rounds):
            checker, began = Checker(), time.thread_time()
            value = checker.query([credential], [], ["me"], {}).value
            times.append((time.thread_time() - began) * 1e6)
        cost = round(statistics.median(times), 1)
        rows.append({"where": "keynote", "fraud": f"regex bomb {bomb}", "tried": rounds, "cpu_us": cost, "answer": value})
    return rows


async def in_turns(
    where: str, pid: int, tried: dict[str, tuple[Callable[[], Any], Any, Callable[[Any, Any], Awaitable[str]]]], rounds: int
) -> list[dict[str, Any]]:
    """A row for each, with its cost over that of the honest ones."""
    costs: dict[str, list[float]] = {name: [] for name in tried}
    said: dict[str, str] = {}
    for turn in range(rounds + 1):
        for name, (make, wanted, work) in tried.items():
            made = [make() for _ in range(RUN)]
            before = spent_s([pid])
            said[name] = await work(made, wanted)
            if turn:  # the first is for its caches
                costs[name].append((spent_s([pid]) - before) / RUN * 1e6)
    honest = statistics.median(costs["honest"])
    return [
        {
            "where": where,
            "fraud": name,
            "tried": rounds * RUN,
            "cpu_us": round(statistics.median(times), 1),
            "over_honest": round(statistics.median(times) / honest, 3),
            "answer": said[name],
        }
        for name, times in costs.items()
    ]


def claims() -> tuple[Claim, ...]:
    """What must hold."""
    bomb = Claim(
        "frauds.regex",
        "µs for the dearest regular expression in one credential",
        "<= 3000",
        Measure("cpu_us", {"where": "keynote"}, "max"),
    )
    return bomb, *(
        Claim(
            f"frauds.{where}",
            f"the dearest fraud at {who}, over an honest payment",
            "<= 3",
            Measure("over_honest", {"where": where}, fold="max"),
        )
        for where, who in (("pdp", "the policy decision point"), ("house", "the clearing house"))
    )


def draw(figure: Any, rows: Any) -> None:
    """What each costs over an honest payment."""
    for axes, (where, who) in zip(
        figure.subplots(1, 2), (("pdp", "policy decision point"), ("house", "clearing house")), strict=True
    ):
        chosen = [row for row in rows if row["where"] == where][::-1]
        axes.barh([row["fraud"] for row in chosen], [row["over_honest"] for row in chosen])
        axes.axvline(1.0, color="#999999")
        axes.tick_params(axis="y", labelsize=6)
        axes.set_title(who, fontsize=8)
        axes.set_xlabel("CPU over an honest payment")


def main() -> int:
    """Measure; exit status 3 when a claim does not hold."""
    parser = report.arguments("frauds", __doc__, "fewer rounds")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    rounds, rng = 3 if given.quick else 20, random.Random(given.seed)
    for who in ("alice", "martha", "nick"):
        key(who)  # before the forks, so that all have the same
    rows = at_keynote(rounds)
    with tempfile.TemporaryDirectory(prefix="polder-frauds-") as directory:
        place = parties.furnish(Path(directory), None)
        for part, work in (("pdp", at_pdp), ("house", at_house)):
            child = parties.serve(place, part)
            try:
                child.first()
                rows += asyncio.run(work(place, child.pid, rng, rounds))
            finally:
                parties.end(child)
    parameters = {"rounds": rounds, "in_a_row": RUN, "seed": given.seed, "database": "sqlite", "algorithm": "ed25519"}
    result = Result("frauds", parameters, rows, claims(), "What frauds cost who refuses them")
    return report.finish(result, draw, record=not given.no_record)


if __name__ == "__main__":
    raise SystemExit(main())
