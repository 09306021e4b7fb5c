"""What every process that runs on shares: where it tells an operator how it is."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Self

from pydantic import Field, field_validator, model_validator

from polder.settings.base import Settings
from polder.settings.quantities import Hosts, parse_address


class Watched(Settings):
    """Knobs of ``/livez``, ``/readyz``, ``/metrics`` and the log."""

    metrics_listen: str = Field(
        "unix",
        description="Where /livez, /readyz and /metrics are served: unix (metrics.sock in the state directory, for its owner), "
        "unix:/PATH, ip:port (127.0.0.1:9743 for a Prometheus on this machine), or off. Each scrape costs about 5 ms.",
    )
    metrics_beyond_loopback: bool = Field(
        False,
        description="Whether metrics_listen may be an address that other machines reach: whoever reaches it reads how busy this "
        "process is. Better leave it off and let a tunnel or a local agent carry it away.",
    )
    metrics_hosts: Hosts = Field(
        (),
        description="Names under which /metrics may be asked for, beside localhost and IP addresses: others are refused, because a "
        "page elsewhere can make its own name mean this machine (DNS rebinding).",
    )
    metrics_roles: bool = Field(
        False,
        description="Show numbers that tell whether a node is a servlet (GRE, dial-outs) on ip:port too. Off: on the Unix socket "
        "only, for every user of this machine can read what loopback serves.",
    )

    log_repeats: int = Field(
        20,
        ge=0,
        le=1_000_000,
        description="How often the same log line is written in 10 s; what comes oftener is counted and told as a number. 0: no bound. "
        "Twenty show a pattern; a flood makes thousands. 500 bytes for each of 512 lines told apart.",
    )

    @field_validator("metrics_listen")
    @classmethod
    def _place(cls, value: str) -> str:
        if value in {"unix", "off"}:
            return value
        if value.startswith("unix:"):
            if not value.startswith("unix:/"):
                raise ValueError(f"{value!r}: write an absolute path, such as unix:/run/polder/metrics.sock")
            return value
        try:
            return parse_address(value)
        except ValueError as error:
            raise ValueError(f"{value!r} is not unix, unix:/PATH, off or ip:port such as 127.0.0.1:9743") from error

    @model_validator(mode="after")
    def _at_home(self) -> Self:
        address = self.metrics_address()
        if address is not None and not ip_address(address[0]).is_loopback and not self.metrics_beyond_loopback:
            raise ValueError(
                f"metrics_listen = {self.metrics_listen!r} can be reached from other machines: use 127.0.0.1, or allow it with "
                "metrics_beyond_loopback = true"
            )
        return self

    def metrics_address(self) -> tuple[str, int] | None:
        """IP address and port of ``metrics_listen``; ``None`` for a Unix socket or off."""
        if self.metrics_listen == "off" or self.metrics_listen.startswith("unix"):
            return None
        host, _, port = self.metrics_listen.rpartition(":")
        return host.strip("[]"), int(port)
