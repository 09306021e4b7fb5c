"""What roles ask of the shell: control calls and lookups, numbered, with one outcome each."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from polder.model import Member


class CallOut(NamedTuple):
    """Call ``method`` with ``body`` at ``to``, or, where that is ``None``, at the owner of ``ring_key``.

    Exactly one outcome follows: ``answered(request_id, by, answer, now)`` or ``failed(request_id, status, why, now)``; status 0:
    no answer came. A method's body and answer types stand in ``polder.model.overlay_messages.METHODS``.
    """

    request_id: int
    to: Member | None
    ring_key: int | None
    method: str
    body: msgspec.Struct


class FindOwner(NamedTuple):
    """Look up ``ring_key``; one of ``found(request_id, members, now)`` and ``failed(request_id, 0, why, now)`` follows."""

    request_id: int
    ring_key: int
