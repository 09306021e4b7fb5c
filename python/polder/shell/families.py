"""What the numbers mean that Python counts. Names without ``polder_`` and ``_total``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """``kind``: counter, gauge or histogram. ``label``: name of the one label, whose values are a fixed small set."""

    name: str
    kind: str
    help: str
    label: str = ""


FAMILIES = (
    # Every process
    Family("certificate_expiry_timestamp_seconds", "gauge", "Unix time at which a certificate ends.", "certificate"),
    Family("renewals", "counter", "Renewals of the own certificate that succeeded."),
    Family("renewals_failed", "counter", "Renewals of the own certificate that failed; they are tried again."),
    Family("event_loop_lag_seconds", "gauge", "Greatest lateness of the control plane's event loop in the last ten seconds."),
    Family("memory_limit_bytes", "gauge", "Memory that the control group allows; absent where it sets no limit."),
    Family("memory_resident_bytes", "gauge", "Memory that the process holds."),
    Family("ready", "gauge", "1 while the process is fit to work, as /readyz tells."),
    Family("metrics_turned_away", "counter", "Connections to the metrics listener beyond its bounds."),
    Family("log_lines", "counter", "Log records by level, those held back included.", "level"),
    Family("log_lines_suppressed", "counter", "Log records held back because the same line came too often."),
    Family("spans_exported", "counter", "Spans of traces that the collector took."),
    Family(
        "spans_unexported", "counter", "Spans of traces that were dropped: too many waited, or the collector did not take them."
    ),
    # Whoever has an engine
    Family("snapshot_version", "gauge", "Version of the snapshot in force; it grows with every decision."),
    Family("snapshots_refused", "counter", "Snapshots that the data plane refused; the last good one stays in force."),
    Family("links", "gauge", "Wanted connections to nodes by whether they stand.", "state"),
    # Nodes
    Family("ring_joined", "gauge", "1 while the node is a member of the ring."),
    Family("ring_members", "gauge", "Members that this node knows, itself included."),
    Family("ring_successors", "gauge", "Living successors that this node knows."),
    Family("sites", "gauge", "Sites registered with the overlay, as this node knows it."),
    Family("revocation_epoch", "gauge", "Epoch of the revocation list in force."),
    Family("revocation_list_age_seconds", "gauge", "Since the revocation list in force was last confirmed by the authority."),
    Family("authority_contact_timestamp_seconds", "gauge", "Unix time at which the authority last answered."),
    Family("host_helper_up", "gauge", "1 while the host helper answers; absent where none is configured."),
    # Sites' agents
    Family("site_servlets", "gauge", "Servlets of this site by what they are at.", "stage"),
    Family("site_exposed_nodes", "gauge", "Nodes that ever knew this site's way in."),
    Family("site_pool_nodes", "gauge", "Nodes from which servlets are drawn."),
    # Forwarders
    Family("access_points", "gauge", "Access points of this forwarder by whether their link stands.", "state"),
    # The authority
    Family("authority_requests", "counter", "Requests to the authority by how they ended.", "outcome"),
    Family("authority_connections_open", "gauge", "Connections to the authority that are open now."),
    Family("authority_connections_refused", "counter", "Connections turned away before they cost a handshake."),
    Family("authority_handshakes_failed", "counter", "TLS handshakes with the authority that came to nothing."),
    # Reservation daemons
    Family("rsvp_messages", "counter", "Messages of RSVP by what they were: all received and sent, and of these some.", "kind"),
    Family("rsvp_messages_lost", "counter", "Messages that did not arrive or could not be sent, by why.", "reason"),
    Family("rsvp_refusals", "counter", "Messages and requests that were refused, by why.", "reason"),
    Family("rsvp_expired", "counter", "State that ended because nobody refreshed it.", "of"),
    Family("rsvp_repairs", "counter", "Senders announced on another way because a route changed."),
    Family("rsvp_senders", "gauge", "Senders that are announced here."),
    Family("rsvp_reservations", "gauge", "Reservations by whether they are granted or wait for a decision.", "state"),
    Family("rsvp_rate_bytes", "gauge", "Bytes per second of all links that may be reserved, and that are.", "part"),
    Family("rsvp_unenforced", "gauge", "Reservations that a link with an ordered queue should enforce and does not."),
    Family("rsvp_helper_returns", "counter", "Times that the host helper had gone and all links were ordered anew."),
    Family("rsvp_decisions", "counter", "Answers of the policy decision point; undecided: none came in time.", "outcome"),
    Family("rsvp_applications_open", "gauge", "Applications at the daemon's socket now."),
    Family("rsvp_applications_refused", "counter", "Applications turned away because there were too many."),
    # Clearing houses and providers' portals
    Family("clearing_requests", "counter", "Requests to the clearing house or portal by how they ended.", "outcome"),
    Family("clearing_deposits", "counter", "Checks that were deposited, by what became of them.", "outcome"),
    Family("clearing_connections_open", "gauge", "Connections to the clearing house or portal that are open now."),
    Family("clearing_connections_refused", "counter", "Connections turned away before they cost a handshake."),
    Family("clearing_handshakes_failed", "counter", "TLS handshakes with the clearing house or portal that came to nothing."),
    Family("portal_credits", "counter", "Requests for credits, by what became of them.", "outcome"),
    # Policy decision points: routers' questions, the desk that takes checks, and KeyNote (at clearing houses too)
    Family(
        "pdp_decisions", "counter", "Questions of routers by how they were decided; failed: the decider has a fault.", "outcome"
    ),
    Family("pdp_batches", "counter", "Goes in which what had arrived together was judged."),
    Family("pdp_ended", "counter", "Reservations that routers said have ended."),
    Family("pdp_connections_open", "gauge", "Routers that are connected now."),
    Family("pdp_connections_refused", "counter", "Connections of routers turned away because there were too many."),
    Family("pdp_connections_unread", "counter", "Connections closed because the router did not read its answers."),
    Family("desk_decisions", "counter", "Questions of routers to an ISP's desk, by what became of them.", "outcome"),
    Family("desk_judged", "counter", "Of them, those that came as far as KeyNote; the others were refused before."),
    Family("desk_released", "counter", "Reservations that ended at a router."),
    Family("desk_checks", "gauge", "Checks in the spent set; at most_checks nothing new is taken."),
    Family("keynote_queries", "counter", "Queries to KeyNote."),
    Family("keynote_signatures", "counter", "Signatures that were checked; those of known credentials are not checked again."),
    Family("keynote_refused", "counter", "Queries that were refused whole, by why.", "why"),
    Family("keynote_left_out", "counter", "Assertions that were left out of a query, by why.", "why"),
)
