//! What an end knows of a path: what it sent there, and what the other end says came in.
//!
//! A path that lost everything of two settled runs, or four packets in a row, is *suspect*: it carries nothing but probes, ever
//! more seldom. One run suffices where nothing was heard of the path for long: many seldom used paths would else lose two each.
//! A probe that comes through gives it half of its trust back; each report without loss half as much again.

use crate::control::Entry;
use crate::ids::{Micros, Tick};
use std::collections::VecDeque;
use std::time::Duration;

/// Runs that are remembered until the other end has told of them.
const LOG: usize = 512;
/// Packets after which an old loss counts for 1/e.
const MEMORY: f64 = 16.0;
/// Time after which it does, at first and at the longest: a relay that carries next to nothing must be found again. A path that loses
/// again before [`MEMORY`] packets came in a row is remembered for twice as long.
const GRUDGE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(8));
/// Loss of a path that is forgiven, and of one that offends.
const OFFENCE: (f64, f64) = (0.1, 0.3);
/// Lost in a row, so many packets make a path suspect.
const SILENT_PACKETS: u32 = 4;
/// Or so many runs.
const SILENT_RUNS: u32 = 2;
/// A path not heard of for so long is suspect after one lost run.
const STALE: Duration = Duration::from_millis(200);
/// What all paths lose, when that is less, says nothing about one; and how seldom chance may make a path suspect.
const CHANCE: f64 = 0.02;
/// Trust of a path before anything is known, and after a probe came through.
const UNTRIED: f64 = 0.5;
/// First and longest wait for the next probe.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How a path stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing is known yet.
    Untried,
    /// Packets come through.
    Live,
    /// Nothing came through of late; it is probed.
    Suspect,
    /// No keys for it, or no way back: not in use.
    Unusable,
}

/// Which delays are fit, µs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Band {
    /// The least.
    pub best: i32,
    /// So much more costs a path all but 1/e of its weight.
    pub scale: f64,
    /// Beyond this a path carries nothing but probes: what it carries comes so late that it counts as lost.
    pub last: i32,
}

/// The sender's view of a path.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    pub state: State,
    pub sent: u32,
    pub received: u32,
    pub duplicates: u32,
    pub loss: f64,
    /// How long a packet takes, µs, from a zero that all paths share.
    pub delay: Option<i32>,
    /// Largest packet that came through.
    pub largest: u16,
    trust: f64,
    settled: u32,
    log: VecDeque<(Tick, u32)>,
    sums: (f64, f64),
    faded: Micros,
    grudge: Duration,
    /// Packets that came since one was lost.
    clean: u32,
    silent: (u32, u32),
    heard: Option<Micros>,
    retry: Duration,
    /// When a suspect path is to be probed.
    pub probe_at: Micros,
    pub last_sent: Option<Micros>,
}

impl Default for Health {
    fn default() -> Self {
        Health {
            state: State::Untried,
            sent: 0,
            received: 0,
            duplicates: 0,
            loss: 0.0,
            delay: None,
            largest: 0,
            trust: UNTRIED,
            settled: 0,
            log: VecDeque::new(),
            sums: (0.0, 0.0),
            faded: Micros(0),
            grudge: GRUDGE.0,
            clean: 0,
            silent: (0, 0),
            heard: None,
            retry: RETRY.0,
            probe_at: Micros(0),
            last_sent: None,
        }
    }
}

impl Health {
    /// A packet left at `now`.
    pub(crate) fn sent(&mut self, now: Micros) {
        self.sent = self.sent.wrapping_add(1);
        self.last_sent = Some(now);
        match self.log.back_mut() {
            Some((tick, sum)) if *tick == now.tick() => *sum = self.sent,
            _ => {
                if self.log.len() == LOG {
                    self.log.pop_front();
                }
                self.log.push_back((now.tick(), self.sent));
            }
        }
    }

    /// The other end's word: what it has of this path (none: nothing new). What was sent until `horizon` has had its time. How many
    /// packets' fate is known by it, and how many came.
    /// `shared`: what all paths lose.
    pub(crate) fn report(&mut self, entry: Option<&Entry>, horizon: Tick, shared: f64, now: Micros) -> (u32, u32) {
        let mut until = horizon;
        let mut came = 0;
        if let Some(entry) = entry {
            came = entry.received.wrapping_sub(self.received);
            if came > u32::MAX / 2 {
                return (0, 0); // an older message that was overtaken
            }
            if entry.last.micros_since(horizon) > 0 {
                until = entry.last;
            }
            (self.received, self.duplicates) = (entry.received, entry.duplicates);
            self.largest = self.largest.max(entry.largest);
            if came > 0 {
                self.delay = Some(match self.delay {
                    Some(old) if entry.delay > old => old.saturating_add(entry.delay.saturating_sub(old) / 2),
                    _ => entry.delay,
                });
            }
        }
        let (went, runs) = self.settle(until);
        self.judge(went, runs, came, shared, now);
        (went, came)
    }

    /// Packets and runs whose fate is known by `until`.
    fn settle(&mut self, until: Tick) -> (u32, u32) {
        let before = self.settled;
        let mut runs = 0;
        while let Some(&(tick, sum)) = self.log.front() {
            if tick.micros_since(until) > 0 {
                break;
            }
            self.settled = sum;
            runs += 1;
            self.log.pop_front();
        }
        (self.settled.wrapping_sub(before), runs)
    }

    fn judge(&mut self, went: u32, runs: u32, came: u32, shared: f64, now: Micros) {
        if went == 0 && came == 0 {
            return;
        }
        self.fade(went, now);
        let forgiven = self.loss < OFFENCE.0;
        self.sums = (self.sums.0 + f64::from(went), self.sums.1 + f64::from(came));
        if came > 0 {
            (self.silent, self.heard) = ((0, 0), Some(now));
            if self.state == State::Suspect {
                (self.trust, self.retry) = (UNTRIED, RETRY.0); // and what was lost is not forgotten
            } else if self.state == State::Untried {
                self.trust = 1.0;
            } else if came >= went {
                self.trust = (self.trust * 1.5).min(1.0);
            }
            self.state = State::Live;
        } else {
            self.silent = (self.silent.0 + went, self.silent.1 + runs);
            let stale = self.heard.is_none_or(|heard| now.since(heard) > STALE);
            let gone = if shared > CHANCE {
                // so many runs in a row are hardly lost by what everybody loses
                f64::from(self.silent.1) >= (CHANCE.ln() / shared.min(0.5).ln()).max(2.0)
            } else {
                self.silent.0 >= SILENT_PACKETS || self.silent.1 >= if stale { 1 } else { SILENT_RUNS }
            };
            if gone || self.state == State::Suspect {
                self.suspect(now);
            }
        }
        self.note_loss();
        if forgiven && self.loss > OFFENCE.1 {
            let again = f64::from(self.clean) < MEMORY;
            self.grudge = if again { (self.grudge * 2).min(GRUDGE.1) } else { GRUDGE.0 };
        }
        self.clean = if came < went { 0 } else { self.clean.saturating_add(came) };
    }

    /// Lets old losses count for less: by the packets that went since, and by time.
    pub(crate) fn fade(&mut self, went: u32, now: Micros) {
        let passed = now.since(self.faded).as_secs_f64() / self.grudge.as_secs_f64();
        let fade = (-f64::from(went) / MEMORY - passed).exp();
        self.sums = (self.sums.0 * fade, self.sums.1 * fade);
        self.faded = now;
        self.note_loss();
    }

    /// One packet more than we know of is taken to have come: of long ago and of few packets nothing bad is assumed.
    fn note_loss(&mut self) {
        self.loss = ((self.sums.0 - self.sums.1) / (self.sums.0 + 1.0)).clamp(0.0, 1.0);
    }

    fn suspect(&mut self, now: Micros) {
        if self.state == State::Suspect && now < self.probe_at {
            return; // late news of what is known
        }
        self.state = State::Suspect;
        self.trust = 0.0;
        self.probe_at = now + self.retry;
        self.retry = (self.retry * 2).min(RETRY.1);
    }

    /// A probe of a suspect path leaves: the next only later.
    pub(crate) fn probing(&mut self, now: Micros) {
        if self.state != State::Suspect {
            return;
        }
        self.probe_at = now + self.retry;
        self.retry = (self.retry * 2).min(RETRY.1);
    }

    /// Nobody has told us anything for long: what we know of live paths may be wrong.
    pub(crate) fn doubt(&mut self) {
        if self.state != State::Suspect {
            (self.state, self.trust, self.silent, self.sums) = (State::Untried, UNTRIED, (0, 0), (0.0, 0.0));
        }
    }

    /// What was lost, and what is still under way, went to where the other end no longer is: nothing is known of this path.
    pub(crate) fn pardon(&mut self) {
        (self.state, self.trust, self.silent, self.sums) = (State::Untried, UNTRIED, (0, 0), (0.0, 0.0));
        (self.loss, self.retry, self.settled) = (0.0, RETRY.0, self.sent);
        self.log.clear();
    }

    /// Share of the traffic before other paths are considered: by trust, loss, and delay.
    pub(crate) fn weight(&self, band: &Band) -> f64 {
        let delay = match self.delay {
            Some(delay) if delay > band.last => 0.0,
            Some(delay) => (-f64::from(delay.saturating_sub(band.best).max(0)) / band.scale.max(1.0)).exp(),
            None => 1.0,
        };
        self.trust * (1.0 - self.loss).powi(6) * delay
    }
}

/// The receiver's view of a path.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub received: u32,
    pub duplicates: u32,
    last: Tick,
    delay: Option<i32>,
    largest: Option<u16>,
    /// What the last message told, and the one before.
    told: [u32; 2],
    told_delay: i32,
    told_largest: u16,
}

impl Tally {
    /// A packet came in, sent at `sent`.
    pub(crate) fn note(&mut self, sent: Tick, now: Micros, length: usize, duplicate: bool) {
        if self.received == 0 || sent.micros_since(self.last) > 0 {
            self.last = sent;
        }
        self.received = self.received.wrapping_add(1);
        self.duplicates = self.duplicates.wrapping_add(u32::from(duplicate));
        let took = now.tick().micros_since(sent).clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32;
        self.delay = Some(self.delay.map_or(took, |least| least.min(took)));
        self.largest = self.largest.max(Some(length.min(usize::from(u16::MAX)) as u16));
    }

    /// Whether something came in since the last message but one: what is told once may be lost, and silence counts as loss.
    pub(crate) fn has_news(&self) -> bool {
        self.told[1] != self.received
    }

    /// For the next message.
    pub(crate) fn tell(&mut self, relay: u16) -> Entry {
        self.told = [self.received, self.told[0]];
        self.told_delay = self.delay.take().unwrap_or(self.told_delay);
        // of late only: a path may carry less than it did
        self.told_largest = self.largest.take().unwrap_or(self.told_largest);
        let Tally { received, duplicates, last, told_delay: delay, told_largest: largest, .. } = *self;
        Entry { relay, received, duplicates, last, delay, largest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAND: Band = Band { best: 500, scale: 2000.0, last: 10_000 };

    fn entry(received: u32, last: Micros, delay: i32) -> Entry {
        Entry { received, last: last.tick(), delay, ..Entry::default() }
    }

    #[test]
    fn a_path_that_loses_two_runs_is_suspect_and_comes_back_slowly() {
        let mut health = Health::default();
        let at = |ms: u64| Micros(1_000_000 + ms * 1000);
        for ms in 0..10 {
            health.sent(at(ms));
        }
        health.report(Some(&entry(10, at(9), 500)), at(8).tick(), 0.0, at(20));
        assert_eq!((health.state, health.loss), (State::Live, 0.0));
        assert!(health.weight(&BAND) > 0.99);
        for ms in 30..32 {
            health.sent(at(ms));
        }
        health.report(None, at(30).tick(), 0.0, at(40));
        assert_eq!(health.state, State::Live, "one run may be chance");
        health.report(None, at(33).tick(), 0.0, at(43));
        assert_eq!((health.state, health.weight(&BAND)), (State::Suspect, 0.0));
        let first = health.probe_at;
        assert_eq!(first.since(at(43)), RETRY.0);
        health.probing(first);
        assert_eq!(health.probe_at.since(first), 2 * RETRY.0, "ever more seldom");
        health.sent(first);
        health.report(Some(&entry(11, first, 600)), first.tick(), 0.0, first + Duration::from_millis(10));
        assert_eq!(health.state, State::Live);
        let weight = health.weight(&BAND);
        assert!((0.1..0.3).contains(&weight), "half of the trust, and what was lost is remembered: {weight}");
        for n in 1..12 {
            let then = first + Duration::from_millis(100 * n);
            health.sent(then);
            health.report(Some(&entry(11 + n as u32, then, 600)), then.tick(), 0.0, then);
        }
        let weight = health.weight(&BAND);
        assert!(weight > 0.9, "{weight}");
    }

    #[test]
    fn loss_and_delay_take_weight() {
        let (mut lossy, mut slow) = (Health::default(), Health::default());
        let mut received = 0;
        for n in 0..200u64 {
            let now = Micros(1_000_000 + n * 1000);
            lossy.sent(now);
            slow.sent(now);
            received += u32::from(n % 4 != 0);
            lossy.report(Some(&entry(received, now, 500)), now.tick(), 0.0, now);
            slow.report(Some(&entry(n as u32 + 1, now, 4500)), now.tick(), 0.0, now);
        }
        assert!((0.15..0.35).contains(&lossy.loss), "{}", lossy.loss);
        assert!(lossy.weight(&BAND) < 0.4);
        assert!((0.1..0.2).contains(&slow.weight(&BAND)), "{}", slow.weight(&BAND));
        assert_eq!(slow.weight(&Band { last: 4000, ..BAND }), 0.0);
    }

    #[test]
    fn an_overtaken_report_changes_nothing() {
        let mut health = Health::default();
        let now = Micros(5_000_000);
        (0..4).for_each(|_| health.sent(now));
        health.report(Some(&entry(4, now, 1)), now.tick(), 0.0, now);
        health.report(Some(&entry(2, now, 1)), now.tick(), 0.0, now);
        assert_eq!((health.received, health.loss, health.state), (4, 0.0, State::Live));
    }

    #[test]
    fn a_tally_tells_the_least_delay_and_the_longest_packet_since_it_last_told() {
        let mut tally = Tally::default();
        let sent = Micros(1_000_000);
        tally.note(sent.tick(), sent + Duration::from_millis(5), 1400, false);
        tally.note(sent.tick(), sent + Duration::from_millis(3), 1300, true);
        assert!(tally.has_news());
        let told = tally.tell(7);
        assert_eq!((told.relay, told.received, told.duplicates, told.delay, told.largest), (7, 2, 1, 3000, 1400));
        assert!(tally.has_news(), "the message may be lost");
        let again = tally.tell(7);
        assert_eq!(again, told);
        assert!(!tally.has_news());
        tally.note(sent.tick(), sent + Duration::from_millis(9), 900, false);
        assert_eq!(tally.tell(7).largest, 900);
    }
}
