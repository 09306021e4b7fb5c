"""The paper's table I again: what a request with 3 to 7 credentials costs, with and without the policy engine (BandExSOS §IV).

A request is a bundle as POLICY_DATA carries it: check, credit, up to four guarantees of banks, and the offer; who decides is an
internet provider's desk. "cold": nothing of the request was seen before; "warm": as at a refresh. Without the engine KeyNote is
replaced by a yes, as in the paper. "query" is KeyNote alone, "parse" its parser alone, over all credentials. Times are CPU time of the
deciding thread: the best of ten trials in a row, and of those the median over blocks that take turns, because whatever else the machine
does can only add to them; wall time stands beside.

The reference C implementation (libkeynote of OpenBSD) is in no registry that this program could fetch it from: whoever has built it
names it, by ``--reference`` or POLDER_KEYNOTE_REFERENCE, and the same questions are put to it in turn; its SHA-256 is recorded. Without
it the claims beside it stand in the result as not measured, and do not hold. What no implementation can go below is measured always:
the signature checks alone, by OpenSSL's C on loaded keys.

Run: ``python -m bench keynote-table [--quick]``, or ``python -m bench.keynote_table --reference libkeynote.so``.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa

from bench import report
from bench.keynote_reference import Reference
from polder.bandex import (
    CheckTerms,
    CreditTerms,
    Desk,
    GuaranteeTerms,
    Isp,
    OfferTerms,
    SpentSet,
    Trust,
    judge,
    pack,
    read,
    unpack,
)
from polder.bandex.terms import Terms, route_principal
from polder.keynote import Answer, Checker, keys, parse, signatures
from polder.keynote.signing import PrivateKey, identifier, make_key, sign
from polder.lab.results import Claim, Measure, Result
from polder.model.reservations import Ask

NOW = 1_195_516_800
COUNTS = range(3, 8)
KINDS: dict[str, tuple[str, int, str]] = {
    "ed25519": ("ed25519", 0, "sig-ed25519"),
    "ecdsa-p256": ("ecdsa-p256", 0, "sig-ecdsa-p256"),
    "rsa-sha256": ("rsa", 2048, "sig-rsa-sha256"),
    "rsa-sha1": ("rsa", 1024, "sig-rsa-sha1"),
    "rsa-sha1-2048": ("rsa", 2048, "sig-rsa-sha1"),
    "dsa-sha1": ("dsa", 1024, "sig-dsa-sha1"),
}
"""Name → kind of key, bits, algorithm. rsa-sha1 is the paper's, and 1,024 bits were usual then. The reference knows the last three."""
KNOWN = ("rsa-sha1", "rsa-sha1-2048", "dsa-sha1")
DRAWN = ("ed25519", "ecdsa-p256", "rsa-sha256", "rsa-sha1")
BLOCK, WARMING = 10, 3
"""Trials in a row, and those before them that are not counted: they find the processor's caches full of something else."""
ASK = Ask(
    router="edge", link="lasthop", session="udp 198.18.1.1 port 5004", senders=("203.0.113.7 port 5004",), style="FF",
    service="controlled-load", rate=2_500_000, bucket=30_000, peak=2_500_000, min_unit=64, max_packet=1500, reserved_rate=2_500_000,
    flowspec="5f" * 32, installed=False, bundle=b"",
)  # fmt: skip
"""What a router asks, but for the payment."""


class World:
    """Keys of one kind, and the credentials that they sign."""

    def __init__(self, kind: str, now: int = NOW) -> None:
        self.now = now
        sort, bits, self.algorithm = KINDS[kind]
        self.kind = kind
        self.keys = {who: make_key(sort, bits) for who in ("alice", "martha", "nick", "bank1", "bank2", "bank3", "bank4")}
        self.names = {who: identifier(key) for who, key in self.keys.items()}
        self.isp = Isp("nick", self.names["nick"], {"dublin-nyc": frozenset({("edge", "lasthop")})})

    def sign(self, terms: Terms, who: str) -> str:
        """The signed text."""
        key: PrivateKey = self.keys[who]
        return sign(terms.text(), key, f"{self.algorithm}-base64:")

    def ask(self, credentials: int, number: int = 0) -> Ask:
        """A request with so many credentials; ``number`` makes another check on another credit."""
        life: dict[str, Any] = {"not_before": self.now - 60, "not_after": self.now + 3600}
        money: dict[str, Any] = {"currency": "USD", "most": 550_000}
        offer = OfferTerms(
            **life, isp_key=self.names["nick"], isp="nick", route="dublin-nyc", service="controlled-load", currency="USD",
            setup=33_333, per_mbit_hour=1_000, most_rate=2_500_000, most_seconds=7200,
        )  # fmt: skip
        credit = CreditTerms(
            **life,
            **money,
            provider=self.names["martha"],
            user=self.names["alice"],
            nonce=f"{number:032x}",
            least=1,
            total=2_000_000,
        )
        check = CheckTerms(
            **life, payer=self.names["alice"], isp_key=self.names["nick"], isp="nick", route="dublin-nyc", session=ASK.session,
            senders=ASK.senders, flowspec=ASK.flowspec, currency="USD", amount=440_000, credit_nonce=credit.nonce, nonce=f"{number:032x}",
        )  # fmt: skip
        chain = ["martha", "bank1", "bank2", "bank3", "bank4"][: credentials - 2]
        links = [
            self.sign(GuaranteeTerms(**life, **money, guarantor=self.names[giver], provider=self.names[receiver]), giver)
            for receiver, giver in itertools.pairwise(chain)
        ]
        bundle = pack([self.sign(check, "alice"), self.sign(credit, "martha"), *links, self.sign(offer, "nick")])
        return msgspec.structs.replace(ASK, bundle=bundle)

    def desk(self, credentials: int) -> Desk:
        """A desk that has seen nothing, and trusts the last of the chain."""
        return Desk(self.isp, self.trust(credentials), SpentSet(), Checker(accept=[self.algorithm]))

    def trust(self, credentials: int) -> Trust:
        """In the last of the chain."""
        last = ["martha", "bank1", "bank2", "bank3", "bank4"][credentials - 3]
        return Trust({self.names[last]: 1_000_000})

    def question(self, ask: Ask, credentials: int) -> tuple[list[str], str, dict[str, str]]:
        """What the desk asks of KeyNote: policies, who asks, and the action's attributes."""
        paid = read(unpack(ask.bundle))
        flow = self.desk(credentials)._flow(ask, paid)
        roots = self.trust(credentials).roots(paid)
        attributes = judge.attributes(paid, flow, NOW + 1.0, judge.check_price(paid, flow), paid.check.amount)
        return judge.policy(roots, flow.isp, paid.offer.isp_key), route_principal(flow.isp, flow.route), attributes


def passes(answer: Answer) -> None:
    """The answer must be yes."""
    assert answer.passed


def forget() -> None:
    """Empty every cache that outlives a desk."""
    for cached in (keys.principal, keys.public_key, judge._rule):
        cached.cache_clear()


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Microseconds of CPU and of wall time."""
    wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
    work()
    return (time.thread_time_ns() - cpu) / 1000, (time.perf_counter_ns() - wall) / 1000


def decide(desk: Desk, ask: Ask) -> None:
    """One decision, which must be yes."""
    decision = desk.decide(ask, NOW + 1.0)
    assert decision.accepted, decision.refused


def block(prepare: Callable[[], Callable[[], object]]) -> list[tuple[float, float]]:
    """The best of one block; what ``prepare`` does before each trial is not timed."""
    times = [timed(prepare()) for _ in range(WARMING + BLOCK)][WARMING:]
    return [(min(cpu for cpu, _ in times), min(wall for _, wall in times))]


def compared(world: World, ask: Ask, credentials: int, reference: Reference) -> list[tuple[float, float]]:
    """A block of the same question put to the reference; it must say yes, and no when the check was changed."""
    rules, requester, attributes = world.question(ask, credentials)
    policies, texts = [rule.encode() for rule in rules], [text.encode() for text in unpack(ask.bundle)]
    action = {name.encode(): value.encode() for name, value in attributes.items()}
    forged = [texts[0].replace(b"@amount == 440000", b"@amount >= 440000"), *texts[1:]]
    assert forged != texts
    assert reference.query(policies, texts, [requester.encode()], action)
    assert not reference.query(policies, forged, [requester.encode()], action)
    return block(lambda: lambda: reference.query(policies, texts, [requester.encode()], action))


def ways(world: World, ask: Ask, credentials: int) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """A block of each way to process a request."""
    known = world.desk(credentials)
    decide(known, ask)
    texts = unpack(ask.bundle)

    def cold() -> Callable[[], object]:
        forget()
        desk = world.desk(credentials)
        return lambda: decide(desk, ask)

    def parsing() -> Callable[[], object]:
        forget()
        return lambda: [parse(text) for text in texts]

    rules, requester, attributes = world.question(ask, credentials)

    def asking() -> Callable[[], object]:
        forget()
        checker = Checker(accept=[world.algorithm])
        return lambda: passes(checker.query(rules, texts, [requester], attributes, require_conditions=True))

    found = {
        ("cold", "query"): block(asking),
        ("cold", "on"): block(cold),
        ("warm", "on"): block(lambda: lambda: decide(known, ask)),
        ("cold", "parse"): block(parsing),
    }
    checks = [_signature(text, world) for text in texts]
    found["cold", "signatures"] = block(lambda: lambda: [check() for check in checks])
    with mock.patch("polder.bandex.desk.judge", return_value=frozenset()):
        found["cold", "off"] = block(cold)
        found["warm", "off"] = block(lambda: lambda: decide(known, ask))
    return found


def _signature(text: str, world: World) -> Callable[[], object]:
    """The check of one credential's signature by OpenSSL alone: all else is done beforehand."""
    one = parse(text)
    assert isinstance(one.authorizer, bytes)
    name, written, data = signatures.read_signature(one.signature or "")
    key, message = keys.public_key(one.authorizer), (one.signed + written).encode()
    if isinstance(key, ed25519.Ed25519PublicKey):
        return lambda: key.verify(data, message)
    if isinstance(key, ec.EllipticCurvePublicKey):
        return lambda: key.verify(data, message, ec.ECDSA(hashes.SHA256()))
    if isinstance(key, dsa.DSAPublicKey):
        return lambda: key.verify(data, message, hashes.SHA1())
    assert isinstance(key, rsa.RSAPublicKey)
    if name in signatures.MODERN:
        return lambda: key.verify(data, message, padding.PKCS1v15(), hashes.SHA256())
    return lambda: key.recover_data_from_signature(data, padding.PKCS1v15(), None)


def table(world: World, rounds: int, reference: Reference | None) -> list[dict[str, Any]]:
    """The rows of one algorithm."""
    asks = {credentials: world.ask(credentials) for credentials in COUNTS}
    found: dict[tuple[int, str, str], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for credentials, ask in asks.items():
            for (state, engine), times in ways(world, ask, credentials).items():
                found.setdefault((credentials, state, engine), []).extend(times)
            if reference is not None and world.kind in KNOWN:
                found.setdefault((credentials, "cold", "reference"), []).extend(compared(world, ask, credentials, reference))
    rows = [
        {
            "part": "request",
            "algorithm": world.kind,
            "credentials": credentials,
            "bytes": len(asks[credentials].bundle),
            "state": state,
            "engine": engine,
            "cpu_us": round(statistics.median(cpu for cpu, _ in times), 1),
            "wall_us": round(statistics.median(wall for _, wall in times), 1),
        }
        for (credentials, state, engine), times in found.items()
    ]
    slopes = {"on": "with_engine_us", "off": "without_engine_us", "parse": "parse_us"}
    cold = [row for row in rows if row["state"] == "cold"]
    slope = {name: _slope([row for row in cold if row["engine"] == engine]) for engine, name in slopes.items()}
    return [*rows, {"part": "slope", "algorithm": world.kind, **slope}]


def _slope(rows: list[dict[str, Any]]) -> float:
    """Microseconds a credential: the line through all five, by least squares."""
    return round(statistics.linear_regression([row["credentials"] for row in rows], [row["cpu_us"] for row in rows]).slope, 2)


def rate(world: World, credentials: int, payments: int, seconds: float) -> dict[str, Any]:
    """Warm decisions a second of one core, over so many payments in turn."""
    asks = [world.ask(credentials, number) for number in range(payments)]
    desk = world.desk(credentials)
    for ask in asks:
        decide(desk, ask)
    done, began = 0, time.thread_time()
    while time.thread_time() - began < seconds:
        for ask in asks:
            decide(desk, ask)
        done += len(asks)
    per_second = done / (time.thread_time() - began)
    return {
        "part": "rate",
        "algorithm": world.kind,
        "credentials": credentials,
        "payments": payments,
        "per_core_s": round(per_second),
    }


def claims() -> tuple[Claim, ...]:
    """What must hold."""
    more = tuple(
        Claim(
            f"keynote-table.reference-{kind}",
            f"time of a query with 7 credentials over the reference's ({kind})",
            "<= 2",
            Measure(
                "cpu_us",
                {"algorithm": kind, "credentials": 7, "engine": "query"},
                over=Measure("cpu_us", {"algorithm": kind, "credentials": 7, "engine": "reference"}),
            ),
        )
        for kind in KNOWN
    )
    seven: dict[str, Any] = {"part": "request", "algorithm": "ed25519", "credentials": 7, "engine": "on"}
    alone = Measure("cpu_us", {**seven, "engine": "signatures"})
    return (
        Claim(
            "keynote-table.cold",
            "µs for a request with 7 credentials, cold",
            "<= 1500",
            Measure("cpu_us", {**seven, "state": "cold"}),
        ),
        Claim(
            "keynote-table.floor",
            "the same over what its 7 signatures alone cost in C (no reference can be quicker)",
            "<= 2",
            Measure("cpu_us", {**seven, "state": "cold"}, over=alone),
        ),
        Claim(
            "keynote-table.warm",
            "µs for a request with 7 credentials, warm",
            "<= 60",
            Measure("cpu_us", {**seven, "state": "warm"}),
        ),
        Claim(
            "keynote-table.parse",
            "µs for each credential, parsing alone",
            "<= 20",
            Measure("parse_us", {"part": "slope", "algorithm": "ed25519"}),
        ),
        Claim(
            "keynote-table.rate",
            "warm decisions a second and core, 7 credentials",
            ">= 5000",
            Measure("per_core_s", {"part": "rate", "credentials": 7}),
        ),
        *more,
    )


def draw(figure: Any, rows: Any) -> None:
    """Request time over credentials, beside the paper's."""
    axes = figure.subplots()

    def line(label: str, style: str, **wanted: Any) -> None:
        chosen = [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]
        if chosen:
            axes.plot([row["credentials"] for row in chosen], [row["cpu_us"] for row in chosen], style, label=label, markersize=3)

    paper = {"with engine": (2793, 3480, 4754, 5518, 6722), "without": (249, 261, 304, 321, 338)}
    for (label, values), style in zip(paper.items(), ("-", "--"), strict=True):
        axes.plot(list(COUNTS), values, style, color="#999999", label=f"paper, 2007, {label}")
    for kind in DRAWN:
        line(f"{kind}, cold", "o-", algorithm=kind, state="cold", engine="on")
    line("rsa-sha1, KeyNote alone", "o-.", algorithm="rsa-sha1", state="cold", engine="query")
    line("rsa-sha1, reference in C", "x-.", algorithm="rsa-sha1", state="cold", engine="reference")
    line("ed25519, cold, without engine", "s:", algorithm="ed25519", state="cold", engine="off")
    line("ed25519, warm", "o--", algorithm="ed25519", state="warm", engine="on")
    axes.set_yscale("log")
    axes.set_ylim(30, 60_000)
    axes.set_xticks(list(COUNTS))
    axes.set_xlabel("credentials in the request")
    axes.set_ylabel("µs of CPU a request")
    axes.legend(fontsize=6, ncols=3, loc="upper center")


def main() -> int:
    """Measure; exit status 3 when a claim does not hold."""
    parser = report.arguments("keynote_table", __doc__, "fewer trials")
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="LIB",
        default=os.environ.get("POLDER_KEYNOTE_REFERENCE"),
        help="shared library of the reference C implementation, to measure beside; default: POLDER_KEYNOTE_REFERENCE",
    )
    given = parser.parse_args()
    quick, reference = given.quick, Reference(given.reference) if given.reference else None
    rounds, seconds = (5, 1) if quick else (20, 3)
    worlds = {kind: World(kind) for kind in KINDS}
    rows: list[dict[str, Any]] = []
    for world in worlds.values():
        rows += table(world, rounds, reference)
    for credentials in (3, 7):
        rows.append(rate(worlds["ed25519"], credentials, 50 if quick else 200, seconds))
    result = Result(
        "keynote-table",
        {
            "trials": rounds * BLOCK,
            "in_a_row": BLOCK,
            "seconds_of_rate": seconds,
            "counts": list(COUNTS),
            "clock": "CPU time of the thread",
            "statistic": "median over blocks of the best in a block",
            "reference_sha256": hashlib.sha256(given.reference.read_bytes()).hexdigest() if given.reference else None,
        },
        rows,
        claims(),
        "Request processing with 3 to 7 credentials (table I)",
    )
    return report.finish(result, draw, record=not given.no_record)


if __name__ == "__main__":
    raise SystemExit(main())
