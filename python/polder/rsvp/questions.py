"""What is asked of the policy decision point, and how its words travel back to the host (USER_ERROR_SPEC, RFC 5284)."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable

from polder.model.reservations import Ask
from polder.rsvp.intserv import Flowspec
from polder.rsvp.state import ResvState
from polder.rsvp.wire import Raw

USER_ERROR_SPEC = 194
"""Class number: passed on by nodes that do not know it."""
_ENTERPRISE = 0xFFFF_FFFF
"""No enterprise number was assigned to Polder: the value reserved by IANA."""
_HEAD = struct.Struct("!IBBH")
_LONGEST = 200


def ask_for(router: str, link: str, state: ResvState, *, installed: bool) -> Ask:
    """The question about what a next hop wants. Every word comes from objects of the message or from this router's configuration."""
    wanted = state.wanted
    tspec = wanted.flowspec.tspec

    def whole(value: float) -> int:
        return math.ceil(min(value, 1 << 62))

    return Ask(
        router=router,
        link=link,
        session=str(wanted.session),
        senders=tuple(sorted(map(str, wanted.senders))),
        style=wanted.style.name,
        service=wanted.flowspec.service.text,
        rate=whole(tspec.rate),
        bucket=whole(tspec.bucket),
        peak=whole(tspec.peak),
        min_unit=tspec.min_unit,
        max_packet=tspec.max_packet,
        reserved_rate=whole(wanted.flowspec.rate),
        flowspec=digest(wanted.flowspec),
        installed=installed,
        bundle=state.bundle,
    )


def digest(flowspec: Flowspec) -> str:
    """The name of a request in questions and checks: SHA-256 of the FLOWSPEC's body, in hexadecimal."""
    return hashlib.sha256(flowspec.pack()).hexdigest()


def said(reason: str) -> tuple[Raw, ...]:
    """An object that carries a sentence to the host."""
    text = reason.encode()[:_LONGEST].decode("utf-8", "ignore").encode()
    body = _HEAD.pack(_ENTERPRISE, 0, len(text), 0) + text
    return (Raw(USER_ERROR_SPEC, 1, body + bytes(-len(body) % 4)),)


def spoken(extra: Iterable[Raw]) -> str:
    """The sentence of such an object, empty without one: printable characters only, since strangers write it."""
    for raw in extra:
        if raw.class_num == USER_ERROR_SPEC and raw.ctype == 1 and len(raw.body) >= _HEAD.size:
            length = _HEAD.unpack_from(raw.body)[2]
            text = raw.body[_HEAD.size : _HEAD.size + length].decode("utf-8", "replace")
            return "".join(letter for letter in text if letter.isprintable())
    return ""
