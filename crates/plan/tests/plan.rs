//! Snapshots into tables: what is refused, who is admitted, where tunnels go.
#![allow(clippy::unwrap_used)]

use polder_plan::{Denied, Hop, Plan, Stage};
use polder_types::*;
use proptest::prelude::*;
use std::sync::Arc;

fn limits() -> Limits {
    Limits {
        tunnels_per_identity: 1,
        tunnel_rate_per_identity: 1,
        connections_per_source: 1,
        handshake_rate_per_source: 1,
        connections: 1,
        replay_bytes: 0,
        open_timeout_ms: 1,
        header_timeout_ms: 1,
        idle_timeout_ms: 1,
        stream_window: 65535,
        link_window: 65535,
        streams_per_link: 1,
        max_hops: 1,
        keepalive_timeout_ms: 1,
        stall_timeout_ms: 1,
        body_rate_floor: 0,
        streams_per_client: 1,
        reset_rate_per_client: 1,
        connections_per_identity: 1,
        frame_rate_per_identity: 1,
        handshake_rate_per_identity: 1,
        ..Limits::default()
    }
}

fn peer(name: &str) -> Peer {
    Peer { name: name.into(), ring_id: RingId(1), address: "192.0.2.1:7443".parse().unwrap(), warm: false }
}

fn site(name: &str, host: &str) -> Site {
    Site {
        name: name.into(),
        hosts: vec![host.into()],
        ports: vec![443],
        allow: vec![Rule::Group("staff".into())],
        deny: vec![Rule::User("eve".into())],
        mode: PathMode::Beacon,
        beacons: vec!["b1".into(), "b2".into(), "b1".into()],
        servlets: vec!["s1".into()],
        ring: vec![],
        tell: None,
    }
}

fn snapshot() -> Snapshot {
    Snapshot {
        schema: SCHEMA,
        version: 1,
        trust_domain: "o.test".into(),
        roots: vec![],
        identity: IdentityMaterial { chain: vec![], key: Default::default() },
        revocations: Revocations::default(),
        peers: ["b1", "b2", "s1", "s2", "h1", "h2"].map(peer).to_vec(),
        sites: vec![site("wiki", "Wiki.Test.")],
        beacons: vec![],
        servlets: vec![],
        limits: limits(),
        forwarder: None,
        shortcuts: false,
        tracing: None,
        cut: Vec::new(),
        told: None,
        spread: None,
    }
}

fn compile(snapshot: &Snapshot) -> Plan {
    Plan::compile(snapshot, "me").unwrap()
}

fn user(name: &str, groups: &[&str]) -> Identity {
    Identity {
        kind: Kind::User,
        name: name.into(),
        uri: format!("spiffe://o.test/user/{name}").into(),
        ring_id: None,
        groups: groups.iter().map(|g| Arc::from(*g)).collect(),
        key_hash: [0; 32],
        issuer: None,
        not_after: i64::MAX,
    }
}

/// `peer stage` of every candidate; `deliver` where it leaves the overlay.
fn route(plan: &Plan, stage: Stage) -> Vec<String> {
    route_from(plan, stage, None)
}

fn route_from(plan: &Plan, stage: Stage, from: Option<&str>) -> Vec<String> {
    let hops = plan.site("wiki").unwrap().route(stage, 0, from);
    let text = |hop: &Hop| match hop {
        Hop::Deliver => "deliver".to_owned(),
        Hop::Next(peer, stage) => format!("{} {stage}", peer.name),
    };
    hops.iter().map(text).collect()
}

#[test]
fn junk_is_refused_by_field() {
    type Break = fn(&mut Snapshot);
    let cases: [(&str, Break); 12] = [
        ("schema", |s| s.schema = 99),
        ("limits.max_hops", |s| s.limits.max_hops = 0),
        ("limits.idle_timeout_ms", |s| s.limits.idle_timeout_ms = 0),
        ("limits.stream_window", |s| s.limits.stream_window = 65534),
        ("limits.link_window", |s| s.limits.link_window = 0x8000_0000),
        ("peers[1].name", |s| s.peers[1].name = "".into()),
        ("peers[1].name", |s| s.peers[1].name = "b1".into()),
        ("peers[2].address", |s| s.peers[2].address = "0.0.0.0:1".parse().unwrap()),
        ("peers[2].address", |s| s.peers[2].address = "192.0.2.1:0".parse().unwrap()),
        ("sites[1].name", |s| s.sites.push(site("wiki", "b.test"))),
        ("sites[0].ports", |s| s.sites[0].ports = vec![443, 0]),
        ("sites[0].ring[1].key", |s| {
            let route = RingRoute { key: 2, next: None, alternatives: vec![] };
            s.sites[0].ring = vec![route.clone(), route];
        }),
    ];
    for (field, spoil) in cases {
        let mut snapshot = snapshot();
        spoil(&mut snapshot);
        assert_eq!(Plan::compile(&snapshot, "me").unwrap_err().field, field);
    }
}

#[test]
fn one_sites_bad_names_do_not_stop_the_others() {
    let mut snapshot = snapshot();
    for host in ["127.0.0.1", "[::1]", "localhost", "a.localhost", "0x7f.1", "1.2", "a b", "", "127.1"] {
        snapshot.sites[0].hosts.push(host.into());
    }
    snapshot.sites.push(site("thief", "wiki.test"));
    snapshot.sites.push(site("other", "other.test"));
    snapshot.sites[2].beacons.push("unknown".into());
    let plan = compile(&snapshot);
    assert_eq!(plan.warnings.len(), 11, "{:?}", plan.warnings);
    assert_eq!(&*plan.find("wiki.test", 443).unwrap().name, "wiki", "first come, first served");
    assert_eq!(&*plan.find("other.test", 443).unwrap().name, "other");
    for host in ["127.0.0.1", "[::1]", "::1", "localhost", "a.localhost", "0x7f.1", "127.1"] {
        assert!(plan.find(host, 443).is_none(), "{host}");
    }
}

#[test]
fn admission_is_by_name_port_rule_and_freshness() {
    let mut snapshot = snapshot();
    snapshot.revocations.fresh_until = Some(100);
    let plan = compile(&snapshot);
    let staff = user("ann", &["guests", "staff"]);
    let admit = |who: &Identity, host, port, now| plan.admit(who, host, port, now).map(|site| site.name.to_string());
    assert_eq!(admit(&staff, "wiki.test", 443, 100), Ok("wiki".into()));
    assert_eq!(admit(&staff, "wiki.test", 443, 101), Err(Denied::Stale));
    assert_eq!(admit(&staff, "wiki.test", 80, 0), Err(Denied::Unregistered));
    assert_eq!(admit(&staff, "evil.wiki.test", 443, 0), Err(Denied::Unregistered));
    assert_eq!(admit(&user("ann", &[]), "wiki.test", 443, 0), Err(Denied::Rules));
    assert_eq!(admit(&user("eve", &["staff"]), "wiki.test", 443, 0), Err(Denied::Rules));
    for kind in [Kind::Node, Kind::Site, Kind::Admin] {
        assert_eq!(admit(&Identity { kind, ..staff.clone() }, "wiki.test", 443, 0), Err(Denied::Kind));
    }
}

#[test]
fn a_group_may_be_denied_and_everybody_allowed() {
    let mut snapshot = snapshot();
    snapshot.sites[0].allow = vec![Rule::Anyone];
    snapshot.sites[0].deny = vec![Rule::Group("banned".into())];
    let plan = compile(&snapshot);
    let site = plan.site("wiki").unwrap();
    assert!(site.admits(&user("x", &[])));
    assert!(!site.admits(&user("x", &["a", "banned"])));
    snapshot.sites[0].allow.clear();
    assert!(!compile(&snapshot).site("wiki").unwrap().admits(&user("x", &[])), "default deny");
}

#[test]
fn the_roles_of_a_node_decide_the_next_step() {
    let mut snapshot = snapshot();
    assert_eq!(route(&compile(&snapshot), Stage::Entry), ["b1 beacon", "b2 beacon"]);
    assert_eq!(route(&compile(&snapshot), Stage::Beacon), [""; 0], "no beacon: nothing is guessed");
    assert_eq!(route(&compile(&snapshot), Stage::Servlet), [""; 0]);
    snapshot.sites[0].mode = PathMode::Direct;
    assert_eq!(route(&compile(&snapshot), Stage::Entry), ["s1 servlet", "b1 beacon", "b2 beacon"]);
    snapshot.beacons = vec![BeaconEntry { site: "wiki".into(), servlets: vec!["s2".into(), "me".into()] }];
    snapshot.shortcuts = true; // the paper's order: am I a servlet, am I a beacon, else go on
    assert_eq!(route(&compile(&snapshot), Stage::Beacon), ["s2 servlet"], "a hop to oneself is no hop");
    assert_eq!(route(&compile(&snapshot), Stage::Entry), ["s2 servlet", "s1 servlet", "b1 beacon", "b2 beacon"]);
    snapshot.servlets = vec![ServletEntry { site: "wiki".into(), delivery: Delivery::DialOut }];
    assert_eq!(route(&compile(&snapshot), Stage::Servlet), ["deliver"]);
    assert_eq!(route(&compile(&snapshot), Stage::Beacon), ["deliver", "s2 servlet"]);
}

/// A node that serves a site takes as many hops to it as one that does not (trap 10).
#[test]
fn a_node_passes_over_itself_while_another_can_play_the_role() {
    let mut snapshot = snapshot();
    snapshot.beacons = vec![BeaconEntry { site: "wiki".into(), servlets: vec!["s2".into(), "s1".into(), "me".into()] }];
    snapshot.servlets = vec![ServletEntry { site: "wiki".into(), delivery: Delivery::DialOut }];
    let ways: [(PathMode, &[&str]); 3] = [
        (PathMode::Beacon, &["b1 beacon", "b2 beacon", "s2 servlet", "s1 servlet", "deliver"]),
        (PathMode::Direct, &["s1 servlet", "s2 servlet", "b1 beacon", "b2 beacon", "deliver"]),
        (PathMode::Ring, &["s2 servlet", "s1 servlet", "deliver"]), // alone: no route on the ring is known
    ];
    for (mode, way) in ways {
        snapshot.sites[0].mode = mode;
        let plan = compile(&snapshot);
        assert_eq!(route(&plan, Stage::Entry), way, "{mode:?}");
        assert_eq!(route(&plan, Stage::Beacon), ["s2 servlet", "s1 servlet", "deliver"]);
        assert_eq!(route_from(&plan, Stage::Beacon, Some("s2")), ["s1 servlet", "s2 servlet", "deliver"], "not back first");
        assert_eq!(route(&plan, Stage::Servlet), ["deliver"]);
    }
}

#[test]
fn the_ring_is_followed_key_by_key_and_ends_at_the_owner() {
    let mut snapshot = snapshot();
    let hop = |key, next: &str, alternatives: &[&str]| RingRoute {
        key,
        next: Some(next.into()),
        alternatives: alternatives.iter().map(|a| Arc::from(*a)).collect(),
    };
    snapshot.sites[0].mode = PathMode::Ring;
    snapshot.sites[0].ring =
        vec![hop(0, "h1", &["h2", "gone", "h1"]), RingRoute { key: 1, next: None, alternatives: vec![] }, hop(2, "h2", &[])];
    let plan = compile(&snapshot);
    assert_eq!(route(&plan, Stage::Ring(0)), ["h1 ring;k=0", "h2 ring;k=0"]);
    assert_eq!(route(&plan, Stage::Ring(1)), [""; 0], "its owner, but no advertisement has come");
    assert_eq!(route(&plan, Stage::Ring(7)), [""; 0]);
    assert_eq!(route(&plan, Stage::Entry), ["h1 ring;k=0", "h2 ring;k=0", "h2 ring;k=2"]);
    let turned = plan.site("wiki").unwrap().route(Stage::Entry, 2, None);
    assert!(matches!(&turned[0], Hop::Next(peer, Stage::Ring(2)) if &*peer.name == "h2"), "keys take turns");
    snapshot.beacons = vec![BeaconEntry { site: "wiki".into(), servlets: vec!["s2".into()] }];
    assert_eq!(route(&compile(&snapshot), Stage::Ring(1)), ["s2 servlet"]);
}

/// Links from `entry` to the site, if every first candidate answers.
fn links_from(plans: &[Plan], entry: usize) -> usize {
    let (mut at, mut stage, mut from, mut links) = (entry, Stage::Entry, None, 0);
    loop {
        match &plans[at].site("wiki").unwrap().route(stage, 0, from.as_deref())[0] {
            Hop::Deliver => return links,
            Hop::Next(peer, next) => {
                from = Some(format!("n{at}"));
                at = peer.name[1..].parse().unwrap();
                stage = *next;
                links += 1;
            }
        }
    }
}

proptest! {
    #[test]
    fn stages_survive_the_wire_and_nothing_else_does(key in any::<u8>(), text in "\\PC{0,16}") {
        for stage in [Stage::Ring(key), Stage::Beacon, Stage::Servlet] {
            prop_assert_eq!(stage.to_string().parse::<Stage>(), Ok(stage));
        }
        if let Ok(stage) = text.parse::<Stage>() {
            prop_assert_eq!(stage.to_string(), text);
        }
        prop_assert!("entry".parse::<Stage>().is_err(), "a peer cannot pose as a user's request");
    }

    /// Wherever a tunnel begins, it crosses as many links: roles do not show in its time (`docs/design/masking.md`).
    #[test]
    fn a_tunnel_is_as_long_wherever_it_begins(
        beacons in proptest::sample::subsequence((0..8usize).collect::<Vec<_>>(), 2..=3).prop_shuffle(),
        servlets in proptest::sample::subsequence((0..8usize).collect::<Vec<_>>(), 2..=4).prop_shuffle(),
        direct: bool, shortcuts: bool,
    ) {
        let name = |n: usize| format!("n{n}");
        let names = |of: &[usize]| of.iter().map(|n| Arc::from(name(*n))).collect::<Vec<Arc<str>>>();
        let plans: Vec<Plan> = (0..8).map(|me| {
            let mut snapshot = snapshot();
            snapshot.shortcuts = shortcuts;
            snapshot.peers = (0..8).map(|n| peer(&name(n))).collect();
            snapshot.sites[0].mode = if direct { PathMode::Direct } else { PathMode::Beacon };
            snapshot.sites[0].beacons = names(&beacons);
            snapshot.sites[0].servlets = if direct && !beacons.contains(&me) { names(&servlets) } else { vec![] };
            if beacons.contains(&me) {
                snapshot.beacons = vec![BeaconEntry { site: "wiki".into(), servlets: names(&servlets) }];
            }
            if servlets.contains(&me) {
                snapshot.servlets = vec![ServletEntry { site: "wiki".into(), delivery: Delivery::DialOut }];
            }
            Plan::compile(&snapshot, &name(me)).unwrap()
        }).collect();
        let lengths: Vec<usize> = (0..8).map(|entry| links_from(&plans, entry)).collect();
        let usual = if direct { 1 } else { 2 };
        if shortcuts {
            prop_assert!(servlets.iter().all(|servlet| lengths[*servlet] == 0), "the paper's order shows servlets: {lengths:?}");
        } else {
            prop_assert_eq!(lengths, vec![usual; 8]);
        }
    }

    /// Whatever is asked for, only registered names on registered ports are found.
    #[test]
    fn only_registered_names_are_found(host in "[a-z0-9.:\\[\\]-]{0,20}", port in any::<u16>()) {
        let plan = compile(&snapshot());
        let found = plan.find(&host, port).is_some();
        prop_assert_eq!(found, host == "wiki.test" && port == 443);
    }
}
