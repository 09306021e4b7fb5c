"""What this host can do for Polder: asked of the host, never guessed from versions."""

from __future__ import annotations

import os

from polder.host.commands import HostError, find, run
from polder.host.messages import Abilities
from polder.host.tunnels import kernel_gre


def look() -> Abilities:
    """Every ability with ``None``, or with the reason why it is missing and what would mend it."""
    return Abilities(
        {
            "ip": None if find("ip") else "install the package iproute2",
            "nft": _nft(),
            "tun": _tun(),
            "kernel_gre": kernel_gre(),
        }
    )


def _nft() -> str | None:
    if not find("nft"):
        return "install the package nftables (1.0 or later)"
    text = "table inet polder__probe { set s { typeof ip saddr . @th,32,32; flags timeout; }; }"
    try:
        run("nft", "--check", "-f", "-", stdin=text)
    except HostError as error:
        return f"{error.why} (needs CAP_NET_ADMIN, nftables 1.0 and a kernel with nf_tables)"
    return None


def _tun() -> str | None:
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return "no /dev/net/tun: load the module tun"
    except OSError as error:
        return f"cannot open /dev/net/tun ({error.strerror}): the host helper needs root or CAP_NET_ADMIN"
    return None
