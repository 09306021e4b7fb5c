"""Journey 7 as people run it: bank, portal, offer, credit, check, routers, decision point, deposit, settlement; over mutual TLS."""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polder.bandex import CreditTerms, OfferTerms, pack
from polder.bandex.writing import Wanted, from_file, order, pay, to_file
from polder.clearing.files import TILL, open_desk, read_private
from polder.clearing.till import Till
from polder.settings import load
from polder.settings.money import IspSettings
from tests.support.commands import polder
from tests.support.money import FLOWSPEC, RATE, SENDERS, SESSION, Ask
from tests.support.namespaces import need_namespaces
from tests.support.overlay import Overlay, Process, free_port, until

DOMAIN = "overlay.test"


def spiffe(kind: str, name: str) -> str:
    return f"spiffe://{DOMAIN}/{kind}/{name}"


class Market:
    """An overlay's authority, a clearing house, Nick, a bank, Martha's portal and Alice: each with a state directory of its own.

    Nick knows the bank alone, which answers for Martha, who answers for Alice.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.overlay = Overlay(root, DOMAIN)
        self.processes: list[Process] = []
        self.house, self.nick, self.martha, self.alice, self.bank = (
            root / who for who in ("house", "nick", "martha", "alice", "bank")
        )
        self.houses = f"127.0.0.1:{free_port()}"
        self.portal = f"127.0.0.1:{free_port()}"

    def enrol(self) -> None:
        """Found the overlay, enrol everybody, make KeyNote keys."""
        self.overlay.found()
        for state, kind, name in (
            (self.house, "site", "clearing"),
            (self.martha, "site", "martha"),
            (self.nick, "site", "nick"),
            (self.alice, "user", "alice"),
        ):
            more = ("--host", f"{name}.example") if kind == "site" else ()
            token = self.token(kind, name, *more)
            polder(state, "enroll", self.overlay.url, "--pin", self.overlay.pin, "--token-file", "-", stdin=token)
        self.keys = {who: self._key(state, part) for who, state, part in self._parts()}

    def token(self, kind: str, name: str, *more: str) -> str:
        """An invitation."""
        return str(polder(self.overlay.state("authority"), "invite", kind, name, *more)["token"])

    def _parts(self) -> list[tuple[str, Path, str]]:
        return [
            ("nick", self.nick, "isp"),
            ("martha", self.martha, "provider"),
            ("alice", self.alice, "user"),
            ("bank", self.bank, "bank"),
        ]

    def _key(self, state: Path, part: str) -> Path:
        (state / part).mkdir(parents=True, exist_ok=True)
        public, private = state / part / f"{part}.pub", state / part / f"{part}.key"
        polder(state, "keynote", "keygen", "ed25519-base64:", "256", str(public), str(private))
        return public

    def configure(self) -> None:
        """Write the three configuration files."""
        (self.house / "clearing").mkdir()
        (self.house / "clearing/clearing.toml").write_text(
            f'listen = "{self.houses}"\nname = "csc"\n[tls]\nidentity = "{self.house}/site/clearing"\nrevocation_refresh = "1s"\n'
        )
        (self.nick / "isp/isp.toml").write_text(
            'name = "nick"\n[routes.lasthop]\nlinks = ["edge/lasthop"]\n[routes.film]\nlinks = ["r1/out", "r2/out"]\n'
            f'[trusted]\n"{_text(self.keys["bank"])}" = "1.00"\n'
            f'[clearing]\nurl = "https://{self.houses}"\nmember = "{spiffe("site", "clearing")}"\n'
            f'[clearing.tls]\nidentity = "{self.nick}/site/nick"\n'
        )
        guarantee = ("credit", "guarantee", "--key-file", str(self.bank / "bank/bank.key"), "--for", str(self.keys["martha"]))
        polder(self.bank, *guarantee, "--each", "1.00", "--out", str(self.martha / "provider/bank.kn"))
        (self.martha / "provider/provider.toml").write_text(
            f'listen = "{self.portal}"\nguarantees = ["bank.kn"]\nmost = "0.50"\ntotal = "1.00"\nmost_per_user = "2.00"\n'
            f'[tls]\nidentity = "{self.martha}/site/martha"\n'
        )

    def start(self) -> None:
        """Run the clearing house and the portal."""
        self.processes.append(Process(("clearing", "serve"), self.house, self.root / "clearing.log").start())
        self.processes.append(Process(("credit", "serve"), self.martha, self.root / "portal.log").start())

    def stop(self) -> None:
        for process in self.processes:
            process.stop()
        self.overlay.close()


def _text(public: Path) -> str:
    from polder.clearing.files import read_public

    return read_public(str(public))


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    made = Market(tmp_path_factory.mktemp("market"))
    try:
        made.enrol()
        made.configure()
        made.start()
        yield made
    finally:
        made.stop()


def register(market: Market) -> None:
    for name, kind, *more in (("nick", "isp"), ("bank", "bank"), ("martha", "provider", "--guarantor", str(market.keys["bank"]))):
        named = (name, "--kind", kind, "--key", str(market.keys[name]), "--identity", spiffe("site", name), *more)
        assert polder(market.house, "clearing", "register", *named)["name"] == name


def offered(market: Market, tmp_path: Path, route: str) -> Path:
    """Nick's offer and Alice's credit in one file."""
    offer, credit, held = tmp_path / "offer.kn", tmp_path / "credit.kn", tmp_path / "held.kn"
    price = ("--per-mbit-hour", "0.04", "--rate", "20Mbit")
    made = polder(market.nick, "offer", "create", "--route", route, *price, "--out", str(offer))
    assert (made["route"], made["per_mbit_hour"], made["most_rate"]) == (route, 40_000, RATE)
    fetch = ("credit", "fetch", f"https://{market.portal}", "--member", spiffe("site", "martha"))
    fetch += ("--key-file", str(market.alice / "user/user.key"), "--out", str(credit))
    told = polder(market.alice, *fetch)
    again = polder(market.alice, *fetch, "--request", told["request"])
    assert again["repeated"] and again["texts"] == told["texts"]
    shown = polder(market.alice, "credit", "show", str(credit))["credits"]
    assert [one["kind"] for one in shown] == ["credit", "guarantee"] and shown[0]["total"] == 1_000_000
    held.write_text(offer.read_text() + "\n" + credit.read_text())
    return held


def stated(market: Market, amount: int) -> None:
    """Everybody's statement ends with the last check: charged, billed upwards, paid; each balance is the one before and the amount."""
    house = (f"https://{market.houses}", "--member", spiffe("site", "clearing"))
    users = [row["name"] for row in polder(market.house, "clearing", "accounts")["accounts"] if row["kind"] == "user"]
    (user,) = users
    found = {
        "nick": polder(market.nick, "settle", "--statement"),
        "martha": polder(market.martha, "credit", "statement", *house),
        "bank": polder(market.house, "clearing", "statement", "bank"),
        user: polder(market.martha, "credit", "statement", *house, "--user", str(market.keys["alice"])),
    }
    ends = {
        "nick": [("check", amount, user), ("payment", -amount, "bank")],
        "martha": [("bill", -amount, user), ("bill", amount, "bank")],
        "bank": [("bill", -amount, "martha"), ("payment", amount, "nick")],
        user: [("check", -amount, "nick"), ("bill", amount, "martha")],
    }
    for name, statement in found.items():
        lines = statement["lines"]
        assert (statement["account"], statement["more"], statement["balances"][0]["amount"]) == (name, False, 0)
        assert [(line["kind"], line["amount"], line["other"]) for line in lines[-2:]] == ends[name]
        assert [line["balance"] for line in lines] == list(itertools.accumulate(line["amount"] for line in lines))
    last = polder(market.nick, "settle", "--statement", "--after", str(found["nick"]["lines"][-2]["id"]))
    assert last["lines"] == found["nick"]["lines"][-1:]
    for words in (("--statement", "--came", "x/0"), ("--after", "1")):
        assert "--statement" in polder(market.nick, "settle", *words, status=2)["error"], "nothing is passed over in silence"


def settled(market: Market, amount: int, week: str) -> None:
    """One check over ``amount`` waits: it is paid once, billed from Alice to Martha to the bank, and in the end nobody owes anything."""
    done = polder(market.nick, "settle")
    assert done["deposited"] == {"paid": 1, "repeated": 0, "refused": 0}
    assert done["balances"] == [{"currency": "USD", "amount": amount, "due": 0}]
    again = polder(market.nick, "settle")
    assert (again["deposited"]["paid"], again["balances"]) == (0, done["balances"])
    dues = polder(market.house, "clearing", "settle", "--name", week)["payments"]
    assert dues == polder(market.house, "clearing", "settle", "--name", week)["payments"]
    assert [(due["from"], due["to"], due["amount"]) for due in dues] == [("bank", "nick", amount)]
    came = polder(market.nick, "settle", "--came", f"{week}/0")
    assert (came["balances"][0]["amount"], came["payments"][0]["came"]) == (0, True)
    stated(market, amount)
    assert polder(market.house, "clearing", "audit") == {"wrong": [], "next": "polder clearing settle"}
    accounts = {row["kind"]: row for row in polder(market.house, "clearing", "accounts")["accounts"]}
    assert (accounts["user"]["guarantor"], accounts["provider"]["guarantor"]) == ("martha", "bank")
    assert all(amount == 0 for row in accounts.values() for amount in row["balances"].values())


def watch_a_film(market: Market, credentials: Path) -> dict[str, Any]:
    """Alice writes a check, Nick's desk takes it; returns what the desk said."""
    held = from_file(credentials.read_text())
    offer = next(terms for _, terms in held if isinstance(terms, OfferTerms))
    credit = next(terms for _, terms in held if isinstance(terms, CreditTerms))
    alice = read_private(market.alice / "user/user.key")
    now = time.time()  # noqa: TID251 - the processes' clock
    wanted = Wanted(SESSION, SENDERS, FLOWSPEC, RATE, 1800)
    terms, text = pay(wanted, offer, credit, alice, secrets.token_hex(16), now)
    texts = order([(text, terms), *held])
    credentials.with_name("bundle.kn").write_text(to_file(texts))
    settings = load(IspSettings, market.nick / "isp/isp.toml")
    desk, till = open_desk(settings, market.nick / "isp")
    try:
        decision = desk.decide(Ask(pack(texts)), now)
    finally:
        till.close()
    return {"accepted": decision.accepted, "reason": decision.verdict().reason, "amount": terms.amount}


def test_a_film_is_offered_credited_paid_and_settled(market: Market, tmp_path: Path) -> None:
    register(market)
    film = watch_a_film(market, offered(market, tmp_path, "lasthop"))
    assert film["accepted"], film
    examined = polder(market.nick, "check", "explain", str(tmp_path / "bundle.kn"), "--rate", "20Mbit")
    assert examined["good"] and len(examined["assertions"]) == 5
    settled(market, film["amount"], "week-1")


@pytest.mark.lab
def test_a_reservation_is_paid_at_real_routers_and_settled(market: Market, tmp_path: Path) -> None:
    """From `polder offer` by way of the portal and `polder reserve --pay` at two routers to `polder settle`: paid exactly once."""
    need_namespaces()
    register(market)
    held, isp = offered(market, tmp_path, "film"), market.nick / "isp"
    inside = tmp_path / "inside"
    inside.mkdir()
    command = [sys.executable, "-m", "tests.clearing.film_inside", str(inside), str(isp / "isp.toml"), str(held)]
    done = subprocess.run(
        [*command, str(market.alice / "user/user.key")], capture_output=True, text=True, timeout=1200, check=False
    )
    logs = "\n".join(f"== {path.name}\n{path.read_text()[-1500:]}" for path in sorted(inside.glob("*.log")))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    (said,) = json.loads(done.stdout)
    assert (said["reserved"], said["style"], said["mbit"]) == (True, "FF", 4.0)
    with contextlib.closing(Till(isp / TILL)) as till:
        (entry,) = till.waiting(10)
    assert (entry.flow.route, entry.flow.rate, entry.flow.senders) == ("film", 500_000, ("10.0.1.1 port 6000",))
    # 4 Mbit/s at 0.04 a Mbit/s and hour, for ten minutes, the waiting and the clocks' half minute; rounded up
    assert entry.amount == -(-4 * 40_000 * (600 + 200 + 30) // 3600)
    settled(market, entry.amount, "week-2")


def test_a_user_gets_so_much_credit_and_no_more(market: Market, tmp_path: Path) -> None:
    token = market.token("user", "greedy")
    state = market.root / "greedy"
    polder(state, "enroll", market.overlay.url, "--pin", market.overlay.pin, "--token-file", "-", stdin=token)
    fetch = ("credit", "fetch", f"https://{market.portal}", "--member", spiffe("site", "martha"))
    fetch += ("--key-file", str(market.alice / "user/user.key"))
    polder(state, *fetch)
    polder(state, *fetch)
    refused = polder(state, *fetch, status=2)
    assert refused["verdict"] == "exceeded" and "come back later" in refused["error"]
    wrong = polder(state, "credit", "fetch", f"https://{market.portal}", "--member", spiffe("site", "else"), *fetch[5:], status=2)
    assert wrong["verdict"] == "foreign-identity"


def test_a_broken_bundle_is_explained(market: Market, tmp_path: Path) -> None:
    offer = tmp_path / "offer.kn"
    polder(market.nick, "offer", "create", "--route", "lasthop", "--per-mbit-hour", "1", "--rate", "1Mbit", "--out", str(offer))
    told = polder(market.nick, "check", "explain", str(offer), status=3)
    assert not told["good"] and told["steps"][-1]["why"] == "the bundle has no check"
    none = polder(market.nick, "offer", "create", "--route", "x", "--per-mbit-hour", "1", "--rate", "1Mbit", status=2)
    assert "there is no route 'x'; there are: film, lasthop" in none["error"]


def test_rules_change_and_the_program_is_replaced_while_it_serves(market: Market) -> None:
    file = market.house / "clearing/clearing.toml"
    file.write_text('skew = "5s"\n' + file.read_text())
    assert polder(market.house, "clearing", "reload")["changed"] == ["skew"]
    house, portal = market.processes
    for state, command, process in ((market.house, "clearing", house), (market.martha, "credit", portal)):
        told = polder(state, command, "upgrade")
        assert told["before"] == process.pid != told["pid"]
        process.pid = told["pid"]
    assert polder(market.nick, "settle")["account"] == "nick"
    assert polder(market.house, "clearing", "reload")["changed"] == []


def test_strangers_and_the_revoked_are_turned_away(market: Market) -> None:
    register(market)
    assert polder(market.nick, "settle")["account"] == "nick"
    foreign = (market.nick / "isp/isp.toml").read_text()
    (market.nick / "isp/isp.toml").write_text(foreign.replace(f"{market.nick}/site/nick", f"{market.alice}/user/alice"))
    unknown = polder(market.nick, "settle", status=2)
    assert unknown["verdict"] == "unknown" and "ask the clearing house to register it" in unknown["error"]
    (market.nick / "isp/isp.toml").write_text(foreign)
    polder(market.overlay.state("authority"), "revoke", "site", "nick")

    def turned_away() -> bool:
        try:
            return polder(market.nick, "settle", status=2)["verdict"] == "revoked"
        except AssertionError:
            return False

    until(turned_away, "the revocation at the clearing house")
