//! Bounds on what others may make a process hold or do.

use serde::{Deserialize, Serialize};

/// Bounds on what others may make this process hold or do. Reasons: `python/polder/settings`, whose knobs fill
/// every field of a snapshot; the defaults here are those of the knobs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Open tunnels per user identity.
    pub tunnels_per_identity: u32,
    /// New tunnels per second per user identity (burst: twice that).
    pub tunnel_rate_per_identity: u32,
    /// Connections per source address (IPv4) or /64 (IPv6) of users and strangers.
    pub connections_per_source: u32,
    /// TLS handshakes per second per source of users and strangers (burst: twice that).
    pub handshake_rate_per_source: u32,
    /// Connections in all.
    pub connections: u32,
    /// Bytes of a client's early data kept for a retry on another path.
    pub replay_bytes: u32,
    /// Milliseconds to wait for one hop's answer before another is tried.
    pub open_timeout_ms: u32,
    /// Milliseconds a stranger has to finish his handshake and a client its request head.
    pub header_timeout_ms: u32,
    /// Milliseconds without a byte in either direction before a tunnel is closed.
    pub idle_timeout_ms: u32,
    /// Per-stream flow-control window on links, bytes.
    pub stream_window: u32,
    /// Per-link flow-control window, bytes.
    pub link_window: u32,
    /// Concurrent streams that a peer may open on a link.
    pub streams_per_link: u32,
    /// Most hops that a tunnel may cross.
    pub max_hops: u8,
    /// Milliseconds that a client's connection may wait for its next request.
    pub keepalive_timeout_ms: u32,
    /// Milliseconds that the receiver of an HTTP answer may take nothing.
    pub stall_timeout_ms: u32,
    /// Least bytes per second of a request body, over windows of 10 s; 0: any.
    pub body_rate_floor: u32,
    /// Concurrent HTTP/2 streams of a user's connection.
    pub streams_per_client: u32,
    /// Streams per second that a user's connection may open and reset at once (burst: twice that), before GOAWAY.
    pub reset_rate_per_client: u32,
    /// Milliseconds that a peer, asked for a sign of life, may say nothing before its link is given up.
    pub silence_ms: u32,
    /// Repetitions after refusals and beside late candidates, in percent of a site's tunnels.
    pub retry_percent: u32,
    /// Repetitions per site that may come at once; a tenth of them comes back each second.
    pub retry_burst: u32,
    /// Open connections per user identity.
    pub connections_per_identity: u32,
    /// Costly HTTP/2 frames and HTTP/1 requests per second of a user identity (burst: twice that); more wait.
    pub frame_rate_per_identity: u32,
    /// Most bytes of a request head, as sent in HTTP/1 and decoded in HTTP/2; 65,535 at most.
    pub head_bytes: u32,
    /// Most field lines of a request head; 256 at most.
    pub head_fields: u32,
    /// Receivers of a user identity that may take nothing for longer than a second at once; more are cut. 0: any number.
    pub stalled_per_identity: u32,
    /// Handshakes per second of a user identity (burst: twice that) that count as a guest's; more compete with strangers'.
    pub handshake_rate_per_identity: u32,
    /// Percent of a thread that handshakes of strangers may use.
    pub handshake_percent: u32,
    /// Percent of a thread that one user identity may use before its steps wait for their turns; 100: no bound.
    pub work_percent_per_identity: u32,
    /// Spread plane: bytes that may be under way in one tunnel.
    pub spread_stream_window: u32,
    /// Spread plane: bytes that may be under way in all tunnels of a session.
    pub spread_session_window: u32,
    /// Spread plane: tunnels of a session at once.
    pub spread_streams: u32,
    /// Spread plane: milliseconds of silence after which a session is over.
    pub spread_idle_ms: u32,
    /// Spread plane: percent of a round trip's bytes that may be lost without counting as congestion.
    pub spread_tolerated_percent: u32,
    /// Connections refused per second before the system is asked to drop what comes from strangers; 0: any number.
    pub refusal_rate: u32,
    /// Milliseconds that a connection may send more costly frames than its identity's budget allows; 0: any time.
    pub flood_patience_ms: u32,
    /// How long who takes more than his share of the thread rests, as a multiple of each step, while others are at work.
    pub overwork_rest: u32,
    /// Sources that one identity makes guests', and identities that one source remembers.
    pub homes_per_identity: u32,
    /// Bytes of all streams of a link that send much, which wait to be written.
    pub crowd_bytes: u32,
    /// Bytes to a user that the system may hold beyond what is on its way; 0: as many as it likes.
    pub unsent_bytes: u32,
    /// Resident bytes of which 80 and 95 % are the watermarks; 0: none.
    pub memory_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            tunnels_per_identity: 512,
            tunnel_rate_per_identity: 200,
            connections_per_source: 256,
            handshake_rate_per_source: 50,
            connections: 16_384,
            replay_bytes: 64 * 1024,
            open_timeout_ms: 2000,
            header_timeout_ms: 10_000,
            idle_timeout_ms: 600_000,
            stream_window: 1 << 20,
            link_window: 256 << 20,
            streams_per_link: 20_000,
            max_hops: 32,
            keepalive_timeout_ms: 60_000,
            stall_timeout_ms: 10_000,
            body_rate_floor: 256,
            streams_per_client: 256,
            reset_rate_per_client: 50,
            silence_ms: 1500,
            retry_percent: 20,
            retry_burst: 50,
            connections_per_identity: 256,
            frame_rate_per_identity: 10_000,
            head_bytes: 16 * 1024,
            head_fields: 100,
            stalled_per_identity: 32,
            handshake_rate_per_identity: 5,
            handshake_percent: 20,
            work_percent_per_identity: 10,
            spread_stream_window: 4 << 20,
            spread_session_window: 8 << 20,
            spread_streams: 256,
            spread_idle_ms: 60_000,
            spread_tolerated_percent: 5,
            refusal_rate: 1000,
            flood_patience_ms: 5000,
            overwork_rest: 3,
            homes_per_identity: 16,
            crowd_bytes: 1 << 20,
            unsent_bytes: 256 * 1024,
            memory_bytes: 0,
        }
    }
}
