"""What a node tells an operator of itself: aggregates that do not say whether it is anybody's beacon or servlet.

The counters are those of the table below and no others, so that a new one is not told before somebody has thought about it.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from polder import __version__
from polder.model import Kind, Refused, Verdict
from polder.model.admin_messages import Past, PastQuery, Report, ReportQuery
from polder.model.overlay_messages import Caller
from polder.shell import usage
from polder.shell.clock import wall
from polder.shell.history import FINE

if TYPE_CHECKING:
    from polder.node.shell import Node

_TOLD = (
    "connections connections_open connections_refused handshakes_failed identities_refused identities_cut links_dialled "
    "links_failed links_open tunnels tunnels_open tunnels_failed failovers bytes_up bytes_down refused_access refused_target "
    "refused_limit refused_stale refused_hop refusals_untold calls_in calls_busy calls_late calls_out calls_failed events_lost "
    "front_connections front_requests front_tunnels front_tunnels_open front_exchanges front_bytes_up front_bytes_down "
    "front_refused_denied front_refused_prohibited front_failed front_refused_malformed front_internal front_over_connections "
    "front_over_connections_per_source front_over_handshake_rate front_over_tunnels front_over_tunnel_rate "
    "front_over_header_timeout front_over_body_rate front_over_stall front_over_resets front_over_idle"
)
USAGE = ("cpu_ms", "rss_bytes")
TOLD = frozenset(_TOLD.split())
"""Counters of every node alike. Left out: ``dialouts_open`` and those of GRE endpoints, which only servlets have."""


class Reporter:
    """Answers ``report`` for one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def answer(self, caller: Caller, _source: str, _body: ReportQuery) -> Report:
        """To an admin; raises ``Refused`` for anybody else."""
        require_admin(caller)
        node, now = self._node, wall()
        router = node.ring.router
        links = [link for link in node.engine.status()["links"] if link["lane"] != "dialout"]
        up = [link for link in links if link["up"]]
        measured = [link["rtt_us"] for link in up if link["rtt_us"]]
        return Report(
            name=node.me.name,
            version=__version__,
            clock=now,
            uptime_s=round(node.uptime, 1),
            joined=router.joined,
            members=len(router.members()) + 1,
            successors=tuple(member.name for member in router.successors()),
            sites=len(node.roles.directory.sites()),
            snapshot=node.version,
            certificate_valid_for_s=node.certificate_left(now),
            revocation_epoch=node.roles.verifier.revoked.epoch,
            revocation_age_s=node.revocation_age(),
            links=len(links),
            links_up=len(up),
            rtt_us=int(median(measured)) if measured else 0,
            cpu_ms=usage.cpu_ms(),
            rss_bytes=usage.rss_bytes(),
            drills=node.drills.book.willing(now),
            counters={name: value for name, value in node.engine.counters().items() if name in TOLD},
        )

    def past(self, caller: Caller, _source: str, body: PastQuery) -> Past:
        """The course of the same numbers, to an admin; raises ``Refused`` for anybody else."""
        require_admin(caller)
        now = wall()
        read = self._node.history.read(now, min(body.seconds, FINE[0] * FINE[1]), [*TOLD, *USAGE])
        return Past(now, read["step"], tuple(read["times"]), {name: tuple(column) for name, column in read["values"].items()})


def require_admin(caller: Caller) -> None:
    """Raise ``Refused`` unless an admin calls."""
    if caller.kind is not Kind.ADMIN:
        raise Refused(Verdict.DENIED, f"{caller.kind} {caller.name}: only an operator's identity (admin) may ask this")
