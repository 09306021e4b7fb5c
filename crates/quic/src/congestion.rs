//! Congestion control over many relays: losses of single relays are not congestion.
//!
//! A relay that dies or is flooded loses packets although the ends' own lines are idle, and copies hide most of it; the session
//! leaves it within two round trips. What all relays have in common is the ends' own access lines. So CUBIC (RFC 9438) hears of
//! losses only when they are more than a share of what was sent in a round trip, and when the session says that its lines lose as much.

use quinn::congestion::{Controller, ControllerFactory, CubicConfig};
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What a session and the controller of its connection tell each other of losses.
#[derive(Debug)]
pub(crate) struct Losses {
    line: AtomicU32,
    again: AtomicU32,
}

impl Default for Losses {
    fn default() -> Self {
        Losses { line: AtomicU32::new(f32::NAN.to_bits()), again: AtomicU32::new(0) }
    }
}

impl Losses {
    /// The session's word: see [`polder_spread::Session::line_loss`].
    pub(crate) fn set_line(&self, share: Option<f64>) {
        self.line.store(share.map_or(f32::NAN, |share| share as f32).to_bits(), Relaxed);
    }

    fn line(&self) -> Option<f64> {
        let share = f32::from_bits(self.line.load(Relaxed));
        (!share.is_nan()).then(|| share.into())
    }

    /// Datagrams that QUIC has taken for lost since it was last asked: it sends them again before anything else.
    pub(crate) fn take_again(&self) -> u32 {
        self.again.swap(0, Relaxed)
    }
}

/// Makes [`Patient`] controllers.
#[derive(Clone, Debug)]
pub(crate) struct PatientConfig {
    /// Share of the bytes of a round trip that may be lost without slowing down, 0 to 1; and of what all paths alike may lose.
    pub tolerated: f64,
    pub losses: Arc<Losses>,
}

/// Bytes below which a share says nothing. A session's first packets try relays of which nothing is known: one that is late counts
/// as lost, and would end slow start at once, with a window that takes ten seconds to grow over a long way.
const FEW: u64 = 32 * 1200;
/// Share of loss that counts while the session cannot tell whose it is, and bytes below which it says nothing: a first flight over far
/// relays is given up as a whole once near ones have answered.
const UNTOLD: (f64, u64) = (0.5, 4 * FEW);

/// CUBIC that does not mind some loss.
#[derive(Clone)]
struct Patient {
    inner: Box<dyn Cloned>,
    mtu: u64,
    config: Arc<PatientConfig>,
    since: Instant,
    round: Duration,
    acked: u64,
    lost: u64,
    before: (u64, u64),
}

trait Cloned: Controller {
    fn copy(&self) -> Box<dyn Cloned>;
}

impl<C: Controller + Clone + 'static> Cloned for C {
    fn copy(&self) -> Box<dyn Cloned> {
        Box::new(self.clone())
    }
}

impl Clone for Box<dyn Cloned> {
    fn clone(&self) -> Self {
        (**self).copy()
    }
}

impl ControllerFactory for PatientConfig {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let inner: Box<dyn Cloned> = Box::new(quinn::congestion::Cubic::new(Arc::new(CubicConfig::default()), now, mtu));
        let round = Duration::from_millis(100);
        Box::new(Patient { inner, mtu: mtu.into(), config: self, since: now, round, acked: 0, lost: 0, before: (0, 0) })
    }
}

impl Patient {
    /// Counts by round trips, the last whole one and the one that runs.
    fn turn(&mut self, now: Instant) {
        if now.saturating_duration_since(self.since) >= self.round {
            self.before = (self.acked, self.lost);
            (self.acked, self.lost, self.since) = (0, 0, now);
        }
    }

    fn too_much(&self) -> bool {
        let (acked, lost) = (self.acked + self.before.0, self.lost + self.before.1);
        let tolerated = self.config.tolerated;
        let more_than = |share: f64, few: u64| lost as f64 > share * (acked + lost).max(few) as f64;
        match self.config.losses.line() {
            Some(line) => line > tolerated && more_than(tolerated, FEW),
            None => more_than(UNTOLD.0.max(tolerated), UNTOLD.1),
        }
    }
}

impl Controller for Patient {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &quinn_proto::RttEstimator) {
        self.round = rtt.get();
        self.turn(now);
        self.acked += bytes;
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        self.turn(now);
        self.lost += lost_bytes;
        self.config.losses.again.fetch_add(lost_bytes.div_ceil(self.mtu) as u32, Relaxed);
        // Without lost bytes it is a mark of the network's own (RFC 3168): congestion for certain.
        if lost_bytes == 0 || is_persistent_congestion || self.too_much() {
            self.inner.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu.max(1).into();
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.inner.window()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> Box<dyn Controller> {
        with(&Arc::default())
    }

    fn with(losses: &Arc<Losses>) -> Box<dyn Controller> {
        Arc::new(PatientConfig { tolerated: 0.1, losses: losses.clone() }).build(Instant::now(), 1200)
    }

    #[test]
    fn what_single_relays_lose_is_no_congestion_and_what_all_lose_is() {
        let losses = Arc::default();
        let (mut controller, now) = (with(&losses), Instant::now());
        let window = controller.window();
        losses.set_line(Some(0.01));
        controller.on_congestion_event(now, now, false, 100 * 1200);
        assert_eq!(controller.window(), window);
        assert_eq!((losses.take_again(), losses.take_again()), (100, 0));
        losses.set_line(Some(0.2));
        controller.on_congestion_event(now, now, false, 1200);
        assert!(controller.window() < window);
    }

    #[test]
    fn a_late_packet_of_the_handshake_does_not_end_slow_start() {
        let (mut controller, now) = (made(), Instant::now());
        let window = controller.window();
        controller.on_congestion_event(now, now, false, 1200);
        assert_eq!(controller.window(), window);
        (0..64).for_each(|_| controller.on_congestion_event(now, now, false, 1200));
        assert!(controller.window() < window, "half of the first flights are too many");
    }

    #[test]
    fn marks_and_persistent_congestion_always_count() {
        for (persistent, lost) in [(false, 0), (true, 1200)] {
            let (mut controller, now) = (made(), Instant::now());
            let window = controller.window();
            controller.on_congestion_event(now, now, persistent, lost);
            assert!(controller.window() < window);
        }
    }
}
