//! What the plane counts and measures: each declaration is also the help text that operators read.

use crate::pressure::Pressure;
use polder_meter::{Bytes, Lives, Times};

pub use polder_meter::Count;

impl Counters {
    /// What a tunnel counts, and where it is measured.
    pub fn meter<'a>(&'a self, measures: &'a Measures, pressure: &'a Pressure) -> crate::pump::Meter<'a> {
        crate::pump::Meter {
            up: &self.bytes_up,
            down: &self.bytes_down,
            waiting: &self.receivers_waiting,
            dismissed: &self.shed_open_tunnels,
            measures,
            pressure,
            stalls: None,
        }
    }
}

polder_meter::counts! {
    /// What the plane has done since it started.
    pub struct Counters, prefix "";
    /// Connections accepted.
    connections,
    /// Connections that are open now.
    connections_open,
    /// Connections refused because a limit was reached.
    connections_refused,
    /// Limit: handshakes of strangers in all, refused before they began.
    over_handshakes,
    /// Limit: rests of strangers' handshakes, because they had used up their share of the thread.
    over_handshake_percent,
    /// Limit: new connections that the system dropped for us, because too many had to be refused.
    over_refusals,
    /// Limit: pieces that waited for room among what all streams of a link have to send.
    over_crowd,
    /// Memory above 80 %: connections of strangers refused before their handshake.
    shed_connections,
    /// Memory above 95 %: tunnels refused to nodes.
    shed_tunnels,
    /// Memory above 95 %: open tunnels closed, the idlest first.
    shed_open_tunnels,
    /// Handshakes with those who connected that are under way now.
    handshakes_open,
    /// Handshakes that failed.
    handshakes_failed,
    /// Identities refused after a good handshake, or at one.
    identities_refused,
    /// Live connections cut because their identity was revoked or expired.
    identities_cut,
    /// Users' tunnels that those connections carried.
    identities_tunnels_cut,
    /// Links dialled with success.
    links_dialled,
    /// Dials that failed.
    links_failed,
    /// Links that are up now, of all lanes.
    links_open,
    /// Tunnels opened, at any role.
    tunnels,
    /// Tunnels that are open now.
    tunnels_open,
    /// Tunnels that no candidate accepted.
    tunnels_failed,
    /// Candidates given up for the next one.
    failovers,
    /// Candidates asked beside one that was late.
    hedges,
    /// Tunnels that took another path after theirs had broken before the site's first byte.
    replays,
    /// Candidates not asked again, or beside another, because the site's budget was used up.
    retries_refused,
    /// Links whose peer gave no sign of life for a moment.
    links_silent,
    /// Bytes carried away from users.
    bytes_up,
    /// Bytes carried to users.
    bytes_down,
    /// Directions of tunnels whose receiver takes nothing now.
    receivers_waiting,
    /// Tunnels ended because nothing moved.
    tunnels_idle,
    /// Words about users that could not be made, for sites that ask.
    words_failed,
    /// Site role: words about users that were good.
    words_heard,
    /// Site role: streams refused because no word about the user came with them.
    words_missing,
    /// Site role: streams refused because their word was forged, stale, repeated, or meant for another.
    words_refused,
    /// Site role: streams ended, or not begun, because their servlet was burned or had streams open for too long.
    tunnels_cut,
    /// Requests refused by access rules.
    refused_access,
    /// Requests for names that no site registered.
    refused_target,
    /// Requests refused by a limit.
    refused_limit,
    /// Requests refused because the revocation list is too old.
    refused_stale,
    /// Hops that peers asked for wrongly: unknown site, no role for it, no hops left.
    refused_hop,
    /// Refusals that were counted but not told, because there were too many.
    refusals_untold,
    /// Control calls received.
    calls_in,
    /// Control calls answered 503 because the queue was full.
    calls_busy,
    /// Control calls that Python did not answer in time.
    calls_late,
    /// Control calls made.
    calls_out,
    /// Control calls made that got no answer.
    calls_failed,
    /// Dial-out connections now, at either end.
    dialouts_open,
    /// Spread plane: sessions of users that are connected to this servlet now.
    spread_sessions,
    /// Spread plane: tunnels opened, at either end.
    spread_tunnels,
    /// Spread plane: tunnels that went through an access point because their session did not carry them.
    spread_fallbacks,
    /// Spread plane: times that a sender waited for its session's windows; told when the session ends.
    spread_over_window,
    /// Spread plane, at a user's end: tunnels that waited because their session had as many as it may.
    spread_over_streams,
    /// Spread plane: sessions that ended because the other end was silent.
    spread_silent,
    /// Spread plane, at a user's end: times that a session went on over a tunnel because no relay answered.
    spread_detours,
    /// Spread plane, at a user's end: sessions that are carried by a tunnel now.
    spread_detours_open,
    /// Spread plane, at a servlet: claims for detours of sessions that are here, but not proved, too old, or used before.
    spread_detours_refused,
    /// Spans of traces told to the control plane.
    spans,
    /// Spans that were dropped because the control plane was busy.
    spans_lost,
}

polder_meter::histograms! {
    /// How long things took and how large they were. Plane and front each have one; what is read is their sum.
    pub struct Measures;
    /// From asking for a tunnel's next step to its acceptance.
    tunnel_open_seconds: Times,
    /// From a tunnel's opening to the first byte towards the user.
    tunnel_first_byte_seconds: Times,
    /// From a tunnel's opening to its end.
    tunnel_duration_seconds: Lives,
    /// Bytes that a tunnel carried, both directions together.
    tunnel_size_bytes: Bytes,
    /// Round trips of PINGs on links.
    link_rtt_seconds: Times,
    /// From dialling a node to the answer to the first PING.
    link_dial_seconds: Times,
    /// TLS handshakes of those who connected to this process.
    handshake_seconds: Times,
    /// For how long one step of a user's connection or stream kept the thread from others.
    client_turn_seconds: Times,
}
