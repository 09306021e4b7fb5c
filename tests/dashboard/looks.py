"""Looks at overlays that are made up, for the view-models."""

from __future__ import annotations

from typing import Any

from polder.dashboard.values import Round, Sample


def node(name: str, successors: tuple[str, ...], **changes: Any) -> dict[str, Any]:
    """A node's status."""
    return {
        "name": name,
        "joined": True,
        "members": 3,
        "successors": successors,
        "certificate_valid_for_s": 80_000,
        "revocation_epoch": 4,
        "revocation_age_s": 3,
        "links": 4,
        "links_up": 4,
        "rtt_us": 900,
    } | changes


def ring(*names: str, at: float = 0.0, counters: dict[str, float] | None = None, **changes: Any) -> dict[str, Sample | str]:
    """Nodes that form a whole ring."""
    around = [*names[1:], names[0]]
    return {
        f"node/{name}": Sample(
            at,
            node(name, (after,) if len(names) > 1 else (), **changes),
            counters or {"tunnels": 20 * at, "front_tunnels": 10 * at},
        )
        for name, after in zip(names, around, strict=True)
    }


def site(at: float = 0.0, counters: dict[str, float] | None = None, **changes: Any) -> Round:
    """A site's agent with two servlets."""
    facts = {
        "site": "wiki",
        "serving": 2,
        "servlets": {"n1": "serving", "n2": "serving"},
        "exposed": 2,
        "pool": 8,
        "rotation_in_s": 90,
        "epoch": 17,
        "certificate_valid_for_s": 80_000,
    } | changes
    links = ({"name": "n1", "up": True, "rtt_us": 700, "lane": "dialout"},)
    return Round(at, {"site/wiki": Sample(at, facts, counters or {"tunnels": 5 * at}, links)})


def session(**changes: Any) -> dict[str, Any]:
    """A session over two relays."""
    path = {
        "state": "live",
        "weight": 0.75,
        "loss": 0.0,
        "delay_us": 0,
        "sent": 1200,
        "received": 900,
        "duplicates": 12,
        "mtu": 1472,
    }
    slow = path | {"relay": "192.0.2.2:443", "state": "suspect", "weight": 0.25, "loss": 0.4, "delay_us": 18_500}
    return {
        "site": "wiki",
        "up": True,
        "prefer": True,
        "carrier": "relays",
        "detours": 0,
        "recovered": 0,
        "rtt_us": 20_000,
        "open_us": 21_000,
        "tunnel_rtt_us": 24_000,
        "tunnels": 7,
        "failed": 0,
        "ends_in": 300.0,
        "paths": [slow, path | {"relay": "192.0.2.1:443"}],
    } | changes


def user(
    at: float = 0.0,
    counters: dict[str, float] | None = None,
    links: tuple[dict[str, Any], ...] | None = None,
    sessions: tuple[dict[str, Any], ...] = (),
    plane: str = "auto",
) -> Round:
    """A forwarder with two access points."""
    facts = {
        "user": "ann",
        "pac": "http://127.0.0.1:7480/proxy.pac",
        "sites": ["wiki.test"],
        "access_points": ["n1", "n2", "n3"],
        "certificate_valid_for_s": 2_000_000,
        "relays": {"plane": plane, "redundancy": "0.5", "sessions": list(sessions)},
    }
    up = ({"name": "n1", "lane": "bulk", "up": True, "rtt_us": 900}, {"name": "n2", "lane": "bulk", "up": True, "rtt_us": 400})
    return Round(at, {"user/ann": Sample(at, facts, counters or {"front_requests": 3 * at}, links if links is not None else up)})
