"""``client.toml``: a user's forwarder."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from polder.settings.base import Name, Names
from polder.settings.limits import Limits
from polder.settings.process import ProcessSettings
from polder.settings.quantities import Address, Hosts, RedundancyText, parse_address
from polder.settings.traces import TraceSettings


class ClientSettings(ProcessSettings):
    """Environment prefix ``POLDER_CLIENT__``; for example ``POLDER_CLIENT__LISTEN=127.0.0.1:9000``."""

    user: Name | None = Field(None, description="Whose identity to use. Default: the only one enrolled on this machine.")
    listen: Address = Field(
        "127.0.0.1:7480",
        description="Where the forwarder listens for browsers: loopback only, because whoever reaches it is the user.",
    )
    access_points: Names = Field(
        (),
        description="Names of the nodes to enter by. Default: all that the authority named; the quickest to lead to sites is used.",
    )
    warm: int = Field(
        2, ge=1, le=8, description="Access points kept connected: the next takes over without a handshake. 40 KiB each."
    )
    hosts: Hosts = Field((), description="Host names that go through the overlay. Default: those that the authority named.")
    early_answer: bool = Field(
        True,
        description="Answer a browser's CONNECT before the overlay has, so that its first bytes travel with the open: one round trip "
        "less. If the site then cannot be reached, the browser sees a closed connection, where it showed no page of ours anyway. "
        "Costs nothing.",
    )
    plane: Literal["tunnel", "spread", "auto"] = Field(
        "auto",
        description="How tunnels go: through an access point (tunnel); over many relays by datagrams, or not at all (spread); over relays "
        "where that works and helps, else through an access point, also for what is open (auto). Relays survive the death of half of "
        "them; they cost extra packets, and need UDP.",
    )
    redundancy: RedundancyText = Field(
        "0.5",
        description="Redundancy of the spread plane, both ways: extra copies per packet, 0 to 4, or groups of forward error correction as "
        "datagrams+repairs, 1 to 64 each. 0.5 sends every second packet twice, over different relays; 2 is the paper's 200 %; 20+10 adds "
        "ten repairs to twenty datagrams, any twenty of which suffice. Copies are best for pages, repairs for steady streams. It "
        "costs so much of both access lines.",
    )
    traces: TraceSettings = Field(
        default_factory=TraceSettings, description="Which openings of tunnels are traced, and where to."
    )
    limits: Limits = Field(default_factory=Limits, description="Bounds of the forwarder's engine.")

    @field_validator("listen")
    @classmethod
    def _loopback(cls, value: str) -> str:
        host = parse_address(value).rpartition(":")[0]
        if not (host.startswith("127.") or host == "[::1]"):
            raise ValueError(f"{value!r} is not a loopback address: whoever reaches the forwarder is the user")
        return value
