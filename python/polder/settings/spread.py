"""``[spread]``: a node's relay for datagrams (``docs/design/spread.md``)."""

from __future__ import annotations

from pydantic import Field

from polder.settings.base import Settings
from polder.settings.quantities import Addresses, Duration, Size


class SpreadSettings(Settings):
    """Off unless ``listen`` names an address: then this node passes on datagrams of the spread plane."""

    listen: Addresses = Field(
        (),
        description="UDP addresses at which the relay takes datagrams: those of listen, so that all nodes look alike. Default: none, "
        "this node relays no datagrams. It costs one thread, 2 MiB for batches and its sockets' buffers.",
    )
    epoch: Duration = Field(
        3600.0,
        ge=10,
        le=86_400,
        description="How long a relay's keys of one epoch are handed out; they are taken for a ticket's life longer. Shorter bounds what "
        "a stolen key is good for; each change costs one call per pair of nodes.",
    )
    ticket_life: Duration = Field(
        600.0,
        ge=10,
        le=3600,
        description="How long a user's ticket lasts; forwarders renew at two thirds. Who is revoked is cut at once; this bounds what "
        "a relay goes on to carry. Each renewal costs three calls.",
    )
    rate: int = Field(
        17,
        ge=0,
        le=31,
        description="A session may send 2^rate KiB a second over one relay, in each direction: 17 is 128 MiB/s.",
    )
    sessions: int = Field(
        16_384,
        ge=16,
        le=1 << 20,
        description="Most sessions whose keys and replay windows the relay holds, each direction counted; beyond it new ones are refused "
        "until others have been silent for three times span. 1.5 KiB each.",
    )
    span: Duration = Field(
        3.0,
        ge=0.1,
        le=60,
        description="Most that a packet's time may differ from this node's clock. Users take their time from their tickets, so only "
        "queues and nodes' clocks count. A relay is deaf for twice as long after its start, since it does not know what it saw before.",
    )
    return_age: Duration = Field(
        30.0,
        ge=1,
        le=300,
        description="How long replies go to the address that a user's packet came from. Home routers forget a user after 30 s (RFC 4787 "
        "asks for two minutes); longer sends into the void.",
    )
    buffer: Size = Field(
        4 << 20,
        ge=1 << 16,
        le=1 << 30,
        description="Room that each relay socket asks of the system, each way; the system may give less (net.core.rmem_max, "
        "wmem_max). 4 MiB hold 3,000 packets: 10 ms of a full gigabit link, one hundred of a slow one.",
    )
