"""Who acts in ``bench/bandex_crashes.py``: `polder pdp` and `polder clearing serve` themselves, a router with users, a depositing ISP.

The commands run in processes that are forked from one which has imported everything, so that a start costs a fraction of a second.
Router and ISP live through all kills and say over a pipe what was acknowledged to them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from cryptography import x509
from tests.support.certifier import Certifier
from tests.support.money import Alice, Ask, key, name_of, nonce, wanted
from tests.support.overlay import free_port

from bench.crash_points import Child, Say
from polder.bandex import pack
from polder.bandex.writing import pay
from polder.clearing.client import Client
from polder.clearing.files import TILL
from polder.clearing.messages import Deposit
from polder.clearing.running import open_house
from polder.clearing.till import PAID, Till
from polder.clearing.tls import Membership
from polder.cli import check, clearing, main, pdp
from polder.keynote.signing import encode_private, wrap
from polder.model import Refused
from polder.model.reservations import Ask as Question
from polder.model.reservations import Verdict
from polder.pdp.client import PdpClient
from polder.settings import load
from polder.settings.money import ClearingSettings, Tls
from polder.shell.clock import wall
from polder.store import sqlite_url

COMMANDS = (check, clearing, pdp)
"""Imported here, so that forked processes need not."""
LIFE_S = 120
"""For how long a check pays: some end, are settled and forgotten while others are taken."""
BACKLOG = 200
"""Checks that wait to be deposited, at most."""
LANES, PAUSE_S = 4, 0.03
"""Questions of the router at a time, and the longest rest between two."""
NICK = "dns:nick.example"


@dataclass(frozen=True)
class Place:
    """Where all of them keep their files; ``books``: URL of the clearing house's database."""

    root: Path
    books: str
    url: str
    tls: Tls

    @property
    def till(self) -> Path:
        """The ISP's till."""
        return self.root / "isp" / TILL


def furnish(root: Path, books: str | None) -> Place:
    """Keys, certificates, configurations and accounts. ``books``: PostgreSQL's URL; ``None``: a file of SQLite."""
    certifier, port = Certifier(root / "ca"), free_port()
    house = certifier.tls("house", x509.DNSName("localhost"))
    (root / "clearing").mkdir()
    (root / "clearing/clearing.toml").write_text(
        f'listen = "127.0.0.1:{port}"\nmetrics_listen = "off"\nrate_per_source = 10000\nlog_level = "warning"\n'
        + (f'database = "{books}"\n' if books else "")
        + f'[tls]\ncertificate = "{house.certificate}"\nprivate_key = "{house.private_key}"\nauthorities = "{house.authorities}"\n'
    )
    isp = root / "isp"
    isp.mkdir(mode=0o700)
    (isp / "isp.key").touch(0o600)
    (isp / "isp.key").write_text(wrap(encode_private(key("nick"))))
    links = '["edge/lasthop", "core/edge"]'
    (isp / "isp.toml").write_text(
        f'name = "nick"\n[routes.dublin-nyc]\nlinks = {links}\n[trusted]\n"{name_of("martha")}" = "1.00"\n'
    )
    (root / "pdp.toml").write_text(f'socket = "{root}/pdp.sock"\nisp = "{isp}/isp.toml"\nlog_level = "warning"\n')
    made = open_house(load(ClearingSettings, root / "clearing/clearing.toml", {}), root / "clearing")
    made.register("nick", "isp", name_of("nick"), NICK, wall())
    made.register("martha", "provider", name_of("martha"), "dns:martha.example", wall(), most=1_000_000)
    made.ledger.close()
    tls = certifier.tls("nick", x509.DNSName("nick.example"))
    where = books or sqlite_url(root / "clearing/books.sqlite3")
    return Place(root, where, f"https://localhost:{port}", tls)


def command(place: Place, *arguments: str) -> Child:
    """`polder …` in a process of its own; its lines are what it prints."""
    read, write = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            log = os.open(place.root / f"{arguments[0]}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(write, 1)
            os.dup2(log, 2)
            os.environ["POLDER_STATE"] = str(place.root)
            sys.argv = ["polder", *arguments, "--json"]
            main.main()
        finally:
            sys.stdout.flush()
            os._exit(1)
    os.close(write)
    return Child(pid, read)


def serve(place: Place, part: str) -> Child:
    """The policy decision point (``pdp``) or the clearing house (``house``)."""
    if part == "pdp":
        return command(place, "pdp", "--config", str(place.root / "pdp.toml"))
    return command(place, "clearing", "serve")


def router(place: Place, seed: int, say: Say) -> None:
    """Users reserve, refresh, and try their checks at a router where they are not good, for ever."""
    logging.disable(logging.WARNING)  # that the decision point is away is what is measured
    asyncio.run(_reserve(place, random.Random(seed), say))


async def _reserve(place: Place, rng: random.Random, say: Say) -> None:
    client = PdpClient.to(f"unix:{place.root}/pdp.sock", 60.0, pause=0.02)
    running = asyncio.create_task(client.run())
    till = Till(place.till)
    held: deque[tuple[Ask, Verdict]] = deque(maxlen=100)

    async def lane() -> None:
        while True:
            while till.totals()["waiting"] > BACKLOG:  # noqa: ASYNC110 - the house is slower: kills shall meet both at work
                await asyncio.sleep(0.05)
            alice = Alice(rng.getrandbits(64), wall(), total=2_000_000_000, nonce=nonce(rng))
            for _ in range(20):
                await _buy(client, alice, held, say)
                await asyncio.sleep(rng.uniform(0.0, PAUSE_S))
                await _try_again(client, *rng.choice(held), say)
                await asyncio.sleep(rng.uniform(0.0, PAUSE_S))

    await asyncio.gather(running, *(lane() for _ in range(LANES)))


async def _buy(client: PdpClient, alice: Alice, held: deque[tuple[Ask, Verdict]], say: Say) -> None:
    """A new check, until the decision point has answered."""
    now = wall()
    terms, check_text = pay(wanted(LIFE_S), alice.offer, alice.credit, key(alice.who), nonce(alice.rng), now)
    ask = Ask(pack(alice.texts(check_text)))
    while (verdict := await client.judge(question(ask))) is None:
        pass
    if not verdict.accepted:
        raise RuntimeError(f"an honest check was refused: {verdict.reason}")
    say(what="taken", charges={verdict.charge: terms.amount})
    held.append((ask, verdict))


async def _try_again(client: PdpClient, ask: Ask, before: Verdict, say: Say) -> None:
    """The refresh of an old check is known, and at another router it is not good."""
    if before.until > wall() + 30:
        again = await client.judge(question(ask))
        if again is not None and again.charge != before.charge:
            say(what="found", twice=[f"check {before.charge[:8]} was taken, and then {again.reason}"])
    elsewhere = await client.judge(question(ask.but(router="south")))
    if elsewhere is not None and elsewhere.accepted:
        say(what="found", twice=[f"check {before.charge[:8]} was good at another router"])


def question(ask: Ask) -> Question:
    """As a router asks."""
    fields = {name: getattr(ask, name) for name in Question.__struct_fields__ if hasattr(ask, name)}
    return Question(**fields, min_unit=64, max_packet=1500)


def isp(place: Place, seed: int, say: Say) -> None:
    """Deposits what waits, deposits again what was paid, confirms payments, for ever."""
    asyncio.run(_deposit(place, random.Random(seed), say))


async def _deposit(place: Place, rng: random.Random, say: Say) -> None:
    till, paid = Till(place.till), deque[Deposit](maxlen=100)
    context = Membership.load(place.tls, place.root).client(None)
    async with Client(place.url, context) as client:
        while True:
            try:
                await _pay(client, till, rng.randint(1, 8), paid, say)
                if paid and rng.random() < 0.3:
                    await _insist(client, rng.choice(paid), say)
                if rng.random() < 0.2:
                    for due in [one for one in await client.payments() if one.paid_at is None][:1]:
                        done = await client.paid(due.settlement, due.number)
                        say(what="confirmed", name=done.settlement, number=done.number)
                await client.statement()
                say(what="answered")
                await asyncio.sleep(rng.uniform(0.0, PAUSE_S))
            except OSError as error:
                if not isinstance(error.__cause__, aiohttp.ClientConnectorError):
                    say(what="cut")
                await asyncio.sleep(0.02)
            except Refused as refused:
                if not refused.retry:
                    raise
                await asyncio.sleep(0.02)


async def _pay(client: Client, till: Till, most: int, paid: deque[Deposit], say: Say) -> None:
    entries = till.waiting(most)
    if not entries:
        return
    deposits = [Deposit(entry.flow, entry.taken_at, entry.bundle) for entry in entries]
    receipts = await client.deposit(deposits)
    refused = [receipt.why for receipt in receipts if receipt.outcome == "refused"]
    if refused:
        raise RuntimeError(f"an honest check was not paid: {refused}")
    say(what="paid", charges={receipt.charge: receipt.amount for receipt in receipts})
    till.answered([(receipt.charge, PAID) for receipt in receipts], wall())
    paid.extend(deposits)


async def _insist(client: Client, first: Deposit, say: Say) -> None:
    """An old deposit comes again, as it was and with another time: nothing is paid twice."""
    again, other = await client.deposit([first, Deposit(first.flow, first.taken_at + 1, first.bundle)])
    if again.outcome != "repeated" or other.verdict != "already-used":
        say(what="found", twice=[f"check {again.charge[:8]}: {again.outcome}, {other.outcome}"])


def end(child: Child) -> None:
    """Kill it and do not listen."""
    with contextlib.suppress(ProcessLookupError):
        for _ in child.kill():
            pass
