"""Topology files: who is where, behind which links. TOML, strictly checked.

```toml
name = "polder"
seed = 7

[wide_area]
matrix = "synthetic"        # or "planetlab:1" (POLDER_DATA), or a file
jitter = 0.05               # share of the delay, never reordering
loss = 0.0

[[groups]]                  # hosts node1 … node8 at these places, in turn
name = "node"
count = 8
places = ["Frankfurt", "London"]
up_mbit = 100
down_mbit = 100

[site]                      # ISP router ═ narrow link ═ gateway ─ site
place = "Amsterdam"
down_mbit = 10
up_mbit = 10
```
"""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class BadTopologyError(ValueError):
    """The file does not describe a topology; the text names the field."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WideArea(_Frozen):
    """What lies between the access links."""

    matrix: str = "synthetic"
    jitter: float = Field(0.05, ge=0, le=1, description="largest addition to a packet's delay, as a share of it")
    loss: float = Field(0.0, ge=0, lt=1, description="share of packets lost on the way")
    queue_ms: int = Field(100, ge=1, le=5000, description="longest wait for an access link; what would wait longer is dropped")
    most_packets: int = Field(65536, ge=64, description="packets held at once; 1.5 KB each, so 100 MB at most by default")


class Group(_Frozen):
    """Hosts of one kind: ``name1 … nameN`` (just ``name`` when there is one). No places: spread over all in turn."""

    name: str = Field(pattern=r"^[a-z][a-z-]{0,9}$")
    count: int = Field(1, ge=1, le=250)
    places: tuple[str, ...] = ()
    up_mbit: float = Field(0, ge=0, description="0: not limited")
    down_mbit: float = Field(0, ge=0)


class SiteLink(_Frozen):
    """The ISP's router, the narrow link behind it, and the gateway's and the site's networks at its end."""

    place: str = ""
    down_mbit: float = Field(10, gt=0, description="towards the site: what a flood fills")
    up_mbit: float = Field(10, gt=0)
    queue_ms: int = Field(50, ge=1, le=2000, description="how much the router buffers before the narrow link")


class Topology(_Frozen):
    """A whole topology."""

    name: str
    seed: int = 1
    wide_area: WideArea = WideArea()
    groups: tuple[Group, ...] = Field(min_length=1, max_length=200)
    site: SiteLink | None = None

    @model_validator(mode="after")
    def _names_are_unique(self) -> Topology:
        names = [*self.host_names(), *(SITE_HOSTS if self.site else ())]
        doubles = sorted({name for name in names if names.count(name) > 1})
        if doubles:
            raise ValueError(f"two hosts are called {', '.join(doubles)}")
        return self

    def host_names(self) -> list[str]:
        """Wide-area hosts in order, without the site's."""
        return [name for group in self.groups for name in names_of(group)]

    def resized(self, counts: dict[str, int]) -> Topology:
        """The same with other numbers of hosts in some groups."""
        groups = tuple(g.model_copy(update={"count": counts.get(g.name, g.count)}) for g in self.groups)
        return Topology.model_validate(self.model_copy(update={"groups": groups}).model_dump())


SITE_HOSTS = ("isp", "gateway", "site")


def names_of(group: Group) -> list[str]:
    """The hosts of a group."""
    return [group.name] if group.count == 1 else [f"{group.name}{n}" for n in range(1, group.count + 1)]


def load(name: str) -> Topology:
    """A topology by the name of a shipped file or by path; raises ``BadTopologyError``."""
    shipped = resources.files("polder.lab") / "topologies" / f"{name}.toml"
    try:
        text = shipped.read_text() if shipped.is_file() else Path(name).read_text()
        return Topology.model_validate(tomllib.loads(text))
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise BadTopologyError(f"topology {name!r}: {error}") from error
