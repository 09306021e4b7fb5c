"""What a router asks of its policy decision point, and what it hears: values that rooms share."""

from __future__ import annotations

import msgspec


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """May this reservation be made? Everything here comes from the router's own configuration or from the RSVP objects, never from
    what the payer claims in words.

    ``router`` and ``link`` name the router and its outgoing link; ``session`` and ``senders`` are canonical texts ("udp 198.18.1.1
    port 5004", "198.18.9.1 port 6000"), ``senders`` sorted, empty for a wildcard. Rates are bytes/s, sizes bytes, rounded up;
    ``reserved_rate`` is R of guaranteed service, else ``rate``. ``flowspec`` is the hex SHA-256 of the FLOWSPEC's body.
    ``installed``: this router already has the reservation, and asks again because the last decision ends. ``bundle``: credentials, as
    ``polder.rsvp.policy_data.pack_bundle`` writes them; empty when none came.
    """

    router: str
    link: str
    session: str
    senders: tuple[str, ...]
    style: str
    service: str
    rate: int
    bucket: int
    peak: int
    min_unit: int
    max_packet: int
    reserved_rate: int
    flowspec: str
    installed: bool
    bundle: bytes


class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The answer. ``code`` is 0 or a value of RFC 2750 §4 under error code 02; ``reason`` is one sentence that the host may read.

    ``until``: wall time in seconds when it must be asked again, 0: never. ``charge`` names the payment, the same for every refresh;
    empty when nothing is paid.
    """

    accepted: bool
    code: int
    reason: str
    until: float
    charge: str
