//! Snapshot → tables.

use polder_types::{
    Delivery, Forwarder, Limits, PathMode, Peer, PeerName, RingRoute, Rule, SCHEMA, Site, SiteName, Snapshot, Tell, Told, Tracing,
};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// A snapshot that cannot be put in force.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct PlanError {
    /// The field, with indices, e.g. `sites[2].ports`.
    pub field: String,
    /// What is wrong with it.
    pub why: String,
}

fn bad<T>(field: impl Into<String>, why: impl Into<String>) -> Result<T, PlanError> {
    Err(PlanError { field: field.into(), why: why.into() })
}

/// One site, with everything that this node knows about it.
#[derive(Debug)]
pub struct SitePlan {
    /// Its name.
    pub name: SiteName,
    pub(crate) ports: Vec<u16>,
    pub(crate) allow: Vec<Rule>,
    pub(crate) deny: Vec<Rule>,
    pub(crate) mode: PathMode,
    pub(crate) shortcuts: bool,
    pub(crate) beacons: Vec<Arc<Peer>>,
    pub(crate) servlets: Vec<Arc<Peer>>,
    pub(crate) ring: Vec<Ring>,
    /// Its servlets, if this node is one of its beacons.
    pub(crate) beacon: Option<Vec<Arc<Peer>>>,
    /// How bytes reach it, if this node is one of its servlets.
    pub delivery: Option<Delivery>,
    /// Whether it asks who its users are.
    pub tell: Option<Tell>,
}

#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) key: u8,
    pub(crate) owner: bool,
    pub(crate) hops: Vec<Arc<Peer>>,
}

/// A snapshot compiled for look-up.
#[derive(Debug)]
pub struct Plan {
    /// Version of the snapshot.
    pub version: u64,
    /// Bounds.
    pub limits: Limits,
    /// Set in a user's forwarder only.
    pub forwarder: Option<Forwarder>,
    /// Set where openings of tunnels are traced.
    pub tracing: Option<Tracing>,
    /// Site role: servlets whose streams end at once.
    pub cut: Vec<Arc<str>>,
    /// Site role: how the origin is told who its users are.
    pub told: Option<Told>,
    /// After this Unix time nothing new is admitted or relayed.
    pub fresh_until: Option<i64>,
    /// What was left out and why, for the operator: the rest of the snapshot is in force.
    pub warnings: Vec<String>,
    peers: HashMap<PeerName, Arc<Peer>>,
    addresses: HashSet<IpAddr>,
    sites: HashMap<SiteName, Arc<SitePlan>>,
    pub(crate) hosts: HashMap<Arc<str>, Arc<SitePlan>>,
}

impl Plan {
    /// Compiles `snapshot` for the process named `me`. Malformed fields refuse the whole snapshot, and the error names the
    /// field. A reference to a peer that the snapshot does not list, and a host name that another site had first or that is
    /// an address, are left out and reported in `warnings`: one site's record must not stop the others.
    pub fn compile(snapshot: &Snapshot, me: &str) -> Result<Plan, PlanError> {
        if snapshot.schema != SCHEMA {
            return bad(
                "schema",
                format!("{} is not {SCHEMA}: control and data plane are of different releases", snapshot.schema),
            );
        }
        check_limits(&snapshot.limits)?;
        let peers = peers(&snapshot.peers)?;
        let mut compiler = Compiler { peers: &peers, me, shortcuts: snapshot.shortcuts, warnings: Vec::new() };
        let mut sites = HashMap::with_capacity(snapshot.sites.len());
        for (index, site) in snapshot.sites.iter().enumerate() {
            let plan = compiler.site(&format!("sites[{index}]"), site)?;
            if sites.insert(site.name.clone(), plan).is_some() {
                return bad(format!("sites[{index}].name"), "appears twice");
            }
        }
        for (index, entry) in snapshot.beacons.iter().enumerate() {
            let servlets = compiler.known(&format!("beacons[{index}].servlets"), &entry.servlets);
            match sites.get_mut(&entry.site) {
                Some(site) => site.beacon = Some(servlets),
                None => compiler.warnings.push(format!("beacons[{index}].site: no such site")),
            }
        }
        for (index, entry) in snapshot.servlets.iter().enumerate() {
            match sites.get_mut(&entry.site) {
                Some(site) => site.delivery = Some(entry.delivery.clone()),
                None => compiler.warnings.push(format!("servlets[{index}].site: no such site")),
            }
        }
        let sites: HashMap<_, _> = sites.into_iter().map(|(name, site)| (name, Arc::new(site))).collect();
        let hosts = compiler.hosts(&snapshot.sites, &sites);
        let warnings = compiler.warnings;
        Ok(Plan {
            version: snapshot.version,
            limits: snapshot.limits.clone(),
            forwarder: snapshot.forwarder.clone(),
            tracing: snapshot.tracing.clone(),
            cut: snapshot.cut.clone(),
            told: snapshot.told.clone(),
            fresh_until: snapshot.revocations.fresh_until,
            warnings,
            addresses: peers.values().map(|peer| peer.address.ip()).collect(),
            peers,
            sites,
            hosts,
        })
    }

    /// A site by name.
    pub fn site(&self, name: &str) -> Option<&Arc<SitePlan>> {
        self.sites.get(name)
    }

    /// A peer by name.
    pub fn peer(&self, name: &str) -> Option<&Arc<Peer>> {
        self.peers.get(name)
    }

    /// Whether some peer lives at this address.
    pub fn is_home_of_a_peer(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// Every peer.
    pub fn peers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.peers.values()
    }
}

/// Zero would stop the plane or divide by it; each field is named as its knob.
fn check_limits(limits: &Limits) -> Result<(), PlanError> {
    let fields = [
        ("tunnels_per_identity", limits.tunnels_per_identity),
        ("tunnel_rate_per_identity", limits.tunnel_rate_per_identity),
        ("connections_per_source", limits.connections_per_source),
        ("handshake_rate_per_source", limits.handshake_rate_per_source),
        ("connections", limits.connections),
        ("open_timeout_ms", limits.open_timeout_ms),
        ("header_timeout_ms", limits.header_timeout_ms),
        ("idle_timeout_ms", limits.idle_timeout_ms),
        ("streams_per_link", limits.streams_per_link),
        ("max_hops", u32::from(limits.max_hops)),
        ("silence_ms", limits.silence_ms),
        ("connections_per_identity", limits.connections_per_identity),
        ("frame_rate_per_identity", limits.frame_rate_per_identity),
        ("handshake_rate_per_identity", limits.handshake_rate_per_identity),
        ("handshake_percent", limits.handshake_percent),
        ("work_percent_per_identity", limits.work_percent_per_identity),
        ("head_bytes", limits.head_bytes),
        ("head_fields", limits.head_fields),
        ("homes_per_identity", limits.homes_per_identity),
        ("crowd_bytes", limits.crowd_bytes),
    ];
    for (name, value) in fields {
        if value == 0 {
            return bad(format!("limits.{name}"), "must not be 0");
        }
    }
    // RFC 9113 §6.9.1: a window is at most 2^31 - 1; below 64 KiB - 1 the initial one could not be granted.
    for (name, value) in [("stream_window", limits.stream_window), ("link_window", limits.link_window)] {
        if !(65_535..=0x7fff_ffff).contains(&value) {
            return bad(format!("limits.{name}"), "must lie between 65535 and 2147483647");
        }
    }
    Ok(())
}

fn peers(list: &[Peer]) -> Result<HashMap<PeerName, Arc<Peer>>, PlanError> {
    let mut peers = HashMap::with_capacity(list.len());
    for (index, peer) in list.iter().enumerate() {
        if peer.name.is_empty() {
            return bad(format!("peers[{index}].name"), "is empty");
        }
        if peer.address.port() == 0 || peer.address.ip().is_unspecified() || peer.address.ip().is_multicast() {
            return bad(format!("peers[{index}].address"), format!("{} cannot be dialled", peer.address));
        }
        if peers.insert(peer.name.clone(), Arc::new(peer.clone())).is_some() {
            return bad(format!("peers[{index}].name"), format!("{} appears twice", peer.name));
        }
    }
    Ok(peers)
}

struct Compiler<'a> {
    peers: &'a HashMap<PeerName, Arc<Peer>>,
    me: &'a str,
    shortcuts: bool,
    warnings: Vec<String>,
}

impl Compiler<'_> {
    /// The peers of those names, without repetitions and without this node, for a hop to oneself is no hop.
    fn known(&mut self, field: &str, names: &[PeerName]) -> Vec<Arc<Peer>> {
        let mut found: Vec<Arc<Peer>> = Vec::with_capacity(names.len());
        for name in names.iter().filter(|name| &***name != self.me) {
            match self.peers.get(name) {
                Some(peer) if found.iter().all(|p| p.name != peer.name) => found.push(peer.clone()),
                Some(_) => {}
                None => self.warnings.push(format!("{field}: {name} is not among the peers")),
            }
        }
        found
    }

    fn site(&mut self, field: &str, site: &Site) -> Result<SitePlan, PlanError> {
        if site.name.is_empty() {
            return bad(format!("{field}.name"), "is empty");
        }
        if site.ports.contains(&0) {
            return bad(format!("{field}.ports"), "0 is no port");
        }
        let mut ring: Vec<Ring> = Vec::with_capacity(site.ring.len());
        for (index, route) in site.ring.iter().enumerate() {
            if ring.iter().any(|r| r.key == route.key) {
                return bad(format!("{field}.ring[{index}].key"), "appears twice");
            }
            ring.push(self.ring(&format!("{field}.ring[{index}]"), route));
        }
        Ok(SitePlan {
            name: site.name.clone(),
            ports: site.ports.clone(),
            allow: site.allow.clone(),
            deny: site.deny.clone(),
            mode: site.mode,
            shortcuts: self.shortcuts,
            beacons: self.known(&format!("{field}.beacons"), &site.beacons),
            servlets: self.known(&format!("{field}.servlets"), &site.servlets),
            ring,
            beacon: None,
            delivery: None,
            tell: site.tell.clone(),
        })
    }

    fn ring(&mut self, field: &str, route: &RingRoute) -> Ring {
        let owner = route.next.as_deref().is_none_or(|next| next == self.me);
        let names: Vec<PeerName> = route.next.iter().chain(&route.alternatives).cloned().collect();
        Ring { key: route.key, owner, hops: if owner { Vec::new() } else { self.known(field, &names) } }
    }

    fn hosts(&mut self, list: &[Site], sites: &HashMap<SiteName, Arc<SitePlan>>) -> HashMap<Arc<str>, Arc<SitePlan>> {
        let mut hosts: HashMap<Arc<str>, Arc<SitePlan>> = HashMap::new();
        for (index, site) in list.iter().enumerate() {
            for host in &site.hosts {
                let name: Arc<str> = host.to_ascii_lowercase().trim_end_matches('.').into();
                if let Some(why) = unfit(&name) {
                    self.warnings.push(format!("sites[{index}].hosts: {host} {why}"));
                } else if let Some(first) = hosts.get(&name).filter(|first| first.name != site.name) {
                    self.warnings.push(format!("sites[{index}].hosts: {host} belongs to site {} already", first.name));
                } else if let Some(plan) = sites.get(&site.name) {
                    hosts.insert(name, plan.clone());
                }
            }
        }
        hosts
    }
}

/// Why a name may not be a site's host. Addresses and loopback names are never registered: asking for one is a probe.
fn unfit(host: &str) -> Option<&'static str> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<IpAddr>().is_ok() {
        return Some("is an address; register a name");
    }
    if host == "localhost" || host.ends_with(".localhost") {
        return Some("is every machine's own name");
    }
    let good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_');
    if host.is_empty() || host.len() > 253 || !host.bytes().all(good) {
        return Some("is no host name");
    }
    // The WHATWG URL parser reads a name whose last label is a number as an IPv4 address.
    if host.rsplit('.').next().is_some_and(|last| last.bytes().all(|c| c.is_ascii_digit()) || last.starts_with("0x")) {
        return Some("would be read as an address; register a name");
    }
    None
}
