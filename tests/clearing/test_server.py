"""The clearing house's HTTP interface, with certificates of one's own: who comes in, what it answers, how it describes itself."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from cryptography import x509

from polder.bandex import Flow
from polder.clearing.client import Client, deposit_all
from polder.clearing.faces import routes_for_description
from polder.clearing.messages import MOST_DEPOSITS, Deposit
from polder.clearing.running import ClearingShell
from polder.clearing.serving import openapi
from polder.clearing.till import Till, open_spent
from polder.clearing.tls import Membership
from polder.model import Refused
from polder.settings import ConfigError
from polder.settings.money import ClearingSettings, Tls
from polder.shell.metrics import known
from tests.support.certifier import Certifier
from tests.support.money import NOW, Alice, desk, name_of

FLOW = Flow("nick", "dublin-nyc", "edge", "lasthop", "s", (), "FF", "guaranteed", 1, 1, 1, "00" * 32)


@dataclass
class Served:
    """A clearing house on loopback; ``clients``: contexts of who may and may not come in."""

    shell: ClearingShell
    url: str
    certifier: Certifier
    root: Path

    def context(self, who: str, *names: x509.GeneralName) -> ssl.SSLContext:
        return Membership.load(self.certifier.tls(who, *names), self.root).client(None)

    def nick(self) -> Client:
        return Client(self.url, self.context("nick", x509.DNSName("nick.example")))


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    certifier = Certifier(tmp_path / "ca")
    tls = certifier.tls("house", x509.DNSName("localhost"))
    settings = ClearingSettings(listen="127.0.0.1:0", tls=tls, metrics_listen="off", rate_per_source=1000)
    shell = await ClearingShell.start(settings, tmp_path / "clearing", clock=lambda: NOW + 60)
    shell.house.register("nick", "isp", name_of("nick"), "dns:nick.example", NOW)
    shell.house.register("martha", "provider", name_of("martha"), "dns:martha.example", NOW, most=1_000_000)
    yield Served(shell, f"https://localhost:{shell.address.rpartition(':')[2]}", certifier, tmp_path)
    await shell.close()


@pytest.fixture
def till(tmp_path: Path) -> Till:
    return open_spent(tmp_path / "till.sqlite3")


async def test_an_isp_deposits_what_waits_once(served: Served, till: Till) -> None:
    alice, one = Alice(total=2_000_000_000), desk(till)
    for _ in range(MOST_DEPOSITS // 16 * 10):
        one.decide(alice.ask(), NOW)
    async with served.nick() as client:
        answered = await deposit_all(client, till, NOW + 60, most=16)
        assert [receipt.outcome for _, receipt in answered] == ["paid"] * 40
        assert await deposit_all(client, till, NOW + 60) == []
        again = await client.deposit([Deposit(entry.flow, entry.taken_at, entry.bundle) for entry, _ in answered])
        assert {receipt.outcome for receipt in again} == {"repeated"}
        found = await client.statement()
        assert found.balances[0].amount == sum(line.amount for line in found.lines) == 40 * 440_000
        assert (await client.statement(found.lines[-2].id)).lines == found.lines[-1:]
        assert (await client.house()).most_deposits == MOST_DEPOSITS
        with pytest.raises(Refused, match="1 to 64 deposits"):
            await client.deposit([])
    told = served.shell.numbers()["clearing_deposits"]
    assert isinstance(told, dict) and told["expired"] == 0
    assert {outcome: count for outcome, count in told.items() if count} == {"paid": 40, "repeated": 40}
    assert served.shell.house.ledger.audit() == []
    till.close()


async def test_a_provider_sees_its_users_and_pays_nobody_twice(served: Served, till: Till) -> None:
    desk(till).decide(Alice().ask(), NOW)
    async with served.nick() as client:
        await deposit_all(client, till, NOW + 60)
        with pytest.raises(Refused, match="only a provider sees"):
            await client.statement(user=name_of("alice"))
        (due,) = served.shell.house.ledger.settle("one", NOW)
        assert (await client.payments())[0] == due
    async with Client(served.url, served.context("martha", x509.DNSName("martha.example"))) as client:
        assert (await client.statement(user=name_of("alice"))).lines[0].amount == -440_000
        with pytest.raises(Refused, match="only the creditor"):
            await client.paid("one", 0)
    async with served.nick() as client:
        assert (await client.paid("one", 0)) == (await client.paid("one", 0))
        assert (await client.statement()).balances[0].amount == 0
    till.close()


async def test_a_connection_that_was_closed_meanwhile_is_made_anew(served: Served) -> None:
    """Idle connections end after 15 s; every call is safe to repeat."""
    async with served.nick() as client:
        await client.house()
        assert served.shell._server._runner.server is not None
        for connection in served.shell._server._runner.server.connections:
            assert connection.transport is not None
            connection.transport.abort()
        assert (await client.deposit([Deposit(FLOW, NOW, ("x",))]))[0].verdict == "malformed"


async def test_what_waits_for_a_better_clock_stays_in_the_till(served: Served, till: Till) -> None:
    ahead = NOW + 600
    desk(till).decide(Alice(now=ahead).ask(ahead), ahead)
    async with served.nick() as client:
        ((_, receipt),) = await deposit_all(client, till, NOW)
        assert (receipt.verdict, receipt.retry) == ("not-yet-valid", True)
    assert till.totals() == {"waiting": 1, "paid": 0, "refused": 0}
    till.close()


async def test_who_comes_in(served: Served, tmp_path: Path) -> None:
    other = Certifier(tmp_path / "other").tls("mallory", x509.DNSName("nick.example"))
    trusting = other.model_copy(update={"authorities": str(served.certifier.directory / "root.pem")})
    async with Client(served.url, Membership.load(trusting, tmp_path).client(None)) as client:
        with pytest.raises(OSError, match="does not answer"):  # the handshake fails: nobody here certified it
            await client.house()
    async with Client(served.url, Membership.load(other, tmp_path).client(None)) as client:
        with pytest.raises(Refused, match="not whom we were told"):
            await client.house()
    bare = ssl.create_default_context(cafile=str(served.certifier.directory / "root.pem"))
    async with Client(served.url, bare) as client:
        with pytest.raises(OSError, match="does not answer"):
            await client.house()
    async with Client(served.url, served.context("nobody", x509.DNSName("nobody.example"))) as client:
        await client.house()
        with pytest.raises(Refused, match=r"dns:nobody\.example has no account here"):
            await client.statement()
    async with Client(served.url, served.context("nameless")) as client:
        with pytest.raises(Refused, match="neither a URI nor a DNS name"):
            await client.house()
    with pytest.raises(Refused, match="is not a clearing house's URL"):
        Client("http://127.0.0.1", bare)


async def test_malformed_requests_are_explained(served: Served) -> None:
    context = served.context("nick", x509.DNSName("nick.example"))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        cases = [
            ("POST", "deposits", b"{", 400, "it is not JSON"),
            ("POST", "deposits", b'{"deposits": [{"flow": 1}]}', 400, "Expected `object`"),
            ("POST", "deposits", b'{"deposits": [], "more": 1}', 400, "unknown field"),
            ("POST", "deposits", b"[" * 100_000, 400, "the body is not Deposits"),
            ("POST", "deposits", b" " * (3 << 20), 413, ""),
            ("GET", "statement?after=-1", None, 400, "a whole number"),
            ("GET", "statement?before=1", None, 400, "unknown parameter 'before'"),
            ("GET", "nothing", None, 404, ""),
            ("DELETE", "deposits", None, 405, ""),
        ]
        for method, path, body, status, why in cases:
            async with session.request(method, f"{served.url}/v1/{path}", data=body) as response:
                problem = await response.json(content_type="application/problem+json")
                assert (response.status, problem["retry"]) == (status, False), (path, problem)
                assert why in problem["detail"]
        async with session.get(f"{served.url}/v1/openapi.json") as response:
            assert await response.read() == openapi("Polder clearing house", routes_for_description())
    assert served.shell.house.ledger.balances() == {}


def test_the_description_names_every_operation_and_type() -> None:
    told = json.loads(openapi("x", routes_for_description()))
    assert told["openapi"] == "3.1.0" and told["components"]["securitySchemes"]["member"]["type"] == "mutualTLS"
    operations = {f"{method} {path}" for path, item in told["paths"].items() for method in item}
    assert operations == {
        "get /v1/house",
        "post /v1/deposits",
        "get /v1/statement",
        "get /v1/payments",
        "post /v1/payments",
    }
    for name in ("Deposits", "Deposit", "Flow", "Receipts", "Receipt", "Statement", "Line", "Payment", "Problem"):
        assert name in told["components"]["schemas"], name
    text = json.dumps(told)
    for reference in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert reference in told["components"]["schemas"]


async def test_every_number_has_a_meaning(served: Served) -> None:
    assert served.shell.numbers().keys() | desk().numbers().keys() | {"portal_credits"} <= known().keys()
    served.shell.house.checker.query(["nonsense"], ["more"], ["me"], {})
    assert served.shell.numbers()["keynote_left_out"] == {"syntax": 2}
    assert all(check.good for check in served.shell.checks())


def test_keys_that_others_can_read_are_refused(tmp_path: Path) -> None:
    tls = Certifier(tmp_path / "ca").tls("house", x509.DNSName("localhost"))
    assert tls.private_key is not None
    Path(tls.private_key).chmod(0o644)
    with pytest.raises(ConfigError, match="others can read this key"):
        Membership.load(tls, tmp_path).server()
    with pytest.raises(ValueError, match="not both, not neither"):
        Tls()
    with pytest.raises(ValueError, match="go together"):
        Tls(certificate="a")
