//! What `status` tells.

use polder_http::link::Lane;
use polder_http::plane::Plane;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Serialize)]
struct Status {
    version: u64,
    identity: String,
    not_after: i64,
    tunnels: u64,
    /// What a drain would wait for.
    work: u64,
    connections: u64,
    dialouts: Vec<String>,
    carried: BTreeMap<String, u64>,
    links: Vec<Link>,
}

#[derive(Serialize)]
struct Link {
    name: String,
    address: String,
    lane: &'static str,
    up: bool,
    rtt_us: u64,
}

pub(crate) fn encode(plane: &Plane, tunnels: u64, work: u64) -> Vec<u8> {
    let world = plane.world();
    let me = world.as_ref().map(|world| world.tls.me());
    let lane = |lane| match lane {
        Lane::Bulk => "bulk",
        Lane::Control => "control",
        Lane::DialOut => "dialout",
    };
    polder_types::encode(&Status {
        version: world.as_ref().map_or(0, |world| world.plan.version),
        identity: me.map(|me| me.uri.to_string()).unwrap_or_default(),
        not_after: me.map_or(0, |me| me.not_after),
        tunnels,
        work,
        connections: plane.counters.connections_open.get(),
        dialouts: plane.dialled_out().iter().map(ToString::to_string).collect(),
        carried: plane.carried.streams(),
        links: plane
            .links
            .status()
            .into_iter()
            .map(|link| Link {
                name: link.name,
                address: link.address.to_string(),
                lane: lane(link.lane),
                up: link.up,
                rtt_us: link.rtt_us,
            })
            .collect(),
    })
}
