"""``clearing.toml``, ``isp.toml``, ``provider.toml``: a clearing house, an ISP that sells reservations, a provider that pays for them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from polder.bandex.money import MOST, parse_micro
from polder.model import Refused
from polder.settings.base import Name, Settings
from polder.settings.process import ProcessSettings
from polder.settings.quantities import Address, Duration, Rate


def _micro(value: Any) -> Any:
    """Micro-units of ``"0.44"``; a bare whole number is micro-units already. Raises ``ValueError``."""
    if not isinstance(value, str):
        return value
    try:
        return parse_micro(value)
    except Refused as refused:
        raise ValueError(refused.why) from None


Micro = Annotated[
    int,
    BeforeValidator(_micro),
    Field(ge=0, le=MOST),
    WithJsonSchema({"type": ["string", "integer"], "description": "amount; a bare number is micro-units", "examples": ["0.44"]}),
]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]


class Tls(Settings):
    """Whose certificate is shown, and who is believed: an identity of the overlay, or certificates of one's own."""

    identity: str | None = Field(
        None,
        description="Directory of an enrolled identity of the overlay, such as /var/lib/polder/site/nick: its certificate is shown, "
        "and every member of the overlay that is not revoked is believed to be who it says. Renewed by `polder node` or `polder site`.",
    )
    certificate: str | None = Field(
        None, description="Instead of identity: file with a certificate of one's own and its chain (PEM)."
    )
    private_key: str | None = Field(None, description="File with the key of certificate (PEM, mode 0600).")
    authorities: str | None = Field(None, description="File with the certificates of those who certify the other side (PEM).")
    revocation_refresh: Duration = Field(
        60.0,
        ge=1,
        le=86_400,
        description="With identity: how often the overlay's revocation list is fetched. One small request; when the authority is away, the "
        "last list stays in force.",
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        own = (self.certificate, self.private_key, self.authorities)
        if (self.identity is None) == (own == (None, None, None)):
            raise ValueError("give identity, or certificate, private_key and authorities; not both, not neither")
        if self.identity is None and None in own:
            raise ValueError("certificate, private_key and authorities go together")
        return self


class Served(ProcessSettings):
    """What the clearing house and a provider's portal share."""

    tls: Tls = Field(description="Certificates: [tls] with identity, or certificate, private_key and authorities.")
    rate_per_source: Rate = Field(
        20.0,
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
    database: str | None = Field(
        None,
        description="SQLAlchemy URL, such as postgresql+psycopg://polder@db/books (needs polder[postgresql]). Default: a file of SQLite in "
        "the state directory. Both sync every commit.",
    )


class ClearingSettings(Served):
    """Environment prefix ``POLDER_CLEARING__``."""

    name: Name = Field("clearing", description="How the clearing house calls itself to its members.")
    listen: Address = Field("127.0.0.1:7410", description="Where it listens for ISPs, providers and banks.")
    deposit_delay: Duration = Field(
        604_800.0,
        ge=60,
        le=31_536_000,
        description="How long after its end a check may be deposited. Longer: an ISP may be away longer, and more nonces are remembered "
        "(3 KB for each check).",
    )
    skew: Duration = Field(60.0, ge=0, le=3600, description="By how much an ISP's clock may be ahead of ours.")
    most_life: Duration = Field(
        86_400.0, ge=60, le=2_592_000, description="Longest time for which a check may pay; ISPs may demand less, not more."
    )


class ProviderSettings(Served):
    """Environment prefix ``POLDER_PROVIDER__``."""

    listen: Address = Field("127.0.0.1:7411", description="Where the portal listens for users who want credits.")
    key_file: str = Field(
        "provider.key", description="KeyNote key that signs credits; a relative path begins in the state directory."
    )
    guarantees: tuple[str, ...] = Field(
        (), description="Files with banks' guarantees, which go out with every credit, for ISPs that know the bank alone."
    )
    currency: Currency = Field("USD", description="Currency of the credits.")
    least: Micro = Field(1, ge=1, description="Least amount of one check.")
    most: Micro = Field(
        1_000_000, ge=1, description='Greatest amount of one check ("1.00"): what a thief of one check could spend at once.'
    )
    total: Micro = Field(5_000_000, ge=1, description="What one credit is good for in all; the clearing house pays no more.")
    life: Duration = Field(
        86_400.0,
        ge=60,
        le=2_592_000,
        description="How long a credit is good. There is no revocation: what a thief or a bankrupt user can spend ends with it.",
    )
    most_per_user: Micro = Field(
        20_000_000,
        ge=1,
        description="Sum of the credits that the portal gives one user within `period`. It bounds what one account costs.",
    )
    most_credits: int = Field(
        10_000,
        ge=1,
        le=10_000_000,
        description="Credits that the portal gives all users together within `period`: what the provider risks at most, divided by total. "
        "2 KB of disk each.",
    )
    period: Duration = Field(604_800.0, ge=60, le=31_536_000, description="Over which time most_per_user and most_credits count.")

    @model_validator(mode="after")
    def _limits(self) -> Self:
        if not self.least <= self.most <= self.total <= self.most_per_user:
            raise ValueError("least, most, total and most_per_user must rise")
        return self


class RouteSettings(Settings):
    """One route: what one check pays for."""

    links: tuple[str, ...] = Field(
        min_length=1,
        description="Router/link pairs that the route uses, such as edge/lasthop: a check is good at all of them, and nowhere else.",
    )

    @field_validator("links")
    @classmethod
    def _pairs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pair in value:
            if not re.match(r"[^/\s]{1,63}/[^/\s]{1,63}\Z", pair):
                raise ValueError(f"{pair!r} is not router/link, such as edge/lasthop")
        return value

    def pairs(self) -> frozenset[tuple[str, str]]:
        """The links as (router, link)."""
        return frozenset((router, link) for router, _, link in (pair.partition("/") for pair in self.links))


class House(Settings):
    """Where an ISP deposits."""

    url: str = Field(description="The clearing house: https://host:port.")
    member: str | None = Field(
        None,
        description="With [tls] identity: the clearing house's own identity in the overlay, such as spiffe://overlay/site/clearing; nobody "
        "else gets the checks. With certificates of one's own the host name in url is compared.",
    )
    tls: Tls = Field(description="Certificates, as the clearing house registered them.")


class IspSettings(Settings):
    """Environment prefix ``POLDER_ISP__``."""

    name: Name = Field(description="The ISP's name, as its offers and the clearing house know it.")
    key_file: str = Field("isp.key", description="KeyNote key that signs offers; a relative path begins in the state directory.")
    currency: Currency = Field("USD", description="Currency of the offers.")
    routes: dict[Name, RouteSettings] = Field(
        default_factory=dict, description="Table of routes: [routes.lasthop] with links = ['edge/lasthop']."
    )
    trusted: dict[str, Micro] = Field(
        default_factory=dict,
        description="Who answers for payments: KeyNote keys of providers and banks, each with the greatest amount of one check that it is "
        "trusted for. What a provider does not pay is the ISP's loss.",
    )
    most_life: Duration = Field(
        86_400.0,
        ge=60,
        le=2_592_000,
        description="Longest time for which a check may pay: the spent set remembers it for so long.",
    )
    most_checks: int = Field(
        100_000,
        ge=16,
        le=10_000_000,
        description="Checks in the spent set; when they are so many, nothing new is taken until `polder settle` has deposited some. "
        "5 KB of memory and 3 KB of disk each. Another number counts from the next start of `polder pdp`.",
    )
    clearing: House | None = Field(None, description="The clearing house: [clearing] with url and [clearing.tls].")
