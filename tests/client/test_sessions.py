"""What a forwarder does with tickets: which lists of relays it believes, whom it asks, what the engine is told."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec
import pytest

from polder.client import spread
from polder.client.spread import Sessions
from polder.engine import CallFailed, Engine
from polder.model import Member, Refused, Signed, Verdict, encode
from polder.model.spread_messages import Issued, Redundancy, RelayList, Terms, Ticket
from polder.shell.tasks import Tasks
from polder.snapshot.spread import Order, Prefer, UserTicket

NOW = 1_000_000
POINTS = tuple(Member(name, name.encode() * 8, "192.0.2.1:443") for name in ("a1", "a2", "a3", "a4"))
RELAYS = POINTS[:2]


class Forwarder:
    """One whose access points answer with ``issued``, or fail where that is None."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time, self.asked, self.orders = 0.0, list[tuple[str, Any]](), list[Order]()
        self.issued: Issued | None = None
        self.refuses = False
        self.listed: RelayList | Refused = RelayList.of(RELAYS, NOW)
        self.tasks = Tasks()
        self.sessions = Sessions(lambda: cast(Engine, self), self.tasks, lambda: POINTS, self.call, self.open)
        self.sessions.configure("auto", Redundancy(0.5))
        monkeypatch.setattr(spread, "monotonic", lambda: self.time)

    def spread(self, order: Order) -> None:
        """As the engine."""
        if self.refuses:
            raise ValueError("no snapshot yet")
        self.orders.append(order)

    async def call(self, to: Member, method: str, body: bytes) -> bytes:
        """As an access point."""
        assert method == "ticket"
        self.asked.append((to.name, msgspec.msgpack.decode(body)["renews"]))
        if self.issued is None:
            raise CallFailed(0, "no answer")
        return encode(self.issued)

    def open(self, _signed: Signed, _now: float) -> RelayList:
        """As who verifies lists."""
        if isinstance(self.listed, Refused):
            raise self.listed
        return self.listed

    async def wanted(self) -> None:
        """A tunnel is wanted; all that follows has happened."""
        self.sessions.wanted("wiki.test", 443)
        await self.settled()

    async def settled(self) -> None:
        """Until nothing is asked any more."""
        while self.tasks._tasks:
            await asyncio.gather(*self.tasks._tasks)


@pytest.fixture
def forwarder(monkeypatch: pytest.MonkeyPatch) -> Forwarder:
    made = Forwarder(monkeypatch)
    made.issued = issued()
    return made


def issued(listed: RelayList | None = None, **changes: Any) -> Issued:
    """A ticket of ten minutes that began two seconds ago."""
    version = (listed or RelayList.of(RELAYS, NOW)).version
    ticket = Ticket(b"s" * 16, b"k" * 32, Terms(NOW - 2, 602, 17, 17), version, ())
    signed = Signed(b"", b"", ())
    made = Issued("wiki", ("wiki.test",), (443,), b"p" * 32, False, NOW * 1_000_000, ticket, signed)
    return msgspec.structs.replace(made, **changes)


async def test_a_ticket_goes_to_the_engine_and_is_renewed_at_two_thirds(forwarder: Forwarder) -> None:
    await forwarder.wanted()
    (order,) = forwarder.orders
    assert isinstance(order, UserTicket) and order.prefer and not order.renews
    assert [relay.address for relay in order.members.list] == [member.address for member in RELAYS]
    forwarder.sessions.session("wiki", True, "")
    for forwarder.time, count in ((399.9, 1), (400.1, 2)):
        forwarder.sessions._planes.handle_timeout(forwarder.time)
        forwarder.sessions._pump()
        await forwarder.settled()
        assert len(forwarder.asked) == count
    assert forwarder.asked[-1] == ("a1", b"s" * 16)


async def test_three_access_points_are_asked_and_then_there_is_a_pause(forwarder: Forwarder) -> None:
    forwarder.issued = None
    await forwarder.wanted()
    await forwarder.wanted()
    assert [name for name, _ in forwarder.asked] == ["a1", "a2", "a3"] and not forwarder.orders
    forwarder.time = 6.0
    await forwarder.wanted()
    assert len(forwarder.asked) == 6


async def test_a_ticket_that_the_engine_does_not_take_is_asked_for_again(forwarder: Forwarder) -> None:
    forwarder.refuses = True
    await forwarder.wanted()
    await forwarder.wanted()
    assert len(forwarder.asked) == 3
    forwarder.refuses, forwarder.time = False, 6.0
    await forwarder.wanted()
    await forwarder.wanted()
    assert len(forwarder.asked) == 4 and len(forwarder.orders) == 1


async def test_a_list_that_is_forged_old_or_another_is_not_used(forwarder: Forwarder) -> None:
    forwarder.listed = Refused(Verdict.BAD_SIGNATURE, "")
    await forwarder.wanted()
    assert not forwarder.orders
    forwarder.listed, forwarder.time = RelayList.of(POINTS, NOW), 10.0
    await forwarder.wanted()
    assert not forwarder.orders, "the ticket is for another list"
    forwarder.listed, forwarder.time = RelayList.of(RELAYS, NOW), 100.0
    await forwarder.wanted()
    assert len(forwarder.orders) == 1
    forwarder.sessions.session("wiki", True, "")
    forwarder.sessions.session("wiki", False, "it ended")
    forwarder.listed = RelayList.of(RELAYS, NOW - 9 * 3600)
    await forwarder.wanted()
    assert len(forwarder.orders) == 1


async def test_another_plane_forgets_no_session(forwarder: Forwarder) -> None:
    await forwarder.wanted()
    forwarder.sessions.session("wiki", True, "")
    forwarder.sessions.configure("tunnel", Redundancy(0.5))
    forwarder.sessions._planes.handle_timeout(500.0)
    forwarder.sessions._pump()
    await forwarder.settled()
    assert forwarder.asked[-1] == ("a1", b"s" * 16) and not any(isinstance(order, Prefer) for order in forwarder.orders)
