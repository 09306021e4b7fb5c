"""A daemon's state as plain facts, for ``polder rsvp show``."""

from __future__ import annotations

from typing import Any

from polder.rsvp.state import LOCAL, ResvState
from polder.rsvpd.daemon import Daemon
from polder.rsvpd.links import reservable


async def facts(daemon: Daemon) -> dict[str, Any]:
    """Links, senders, reservations, what is enforced, counters. Bandwidth in bytes/s of IP packets."""
    node = daemon.node
    carried = {link.device: await daemon.enforcer.carried(link.device) for link in daemon.settings.links}
    enforced = []
    for handle, (traffic, why) in sorted(daemon.enforcer.flows.items()):
        device = daemon.device(traffic.interface)
        counts = carried.get(device, {}).get(handle)
        entry: dict[str, Any] = {
            "handle": handle,
            "session": str(traffic.session),
            "senders": [str(sender) for sender in traffic.senders],
            "device": device,
            "service": traffic.flowspec.service.text,
            "rate": traffic.flowspec.rate,
            "bucket": traffic.flowspec.tspec.bucket,
            "enforced": not why,
        }
        if why:
            entry["why_not"] = why
        if counts:
            entry |= dict(zip(("packets", "bytes", "packets_beyond", "bytes_beyond"), counts, strict=True))
        enforced.append(entry)
    return {
        "router": daemon.settings.name,
        "links": [
            {
                "device": link.device,
                "name": link.name or link.device,
                "rate_mbit": link.rate_mbit,
                "reservable": reservable(link),
                "reserved": node.held(daemon.interface(link.device)),
                "policy": link.policy,
            }
            for link in daemon.settings.links
        ],
        "senders": [
            {
                "session": str(path.session),
                "sender": str(path.sender),
                "rate": path.tspec.rate,
                "from": "this host" if path.iif == LOCAL else str(path.hop.address),
                "in": daemon.device(path.iif),
                "out": [daemon.device(index) for index in path.out],
            }
            for path in node.paths
        ],
        "reservations": [_reservation(daemon, state) for state in node.reservations],
        "enforced": enforced,
        "counts": dict(sorted(node.counts.items())),
        "decisions": dict(sorted(daemon.decisions.items())),
    }


def _reservation(daemon: Daemon, state: ResvState) -> dict[str, Any]:
    wanted = state.wanted
    if state.granted is None:
        standing = "awaits its decision"
    elif state.granted == wanted:
        standing = "granted"
    else:
        standing = "granted; a change awaits its decision"
    return {
        "session": str(wanted.session),
        "style": wanted.style.name,
        "senders": [str(sender) for sender in wanted.senders],
        "service": wanted.flowspec.service.text,
        "rate": wanted.flowspec.rate,
        "bucket": wanted.flowspec.tspec.bucket,
        "for": "this host" if state.key[1] == LOCAL else str(state.key[2]),
        "device": daemon.device(state.key[1]),
        "state": standing,
    }
