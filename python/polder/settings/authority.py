"""``authority.toml``: the private authority."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from polder.model import Kind
from polder.settings.process import ProcessSettings
from polder.settings.quantities import Address, Duration, Rate

_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}\Z")


class AuthoritySettings(ProcessSettings):
    """Environment prefix ``POLDER_AUTHORITY__``; for example ``POLDER_AUTHORITY__LISTEN=192.0.2.1:7400``."""

    trust_domain: str = Field(description="Name of the overlay in every identity. Fixed at `polder init`.")
    listen: Address = Field(
        "127.0.0.1:7400", description="Where the authority listens. Members need it to enrol and to renew only."
    )
    url: str = Field(description="How members reach it: https://host:port. The certificate is pinned; the name does not matter.")
    database: str | None = Field(
        None,
        description="SQLAlchemy URL. Default: authority.sqlite3 in the state directory, in WAL mode, synced at every commit.",
    )
    node_life: Duration = Field(
        86_400.0,
        ge=2,
        le=31_536_000,
        description="Life of a node's certificate: a lost key is useless within a day even if unnoticed.",
    )
    site_life: Duration = Field(86_400.0, ge=2, le=31_536_000, description="Life of a site's certificate; as nodes.")
    user_life: Duration = Field(
        2_592_000.0,
        ge=2,
        le=31_536_000,
        description="Life of a user's certificate: a month, because a browser without forwarder does not renew. `invite --life` "
        "changes it for one user.",
    )
    admin_life: Duration = Field(86_400.0, ge=2, le=31_536_000, description="Life of an operator's certificate; as nodes.")
    renew_grace: Duration = Field(
        2_592_000.0,
        ge=0,
        le=31_536_000,
        description="How long after expiry the same key may still renew: a machine off for a holiday comes back by itself.",
    )
    bootstrap: int = Field(16, ge=1, le=256, description="Members named to one who enrols or renews: all of a small overlay.")
    revocation_refresh: Duration = Field(
        10.0,
        ge=0.5,
        le=3600,
        description="The revocation list is signed anew so often, without news too, so that nodes know how old their word is. One "
        "signature, three calls, and three small messages between each pair of neighbours.",
    )
    rate_per_source: Rate = Field(
        5.0,
        gt=0,
        le=10_000,
        description="Requests per second per source address, burst of eight times that. 100 bytes per source.",
    )
    sources: int = Field(
        4096,
        ge=16,
        le=1 << 20,
        description="Sources remembered for the rate; the longest silent is forgotten first. 100 bytes each.",
    )

    @field_validator("trust_domain")
    @classmethod
    def _domain(cls, value: str) -> str:
        if not _DOMAIN.match(value):
            raise ValueError(f"{value!r} is not a trust domain: use a-z, 0-9, '.', '_' and '-', such as overlay.example.org")
        return value

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        if not re.match(r"https://[^/\s@]+\Z", value.rstrip("/")):
            raise ValueError(f"{value!r} is not the authority's URL: write https://host:port")
        return value.rstrip("/")

    def life(self, kind: Kind) -> float:
        """Seconds that a certificate of ``kind`` lives."""
        return float(getattr(self, f"{kind}_life"))
