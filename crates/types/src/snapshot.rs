//! The data-plane snapshot: every decision that the control plane has taken, immutable, swapped whole.

use crate::{Limits, PeerName, RingId, SiteName};
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
