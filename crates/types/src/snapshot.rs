//! The data-plane snapshot: every decision that the control plane has taken, immutable, swapped whole.

use crate::{PeerName, RingId, SiteName};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Everything the data plane of one process needs to decide about bytes. See `docs/design/snapshot.md`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// Grows with every snapshot that this process applies.
    pub version: u64,
    /// Trust domain of the overlay, e.g. `overlay.example.org`.
    pub trust_domain: String,
    /// DER root certificates.
    pub roots: Vec<serde_bytes::ByteBuf>,
    /// What this process proves itself with.
    pub identity: IdentityMaterial,
    /// Who is no longer believed.
    pub revocations: Revocations,
    /// Nodes that this process may call or link to, by name.
    pub peers: Vec<Peer>,
    /// Sites that the overlay carries to.
    pub sites: Vec<Site>,
    /// Sites for which this node is a beacon.
    pub beacons: Vec<BeaconEntry>,
    /// Sites for which this node is a servlet.
    pub servlets: Vec<ServletEntry>,
    /// Bounds, each with its knob.
    pub limits: Limits,
    /// Set in a user's forwarder only.
    pub forwarder: Option<Forwarder>,
    /// Whether this node plays several roles for one tunnel though others could: quicker, and it shows.
    #[serde(default)]
    pub shortcuts: bool,
    /// Set where openings of tunnels are traced.
    #[serde(default)]
    pub tracing: Option<Tracing>,
    /// Site role: servlets, by node name or inner address, whose streams end at once.
    #[serde(default)]
    pub cut: Vec<Arc<str>>,
    /// Site role: how the origin is told who its users are.
    #[serde(default)]
    pub told: Option<Told>,
    /// A node's part in the spread plane.
    #[serde(default)]
    pub spread: Option<crate::Spread>,
}

/// How an origin is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Telling {
    /// PROXY protocol, version 2, in front of each connection.
    #[serde(rename = "proxy-v2")]
    ProxyV2,
    /// Signed header fields in each HTTP/1 request.
    #[serde(rename = "header")]
    Header,
}

/// What a site's agent needs to read access points' words about users, and to pass them on.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// How.
    pub how: Telling,
    /// X25519 key to which words are sealed: secret, 32 bytes.
    pub seal_secret: serde_bytes::ByteBuf,
    /// And public, 32 bytes.
    pub seal_public: serde_bytes::ByteBuf,
    /// P-256 key that signs assertions, PKCS #8 DER.
    pub sign_key: serde_bytes::ByteBuf,
    /// The name by which origins find its public half.
    pub sign_id: String,
    /// Seconds by which a word may be older or younger than now.
    pub window: u32,
}

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Told({:?}, keys withheld)", self.how)
    }
}

/// That a site asks who its users are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tell {
    /// X25519 public key of its agent, 32 bytes.
    pub key: serde_bytes::ByteBuf,
    /// Whether it also asks for the users' addresses.
    pub address: bool,
}

/// Certificate chain (leaf first, DER) and private key (PKCS #8, DER).
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityMaterial {
    /// Leaf first.
    pub chain: Vec<serde_bytes::ByteBuf>,
    /// PKCS #8.
    pub key: serde_bytes::ByteBuf,
}

impl std::fmt::Debug for IdentityMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IdentityMaterial({} certificates, key withheld)", self.chain.len())
    }
}

/// The revocation list in force.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocations {
    /// Growing epoch of the list.
    pub epoch: u64,
    /// Revoked SPIFFE ids.
    pub identities: Vec<String>,
    /// SHA-256 hashes of revoked SubjectPublicKeyInfos.
    pub keys: Vec<serde_bytes::ByteBuf>,
    /// After this Unix time new work is refused, for the list is too old; `None` never.
    pub fresh_until: Option<i64>,
    /// Certificates (DER) of the issuers in use: two while one replaces the other.
    #[serde(default)]
    pub issuers: Vec<serde_bytes::ByteBuf>,
}

/// A node that can be linked to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Node name.
    pub name: PeerName,
    /// Ring id that its certificate must carry.
    pub ring_id: RingId,
    /// Where it listens.
    pub address: SocketAddr,
    /// Keep a link to it open.
    pub warm: bool,
}

/// How a request crosses the overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathMode {
    /// Every Chord hop relays (WebSOS §II).
    Ring,
    /// Access point → beacon → servlet.
    Beacon,
    /// Access point → servlet, with the beacons behind it.
    Direct,
}

/// Whom an access rule names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// One user.
    User(Arc<str>),
    /// Every user of a group.
    Group(Arc<str>),
    /// Every enrolled user.
    Anyone,
}

/// A registered site as this node sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Site name.
    pub name: SiteName,
    /// Host names, lower case, that belong to it.
    pub hosts: Vec<Arc<str>>,
    /// Ports that may be asked for.
    pub ports: Vec<u16>,
    /// Who may; default deny.
    pub allow: Vec<Rule>,
    /// Who may not, whatever `allow` says.
    pub deny: Vec<Rule>,
    /// Path mode.
    pub mode: PathMode,
    /// Beacons in order of preference, one per beacon key (may repeat, may be this node).
    pub beacons: Vec<PeerName>,
    /// Servlets that this access point learnt (mode `direct`).
    pub servlets: Vec<PeerName>,
    /// The ring's next hop for each beacon key (mode `ring`).
    pub ring: Vec<RingRoute>,
    /// Whether it asks who its users are.
    #[serde(default)]
    pub tell: Option<Tell>,
}

/// Next hop towards one beacon key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RingRoute {
    /// Index of the beacon key, 0 … B−1.
    pub key: u8,
    /// Next hop; `None` when this node owns the key.
    pub next: Option<PeerName>,
    /// Other hops that make progress, best first.
    pub alternatives: Vec<PeerName>,
}

/// This node is a beacon for `site`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BeaconEntry {
    /// Site.
    pub site: SiteName,
    /// Its servlets, best first.
    pub servlets: Vec<PeerName>,
}

/// This node is a servlet for `site`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServletEntry {
    /// Site.
    pub site: SiteName,
    /// How bytes reach it.
    pub delivery: Delivery,
}

/// How a servlet reaches its site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    /// TCP to an address that the site registered, through the perimeter (a GRE tunnel) or open ground.
    Tcp {
        /// Host of the site; the port is the one the user asked for, mapped by `ports`.
        address: IpAddr,
        /// Source address to bind (the tunnel's inner address).
        bind: Option<IpAddr>,
        /// Asked port → port at `address`.
        ports: Vec<(u16, u16)>,
        /// Whether a PROXY header goes ahead, with the access point's word about the user.
        #[serde(default)]
        preface: bool,
    },
    /// The site's agent dials out to this node and takes streams on that connection.
    DialOut,
}

/// How openings of tunnels are traced.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tracing {
    /// Of a million tunnels that begin here, how many.
    pub sample_ppm: u32,
    /// Join the trace that a client brings, if it is sampled.
    pub honour: bool,
    /// Pass a client's own trace fields on to origins.
    pub to_origin: bool,
}

/// By which plane a user's tunnels go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlaneChoice {
    /// Through access points.
    #[default]
    Tunnel,
    /// Over the relays, or not at all.
    Spread,
    /// Over the relays where the control plane says so, else through access points.
    Auto,
}

/// A user's forwarder.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forwarder {
    /// Access points, in order of the operator's preference; measured latency decides.
    pub access_points: Vec<PeerName>,
    /// Host names (exact or `*.suffix`) that go through the overlay; anything else is refused.
    pub hosts: Vec<Arc<str>>,
    /// Body of `/proxy.pac`.
    pub pac: String,
    /// How tunnels go.
    #[serde(default)]
    pub plane: PlaneChoice,
    /// Answer CONNECT before the overlay has, so that the client's first bytes travel with the open.
    #[serde(default = "early_answer")]
    pub early_answer: bool,
}

const fn early_answer() -> bool {
    true
}

/// Bounds on what others may make this process hold or do. Defaults and reasons: `python/polder/settings`.
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
    #[serde(default = "keepalive_timeout_ms")]
    pub keepalive_timeout_ms: u32,
    /// Milliseconds that the receiver of an HTTP answer may take nothing.
    #[serde(default = "stall_timeout_ms")]
    pub stall_timeout_ms: u32,
    /// Least bytes per second of a request body, over windows of 10 s; 0: any.
    #[serde(default = "body_rate_floor")]
    pub body_rate_floor: u32,
    /// Concurrent HTTP/2 streams of a user's connection.
    #[serde(default = "streams_per_client")]
    pub streams_per_client: u32,
    /// Streams per second that a user's connection may open and reset at once (burst: twice that), before GOAWAY.
    #[serde(default = "reset_rate_per_client")]
    pub reset_rate_per_client: u32,
    /// Milliseconds that a peer, asked for a sign of life, may say nothing before its link is given up.
    #[serde(default = "silence_ms")]
    pub silence_ms: u32,
    /// Repetitions after refusals and beside late candidates, in percent of a site's tunnels.
    #[serde(default = "retry_percent")]
    pub retry_percent: u32,
    /// Repetitions per site that may come at once; a tenth of them comes back each second.
    #[serde(default = "retry_burst")]
    pub retry_burst: u32,
    /// Open connections per user identity.
    #[serde(default = "connections_per_identity")]
    pub connections_per_identity: u32,
    /// Costly HTTP/2 frames and HTTP/1 requests per second of a user identity (burst: twice that); more wait.
    #[serde(default = "frame_rate_per_identity")]
    pub frame_rate_per_identity: u32,
    /// Most bytes of a request head, as sent in HTTP/1 and decoded in HTTP/2; 65,535 at most.
    #[serde(default = "head_bytes")]
    pub head_bytes: u32,
    /// Most field lines of a request head; 256 at most.
    #[serde(default = "head_fields")]
    pub head_fields: u32,
    /// Receivers of a user identity that may take nothing for longer than a second at once; more are cut. 0: any number.
    #[serde(default = "stalled_per_identity")]
    pub stalled_per_identity: u32,
    /// Handshakes per second of a user identity (burst: twice that) that count as a guest's; more compete with strangers'.
    #[serde(default = "handshake_rate_per_identity")]
    pub handshake_rate_per_identity: u32,
    /// Percent of a thread that handshakes of strangers may use.
    #[serde(default = "handshake_percent")]
    pub handshake_percent: u32,
    /// Percent of a thread that one user identity may use before its steps wait for their turns; 100: no bound.
    #[serde(default = "work_percent_per_identity")]
    pub work_percent_per_identity: u32,
    /// Spread plane: bytes that may be under way in one tunnel.
    #[serde(default = "spread_stream_window")]
    pub spread_stream_window: u32,
    /// Spread plane: bytes that may be under way in all tunnels of a session.
    #[serde(default = "spread_session_window")]
    pub spread_session_window: u32,
    /// Spread plane: tunnels of a session at once.
    #[serde(default = "spread_streams")]
    pub spread_streams: u32,
    /// Spread plane: milliseconds of silence after which a session is over.
    #[serde(default = "spread_idle_ms")]
    pub spread_idle_ms: u32,
    /// Spread plane: percent of a round trip's bytes that may be lost without counting as congestion.
    #[serde(default = "spread_tolerated_percent")]
    pub spread_tolerated_percent: u32,
    /// Connections refused per second before the system is asked to drop what comes from strangers; 0: any number.
    #[serde(default = "refusal_rate")]
    pub refusal_rate: u32,
    /// Milliseconds that a connection may send more costly frames than its identity's budget allows; 0: any time.
    #[serde(default = "flood_patience_ms")]
    pub flood_patience_ms: u32,
    /// How long who takes more than his share of the thread rests, as a multiple of each step, while others are at work.
    #[serde(default = "overwork_rest")]
    pub overwork_rest: u32,
    /// Sources that one identity makes guests', and identities that one source remembers.
    #[serde(default = "homes_per_identity")]
    pub homes_per_identity: u32,
    /// Bytes of all streams of a link that send much, which wait to be written.
    #[serde(default = "crowd_bytes")]
    pub crowd_bytes: u32,
    /// Bytes to a user that the system may hold beyond what is on its way; 0: as many as it likes.
    #[serde(default = "unsent_bytes")]
    pub unsent_bytes: u32,
    /// Resident bytes of which 80 and 95 % are the watermarks; 0: none.
    #[serde(default)]
    pub memory_bytes: u64,
}

const fn keepalive_timeout_ms() -> u32 {
    60_000
}
const fn stall_timeout_ms() -> u32 {
    10_000
}
const fn body_rate_floor() -> u32 {
    256
}
const fn streams_per_client() -> u32 {
    256
}
const fn reset_rate_per_client() -> u32 {
    50
}
const fn silence_ms() -> u32 {
    1500
}
const fn retry_percent() -> u32 {
    20
}
const fn retry_burst() -> u32 {
    50
}
const fn connections_per_identity() -> u32 {
    256
}
const fn frame_rate_per_identity() -> u32 {
    10_000
}
const fn handshake_rate_per_identity() -> u32 {
    5
}
const fn handshake_percent() -> u32 {
    20
}
const fn work_percent_per_identity() -> u32 {
    10
}
const fn stalled_per_identity() -> u32 {
    32
}
const fn spread_stream_window() -> u32 {
    4 << 20
}
const fn spread_session_window() -> u32 {
    8 << 20
}
const fn spread_streams() -> u32 {
    256
}
const fn spread_idle_ms() -> u32 {
    60_000
}
const fn spread_tolerated_percent() -> u32 {
    5
}
const fn refusal_rate() -> u32 {
    1000
}
const fn flood_patience_ms() -> u32 {
    5000
}
const fn overwork_rest() -> u32 {
    3
}
const fn homes_per_identity() -> u32 {
    16
}
const fn crowd_bytes() -> u32 {
    1 << 20
}
const fn unsent_bytes() -> u32 {
    256 * 1024
}
const fn head_bytes() -> u32 {
    16 * 1024
}
const fn head_fields() -> u32 {
    100
}
