//! One near relay among far ones.

mod net;

use net::*;
use polder_spread::*;
use std::time::Duration;

#[test]
fn far_relays_carry_nothing_alone_while_a_near_one_lives() {
    for stall in [0u64, 4, 10, 20] {
        for copies in [0.0, 0.5] {
            let mut net = Net::new(8, &SpreadConfig { copies, ..SpreadConfig::default() }, 11);
            let far = [215u64, 225, 227, 239, 271, 455, 458];
            net.ways[0].delay = Duration::from_micros(2900);
            for (way, rtt) in net.ways[1..].iter_mut().zip(far) {
                way.delay = Duration::from_micros(rtt * 500);
            }
            net.stall = ms(stall);
            let mut n = 0u64;
            for _ in 0..400 {
                let mut burst = Vec::new();
                for _ in 0..20 {
                    let mut datagram = vec![0x5A; 1200];
                    datagram[..8].copy_from_slice(&(net.now.0).to_be_bytes());
                    n += 1;
                    burst.extend(datagram);
                }
                net.servlet_sends(&burst, 1200);
                for _ in 0..10 {
                    net.user_sends(&net.now.0.to_be_bytes(), 8);
                    net.run(net.now + ms(1));
                }
            }
            let late = |log: &[(Micros, Vec<u8>)]| {
                let log: Vec<_> = log.iter().filter(|(at, _)| *at > BEGIN + ms(1500)).collect();
                let slow = log.iter().filter(|(at, d)| at.0 - u64::from_be_bytes(d[..8].try_into().unwrap()) > 50_000).count();
                (slow, log.len())
            };
            let _ = n;
            println!("stall {stall} copies {copies}: up late {:?} down late {:?}", late(&net.at_servlet), late(&net.at_user));
            for p in net.user.paths(net.now).iter().chain(&net.servlet.paths(net.now)) {
                if p.sent > 100 {
                    println!("   {:?} {:.4} {:?} sent {}", p.state, p.weight, p.delay_us, p.sent);
                }
            }
        }
    }
}
