//! Downloads over real sockets and real relays, while relays, keys, lists and addresses change.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{World, fetch, wire};
use polder_spread::SpreadConfig;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const SIZE: u64 = 24 << 20;
const LIMIT: Duration = Duration::from_secs(120);

fn half_again() -> SpreadConfig {
    SpreadConfig { copies: 0.5, ..SpreadConfig::default() }
}

/// Something that happens when such a share has come.
type Change<'a> = (f64, Box<dyn FnMut() + Send + 'a>);

/// Downloads [`SIZE`] and makes each change when its share has come.
async fn through(connection: &polder_quic::Connection, changes: &mut [Change<'_>]) {
    let mut next = 0;
    let work = fetch(connection, SIZE, |had| {
        while next < changes.len() && had as f64 >= changes[next].0 * SIZE as f64 {
            (changes[next].1)();
            next += 1;
        }
    });
    tokio::time::timeout(LIMIT, work).await.expect("in time").expect("whole");
    assert_eq!(next, changes.len(), "every change was made meanwhile");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_uses_all_relays_and_learns_what_they_carry() {
    let mut world = World::new(8).await;
    let end = world.forwarder(wire(), half_again());
    let connection = world.connect(&end).await;
    through(&connection, &mut []).await;
    // Lengths are measured beside the download, which may be over sooner; and a relay may be suspect at the moment when it ends.
    let measured = async {
        while end.paths().iter().any(|path| path.received == 0 || path.mtu < 1472) {
            fetch(&connection, 1 << 16, |_| ()).await.unwrap();
        }
    };
    tokio::time::timeout(LIMIT, measured).await.unwrap_or_else(|_| panic!("{:?}", end.paths()));
    let paths = end.paths();
    assert_eq!(paths.len(), 8);
    assert!(paths.iter().map(|path| path.duplicates).sum::<u32>() > 0, "copies came, and were dropped: {paths:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_of_the_relays_die_without_notice() {
    let mut world = World::new(8).await;
    let end = world.forwarder(wire(), half_again());
    let connection = world.connect(&end).await;
    // The servlet's own relay is among those that live: with it the servlet would be gone.
    let kill: Vec<_> = world.nodes[4..].iter().map(|node| node.dead.clone()).collect();
    let die = || kill.iter().for_each(|dead| dead.store(true, Relaxed));
    through(&connection, &mut [(0.3, Box::new(die))]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_relays_another_epoch_and_another_list() {
    let mut world = World::new(8).await;
    let end = world.forwarder(wire(), half_again());
    let connection = world.connect(&end).await;
    fetch(&connection, SIZE / 4, |_| ()).await.unwrap();
    (2..5).for_each(|at| world.restart(at));
    fetch(&connection, SIZE / 4, |_| ()).await.unwrap();
    // Another epoch: both are taken for the grace, the session goes on under a ticket of the new one, then the old one ends.
    world.set_epochs(&[7, 8]);
    let (ticket, hosted) = world.ticket();
    let address = first_session();
    world.servlet().renew(address, &hosted).unwrap();
    end.renew(&ticket).unwrap();
    fetch(&connection, SIZE / 4, |_| ()).await.unwrap();
    world.set_epochs(&[8]);
    fetch(&connection, SIZE / 4, |_| ()).await.unwrap();
    // Another list: two relays leave.
    world.set_members(&[0, 1, 2, 3, 4, 5]);
    end.set_members(&world.members);
    fetch(&connection, SIZE / 4, |_| ()).await.unwrap();
}

/// What stands for the world's first session: tickets are numbered.
fn first_session() -> std::net::SocketAddr {
    let mut bytes = [1; 16];
    bytes[0] = 0xFD;
    std::net::SocketAddr::new(std::net::Ipv6Addr::from(bytes).into(), 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_users_address_changes() {
    let mut world = World::new(8).await;
    let roaming = common::roaming();
    let end = world.forwarder_over(roaming.clone(), half_again());
    let connection = world.connect(&end).await;
    let (first, second) = (roaming.clone(), roaming.clone());
    through(&connection, &mut [(0.3, Box::new(move || first.roam())), (0.6, Box::new(move || second.roam()))]).await;
}

#[tokio::test]
async fn a_detour_ends_with_its_session_and_when_another_takes_its_place() {
    let mut world = World::new(2).await;
    let (_, hosted) = world.ticket();
    let servlet = world.servlet();
    let address = servlet.host(&hosted, world.members.clone(), 1).unwrap();
    let mut first = servlet.attach(address).unwrap();
    let mut second = servlet.attach(address).unwrap();
    assert!(tokio::time::timeout(LIMIT, first.next()).await.expect("in time").is_none());
    servlet.forget(address);
    assert!(tokio::time::timeout(LIMIT, second.next()).await.expect("in time").is_none());
    assert!(servlet.attach(address).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_ticket_gets_no_answer() {
    let mut world = World::new(4).await;
    let (ticket, _) = world.ticket();
    let counters = std::sync::Arc::new(polder_quic::Counters::default());
    let clock = polder_quic::Clock::system();
    let members = world.members.clone();
    let end = polder_quic::ForwarderEnd::new(&ticket, members, half_again(), wire(), clock, counters, 6).unwrap();
    let tls = world.client();
    let limits = polder_quic::Limits { idle: Duration::from_secs(1), ..Default::default() };
    let answer = tokio::time::timeout(LIMIT, end.connect(tls, &limits)).await.expect("in time");
    assert!(answer.is_err(), "nobody expected this session");
}
