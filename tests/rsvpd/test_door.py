"""What applications may ask of the daemon at its socket: all else is refused in words, and leaves nothing behind."""

from __future__ import annotations

import random
from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from polder.pdp.frames import unpack
from polder.rsvp.node import Node
from polder.rsvp.state import Config, Interface
from polder.rsvpd.door import Application, texts
from polder.rsvpd.values import Announce, Answer, Asked, Flow, Reserve, Told

FLOW = Flow("192.0.2.9", 17, 5004, 500_000.0, 32_000.0, 1_000_000.0, 64, 1400)
SENDER = ("192.0.2.1", 6000)


class Daemon:
    """Its machine alone, on one link."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        interfaces = {1: Interface(1, IPv4Address("192.0.2.1"))}
        self.node = Node(Config(), interfaces, lambda to, source: (1,), random.Random(1))

    def act(self) -> None:
        self.node.take()


class Writer:
    """The application's end."""

    transport = SimpleNamespace(get_write_buffer_size=lambda: 0)

    def __init__(self) -> None:
        self.told: list[Told] = []

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.told.append(unpack(data[4:], Answer))


async def asked(said: Asked) -> tuple[Daemon, Application, Told]:
    """Ask, and hear what comes of it at once."""
    daemon, writer = Daemon(), Writer()
    application = Application(daemon, writer)  # type: ignore[arg-type]
    await application.ask(said)
    (told,) = writer.told
    return daemon, application, told


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"protocol": 0}, "protocol 0"),
        ({"port": 65_536}, "port 65536"),
        ({"rate": float("nan")}, "rate nan"),
        ({"bucket": float("inf")}, "bucket of inf"),
        ({"min_unit": -1}, "packets of -1"),
        ({"max_packet": 1 << 40}, "65535 at most"),
        ({"destination": "wiki"}, "does not appear to be an IPv4 or IPv6 address"),
        ({"source_port": 70_000}, "sender's port 70000"),
        ({"source_port": -1}, "sender's port -1"),
        ({"source": "fd00::1"}, "one IP version"),
    ],
)
async def test_what_cannot_be_sent_is_refused_to_sender_and_receiver(changes: dict[str, Any], why: str) -> None:
    of_flow = {name: value for name, value in changes.items() if name in FLOW.__struct_fields__}
    flow = msgspec.structs.replace(FLOW, **of_flow)
    sender = (changes.get("source", SENDER[0]), changes.get("source_port", SENDER[1]))
    wish = Reserve(flow, "FF", (sender,))
    for said in (Announce(flow, *sender), wish):
        daemon, application, told = await asked(said)
        assert told.kind == "refused"
        assert why in told.reason
        application.end()
        assert daemon.node.leftovers() == 0
    with pytest.raises(ValueError, match=why):
        texts(wish)


async def test_credentials_that_no_message_carries_are_refused() -> None:
    for bundle, why in ((bytes(70_000), "70000 bytes"), (b"\xc1", "cannot be read")):
        daemon, application, told = await asked(Reserve(FLOW, "FF", (SENDER,), None, bundle))
        assert told.kind == "refused"
        assert why in told.reason
        application.end()
        assert daemon.node.leftovers() == 0


async def test_what_can_be_is_announced_and_waited_for() -> None:
    daemon, application, told = await asked(Announce(FLOW, *SENDER))
    assert (told.kind, len(daemon.node.paths)) == ("announced", 1)
    application.end()
    assert daemon.node.paths == []
    _, _, told = await asked(Reserve(FLOW, "FF", (SENDER,)))
    assert told.kind == "waiting"
