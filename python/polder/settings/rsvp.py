"""``rsvp.toml``: the reservation daemon of a host or router; ``pdp.toml``: the policy decision point."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from polder.settings.base import Name, Settings
from polder.settings.keynote import KeyNoteSettings
from polder.settings.process import ServiceSettings
from polder.settings.quantities import Address, Duration, Size

RSVP_SOCKET = "/run/polder-rsvp/rsvp.sock"
PDP_SOCKET = "/run/polder-pdp/pdp.sock"
"""Where they are when nothing is said; metrics and the administrator's socket are beside them."""


def _endpoint(value: str) -> str:
    if not value.startswith(("unix:/", "tls:")):
        raise ValueError(f"{value!r} is not an endpoint: write unix:/path or tls:address:port")
    return value


Endpoint = Annotated[str, AfterValidator(_endpoint)]


class LinkSettings(Settings):
    """One network device on whose way out bandwidth can be reserved."""

    device: str = Field(pattern=r"^[A-Za-z0-9_.@-]{1,15}$", description="Network device, such as eth1.")
    name: str = Field("", description="What policies and offers call this link. Default: the device's name.")
    rate_mbit: float | None = Field(
        None,
        gt=0,
        description="What the link carries, in Mbit/s of whole frames, a little less than the line really does, so that the queue is "
        "here, where reservations come first, and not in the modem. Default: no order of the queue, and nothing is enforced.",
    )
    reservable: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Part of the link that reservations may take together. The rest stays for everybody else; at 1 a full link "
        "leaves them a hundredth.",
    )
    policy: bool = Field(False, description="Whether a reservation on this link needs the policy decision point's word.")
    key_file: str = Field(
        "",
        description="File with keys shared with the neighbours on this link, one `NUMBER HEX` per line, at least 16 bytes; the first "
        "signs, all are believed. Default: none, and anybody on the link can reserve and tear down.",
    )


class RsvpSettings(ServiceSettings):
    """Environment prefix ``POLDER_RSVP__``; for example ``POLDER_RSVP__NAME=r1``."""

    name: Name = Field("router", description="What this router is called at the policy decision point.")
    socket: str = Field(
        RSVP_SOCKET,
        description="Unix socket for `polder rsvp` and `polder reserve`; who may open it may reserve. admin.sock and metrics.sock are made "
        "beside it: give each daemon a directory of its own.",
    )
    applications: int = Field(
        256,
        ge=1,
        le=65_536,
        description="Connections at that socket at once; more are closed. Some KiB each, and up to 1 MiB unread beside one answer to "
        "`polder rsvp show`, which is some MiB at a full router.",
    )
    host_helper: str | None = Field(
        None, description="Socket of the host helper. Default: none, the daemon itself needs CAP_NET_RAW and CAP_NET_ADMIN."
    )
    links: tuple[LinkSettings, ...] = Field((), description="Links with a capacity. All other devices are used without one.")
    pdp: Endpoint | None = Field(
        None, description="Where the policy decision point listens: unix:/path or tls:address:port. Needed by links with policy."
    )
    pdp_certificate: str = Field("", description="This router's certificate chain (PEM), for tls.")
    pdp_key: str = Field("", description="Its private key (PEM).")
    pdp_roots: str = Field("", description="Whom to believe to be the policy decision point (PEM).")
    pdp_wait: Duration = Field(
        3.0,
        gt=0,
        le=60,
        description="How long a decision may take; then the request is refused, and its host may try again. A decision takes "
        "milliseconds; more patience holds bandwidth for nobody.",
    )
    period: Duration = Field(
        30.0,
        ge=0.1,
        le=600,
        description="How often state is refreshed on average (R). RFC 2205 §3.7 takes 30 s; less finds dead neighbours sooner and "
        "costs messages, of which one names up to 256 reservations.",
    )
    lost: int = Field(
        3, ge=1, le=10, description="State survives one refresh less than this being lost in a row (K, RFC 2205 §3.7)."
    )
    longest_period: Duration = Field(
        300.0,
        ge=1,
        description="Longest refresh period that a neighbour is believed. Without a bound a forged message pins state for weeks.",
    )
    blockade: int = Field(
        2, ge=1, le=10, description="For how many periods a request that did not fit holds back larger ones (Kb, RFC 2205 §3.5)."
    )
    repair_wait: Duration = Field(
        2.0, ge=0, le=60, description="How long after a change of routes the new way is announced (W, RFC 2205 §3.6)."
    )
    first_retry: Duration = Field(
        0.5, ge=0.01, le=10, description="First repetition of what was not acknowledged (Rf, RFC 2961 §6)."
    )
    retries: int = Field(7, ge=0, le=12, description="How often it is repeated, after twice the time each (Rl, RFC 2961 §6).")
    reduce: bool = Field(
        True, description="Number messages, have them acknowledged, refresh by summaries (RFC 2961). Off for very old neighbours."
    )
    ahead: bool = Field(
        True,
        description="Pass a request on while the own decision is open, so that the slowest router counts and not their sum. What is "
        "refused then is torn down again upstream. Off: upstream hears of nothing that is not decided here.",
    )
    most_paths: int = Field(4096, ge=1, description="Senders that are kept; some KiB each. More are refused.")
    most_reservations: int = Field(4096, ge=1, description="Reservations that are kept; some KiB each. More are refused.")
    bundle_cache: Size = Field(
        4 << 20, ge=16_384, description="Bytes of credentials known by hash. Those that fell out are asked for again, whole."
    )

    @field_validator("links")
    @classmethod
    def _devices_once(cls, links: tuple[LinkSettings, ...]) -> tuple[LinkSettings, ...]:
        devices = [link.device for link in links]
        doubles = sorted({device for device in devices if devices.count(device) > 1})
        if doubles:
            raise ValueError(f"{', '.join(doubles)} is there twice")
        return links


class PdpSettings(ServiceSettings):
    """Environment prefix ``POLDER_PDP__``; for example ``POLDER_PDP__POLICY=/etc/polder/policy.kn``."""

    socket: str | None = Field(
        PDP_SOCKET,
        description="Unix socket for routers on this machine and for `polder rsvp judged`; empty: none. admin.sock and metrics.sock are "
        "made beside it, or beside the default path: give each decision point a directory of its own.",
    )
    listen: Address | None = Field(None, description="Address for routers elsewhere, with mutual TLS. Default: none.")
    certificate: str = Field("", description="Certificate chain (PEM), for listen.")
    key: str = Field("", description="Its private key (PEM).")
    roots: str = Field("", description="Who may say that a router is one (PEM); its name is its certificate's.")
    policy: str | None = Field(
        None, description="File of KeyNote policies that are believed without a signature. Default: none, and only isp decides."
    )
    isp: str | None = Field(None, description="isp.toml of a provider that sells bandwidth: checks are judged and charged.")
    keynote: KeyNoteSettings = Field(
        default_factory=lambda: KeyNoteSettings(), description="[keynote]: what the credentials of one question may cost."
    )
    again: Duration = Field(
        300.0,
        ge=1,
        description="After how long a decision without an end of its own is asked for again, so that a changed policy counts.",
    )
    batch: int = Field(
        256, ge=1, le=4096, description="Questions judged in one go. More share one commit, and wait for each other."
    )
    routers: int = Field(256, ge=1, description="Connections at once; more are closed.")
    pending: int = Field(
        4096, ge=16, description="Questions of one router that wait; while they do, no more are read from it. Some KiB each."
    )

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if not self.socket and not self.listen:
            raise ValueError("neither socket nor listen: no router could ask")
        return self
