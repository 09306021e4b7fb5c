"""Conversations with a node's part in the spread plane: keys from relays, tickets, who may what."""

from __future__ import annotations

import hashlib
import hmac
from random import Random

import msgspec
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from polder.model import Kind, Member, Refused, Signed, Verdict
from polder.model.overlay_messages import Caller
from polder.model.spread_messages import GrantQuery, Issue, Redundancy, RelayList, node_number
from polder.overlay.spread import IN_FLIGHT, MAX_SESSIONS, SETTLE, Listed, SpreadRole
from polder.overlay.spread_keys import RelayKeys, epoch_key, grant_key, peer_key

HOUR, GRACE, LIFE = 3600, 660, 600
HALF = Redundancy(0.5)
NOW = 1_000_000 * HOUR + 100.0
MEMBERS = tuple(Member(f"n{i}", bytes([i]) * 16, f"192.0.2.{i}:443") for i in range(1, 7))
ASKED = Issue("wiki", "spiffe://o.test/user/ann", b"k" * 32, int(NOW) + 86_400, None, HALF)


def listed(members: tuple[Member, ...], now: float = NOW) -> Listed:
    return Listed(RelayList.of(members, now), Signed(b"", b"", ()))


def caller(member: Member) -> Caller:
    return Caller(Kind.NODE, member.name, member.ring_id)


def nodes(period: int = HOUR) -> dict[str, SpreadRole]:
    """A role per node, which know the list and each other's keys."""
    roles = {
        member.name: SpreadRole(member, RelayKeys(member.ring_id * 2, period, GRACE), Random(i), life=LIFE)
        for i, member in enumerate(MEMBERS)
    }
    for role in roles.values():
        role.set_relays(listed(MEMBERS), NOW)
    for member in MEMBERS:
        exchange(roles, member, NOW)
    return roles


def exchange(roles: dict[str, SpreadRole], me: Member, now: float) -> int:
    """Carry out one node's calls; how many there were."""
    role, count = roles[me.name], 0
    role.handle_timeout(now)
    while (call := role.poll_call()) is not None:
        assert call.method == "grant" and call.body == GrantQuery() and call.to is not None
        role.answered(call.request_id, call.to, roles[call.to.name].grant(caller(me), now), now)
        count += 1
    return count


def test_every_node_asks_every_relay_once_an_epoch() -> None:
    roles = nodes()
    assert all(len(role.peer_keys()) == len(MEMBERS) for role in roles.values())
    me = MEMBERS[0]
    assert exchange(roles, me, NOW + 10) == 0
    due = roles[me.name].poll_timeout()
    assert due is not None and 0 < due - (NOW // HOUR + 1) * HOUR < 6
    assert exchange(roles, me, due + 10) == len(MEMBERS)
    assert {epoch for _, epoch, _ in roles[me.name].peer_keys()} == {int(NOW) // HOUR, int(NOW) // HOUR + 1}


def test_tickets_use_keys_of_a_new_epoch_when_servlets_know_them_too() -> None:
    roles = nodes()
    turn = (NOW // HOUR + 1) * HOUR + 6
    assert exchange(roles, MEMBERS[0], turn) == len(MEMBERS)

    def epochs(now: float) -> set[int]:
        return {relay.epoch for relay in roles["n1"].issue(ASKED, MEMBERS[4], now)[1].ticket.relays}

    assert epochs(turn) == epochs(turn + SETTLE - 0.1) == {int(NOW) // HOUR}
    assert epochs(turn + SETTLE) == {int(NOW) // HOUR + 1}


@pytest.mark.parametrize("period", [10, 20, 40])
def test_servlets_know_every_key_that_tickets_use_however_short_epochs_are(period: int) -> None:
    roles, servlet = nodes(period), MEMBERS[4]
    for half in range(20 * period):
        now = NOW + half / 2
        for member in MEMBERS:
            exchange(roles, member, now)
        known = {(relay, epoch) for relay, epoch, _ in roles[servlet.name].peer_keys()}
        for beacon in ("n1", "n2"):
            ticket = roles[beacon].issue(ASKED, servlet, now)[1].ticket
            assert {(relay.id, relay.epoch) for relay in ticket.relays} <= known, now - NOW
        assert len(known) <= len(MEMBERS) * (2 + 2 * SETTLE // period)


def test_a_relay_that_is_silent_is_asked_again() -> None:
    role = SpreadRole(MEMBERS[0], RelayKeys(b"s" * 32, HOUR, GRACE), Random(1), life=LIFE)
    role.set_relays(listed(MEMBERS), NOW)
    role.handle_timeout(NOW)
    call = role.poll_call()
    assert call is not None
    role.failed(call.request_id, 0, "no answer", NOW)
    due = role.poll_timeout()
    assert due is not None and NOW < due <= NOW + 8


def test_a_ticket_names_no_servlet_and_every_relay_can_open_its_own_part_only() -> None:
    roles = nodes()
    servlet = MEMBERS[4]
    expect, issued = roles["n1"].issue(ASKED, servlet, NOW)
    assert (expect.session, expect.key) == (issued.ticket.session, issued.ticket.key)
    assert expect.user_key == ASKED.key and expect.redundancy == HALF and not issued.renewed
    told = repr(issued) + repr(expect)
    assert issued.ticket.key.hex() not in told and repr(issued.ticket.key) not in told
    number = node_number(servlet).to_bytes(8, "big")
    epoch = int(NOW) // HOUR
    for relay, member in zip(issued.ticket.relays, MEMBERS, strict=True):
        assert relay.id == node_number(member) and number not in relay.destination
        key = grant_key(epoch_key(member.ring_id * 2, epoch), relay.grant)
        opened = 0
        for other in issued.ticket.relays:
            try:
                plain = AESGCM(_half(key, b"polder destination", issued.ticket.session)).decrypt(
                    bytes(12), other.destination, issued.ticket.session
                )
            except InvalidTag:  # any other relay's part stays shut
                continue
            opened += 1
            assert plain[:8] == number
        assert opened == 1


def _half(key: bytes, label: bytes, session: bytes) -> bytes:
    return hmac.digest(key, label + session, hashlib.sha256)[:16]


def test_a_session_is_carried_on_with_the_same_servlet_by_the_same_user() -> None:
    role, asks = nodes()["n1"], caller(MEMBERS[1])
    servlets = MEMBERS[2:6]
    first = role.places(ASKED, asks, servlets)[0]
    told, issued = role.issue(ASKED, first, NOW)
    role.placed(first, told, NOW)
    again = msgspec.structs.replace(ASKED, renews=issued.ticket.session)
    assert role.places(again, asks, servlets) == (first,)
    expect, renewed = role.issue(again, first, NOW + 300)
    assert expect.renews == issued.ticket.session and renewed.renewed and renewed.ticket.session != issued.ticket.session
    thief = msgspec.structs.replace(again, user="spiffe://o.test/user/eve")
    others = tuple(member for member in servlets if member != first)
    for asked, known, verdict in (
        (thief, servlets, Verdict.DENIED),
        (again, others, Verdict.UNKNOWN),
        (again, (), Verdict.UNKNOWN),
    ):
        with pytest.raises(Refused) as refused:
            role.places(asked, asks, known)
        assert refused.value.verdict is verdict


def test_another_beacon_asks_every_servlet_whose_session_it_is() -> None:
    roles, asks = nodes(), caller(MEMBERS[1])
    servlets = MEMBERS[2:6]
    told, issued = roles["n1"].issue(ASKED, servlets[0], NOW)
    roles["n1"].placed(servlets[0], told, NOW)
    again = msgspec.structs.replace(ASKED, renews=issued.ticket.session)
    for asked in (again, ASKED):
        places = roles["n2"].places(asked, asks, servlets)
        assert len(places) == len(servlets) and set(places) == set(servlets)
    expect, renewed = roles["n2"].issue(again, servlets[1], NOW + 300)
    assert (expect.renews, renewed.renewed) == (issued.ticket.session, True)


def test_a_servlet_that_has_not_taken_a_session_is_not_the_one_to_carry_it_on() -> None:
    role, asks = nodes()["n1"], caller(MEMBERS[1])
    refused, _ = role.issue(ASKED, MEMBERS[2], NOW)
    again = msgspec.structs.replace(ASKED, renews=refused.session)
    assert set(role.places(again, asks, MEMBERS[2:6])) == set(MEMBERS[2:6])


def test_sessions_that_are_over_make_room() -> None:
    role, asks = nodes()["n1"], caller(MEMBERS[1])
    expect, _ = role.issue(ASKED, MEMBERS[2], NOW)

    def place(number: int, now: float) -> bytes:
        name = number.to_bytes(16, "big")
        terms = msgspec.structs.replace(expect.terms, starts=int(now))
        role.placed(MEMBERS[2], msgspec.structs.replace(expect, session=name, terms=terms), now)
        return name

    def known(name: bytes) -> bool:
        return len(role.places(msgspec.structs.replace(ASKED, renews=name), asks, MEMBERS)) == 1

    last = [place(number, NOW) for number in range(MAX_SESSIONS + 1)][-1]
    assert not known(last)
    assert known(place(MAX_SESSIONS + 1, NOW + 2 * LIFE))


def test_only_nodes_get_keys_and_tickets() -> None:
    roles = nodes()
    for kind in (Kind.USER, Kind.SITE, Kind.ADMIN):
        with pytest.raises(Refused):
            roles["n1"].grant(Caller(kind, "x"), NOW)
        with pytest.raises(Refused):
            roles["n1"].places(ASKED, Caller(kind, "x"), MEMBERS)


def test_a_ticket_ends_with_the_users_certificate() -> None:
    roles = nodes()
    asked = Issue(ASKED.site, ASKED.user, ASKED.key, int(NOW) + 60, None, HALF)
    expect, _ = roles["n1"].issue(asked, MEMBERS[4], NOW)
    assert expect.terms.starts + expect.terms.lasts <= int(NOW) + 62


def test_without_servlets_lists_or_keys_there_is_no_ticket() -> None:
    roles = nodes()
    with pytest.raises(Refused):
        roles["n1"].places(ASKED, caller(MEMBERS[1]), ())
    fresh = SpreadRole(MEMBERS[0], RelayKeys(b"s" * 32, HOUR, GRACE), Random(1), life=LIFE)
    with pytest.raises(Refused):
        fresh.issue(ASKED, MEMBERS[0], NOW)
    for members in ((), MEMBERS):
        fresh.set_relays(listed(members), NOW)
        with pytest.raises(Refused):
            fresh.issue(ASKED, MEMBERS[0], NOW)


def test_equal_lists_have_equal_versions_wherever_they_come_from() -> None:
    whole = RelayList.of(MEMBERS, NOW)
    assert whole == RelayList.of(reversed(MEMBERS), NOW) and whole.is_whole()
    assert whole.version != RelayList.of(MEMBERS[1:], NOW).version
    for odd in (RelayList(whole.version, 1, MEMBERS[1:]), RelayList(whole.version, 1, MEMBERS[::-1])):
        assert not odd.is_whole()


def test_the_list_before_stays_known_and_an_older_one_is_not_taken() -> None:
    roles = nodes()
    role = roles["n1"]
    role.take_change()
    assert role.set_relays(listed(MEMBERS, NOW + 1), NOW) and not role.take_change()
    assert role.set_relays(listed(MEMBERS[1:], NOW + 2), NOW) and role.take_change()
    assert not role.set_relays(listed(MEMBERS[2:], NOW + 1), NOW) and not role.take_change()
    assert [len(known.list.relays) for known in role.lists] == [5, 6]
    assert roles["n1"].issue(ASKED, MEMBERS[4], NOW)[1].ticket.members == role.lists[0].list.version


@given(st.floats(0, 4e9), st.integers(60, 86_400), st.integers(0, 4000))
def test_a_key_that_is_handed_out_is_in_force_for_as_long_as_a_ticket(now: float, period: int, life: int) -> None:
    keys = RelayKeys(b"s" * 32, period, life + 60)
    granted = keys.grant(7, b"12345678", now)
    for later in (now, now + life):
        live = {number: (key, begins, ends) for number, key, begins, ends in keys.epochs(later)}
        key, begins, ends = live[granted.epoch]
        assert begins <= later <= ends
        assert granted.grant_key == grant_key(key, b"12345678") and granted.peer_key == peer_key(key, 7)
    assert keys.next_change(now) > now


def test_calls_under_way_are_bounded() -> None:
    many = tuple(Member(f"m{i}", i.to_bytes(16, "big"), "192.0.2.1:1") for i in range(1, 200))
    role = SpreadRole(many[0], RelayKeys(b"s" * 32, HOUR, GRACE), Random(1), life=LIFE)
    role.set_relays(listed(many), NOW)
    role.handle_timeout(NOW)
    count = 0
    while role.poll_call() is not None:
        count += 1
    assert count == IN_FLIGHT and role.poll_timeout() is None
