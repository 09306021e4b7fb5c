"""``[traces]``: which openings of tunnels are traced, and where the spans go."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from polder.settings.base import Settings
from polder.settings.quantities import Duration


class TraceSettings(Settings):
    """Off unless ``endpoint`` is given: then this process also tells its part of traces that others began."""

    endpoint: str | None = Field(
        None,
        description="Where spans go, OTLP over HTTP in JSON, such as http://127.0.0.1:4318/v1/traces. Default: nowhere. Spans tell what "
        "roles a node plays; they are for the operator's own collector.",
    )
    token_file: str | None = Field(
        None, description="File with the bearer token that the collector wants. Default: none. Read at every request."
    )
    sample: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of the tunnels that begin here to be traced. Each costs every hop an event, a span and a share of an export.",
    )
    inbound: Literal["restart", "honour"] = Field(
        "restart",
        description="What to do with a trace that a client brings in traceparent: restart (a trace of our own, sampled as above), or "
        "honour, which lets every user decide what is traced.",
    )
    to_origin: bool = Field(
        False,
        description="Pass traceparent, tracestate and baggage of plain-HTTP requests on to sites. Off: they would let sites and others "
        "follow a user.",
    )
    queue: int = Field(
        2048, ge=16, le=1 << 20, description="Spans that may wait to be sent; more are dropped and counted. 1 KB each."
    )
    every: Duration = Field(5.0, ge=0.05, le=600, description="How often spans are sent, 512 at a time.")

    @field_validator("endpoint")
    @classmethod
    def _endpoint(cls, value: str | None) -> str | None:
        if value is not None:
            url = urlsplit(value)
            if url.scheme not in {"http", "https"} or not url.hostname or "@" in url.netloc:
                raise ValueError(
                    f"{value!r} is not a collector: write http://127.0.0.1:4318/v1/traces; secrets go into token_file"
                )
        return value
