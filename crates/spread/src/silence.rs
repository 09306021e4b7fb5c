//! What a user's end does when nothing comes any more.
//!
//! Ways back are addresses that relays learned from the user's own packets. When his address changes in the middle of a download
//! (another access network, a router that forgot him), all that the servlet sends goes to where he was; and he, who only receives,
//! has nothing to send from which relays would learn better. So an end that data came to, and then nothing, asks: first over two
//! relays, which costs four packets when the download was merely over; and when no answer comes either, over all relays of a
//! block that it *is deaf*: from then on the servlet uses only ways back that bring this word.

use crate::control::Control;
use crate::end::{Inner, Kind};
use crate::ids::Micros;
use crate::outbox::Outbox;
use crate::path::PathKeys;
use crate::session::{Role, Session};
use std::time::Duration;

/// Silence after data that makes an end ask; twice the round trip, where that is longer.
const SILENCE: Duration = Duration::from_millis(250);
/// Times that it asks, each after twice the time; then QUIC's own patience counts.
const TRIES: u8 = 6;

/// How the silence stands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Silence {
    /// When data came last, or was last asked for.
    since: Option<Micros>,
    tries: u8,
}

impl Silence {
    /// Something came; `data`: more may be expected.
    pub(crate) fn broken(&mut self, data: bool, now: Micros) {
        if data {
            *self = Silence { since: Some(now), tries: 0 };
        } else if self.tries > 0 {
            self.since = None; // an answer: there is nothing more
        }
    }

    fn due(&self, rtt: Duration) -> Option<Micros> {
        let wait = SILENCE.max(2 * rtt) * (1 << self.tries.min(TRIES));
        self.since.filter(|_| self.tries < TRIES).map(|since| since + wait)
    }
}

impl Session {
    /// Asks whether anybody is there when it is time; when it will be time.
    pub(crate) fn listen(&mut self, now: Micros, out: &mut Outbox) -> Option<Micros> {
        if self.role != Role::User || self.config.naive {
            return None;
        }
        let rtt = self.rtt().unwrap_or_default();
        let due = self.silence.due(rtt)?;
        if now < due {
            return Some(due);
        }
        self.run = None;
        if self.silence.tries == 0 {
            self.tallies.probes += 1;
            self.packet(now, &Inner::plain(Kind::Control), &[&Control::Probe.encode()], 1, out);
        } else {
            self.everywhere(now, &Control::Deaf, out);
        }
        self.run = None;
        self.silence = Silence { since: Some(now), tries: self.silence.tries + 1 };
        self.silence.due(rtt)
    }

    /// A word over all relays that the next block may take.
    fn everywhere(&mut self, now: Micros, word: &Control, out: &mut Outbox) {
        let Some(generation) = self.generations.first_mut() else { return };
        let block = generation.next_block;
        if block >= generation.terms.budget(now) {
            return;
        }
        generation.next_block = block + 1;
        let picks = self.candidates(now, block, 0);
        self.tallies.probes += picks.len() as u64;
        self.copies(now, block * crate::BLOCK, &Inner::plain(Kind::Control), &[&word.encode()], &picks, out);
    }

    /// The user hears nothing: ways back other than the one that brought this word no longer count, until they bring it too. Relays that
    /// lost what went to where he was are not to blame.
    pub(crate) fn deafened(&mut self, came_by: usize) {
        for generation in &mut self.generations {
            for (_, keys) in generation.keys.iter_mut().enumerate().filter(|(at, _)| *at != came_by) {
                if let Some(PathKeys::Servlet { back, .. }) = keys {
                    *back = None;
                }
            }
        }
        self.paths.all.iter_mut().for_each(|path| path.health.pardon());
        self.run = None;
    }
}
