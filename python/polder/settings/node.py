"""``node.toml``: an overlay node."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from polder.settings.base import Name
from polder.settings.limits import Limits
from polder.settings.process import ProcessSettings
from polder.settings.quantities import Address, Addresses, Duration, parse_address
from polder.settings.spread import SpreadSettings
from polder.settings.traces import TraceSettings


class NodeSettings(ProcessSettings):
    """Environment prefix ``POLDER_NODE__``; for example ``POLDER_NODE__LIMITS__CONNECTIONS=4096``."""

    name: Name | None = Field(None, description="The node's name. Default: what its certificate says; another name is refused.")
    listen: Addresses = Field(
        ("0.0.0.0:7443",),
        min_length=1,
        description="Where the node listens for nodes, users and sites alike: one port, so that a scan sees one kind of node. "
        "Port 0 lets the kernel choose.",
    )
    advertise: Address | None = Field(
        None,
        description="Where others dial this node. Default: the first address in listen, which must then not be 0.0.0.0 or [::]; "
        "`polder join` writes it.",
    )
    workers: int = Field(
        1,
        ge=1,
        le=256,
        description="Threads of the data plane. One carries some 300 MiB/s; use one per core that the node may fill. "
        "About 2 MiB of stack for each.",
    )
    router: Literal["chord", "onehop"] = Field(
        "chord",
        description="How keys find their owner: Chord (log N state) or onehop (all know all; best below some 1,000 nodes). "
        "All nodes of an overlay must agree. 100 bytes per known node.",
    )
    successors: int = Field(
        4,
        ge=2,
        le=32,
        description="Length r of the successor list: the ring survives r − 1 neighbours dying at once. Zave: at least 2, and r "
        "+ 1 members at birth. All nodes of an overlay must agree. 100 bytes for each.",
    )
    stabilise: Duration = Field(
        1.0,
        ge=0.05,
        le=60,
        description="Period of ring maintenance: a dead successor is noticed within three. Each costs two small calls.",
    )
    beacons: int = Field(
        3,
        ge=1,
        le=16,
        description="Beacon keys B per site: the site is reachable while one of B owners lives. All nodes must agree.",
    )
    heirs: int = Field(
        1,
        ge=0,
        le=8,
        description="Nodes behind each beacon that learn a site's servlets too, so that nothing has to be found out when beacons die. "
        "With 1, any B nodes may die at one moment. Each is one more node that knows the servlets.",
    )
    advertise_every: Duration = Field(
        10.0,
        ge=0.2,
        le=600,
        description="Period, jittered, at which a servlet tells its beacons of an appointment. State lives three periods "
        "(two lost in a row are survived).",
    )
    revocation_max_age: Duration | None = Field(
        28_800.0,
        ge=1,
        description="Refuse new work when the revocation list is older than this: neither the authority nor any node that heard "
        "it has been heard for so long. What is open goes on. Default a third of a node's certificate: that long does every "
        "certificate outlast an authority that is away, so the bound never stops an overlay before expiry would. Shorter: a node "
        "that is cut off admits the revoked for less long, and an authority that is down for longer stops new work everywhere.",
    )
    call_timeout: Duration = Field(
        5.0, ge=0.1, le=60, description="Most time for a control call to a peer, and for this node to answer one."
    )
    event_queue: int = Field(
        4096,
        ge=16,
        le=1 << 20,
        description="Control calls and events that may wait for Python; beyond it calls get 503. Up to 1 MiB for each call, "
        "bounded by the link windows; some 200 bytes for an ordinary one.",
    )
    admin_socket: str | None = Field(
        None, description="Unix socket for `polder status` and the like. Default: admin.sock in the node's state directory."
    )
    host_helper: str | None = Field(
        None,
        description="Unix socket of `polder host-helper`, which makes GRE endpoints for servlets. Default: none; such sites use "
        "other nodes, dial-out works without.",
    )
    local_origins: bool = Field(
        False,
        description="Whether sites may have this node carry to addresses of its own machine or private network (transport tcp). "
        "Off: such a site could reach the node's neighbours. On for a laboratory, or a node that stands beside its only site.",
    )
    shortcuts: bool = Field(
        False,
        description="Whether this node plays several roles for one tunnel though others could. Off: a tunnel crosses as many nodes "
        "wherever it begins, so that nobody measures who is beacon or servlet. On saves the node's own tunnels a hop or two, "
        "and tells every user which sites it serves: only where all users are trusted.",
    )
    drills: bool = Field(
        True,
        description="Whether an operator (an admin's certificate) may rehearse failures on this node with `polder drill`. On: what was "
        "never rehearsed fails when it is needed. It costs at most a tenth of the node's time, see drill_max.",
    )
    drill_max: Duration = Field(
        60.0,
        ge=1,
        le=600,
        description="Longest drill. A minute shows deaths, repair and return; afterwards the node refuses drills for ten times as "
        "long as it suffered.",
    )
    traces: TraceSettings = Field(
        default_factory=TraceSettings, description="Which openings of tunnels are traced, and where to."
    )
    spread: SpreadSettings = Field(default_factory=SpreadSettings, description="The relay of the spread plane.")
    limits: Limits = Field(default_factory=Limits, description="Bounds on what others may make this node hold or do.")

    @model_validator(mode="after")
    def _advertisable(self) -> NodeSettings:
        if self.advertise is not None and is_wildcard(self.advertise):
            raise ValueError(f"advertise = {self.advertise!r}: others cannot dial a wildcard; give the node's own address")
        return self

    @property
    def advertised(self) -> str | None:
        """Where others dial; ``None`` when only a wildcard is known."""
        return self.advertise or next((a for a in self.listen if not is_wildcard(a)), None)


def is_wildcard(address: str) -> bool:
    """Whether ``ip:port`` names every address of the machine."""
    return parse_address(address).rpartition(":")[0] in {"0.0.0.0", "[::]"}  # noqa: S104 - compared, not bound
