"""A beacon finds a servlet for a session, and remembers the one that took it."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest

from polder.engine import CallFailed
from polder.model import Kind, Member, Refused, Signed, Verdict, decode, encode
from polder.model.overlay_messages import Caller
from polder.model.spread_messages import Expect, Expected, Issue, Issued, Redundancy, RelayList
from polder.node.spread import Spreading
from polder.overlay.spread import Listed
from polder.overlay.spread_keys import RelayKeys
from polder.settings.spread import SpreadSettings
from polder.shell.clock import wall

if TYPE_CHECKING:
    from polder.node.shell import Node

MEMBERS = tuple(Member(f"n{i}", bytes([i]) * 16, f"192.0.2.{i}:443") for i in range(1, 6))
ME, SERVLETS = MEMBERS[0], MEMBERS[1:4]
POINT = Caller(Kind.NODE, "n5", MEMBERS[4].ring_id)
ASKED = Issue("wiki", "spiffe://o.test/user/ann", b"k" * 32, int(wall()) + 86_400, None, Redundancy(0.5))


async def issue(spreading: Spreading, body: Issue) -> Issued:
    """What an access point is answered."""
    answer = spreading.handlers()["issue"](POINT, "", encode(body))
    return decode(await cast(Awaitable[bytes], answer), Issued)


class Beacon:
    """Of ``wiki``, whose servlets are ``SERVLETS``; those in ``refusing`` take no session."""

    def __init__(self, path: Path) -> None:
        self.me = ME
        self.roles = SimpleNamespace(beacons=SimpleNamespace(entries=lambda _now: {"wiki": SERVLETS}))
        self.refusing = set[Member]()
        self.asked = list[tuple[Member, Expect]]()
        self.spreading = Spreading(cast("Node", self), path, SpreadSettings(listen=(ME.address,)))
        role, now = self.spreading.role, wall()
        role.set_relays(Listed(RelayList.of(MEMBERS, now), Signed(b"", b"", ())), now)
        role.handle_timeout(now)
        while (call := role.poll_call()) is not None:
            assert call.to is not None
            granted = RelayKeys(call.to.ring_id * 2, 3600, 660).grant(1, bytes(8), now)
            role.answered(call.request_id, call.to, granted, now)

    async def role_call(self, to: Member, method: str, body: Any) -> Expected:
        """A servlet's answer."""
        assert method == "expect"
        self.asked.append((to, body))
        if to in self.refusing:
            raise CallFailed(503, "no")
        return Expected(b"p" * 32)

    async def issue(self, renews: bytes | None = None) -> Issued:
        """A ticket for ann."""
        self.asked.clear()
        return await issue(self.spreading, msgspec.structs.replace(ASKED, renews=renews))

    async def refused(self, renews: bytes | None = None) -> Verdict:
        """Why there is none."""
        with pytest.raises(Refused) as refused:
            await self.issue(renews)
        return refused.value.verdict


@pytest.fixture
def beacon(tmp_path: Path) -> Beacon:
    return Beacon(tmp_path)


async def test_a_servlet_that_refuses_is_passed_over(beacon: Beacon) -> None:
    beacon.refusing = set(SERVLETS[:2])
    for _ in range(8):
        issued = await beacon.issue()
        servlet, told = beacon.asked[-1]
        assert (servlet, issued.ticket.session, issued.pin) == (SERVLETS[2], told.session, b"p" * 32)
        assert len({expect.session for _, expect in beacon.asked}) == len(beacon.asked), "a name is used once"
    beacon.refusing = set(SERVLETS)
    assert await beacon.refused() is Verdict.BUSY and {to for to, _ in beacon.asked} == set(SERVLETS)


async def test_a_session_is_carried_on_where_it_was_taken(beacon: Beacon) -> None:
    beacon.refusing = set(SERVLETS[:2])
    name = (await beacon.issue()).ticket.session
    beacon.refusing.clear()
    for _ in range(8):
        issued = await beacon.issue(name)
        assert issued.renewed and [(to, expect.renews) for to, expect in beacon.asked] == [(SERVLETS[2], name)]
        name = issued.ticket.session
    beacon.refusing = {SERVLETS[2]}
    assert await beacon.refused(name) is Verdict.UNKNOWN and len(beacon.asked) == 1


async def test_a_session_of_another_beacon_is_asked_for_everywhere(beacon: Beacon) -> None:
    beacon.refusing = set(SERVLETS)
    assert await beacon.refused(b"s" * 16) is Verdict.UNKNOWN and {to for to, _ in beacon.asked} == set(SERVLETS)
    beacon.refusing = set(SERVLETS[1:])
    assert (await beacon.issue(b"s" * 16)).renewed and beacon.asked[-1][0] == SERVLETS[0]


async def test_without_servlets_or_a_plane_there_is_no_ticket(tmp_path: Path) -> None:
    beacon = Beacon(tmp_path)
    beacon.roles.beacons.entries = lambda _now: {}
    assert await beacon.refused() is Verdict.BUSY and not beacon.asked
    off = Spreading(cast("Node", beacon), tmp_path, SpreadSettings())
    with pytest.raises(Refused, match="off"):
        await issue(off, ASKED)
