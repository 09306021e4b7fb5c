//! One near relay among far ones.

mod net;

use net::*;
use polder_spread::*;
use std::time::Duration;

/// Datagrams that came more than 50 ms after they were sent: their first eight bytes say when that was.
fn late(log: &[(Micros, Vec<u8>)]) -> usize {
    let settled = log.iter().filter(|(at, _)| *at > BEGIN + ms(1500));
    settled.filter(|(at, one)| at.0 - u64::from_be_bytes(one[..8].try_into().expect("eight bytes")) > 50_000).count()
}

/// Nine members, of which eight are within reach of a block: every ninth block is without the near one.
#[test]
fn far_relays_carry_nothing_alone_while_a_near_one_lives() {
    for (stall, copies) in [(0, 0.0), (0, 0.5), (10, 0.5)] {
        let mut net = Net::new(8, &SpreadConfig { copies, ..SpreadConfig::default() }, 11);
        net.ways[0].delay = Duration::from_micros(2900);
        for (way, rtt) in net.ways[1..].iter_mut().zip([215u64, 225, 227, 239, 271, 455, 458]) {
            way.delay = Duration::from_micros(rtt * 500);
        }
        net.stall = ms(stall);
        for _ in 0..300 {
            let mut burst = vec![0x5A; 20 * 1200];
            burst.chunks_mut(1200).for_each(|one| one[..8].copy_from_slice(&net.now.0.to_be_bytes()));
            net.servlet_sends(&burst, 1200);
            for _ in 0..10 {
                net.user_sends(&net.now.0.to_be_bytes(), 8);
                net.run(net.now + ms(1));
            }
        }
        assert!(net.at_user.len() > 5900 && net.at_servlet.len() > 2900);
        assert_eq!((late(&net.at_servlet), late(&net.at_user)), (0, 0), "looked at every {stall} ms, {copies} copies");
    }
}
