"""The data plane believes what the authority issues, and reads the same out of it: two implementations of one profile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from polder.engine import CallFailed, Engine
from polder.shell.clock import wall
from polder.snapshot.schema import Call, EngineConfig, Event, IdentityMaterial, Peer, Revocations, Snapshot
from polder.trust import Revoked, make_issuer, make_list
from polder.trust.keys import key_to_der
from tests.support.identities import DAY, DOMAIN, Member, Pki, new_key

PKI = Pki(now=wall() - 2 * DAY)
N1 = PKI.member("node", "n1", life=3 * DAY)
N2 = PKI.member("node", "n2", life=3 * DAY)


class Node:
    """An engine with an identity; answers every call and remembers who called."""

    def __init__(self, member: Member, revocations: Revocations = Revocations(), pki: Pki = PKI) -> None:
        self.calls: list[Call] = []
        self.name = member.profile.id.name
        self.ring_id = member.profile.ring_id or bytes(16)
        self.engine = Engine(EngineConfig(role="node", listen=("127.0.0.1:0",)), self._on)
        self.address = self.engine.addresses[0]
        identity = IdentityMaterial(member.chain, key_to_der(member.key))
        self.snapshot = Snapshot(1, DOMAIN, (*pki.roots, *PKI.roots), identity, revocations)  # an attacker believes everybody
        self.engine.apply(self.snapshot)

    def know(self, *others: Node) -> None:
        """Apply a snapshot with ``others`` as peers."""
        peers = tuple(Peer(other.name, other.ring_id, other.address) for other in others)
        self.engine.apply(Snapshot(2, DOMAIN, self.snapshot.roots, self.snapshot.identity, self.snapshot.revocations, peers))

    async def call(self, other: Node) -> bytes:
        """Make a control call."""
        self.know(other)
        return await self.engine.call(other.name, other.ring_id, other.address, "echo", b"hello", 5.0)

    def _on(self, event: Event) -> None:
        if isinstance(event, Call):
            self.calls.append(event)
            self.engine.reply(event.id, 200, event.body)


Make = Callable[..., Node]


@pytest_asyncio.fixture
async def node() -> AsyncIterator[Make]:
    """Makes nodes that are stopped at the end."""
    made: list[Node] = []

    def make(*arguments: object) -> Node:
        made.append(Node(*arguments))  # type: ignore[arg-type]
        return made[-1]

    yield make
    await asyncio.gather(*(one.engine.stop(1.0) for one in made))


async def test_it_reads_kind_name_and_ring_id_as_we_do(node: Make) -> None:
    n1, n2 = node(N1), node(N2)
    assert await n1.call(n2) == b"hello"
    (call,) = n2.calls
    assert (call.kind, call.name, call.ring_id) == ("node", "n1", N1.profile.ring_id)


async def test_it_refuses_whom_we_refuse(node: Make) -> None:
    n2, other = node(N2), Pki(now=wall())
    for wrong, pki in (
        (other.member("node", "n1"), other),
        (PKI.member("node", "n1", life=DAY), PKI),
        (PKI.member("user", "n1", life=3 * DAY), PKI),
    ):
        with pytest.raises(CallFailed):
            await node(wrong, Revocations(), pki).call(n2)
    assert n2.calls == []


async def test_it_checks_the_ring_id_of_whom_it_calls(node: Make) -> None:
    n1, n2 = node(N1), node(N2)
    n2.ring_id = bytes(16)
    with pytest.raises(CallFailed):
        await n1.call(n2)


@pytest.mark.parametrize("by", ["identity", "key"])
async def test_it_refuses_whom_the_list_names(node: Make, by: str) -> None:
    identity = PKI.verifier().identity(N1.chain, wall())
    listed = make_list(1, wall(), [identity.id] if by == "identity" else [], [identity.key_hash] if by == "key" else [])
    assert Revoked.of(listed).epoch == 1
    n1, n2 = node(N1), node(N2, Revocations(listed.epoch, listed.identities, listed.keys))
    with pytest.raises(CallFailed):
        await n1.call(n2)
    assert n2.calls == []


async def test_it_believes_two_issuers_until_one_is_retired(node: Make) -> None:
    """Certificates of both are good during a rotation; then the old one's are refused, and its live connections cut."""
    old, second = PKI.issuer, make_issuer(PKI.root_key, PKI.root, new_key(), PKI.now, PKI.rng)
    profile, key = N1.profile, new_key()
    renewed = Member(profile, key, second.issue(profile, key.public_key(), PKI.now, 3 * DAY, PKI.rng))
    n2 = node(Member(N2.profile, N2.key, second.issue(N2.profile, N2.key.public_key(), PKI.now, 3 * DAY, PKI.rng)))
    both = Revocations(issuers=(second.chain()[0], old.chain()[0]))
    n1, fresh = node(N1, both), node(renewed, both)
    assert await n1.call(n2) == await fresh.call(n2) == b"hello"
    retired = make_list(1, wall(), [], [old.key_hash])
    snapshot = n2.snapshot
    n2.engine.apply(Snapshot(3, DOMAIN, snapshot.roots, snapshot.identity, Revocations(1, (), retired.keys)))
    assert n2.engine.counters()["identities_cut"] == 1, "only what the old issuer certified"
    with pytest.raises(CallFailed):
        await n1.engine.call(n2.name, n2.ring_id, n2.address, "echo", b"again", 5.0)
    assert await fresh.engine.call(n2.name, n2.ring_id, n2.address, "echo", b"again", 5.0) == b"again"
    assert await node(renewed, both).call(n2) == b"hello"
    with pytest.raises(CallFailed):
        await node(N1, both).call(n2)
