"""``Spreading``: the spread plane's control calls at a node, and what its engine is told."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Awaitable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from polder.engine import CallFailed
from polder.model import Kind, Refused, Signed, Verdict, encode
from polder.model.overlay_messages import Caller
from polder.model.spread_messages import Expect, Expected, Granted, GrantQuery, Issue, Issued, node_number
from polder.overlay.spread import Listed, SpreadRole
from polder.overlay.spread_keys import RelayKeys
from polder.settings.spread import SpreadSettings
from polder.settings.state import write_atomic
from polder.shell.clock import chance, wall
from polder.shell.linked import Handler, typed
from polder.snapshot.schema import Spread, SpreadEpoch, SpreadMembers
from polder.snapshot.spread import Guest, Hosted, PeerKey

if TYPE_CHECKING:
    from polder.node.shell import Node

log = logging.getLogger("polder.spread")

_BEACONS = 4
"""Beacons that an access point asks for one ticket."""


class Spreading:
    """Of a node whose ``[spread] listen`` names an address; without, all is refused alike."""

    def __init__(self, node: Node, path: Path, settings: SpreadSettings) -> None:
        self._node = node
        self._settings = settings
        self._listed = path / "relays.list"
        keys = RelayKeys(_secret(path / "relay.key"), int(settings.epoch), int(settings.ticket_life) + 60)
        self._keys = keys
        self.role = SpreadRole(node.me, keys, chance(), life=int(settings.ticket_life), rate=settings.rate)
        private = ec.generate_private_key(ec.SECP256R1())
        self._end_key = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self._pin = hashlib.sha256(public).digest()

    @property
    def on(self) -> bool:
        """Whether this node takes part."""
        return bool(self._settings.listen)

    def handlers(self) -> dict[str, Handler]:
        """By method."""
        return {
            "grant": typed(self._grant, "grant"),
            "issue": typed(self._issue, "issue"),
            "expect": typed(self._expect, "expect"),
            "ticket": self._ticket,
        }

    def verdict(self, now: float) -> Spread | None:
        """What the relay and the servlet's end must know."""
        if not self.on or not self.role.lists:
            return None
        lists = (
            SpreadMembers(known.list.version, tuple((node_number(member), member.address) for member in known.list.relays))
            for known in self.role.lists
        )
        return Spread(
            me=node_number(self._node.me),
            epochs=tuple(SpreadEpoch(*epoch) for epoch in self._keys.epochs(now)),
            members=tuple(lists),
            sessions=self._settings.sessions,
            span_ms=int(self._settings.span * 1000),
            return_age=int(self._settings.return_age),
            end_key=self._end_key,
        )

    def learn(self, signed: Signed, now: float) -> None:
        """The authority named all nodes. A list that it did not sign is logged and left out; what counts is written down."""
        if self._take(signed, now):
            lists = tuple(known.signed for known in self.role.lists)
            write_atomic(self._listed, msgspec.msgpack.encode(lists), 0o600)

    def _take(self, signed: Signed, now: float) -> bool:
        try:
            listed = self._node.roles.verifier.open_relays(signed, now)
        except Refused as refused:
            log.warning("a list of relays was refused", extra={"why": str(refused), "verdict": str(refused.verdict)})
            return False
        return self.role.set_relays(Listed(listed, signed), now)

    def recall(self, now: float) -> None:
        """The lists known before a restart: relays work though the authority is away."""
        if not self.on:
            return
        try:
            lists = msgspec.msgpack.decode(self._listed.read_bytes(), type=tuple[Signed, ...])
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError) as error:
            log.warning("the list of relays cannot be read; the authority has it", extra={"error": str(error)})
            return
        for signed in reversed(lists):
            self._take(signed, now)

    def next_change(self, now: float) -> float:
        """When the epochs in force change."""
        return self._keys.next_change(now)

    # Calls

    def _grant(self, caller: Caller, _source: str, _body: GrantQuery) -> Granted:
        self._check_on()
        return self.role.grant(caller, wall())

    async def _issue(self, caller: Caller, _source: str, body: Issue) -> Issued:
        self._check_on()
        servlets = self._node.roles.beacons.entries(wall()).get(body.site, ())
        for servlet in self.role.places(body, caller, servlets):
            expect, issued = self.role.issue(body, servlet, wall())
            try:
                expected: Expected = await self._node.role_call(servlet, "expect", expect)
            except CallFailed:
                continue
            self.role.placed(servlet, expect, wall())
            return msgspec.structs.replace(issued, pin=expected.pin)
        if body.renews:
            raise Refused(Verdict.UNKNOWN, "no servlet knows the session that is to be carried on; ask for a new one", retry=True)
        raise Refused(Verdict.BUSY, "no servlet of the site is known here that takes a session; try again", retry=True)

    def _expect(self, caller: Caller, _source: str, body: Expect) -> Expected:
        self._check_on()
        if caller.kind is not Kind.NODE:
            raise Refused(Verdict.DENIED, f"{caller.kind} {caller.name}: beacons announce sessions")
        if body.site not in self._node.roles.servlet.deliveries():
            raise Refused(Verdict.WRONG_PLACE, "this node does not carry to that site", retry=True)
        relays = tuple(PeerKey(*known) for known in self.role.peer_keys())
        hosted = Hosted(body.session, body.key, body.terms, node_number(self._node.me), relays)
        guest = Guest(hosted, body.renews, body.user, body.user_key, body.site, body.redundancy.bounded())
        try:
            self._node.engine.spread(guest)
        except ValueError as error:
            raise Refused(Verdict.BUSY, f"the session cannot end here: {error}", retry=True) from error
        return Expected(self._pin)

    async def _ticket_for(self, wanted: Issue) -> bytes:
        now = wall()
        ways = self._node.roles.access.ways(now).get(wanted.site)
        record = self._node.roles.directory.site(wanted.site)
        if ways is None or record is None:
            raise Refused(Verdict.UNKNOWN, "no such site is known here", retry=True)
        why = "no beacon of the site answered; try again shortly"
        for beacon in dict.fromkeys((*ways.beacons, *ways.heirs)[:_BEACONS]):
            try:
                issued: Issued = await self._node.role_call(beacon, "issue", wanted)
            except CallFailed:
                continue  # why, would tell who knows what (trap 10)
            return encode(msgspec.structs.replace(issued, hosts=record.hosts, ports=record.ports))
        raise Refused(Verdict.BUSY, why, retry=True)

    def _ticket(self, caller: Caller, _source: str, body: bytes) -> Awaitable[bytes]:
        """A user's request; the data plane has checked certificate and rules, and says whose it is."""
        self._check_on()
        if caller.kind is not Kind.USER:
            raise Refused(Verdict.DENIED, f"{caller.kind} {caller.name}: users get tickets")
        return self._ticket_for(msgspec.msgpack.decode(body, type=Issue))

    def _check_on(self) -> None:
        if not self.on:
            raise Refused(Verdict.BUSY, "the spread plane is off at this node", retry=True)


def _secret(path: Path) -> bytes:
    """The relay's secret: made once, for this user's eyes."""
    try:
        secret = path.read_bytes()
    except FileNotFoundError:
        secret = os.urandom(32)
        write_atomic(path, secret, 0o600)
    if len(secret) != 32:
        raise ValueError(f"{path} is not a relay's secret of 32 bytes: remove it, and another one is made")
    return secret
