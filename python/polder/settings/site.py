"""``site.toml``: a protected site and its agent."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from polder.model import PathMode
from polder.settings.base import Name, Names, Ports, Rules
from polder.settings.limits import Limits
from polder.settings.process import ProcessSettings
from polder.settings.quantities import Address, Duration, Hosts, parse_address

_SCHEMES = {"http": 80, "https": 443}


class SiteSettings(ProcessSettings):
    """Environment prefix ``POLDER_SITE__``; for example ``POLDER_SITE__MODE=ring``."""

    name: Name = Field(description="The site's name in the overlay, as its certificate has it.")
    origin: str = Field(
        description="The web server that is protected: http://127.0.0.1:8080, https://… or ip:port. The host is an IP address or "
        "localhost: what is checked must be what is dialled.",
        examples=["http://127.0.0.1:8080"],
    )
    origins: dict[int, Address] = Field(
        default_factory=dict,
        description="Other origins by the port that users ask for, beside `origin`.",
        examples=[{"443": "127.0.0.1:8443"}],
    )
    hosts: Hosts = Field((), description="Host names of the site. Default: those in its certificate; no others are believed.")
    ports: Ports = Field(
        (),
        description="Ports that users may ask for. Default: 80 for an http origin, 443 for https, both for ip:port, and those in "
        "`origins`.",
    )
    allow: Rules = Field((), description="Who may: user:NAME, group:NAME, anyone (every enrolled user). Default: nobody.")
    deny: Rules = Field((), description="Who may not, whatever `allow` says.")
    mode: PathMode = Field(
        PathMode.BEACON,
        description="How requests cross the overlay: ring (every Chord hop relays), beacon (two hops; few know the servlets), "
        "direct (one hop; every access point learns servlets).",
    )
    servlets: int = Field(
        2,
        ge=1,
        le=16,
        description="Servlets at once: one may die unnoticed. Each is another node that knows the perimeter's secret.",
    )
    servlets_among: Names = Field(
        (),
        description="Nodes that may be servlets. Default: all that the nodes know. Those in the site's own ISP, where its last hop can "
        "be reserved. Fewer hide worse: who knows this list knows where to look.",
    )
    transport: Literal["gre", "dialout", "tcp"] = Field(
        "dialout",
        description="Through the perimeter: gre (source address and 32-bit key), dialout (the site connects out; nothing inbound "
        "is open), tcp (open ground, for tests).",
    )
    edge: str | None = Field(
        None, description="Outer IP address of the site's GRE end (gre), or the origin's address as servlets reach it (tcp)."
    )
    tell: Literal["nothing", "proxy-v2", "header"] = Field(
        "nothing",
        description="How the origin learns who its users are: nothing (it does not), proxy-v2 (a PROXY protocol header in front of "
        "each connection; nginx `listen … proxy_protocol`), header (Polder-User, Polder-Groups and a signed Polder-Assertion in "
        "each request to a plain-HTTP origin; key: `polder site key`). Tunnels that do not say are then refused. "
        "Costs 2 to 3 KB on each link per tunnel.",
    )
    tell_address: bool = Field(
        False,
        description="Ask for the users' network addresses too. Default: no; proxy-v2 then gives each user an address that is "
        "always the same and nobody's.",
    )
    tell_window: Duration = Field(
        30.0,
        ge=1,
        le=600,
        description="By how much what is said of a user may be older than now: travel and clocks that differ. Longer: more to remember.",
    )
    shut: tuple[str, ...] = Field(
        (),
        description="Further networks (CIDR) that the filter shuts, beside edge: the public addresses of the site's servers.",
        examples=[["192.0.2.0/28"]],
    )
    rotation: Duration = Field(
        3600.0,
        ge=1,
        le=604_800,
        description="How often servlets are drawn anew: shorter hides them better from a slow search, but each draw may hit a "
        "hostile node (the exposure grows with the number of draws).",
    )
    grace: Duration = Field(
        30.0,
        ge=0.2,
        le=3600,
        description="How long an old servlet stays admitted: one advertisement's life, so that no path breaks.",
    )
    drain_max: Duration = Field(
        3600.0,
        ge=1,
        le=3600,
        description="How long at most an old servlet stays admitted, without new streams, for those still open on it: rotation "
        "breaks none that ends in time. Longer: more nodes pass the filter at once; then what is left is cut.",
    )
    exposure_max: int = Field(
        32,
        ge=0,
        le=65_536,
        description="When so many nodes have learnt the present way in, servlets are drawn from those only (0: no bound). Fewer: "
        "fewer to hit for who hunts them; more: a rotation hides better. At least twice `servlets`.",
    )
    appointment_life: Duration = Field(
        7200.0,
        ge=1,
        le=86_400,
        description="Validity of an appointment; it is signed anew at half of it and ends at once by a newer.",
    )
    host_helper: str | None = Field(
        None, description="Unix socket of `polder host-helper` on this machine, which makes the GRE end."
    )
    filter_helper: str | None = Field(
        None,
        description="Unix socket of the `polder host-helper` on the router that filters (`ssh -L` can bring it here). Default: none; "
        "the agent writes filter.json, and whoever runs the filter must follow it before a rotation.",
    )
    filter_place: Literal["router", "host"] = Field(
        "router", description="Where the filter stands: on a router in front of the narrow link, or on the protected host itself."
    )
    limits: Limits = Field(default_factory=Limits, description="Bounds of the site agent's own engine.")

    @field_validator("origin")
    @classmethod
    def _origin(cls, value: str) -> str:
        _split_origin(value)
        return value

    @field_validator("ports", "origins")
    @classmethod
    def _ports(cls, value: Any) -> Any:
        for port in value:
            if not 1 <= port <= 65535:
                raise ValueError(f"{port} is not a port: 1 to 65535")
        return value

    @field_validator("shut")
    @classmethod
    def _shut(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(ip_network(each)) for each in value)

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.transport != "dialout" and self.edge is None:
            raise ValueError(f"transport = {self.transport!r} needs edge, the address where servlets reach the site")
        if self.tell != "nothing" and self.transport == "tcp":
            raise ValueError(
                f'tell = {self.tell!r} needs the site\'s agent in the path: with transport = "tcp" servlets reach the origin directly. '
                "Use dialout or gre."
            )
        if self.tell == "header" and (self.origin.startswith("https") or any(port == 443 for port, _ in self.port_map())):
            raise ValueError(
                'tell = "header" needs plain HTTP on every port: origin = "http://…" and no port 443. For TLS use tell = "proxy-v2".'
            )
        if 0 < self.exposure_max < 2 * self.servlets:
            raise ValueError(f"exposure_max = {self.exposure_max} is less than twice servlets: a rotation would find nobody")
        if 0 < len(self.servlets_among) < self.servlets:
            raise ValueError(f"servlets_among names {len(self.servlets_among)} nodes, fewer than servlets = {self.servlets}")
        return self

    def port_map(self) -> tuple[tuple[int, str], ...]:
        """Asked port → origin address ``ip:port``, as ``EngineConfig.origins`` wants it."""
        default, address = _split_origin(self.origin)
        asked = self.ports or (*default, *self.origins)
        return tuple((port, self.origins.get(port, address)) for port in dict.fromkeys(asked))


def _split_origin(text: str) -> tuple[tuple[int, ...], str]:
    """Default asked ports and address of an origin; raises ``ValueError``."""
    if "://" not in text:
        return (80, 443), parse_address(text)
    url = urlsplit(text)
    if url.scheme not in _SCHEMES or url.path not in {"", "/"} or url.query or url.fragment or "@" in url.netloc:
        raise ValueError(f"{text!r} is not an origin: write http://ip:port, https://ip:port or ip:port, without a path")
    port = _SCHEMES[url.scheme]
    address = url.netloc if url.port is not None else f"{url.netloc}:{port}"
    return (port,), parse_address(address)
