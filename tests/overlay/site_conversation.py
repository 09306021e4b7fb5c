"""A site's role in conversation: its calls are read and answered by hand."""

from __future__ import annotations

from random import Random

import msgspec

from polder.model import Appointment, Member, Signed, decode, encode
from polder.model.overlay_messages import Appoint, Appointed, Delivery, Done, Transport
from polder.overlay import CallOut, SiteConfig, SiteRole
from tests.overlay.support import NOW, node

CONFIG = SiteConfig(servlets=2, rotate_every=None, overlap=15.0, drain=30.0)


def signer(record: msgspec.Struct) -> Signed:
    """The signature itself is ``test_together``'s affair."""
    return Signed(encode(record), b"", ())


def deliver(member: Member, key: int, slot: int) -> Delivery:
    return Delivery(Transport.GRE, "198.51.100.7", key, f"fd00::{slot + 2}", "fd00::1", 1400, ((80, 80),))


def role(config: SiteConfig = CONFIG, names: str = "n1 n2 n3 n4 n5 n6", seed: int = 1) -> SiteRole:
    one = SiteRole("wiki", config, signer, deliver, Random(seed))
    one.set_pool([node(name) for name in names.split()], NOW)
    return one


def calls(one: SiteRole) -> list[CallOut]:
    out = []
    while (call := one.poll_call()) is not None:
        out.append(call)
    return out


def appointment_in(call: CallOut) -> Appointment:
    assert call.method == "appoint" and isinstance(call.body, Appoint)
    return decode(call.body.appointment.payload, Appointment)


def answer(one: SiteRole, now: float, ready: bool = True, beacons: int = 3) -> list[CallOut]:
    """Let time work, answer every appointment and dismissal; what was asked."""
    one.handle_timeout(now)
    asked = calls(one)
    for call in asked:
        assert call.to is not None
        one.answered(call.request_id, call.to, Appointed(ready, beacons) if call.method == "appoint" else Done(), now)
    return asked


def settled(config: SiteConfig = CONFIG, **more: object) -> SiteRole:
    one = role(config, **more)  # type: ignore[arg-type]
    one.filter_applied(one.filter_version, NOW)
    answer(one, NOW)
    assert one.serving() == config.servlets
    return one
