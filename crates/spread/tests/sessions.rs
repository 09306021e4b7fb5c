//! Both ends and the relays over a network in memory.

mod net;

use net::*;
use polder_spread::*;
use std::time::Duration;

#[test]
fn datagrams_cross_once_each_over_every_relay() {
    let mut net = Net::new(8, &SpreadConfig { copies: 0.5, ..SpreadConfig::default() }, 1);
    net.talk(0, 400, ms(1), 1200);
    net.run(net.now + ms(100));
    let there = Net::numbers(&net.at_servlet);
    assert_eq!((there.len(), Net::distinct(&net.at_servlet)), (400, 400));
    assert_eq!(net.refused, Default::default());
    assert!(net.counters.iter().all(|relay| relay.out_packets.get() > 20), "every relay carries");
    let tallies = net.user.tallies();
    assert_eq!(tallies.copies, 200, "every second packet twice: {tallies:?}");
    // replies go only where the user was heard from
    assert!(net.at_user.len() >= 380 && Net::distinct(&net.at_user) == net.at_user.len());
}

#[test]
fn two_hundred_percent_are_two_extra_copies() {
    let mut net = Net::new(8, &SpreadConfig { copies: 2.0, naive: true, ..SpreadConfig::default() }, 2);
    net.talk(0, 100, ms(1), 1200);
    net.run(net.now + ms(100));
    assert_eq!(net.user.tallies().copies, 200);
    let user = net.user.tallies();
    assert_eq!(user.packets, 300 + user.control);
    // feedback goes over two relays
    assert_eq!(net.servlet.tallies().duplicates, 200 + user.control / 2);
    assert_eq!(Net::distinct(&net.at_servlet), 100);
}

#[test]
fn dead_relays_are_left_within_two_round_trips() {
    let mut net = Net::new(8, &SpreadConfig::default(), 3);
    net.talk(0, 200, ms(1), 1200);
    let rtt = ms(20);
    net.ways.iter_mut().take(4).for_each(|way| way.dead = true);
    let died = net.now;
    net.talk(200, 400, ms(1), 1200);
    net.run(net.now + ms(200));
    let there: std::collections::HashSet<u64> = Net::numbers(&net.at_servlet).into_iter().collect();
    let lost: Vec<u64> = (200..600).filter(|n| !there.contains(n)).collect();
    assert!(!lost.is_empty());
    let last = died + ms(1) * (lost[lost.len() - 1] - 200) as u32;
    assert!(last.since(died) <= 2 * rtt + ms(5), "the last datagram was lost {:?} after: {lost:?}", last.since(died));
    let suspects = net.user.paths(net.now).iter().filter(|path| path.state == State::Suspect).count();
    assert_eq!(suspects, 4);
}

#[test]
fn relays_that_come_back_are_used_again() {
    let mut net = Net::new(8, &SpreadConfig::default(), 4);
    net.talk(0, 100, ms(1), 1200);
    net.ways[2].dead = true;
    net.talk(100, 300, ms(1), 1200);
    let relay = address(2);
    let path = |net: &Net| net.user.paths(net.now).into_iter().find(|path| path.address == relay).unwrap();
    assert_eq!(path(&net).state, State::Suspect);
    net.ways[2].dead = false;
    net.talk(400, 2000, ms(1), 1200);
    assert_eq!(path(&net).state, State::Live);
    assert!(path(&net).weight > 0.05, "{:?}", path(&net));
}

#[test]
fn slow_relays_carry_little() {
    let mut net = Net::new(8, &SpreadConfig::default(), 5);
    net.ways[0].delay = ms(80);
    net.ways[1].delay = ms(40);
    net.talk(0, 1000, ms(1), 1200);
    let carried: Vec<u64> = net.counters.iter().map(|relay| relay.out_packets.get()).collect();
    assert!(carried[0] < 80 && carried[1] < 80, "{carried:?}");
    assert!(carried[2..].iter().all(|&packets| packets > 100), "{carried:?}");
}

#[test]
fn loss_moves_weight() {
    let mut net = Net::new(8, &SpreadConfig::default(), 6);
    net.ways[0].loss = 0.4;
    net.talk(0, 3000, ms(1), 1200);
    let carried: Vec<u64> = net.counters.iter().map(|relay| relay.out_packets.get()).collect();
    assert!(carried[0] < carried[1..].iter().min().unwrap() / 2, "{carried:?}");
}

#[test]
fn repairs_bring_back_what_dead_relays_took() {
    let fec = Some(Fec { sources: 8, repairs: 8 });
    let config = SpreadConfig { fec, naive: true, run: RunLength::Fixed(1), ..SpreadConfig::default() };
    let mut net = Net::new(16, &config, 7);
    net.ways.iter_mut().take(4).for_each(|way| way.dead = true);
    for n in 0..100u64 {
        let datagrams: Vec<u8> = (0..8).flat_map(|k| [&(n * 8 + k).to_be_bytes()[..], &[7; 992]].concat()).collect();
        net.user_sends(&datagrams, 1000);
        net.run(net.now + ms(5));
    }
    net.run(net.now + ms(100));
    let there = Net::distinct(&net.at_servlet);
    assert_eq!(there, net.at_servlet.len());
    // of 16 packets a quarter is lost at random: more than 8 of them in 0.8 % of the groups
    assert!(there >= 780, "{there} of 800 with {:?}", net.servlet.tallies());
    assert!(net.servlet.tallies().recovered > 100);
}

#[test]
fn a_dial_that_is_set_again_leaves_repairs_of_use() {
    let fec = |sources| Some(Fec { sources, repairs: 8 });
    let config = SpreadConfig { fec: fec(8), naive: true, run: RunLength::Fixed(1), ..SpreadConfig::default() };
    let mut net = Net::new(16, &config, 7);
    net.ways.iter_mut().take(4).for_each(|way| way.dead = true);
    for sources in [8, 8, 4, 8] {
        net.user.set_redundancy(0.0, fec(sources));
        let before = (net.servlet.tallies().recovered, net.at_servlet.len());
        for _ in 0..20 {
            net.user_sends(&[7; 8000], 1000);
            net.run(net.now + ms(5));
        }
        net.run(net.now + ms(100));
        let (regained, came) = (net.servlet.tallies().recovered - before.0, net.at_servlet.len() - before.1);
        assert!(regained > 20 && came >= 150, "{regained} regained, {came} of 160 came");
    }
}

#[test]
fn reordering_costs_nothing() {
    let mut net = Net::new(8, &SpreadConfig { copies: 1.0, ..SpreadConfig::default() }, 8);
    net.ways.iter_mut().for_each(|way| way.jitter = ms(60));
    net.talk(0, 500, ms(1), 1200);
    net.run(net.now + ms(300));
    assert_eq!((net.at_servlet.len(), Net::distinct(&net.at_servlet)), (500, 500));
}

#[test]
fn a_user_who_moves_is_found_again() {
    let mut net = Net::new(8, &SpreadConfig::default(), 9);
    net.talk(0, 200, ms(1), 1200);
    net.user_address = ([192, 0, 2, 77], 5555).into();
    let before = net.at_user.len();
    net.talk(200, 400, ms(1), 1200);
    net.run(net.now + ms(100));
    assert_eq!(Net::distinct(&net.at_servlet), 600, "nothing is lost on the way out");
    let back = net.at_user.len() - before;
    assert!(back > 330, "{back} of 400 replies: the old address dies with the first packets from the new one");
}

/// Talks until the lengths that relays carry are known, then falls silent: from now on an end has nothing to say unasked.
fn settle(net: &mut Net) {
    net.talk(0, 1500, ms(5), 900);
    net.run(net.now + ms(200));
}

/// The servlet sends on and on; the user has nothing to say, and all that he had said is lost while he changes over from one access
/// network to the other. Nobody tells relays where he went but he himself.
#[test]
fn a_user_who_only_listens_and_moves_is_found_again() {
    let mut net = Net::new(12, &SpreadConfig::default(), 23);
    settle(&mut net);
    let stream = |net: &mut Net, count: u32| {
        for _ in 0..count {
            net.servlet_sends(&[7; 1000], 1000);
            net.run(net.now + ms(5));
        }
    };
    stream(&mut net, 200);
    let before = net.at_user.len();
    net.ways.iter_mut().for_each(|way| way.dead = true);
    stream(&mut net, 40);
    net.ways.iter_mut().for_each(|way| way.dead = false);
    net.user_address = ([198, 51, 100, 9], 1234).into();
    let moved = net.now;
    stream(&mut net, 400);
    let back = net.at_user[before..].iter().find(|(at, _)| at.since(moved) > ms(100)).map(|(at, _)| *at);
    let stall = back.expect("heard again").since(moved);
    assert!(stall < ms(900), "{stall:?}");
    assert!(net.at_user.len() - before > 200, "{} of 400 came", net.at_user.len() - before);
}

/// The servlet has its half of the next ticket a second before the user, who has nothing to say.
#[test]
fn a_download_does_not_wait_for_a_ticket_that_the_user_does_not_have_yet() {
    let mut net = Net::new(12, &SpreadConfig::default(), 25);
    settle(&mut net);
    let next = ticket(2, 12, EPOCH, &net.members, net.now);
    net.servlet.renew_servlet(&hosted(&next, 12, &[EPOCH]), net.now).unwrap();
    let stream = |net: &mut Net| {
        for _ in 0..200 {
            net.servlet_sends(&[7; 1000], 1000);
            net.run(net.now + ms(5));
        }
        net.run(net.now + ms(100));
    };
    let before = net.at_user.len();
    stream(&mut net);
    assert_eq!(net.at_user.len() - before, 200);
    net.user.renew_forwarder(&next, net.now).unwrap();
    stream(&mut net);
    assert_eq!(net.at_user.len() - before, 400);
    assert_eq!(net.servlet.ends(), next.terms.ends());
}

#[test]
fn who_has_everything_asks_once_and_is_quiet() {
    let mut net = Net::new(12, &SpreadConfig::default(), 24);
    settle(&mut net);
    let before = (net.user.tallies(), net.servlet.tallies());
    net.run(net.now + Duration::from_secs(10));
    let asked = net.user.tallies().packets - before.0.packets;
    let answered = net.servlet.tallies().packets - before.1.packets;
    assert!((1..=2).contains(&asked) && answered <= 2, "{asked} packets asked, {answered} answered");
}

#[test]
fn a_new_ticket_and_a_new_list_change_nothing_for_the_datagrams() {
    let mut net = Net::new(8, &SpreadConfig::default(), 10);
    net.talk(0, 100, ms(1), 1200);
    // the next epoch: relays know both keys before users have tickets of it
    for n in 0..8 {
        net.relays[n].configure(relay_config(n, &[EPOCH, EPOCH + 1], vec![net.members.clone()]));
    }
    let next = ticket(2, 8, EPOCH + 1, &net.members, net.now);
    net.servlet.renew_servlet(&hosted(&next, 8, &[EPOCH, EPOCH + 1]), net.now).unwrap();
    net.user.renew_forwarder(&next, net.now).unwrap();
    net.talk(100, 100, ms(1), 1200);
    // a relay leaves the list
    let fewer = members(2, 7);
    for n in 0..7 {
        net.relays[n].configure(relay_config(n, &[EPOCH, EPOCH + 1], vec![fewer.clone(), net.members.clone()]));
    }
    net.user.set_members(fewer.clone(), net.now);
    net.servlet.set_members(fewer, net.now);
    net.talk(200, 100, ms(1), 1200);
    net.run(net.now + Duration::from_secs(6)); // now the new list is sent by
    let last = net.counters[7].out_packets.get();
    net.talk(300, 200, ms(1), 1200);
    net.run(net.now + ms(200));
    assert_eq!(Net::distinct(&net.at_servlet), 500);
    assert_eq!(net.counters[7].out_packets.get(), last, "who left carries nothing more");
    assert_eq!(net.refused, Default::default());
}

#[test]
fn a_relay_that_restarts_is_deaf_for_a_moment_and_then_carries() {
    let mut net = Net::new(4, &SpreadConfig::default(), 11);
    net.talk(0, 100, ms(1), 1200);
    let config = relay_config(1, &[EPOCH], vec![net.members.clone()]);
    net.relays[1] = Relay::new(config, 0xCC, net.now, net.counters[1].clone());
    net.talk(100, 4000, ms(2), 1200);
    let lost = 4100 - Net::distinct(&net.at_servlet);
    assert!(lost < 40, "{lost} lost");
    let before = net.counters[1].out_packets.get();
    net.talk(4100, 1000, ms(2), 1200);
    assert!(net.counters[1].out_packets.get() > before + 50);
}

#[test]
fn the_longest_packet_that_passes_is_found() {
    let mut net = Net::new(4, &SpreadConfig::default(), 12);
    net.ways[..3].iter_mut().for_each(|way| way.mtu = 1480);
    assert_eq!(net.user.max_datagram(), 1200);
    net.talk(0, 3000, ms(2), 1100);
    // 1,480 less IP and UDP heads: 1,452 is a step of the ladder; two bytes are kept for repairs
    assert_eq!(net.user.max_datagram(), 1452 - OVERHEAD - 2);
    assert_eq!(net.servlet.max_datagram(), 1452 - OVERHEAD - 2);
}

#[test]
fn one_narrow_relay_shortens_nothing_and_carries_what_fits() {
    let mut net = Net::new(4, &SpreadConfig::default(), 12);
    net.ways[0].mtu = 1480;
    net.talk(0, 3000, ms(2), 1100);
    assert_eq!(net.user.max_datagram(), 1472 - OVERHEAD - 2);
    let before = net.counters[0].out_packets.get();
    net.talk(3000, 400, ms(2), 1100);
    assert!(net.counters[0].out_packets.get() > before + 50, "short ones");
    net.talk(3400, 400, ms(2), 1340);
    net.run(net.now + ms(100));
    assert_eq!(Net::distinct(&net.at_servlet), 3800, "long ones go elsewhere, and none is lost");
}

#[test]
fn a_relay_that_carries_less_than_it_did_gets_no_long_packets_any_more() {
    let mut net = Net::new(4, &SpreadConfig::default(), 12);
    net.talk(0, 1500, ms(2), 1100);
    net.ways[0].mtu = 1400;
    net.talk(1500, 1500, ms(2), 1340); // long enough to learn it
    net.run(net.now + ms(100));
    let (had, before) = (Net::distinct(&net.at_servlet), net.counters[0].out_packets.get());
    for n in 0..20 {
        net.talk(3000 + 100 * n, 80, ms(2), 1340);
        net.talk(3080 + 100 * n, 20, ms(2), 1100);
    }
    net.run(net.now + ms(100));
    assert_eq!(Net::distinct(&net.at_servlet), had + 2000, "none is lost");
    assert!(net.counters[0].out_packets.get() > before + 50, "short ones still take it");
}

#[test]
fn paths_are_measured_as_soon_as_they_live() {
    let mut net = Net::new(8, &SpreadConfig::default(), 12);
    net.talk(0, 150, ms(2), 1100);
    assert_eq!(net.servlet.max_datagram(), 1472 - OVERHEAD - 2);
}

/// Rank and version of the list are read by relays only.
const FOR_RELAYS: [usize; 2] = [17, 19];

#[test]
fn ends_refuse_whatever_was_changed_on_the_last_leg() {
    let mut net = Net::new(4, &SpreadConfig::default(), 13);
    net.talk(0, 20, ms(1), 1200);
    net.wire = Some(Vec::new());
    net.talk(20, 60, ms(1), 300);
    net.run(net.now + ms(100));
    let wire = net.wire.take().unwrap();
    let mut chance = polder_spread::chance::Chance(1);
    let (mut tried, mut inbound) = ([0, 0], Inbound::default());
    for (to, from, packet) in wire {
        let (end, at) = match to {
            Host::Servlet => (&mut net.servlet, 0),
            Host::User => (&mut net.user, 1),
            Host::Relay(_) => continue,
        };
        // what a relay wrote over the way home says nothing, except which relay
        let unread =
            |byte: usize| FOR_RELAYS.contains(&byte) || at == 1 && (byte < 16 || byte == 18 || (56..104).contains(&byte));
        for _ in 0..40 {
            let byte = (chance.draw() % packet.len() as u64) as usize;
            if unread(byte) {
                continue;
            }
            let mut bent = packet.clone();
            bent[byte] ^= 1 << (chance.draw() % 8);
            let taken = end.receive(net.now, from, &mut bent, &mut inbound);
            assert!(taken.is_err(), "byte {byte} on the way to {to:?}");
            tried[at] += 1;
        }
        let cut = (chance.draw() % packet.len() as u64) as usize;
        assert!(end.receive(net.now, from, &mut packet[..cut].to_vec(), &mut inbound).is_err());
        // a duplicate is taken, and brings nothing
        end.receive(net.now, from, &mut packet.clone(), &mut inbound).unwrap();
        assert_eq!(inbound.datagrams().count(), 0);
        let elsewhere = address(999);
        assert!(at == 0 || end.receive(net.now, elsewhere, &mut packet.clone(), &mut inbound).is_err(), "from no relay");
    }
    assert!(tried[0] > 1000 && tried[1] > 1000, "{tried:?}");
}

#[test]
fn a_broken_relay_speaks_for_no_other() {
    let mut net = Net::new(4, &SpreadConfig::default(), 14);
    net.wire = Some(Vec::new());
    net.talk(0, 40, ms(1), 300);
    let wire = net.wire.take().unwrap();
    let onward: Vec<&(Host, std::net::SocketAddr, Vec<u8>)> = wire.iter().filter(|(to, ..)| *to == Host::Servlet).collect();
    let relay_of = |packet: &[u8]| packet[48..56].to_vec();
    let mut inbound = Inbound::default();
    let mut tried = 0;
    for (_, _, mine) in &onward {
        for (_, from, other) in &onward {
            if relay_of(mine) == relay_of(other) {
                continue;
            }
            // my return address and voucher under another relay's name
            let mut lie = other.clone();
            lie[..16].copy_from_slice(&mine[..16]);
            lie[56..104].copy_from_slice(&mine[56..104]);
            assert_eq!(net.servlet.receive(net.now, *from, &mut lie, &mut inbound), Err(Refusal::Return));
            tried += 1;
        }
    }
    assert!(tried > 100);
}

/// The paper's setting (BandExSOS, figure 6) in small: 80 relays of many delays, half of them die without notice.
#[test]
fn half_of_eighty_relays_may_die() {
    let config = SpreadConfig { copies: 0.5, ..SpreadConfig::default() };
    let mut net = Net::new(80, &config, 15);
    for (n, way) in net.ways.iter_mut().enumerate() {
        way.delay = ms(20 + (n as u64 * 37) % 120);
    }
    net.talk(0, 1500, ms(1), 1200);
    net.run(net.now + ms(300));
    assert_eq!(Net::distinct(&net.at_servlet), 1500);
    let rtt = net.user.rtt().unwrap();
    net.ways.iter_mut().step_by(2).for_each(|way| way.dead = true);
    let before = net.user.tallies();
    let settled = 1500 + 2 * rtt.as_millis() as u64 + 5;
    net.talk(1500, 3000, ms(1), 1200);
    net.run(net.now + ms(300));
    let there: std::collections::HashSet<u64> = Net::numbers(&net.at_servlet).into_iter().collect();
    let lost = |from: u64| (from..4500).filter(|n| !there.contains(n)).count();
    let after = net.user.tallies();
    let extra = (after.packets - before.packets) as f64 / 3000.0 - 1.0;
    assert!(lost(1500) > 0);
    assert!(lost(settled) <= 1, "{} lost after two round trips", lost(settled));
    assert!(extra <= 0.6, "{extra} more packets than datagrams");
}
