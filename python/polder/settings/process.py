"""What all long-lived processes are told about their own life."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from polder.settings.quantities import Duration
from polder.settings.watching import Watched


class ServiceSettings(Watched):
    """Base of the settings of whatever runs on and reads its configuration again when it is asked to."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least serious log line that is written. debug costs some lines per control call."
    )


class ProcessSettings(ServiceSettings):
    """Base of the settings of those that hold streams, end in good order, and hand over to their successor: node, site's agent,
    forwarder, authority, clearing house, portal.
    """

    drain: Duration = Field(
        30.0,
        ge=0,
        le=86_400,
        description="How long open streams may go on after the process was told to end; what is left then is cut and counted. "
        "Most page loads end within seconds; 30 s stays below the 90 s after which systemd kills. 0: until the last has ended.",
    )
    upgrade_drain: Duration = Field(
        600.0,
        ge=0,
        le=604_800,
        description="How long open streams may go on in the old process after an upgrade, while the new one serves. Ten minutes pass a "
        "download of 700 MB at 10 Mbit/s; a WebSocket that is older is cut, and its page connects again. Costs the memory of "
        "a second process, some 70 MiB. 0: until the last has ended.",
    )
    upgrade_wait: Duration = Field(
        60.0,
        ge=1,
        le=3600,
        description="How long the new process may take to be ready before the old one gives it up and goes on. A start takes two "
        "seconds, more on a loaded machine.",
    )
