"""Who sells, who pays, who keeps the books: two ISPs with their decision points, a provider with its portal, a clearing house.

All are the product's own processes: ``polder pdp`` beside each ISP's router, ``polder clearing serve`` and ``polder credit serve`` on the
host ``market``, with certificates of the overlay. The ISPs trust the provider (*martha*, who runs the site); she gives her user a
credit by her portal, and one to the site itself. Checks are written at the offers' prices, and settled in the end.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polder.bandex import CreditTerms, OfferTerms, Terms
from polder.bandex.writing import BACKDATE, Wanted, from_file, order, pay, write
from polder.keynote.signing import PrivateKey, encode_private, identifier, make_key, wrap
from polder.lab.olintserv.isps import NARROW, SIDES, Side
from polder.lab.overlay import TRUST_DOMAIN, Overlay
from polder.lab.world import Scene
from polder.model import Kind, SpiffeId
from polder.rsvp.policy_data import pack_bundle
from polder.rsvp.questions import digest
from polder.rsvpd.door import texts
from polder.rsvpd.values import Reserve
from polder.settings import write_atomic
from polder.shell.clock import wall
from polder.trust.tokens import Grant

HOUSE_PORT, PORTAL_PORT = 7410, 7411
SELLERS = {"edge": "nick", "isp": "nora"}
"""The ISPs by their routers."""
_HOSTS = {seller: router for router, seller in SELLERS.items()}
PROVIDER, ROUTE, CURRENCY = "martha", "lasthop", "USD"
PER_MBIT_HOUR, SETUP = 40_000, 10_000
"""Micro-units: four cents for a Mbit/s in an hour, and one for each reservation."""
_MONTH_S = 30 * 24 * 3600
_EACH, _TOTAL = 1_000_000, 5_000_000


@dataclass
class Payer:
    """Somebody who writes checks, and what he holds: credits, and the ISP's offer."""

    key: PrivateKey
    held: list[tuple[str, Terms]]

    def bundle(self, asked: Reserve, seconds: float) -> bytes:
        """Credentials with a fresh check for ``asked``, good for so many seconds. Raises ``Refused``."""
        session, senders, flowspec = texts(asked)
        offer = next(terms for _, terms in self.held if isinstance(terms, OfferTerms))
        credit = next(terms for _, terms in self.held if isinstance(terms, CreditTerms))
        wanted = Wanted(session, senders, digest(flowspec), math.ceil(flowspec.rate), math.ceil(seconds))
        terms, text = pay(wanted, offer, credit, self.key, secrets.token_hex(16), wall())
        return pack_bundle([each.encode() for each in order([(text, terms), *self.held])])


class Market:
    """Built by ``open``; ``payers`` then maps each side's customer to who pays for it."""

    def __init__(self, overlay: Overlay, world: Scene, directory: Path) -> None:
        """``directory``: for the decision points' sockets."""
        self._overlay, self._directory = overlay, directory
        address = world.hosts["market"].ipv4
        self._house, self._portal = f"{address}:{HOUSE_PORT}", f"{address}:{PORTAL_PORT}"
        self._provider = make_key("ed25519")
        self._sellers = {router: make_key("ed25519") for router in SELLERS}
        self.payers: dict[str, Payer] = {}

    def pdp(self, side: Side) -> Path:
        """The socket of a side's decision point."""
        return self._directory / f"pdp-{side.isp}" / "pdp.sock"

    async def open(self) -> None:
        """Enrol everybody, open the accounts, sell. Raises ``ProcessError``, ``Refused``."""
        await asyncio.gather(*(self._enrol(name) for name in ("clearing", PROVIDER, *SELLERS.values())))
        self._write_house()
        for side in SIDES:
            self._write_isp(side)
        await self._register()
        await asyncio.gather(self._run_house(), self._run_portal(), *(self._run_pdp(side) for side in SIDES))
        await self._fetch_credit()
        self._grant_credit()

    async def settle(self) -> dict[str, Any]:
        """Deposit all checks, bill, pay, audit: the books in the end."""
        deposited = {seller: await self._overlay.command(router, seller, "settle") for router, seller in SELLERS.items()}
        billed = await self._clearing("settle", "--name", "show")
        for due in billed["payments"]:
            await self._overlay.command(_HOSTS[due["to"]], due["to"], "settle", "--came", f"show/{due['number']}")
        audited = await self._clearing("audit")
        accounts = (await self._clearing("accounts"))["accounts"]
        return {
            "deposited": {seller: told["deposited"] for seller, told in deposited.items()},
            "earned": {seller: sum(one["amount"] for one in told["balances"]) for seller, told in deposited.items()},
            "payments": [{key: due[key] for key in ("from", "to", "amount", "currency")} for due in billed["payments"]],
            "left": sum(abs(amount) for one in accounts for amount in one["balances"].values()),
            "wrong": len(audited["wrong"]),
        }

    # Parties

    async def _enrol(self, name: str) -> None:
        grant = Grant(Kind.SITE, name, hosts=(f"{name}.test",))
        await self._overlay.enrol(Kind.SITE, name, grant, on=_HOSTS.get(name, "market"), state=name)

    def _home(self, name: str, part: str) -> Path:
        home = self._overlay.home(name) / part
        home.mkdir(parents=True, exist_ok=True)
        return home

    def _identity(self, name: str) -> Path:
        return self._overlay.home(name) / "site" / name

    def _write_house(self) -> None:
        house, provider = self._home("clearing", "clearing"), self._home(PROVIDER, "provider")
        (house / "clearing.toml").write_text(
            f'listen = "{self._house}"\nname = "csc"\n[tls]\nidentity = "{self._identity("clearing")}"\n'
        )
        _keep(provider / "provider.key", self._provider)
        (provider / "provider.toml").write_text(f'listen = "{self._portal}"\n[tls]\nidentity = "{self._identity(PROVIDER)}"\n')

    def _write_isp(self, side: Side) -> None:
        seller = SELLERS[side.isp]
        home = self._home(seller, "isp")
        _keep(home / "isp.key", self._sellers[side.isp])
        (home / "isp.toml").write_text(
            f'name = "{seller}"\n[routes.{ROUTE}]\nlinks = ["{side.isp}/{NARROW}", "{side.isp}/wan"]\n'
            f'[trusted]\n"{identifier(self._provider)}" = "1.00"\n'
            f'[clearing]\nurl = "https://{self._house}"\nmember = "{_spiffe("clearing")}"\n'
            f'[clearing.tls]\nidentity = "{self._identity(seller)}"\n'
        )
        (home / "pdp.toml").write_text(f'socket = "{self.pdp(side)}"\nisp = "{home / "isp.toml"}"\n')

    async def _register(self) -> None:
        """Before the house serves: one after the other, as each writes its books."""
        parties = [(PROVIDER, "provider", self._provider)]
        parties += [(SELLERS[router], "isp", key) for router, key in self._sellers.items()]
        for name, kind, key in parties:
            words = ("register", name, "--kind", kind, "--key", identifier(key), "--identity", _spiffe(name))
            await self._clearing(*words)

    async def _clearing(self, *words: str) -> dict[str, Any]:
        return await self._overlay.command("market", "clearing", "clearing", *words)

    async def _run_house(self) -> None:
        await self._overlay.start("market", "clearing", "clearing", "serve", name="clearing")

    async def _run_portal(self) -> None:
        await self._overlay.start("market", PROVIDER, "credit", "serve", name="portal")

    async def _run_pdp(self, side: Side) -> None:
        seller = SELLERS[side.isp]
        words = ("pdp", "--config", str(self._home(seller, "isp") / "pdp.toml"))
        await self._overlay.start(side.isp, seller, *words, name=f"pdp-{side.isp}")

    # Credentials

    def _offer(self, side: Side) -> tuple[str, Terms]:
        now = int(wall())
        key = self._sellers[side.isp]
        terms = OfferTerms(
            not_before=now - BACKDATE,
            not_after=now + _MONTH_S,
            isp_key=identifier(key),
            isp=SELLERS[side.isp],
            route=ROUTE,
            service="controlled-load",
            currency=CURRENCY,
            setup=SETUP,
            per_mbit_hour=PER_MBIT_HOUR,
            most_rate=2_500_000,
            most_seconds=3600,
        )
        return write(terms, key), terms

    async def _fetch_credit(self) -> None:
        """The user asks the portal, over the network."""
        side, key = SIDES[0], make_key("ed25519")
        file, out = self._home("user", "user") / "check.key", self._home("user", "user") / "credit.kn"
        _keep(file, key)
        words = ("credit", "fetch", f"https://{self._portal}", "--member", _spiffe(PROVIDER), "--key-file", str(file))
        await self._overlay.command(side.customer, "user", *words, "--out", str(out))
        self._hold(side, key, from_file(out.read_text()))

    def _grant_credit(self) -> None:
        """The provider pays for its own site, too."""
        side, key, now = SIDES[1], make_key("ed25519"), int(wall())
        terms = CreditTerms(
            not_before=now - BACKDATE,
            not_after=now + 24 * 3600,
            provider=identifier(self._provider),
            user=identifier(key),
            currency=CURRENCY,
            nonce=secrets.token_hex(16),
            least=1,
            most=_EACH,
            total=_TOTAL,
        )
        self._hold(side, key, [(write(terms, self._provider), terms)])

    def _hold(self, side: Side, key: PrivateKey, credit: list[tuple[str, Terms]]) -> None:
        self.payers[side.customer] = Payer(key, [*credit, self._offer(side)])


def _keep(path: Path, key: PrivateKey) -> None:
    write_atomic(path, wrap(encode_private(key)).encode(), 0o600)


def _spiffe(name: str) -> str:
    return str(SpiffeId(TRUST_DOMAIN, Kind.SITE, name))
