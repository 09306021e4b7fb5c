//! What carries a session's datagrams: the relays, or a detour over the tunnel plane while no relay answers.
//!
//! The user's end decides for both. Silence is what counts: something was sent over relays, and feedback has not come for several
//! round trips. It then asks for a detour, and takes it when it stands. Meanwhile it goes on asking the relays, seldom; once they
//! answer, often; and when they have answered without a pause for long enough, it goes back. Relays that fail again soon have
//! to answer for twice as long (so that a network which comes and goes does not toss the session about).

use crate::ids::Micros;
use std::time::Duration;

/// Least silence that counts, and what counts before a round trip was measured.
const SILENCE: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(1));
/// Round trips of silence that count: QUIC has probed several times by then.
const ROUNDS: u32 = 4;
/// Relays must have answered for so long, the first time and at the most.
const PROOF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Silence within this time after going back doubles the proof.
const RELAPSE: Duration = Duration::from_secs(60);
/// Pauses between questions to silent relays, the first and the longest; and to those that answer.
const ASK: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
const PROVING: Duration = Duration::from_millis(100);
/// A detour is kept for so long after going back.
const KEEP: Duration = Duration::from_secs(10);
/// Between two looks: while an answer of relays is awaited, whose silence is to be noticed soon; and else.
const LOOK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(200));

/// What carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Carrier {
    /// Relays, by datagrams.
    #[default]
    Relays,
    /// A stream of the tunnel plane.
    Detour,
}

/// What is known of both.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Since when something has been sent over relays and no feedback has come.
    pub unheard: Option<Micros>,
    /// When feedback came last.
    pub heard: Option<Micros>,
    /// Round trip, once measured.
    pub rtt: Option<Duration>,
    /// Whether a detour stands.
    pub attached: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orders {
    /// What carries.
    pub carrier: Carrier,
    /// Whether a detour is wanted: open one, or keep it.
    pub wanted: bool,
    /// Ask the relays now.
    pub ask: bool,
    /// When to look again at the latest.
    pub next: Micros,
}

/// Decides. `now` is the session's clock.
#[derive(Debug)]
pub struct Carriage {
    carrier: Carrier,
    /// When the carrier changed last.
    since: Micros,
    proof: Duration,
    good_since: Option<Micros>,
    ask_at: Micros,
    pause: Duration,
    /// When it went back to relays last.
    returned: Option<Micros>,
}

impl Carriage {
    /// Over relays.
    pub fn new(now: Micros) -> Self {
        let (carrier, proof, pause) = (Carrier::Relays, PROOF.0, ASK.0);
        Carriage { carrier, since: now, proof, good_since: None, ask_at: now, pause, returned: None }
    }

    /// One look.
    pub fn look(&mut self, now: Micros, seen: Seen) -> Orders {
        let patience = seen.rtt.map_or(SILENCE.1, |rtt| (rtt * ROUNDS).max(SILENCE.0));
        let silent = seen.unheard.is_some_and(|since| now.since(since) > patience);
        match self.carrier {
            Carrier::Relays => self.over_relays(now, seen, silent),
            Carrier::Detour => self.on_detour(now, seen, silent),
        }
    }

    fn over_relays(&mut self, now: Micros, seen: Seen, silent: bool) -> Orders {
        if silent && seen.attached {
            let relapsed = self.returned.is_some_and(|returned| now.since(returned) < RELAPSE);
            self.proof = if relapsed { (self.proof * 2).min(PROOF.1) } else { PROOF.0 };
            (self.carrier, self.since, self.good_since) = (Carrier::Detour, now, None);
            (self.pause, self.ask_at) = (ASK.0, now + ASK.0);
            return Orders { carrier: self.carrier, wanted: true, ask: false, next: self.ask_at };
        }
        let kept = self.returned.is_some_and(|returned| now.since(returned) < KEEP);
        let next = now + if seen.unheard.is_some() { LOOK.0 } else { LOOK.1 };
        Orders { carrier: self.carrier, wanted: silent || kept, ask: false, next }
    }

    fn on_detour(&mut self, now: Micros, seen: Seen, silent: bool) -> Orders {
        let answers = !silent && seen.heard.is_some_and(|heard| heard > self.since);
        self.good_since = if answers { self.good_since.or(Some(now)) } else { None };
        // Without a detour whatever answers is better.
        let proven = |since: Micros| now.since(since) >= self.proof || !seen.attached;
        if self.good_since.is_some_and(proven) {
            (self.carrier, self.since, self.returned) = (Carrier::Relays, now, Some(now));
            return Orders { carrier: self.carrier, wanted: true, ask: false, next: now + LOOK.0 };
        }
        if answers {
            self.pause = PROVING;
            self.ask_at = self.ask_at.min(now + PROVING);
        } else if self.pause == PROVING {
            self.pause = ASK.0; // they had answered, and fell silent
        }
        let ask = self.ask_at <= now;
        if ask {
            self.ask_at = now + self.pause;
            if !answers {
                self.pause = (self.pause * 2).min(ASK.1);
            }
        }
        Orders { carrier: self.carrier, wanted: true, ask, next: self.ask_at.min(now + LOOK.1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RTT: Duration = Duration::from_millis(20);
    const STEP: Duration = Duration::from_millis(10);

    /// A session on a virtual clock: it sends all the time, relays answer when they are up; a detour takes a moment to stand.
    struct World {
        now: Micros,
        carriage: Carriage,
        /// Of the last look.
        orders: Orders,
        seen: Seen,
        up: bool,
        detours: bool,
        /// Questions on their way.
        asked: Option<Micros>,
        wanted_since: Option<Micros>,
        changes: Vec<(Micros, Carrier)>,
        questions: u32,
    }

    impl World {
        fn new() -> Self {
            let now = Micros::from_secs(1000);
            let seen = Seen { rtt: Some(RTT), ..Seen::default() };
            let (changes, carriage) = (vec![], Carriage::new(now));
            let orders = Orders { carrier: Carrier::Relays, wanted: false, ask: false, next: now };
            World { now, carriage, orders, seen, up: true, detours: true, asked: None, wanted_since: None, changes, questions: 0 }
        }

        fn run(&mut self, time: Duration, busy: bool) {
            let end = self.now + time;
            while self.now < end {
                self.now = self.now + STEP;
                self.orders.ask = false;
                if self.orders.next <= self.now {
                    self.look();
                }
                let orders = self.orders;
                if orders.ask || (busy && orders.carrier == Carrier::Relays) {
                    self.seen.unheard.get_or_insert(self.now);
                    self.asked.get_or_insert(self.now);
                }
                if self.asked.is_some_and(|asked| self.now.since(asked) >= RTT) {
                    self.asked = None;
                    if self.up {
                        (self.seen.heard, self.seen.unheard) = (Some(self.now), None);
                    }
                }
                if !orders.wanted {
                    (self.wanted_since, self.seen.attached) = (None, false);
                } else {
                    let since = *self.wanted_since.get_or_insert(self.now);
                    self.seen.attached = self.detours && self.now.since(since) >= 2 * RTT;
                }
            }
        }

        fn look(&mut self) {
            let before = self.carriage.carrier;
            self.orders = self.carriage.look(self.now, self.seen);
            if self.orders.carrier != before {
                self.changes.push((self.now, self.orders.carrier));
            }
            assert!(self.orders.next > self.now);
            self.questions += u32::from(self.orders.ask);
        }

        fn over(&self) -> Carrier {
            self.carriage.carrier
        }
    }

    #[test]
    fn silence_changes_the_carrier_within_half_a_second_and_answers_change_it_back() {
        let mut world = World::new();
        world.run(Duration::from_secs(60), true);
        assert!(world.changes.is_empty() && !world.seen.attached, "while all is well nothing is opened");
        world.up = false;
        world.run(Duration::from_millis(500), true);
        assert_eq!(world.over(), Carrier::Detour);
        world.run(Duration::from_secs(30), true);
        assert_eq!(world.over(), Carrier::Detour);
        world.up = true;
        world.run(Duration::from_secs(8), true);
        assert_eq!(world.over(), Carrier::Relays);
        world.run(Duration::from_secs(30), true);
        assert!(world.changes.len() == 2 && !world.seen.attached, "and the detour is given up");
    }

    #[test]
    fn an_idle_session_stays_where_it_is() {
        let mut world = World::new();
        world.up = false;
        world.run(Duration::from_secs(600), false);
        assert!(world.changes.is_empty() && world.questions == 0);
    }

    #[test]
    fn dead_relays_are_asked_ever_less_often() {
        let mut world = World::new();
        world.up = false;
        world.run(Duration::from_secs(10), true);
        let before = world.questions;
        world.run(Duration::from_secs(100), true);
        assert!((19..=22).contains(&(world.questions - before)), "{}", world.questions - before);
    }

    #[test]
    fn without_a_detour_relays_that_answer_are_taken_at_once() {
        let mut world = World::new();
        world.up = false;
        world.run(Duration::from_secs(2), true);
        (world.detours, world.seen.attached) = (false, false);
        world.up = true;
        world.run(Duration::from_secs(6), true);
        assert_eq!(world.over(), Carrier::Relays);
    }

    #[test]
    fn a_network_that_comes_and_goes_is_believed_ever_later() {
        let mut world = World::new();
        for _ in 0..40 {
            world.up = !world.up;
            world.run(Duration::from_secs(4), true);
        }
        assert!(world.changes.len() <= 12, "{:?}", world.changes);
    }

    proptest! {
        /// Whatever happens: relays that stay up are taken in the end, and when they stay down the detour is.
        #[test]
        fn it_settles(steps in prop::collection::vec((any::<bool>(), any::<bool>(), 1u64..4000), 0..12), up: bool) {
            let mut world = World::new();
            for (up, detours, millis) in steps {
                (world.up, world.detours) = (up, detours);
                world.run(Duration::from_millis(millis), true);
            }
            (world.up, world.detours) = (up, true);
            world.run(Duration::from_secs(70), true);
            prop_assert_eq!(world.over(), if up { Carrier::Relays } else { Carrier::Detour });
        }
    }
}
