//! Keeps one link: dials it, announces it, asks for signs of life, dials it again.
//!
//! A peer whose process has ended resets its connections. One that hangs, or whose machine or network is gone, says nothing, and
//! TCP would wait for minutes. So a PING is sent now and then, and at once when a tunnel waits longer than it usually does.
//! Everything that comes is a sign of life, so that a PING behind a long queue convicts nobody. Silence has two
//! degrees: after some round trips the peer counts as *silent*: others are asked before it, and what it has not begun to
//! answer is asked elsewhere beside it; after `limits.silence_ms` the link is given up with all that it carries.

use crate::dial::{self, Dialled};
use crate::link::{Lane, LinkError, Live, Slot, State};
use crate::plane::{Plane, unix_now};
use h2::{Ping, PingPong};
use polder_types::Event;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// Between PINGs on an idle link.
const PING_EVERY: Duration = Duration::from_secs(5);
/// Between PINGs on a link that was wanted lately.
const PING_BUSY: Duration = Duration::from_secs(1);
/// What counts as lately.
const LATELY: Duration = Duration::from_secs(10);
/// Added to round trips before silence is noticed: a busy machine answers late.
const SLACK: Duration = Duration::from_millis(100);
/// First pause after a failed dial; doubles.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest pause after a failed dial. Somebody who wants a stream does not wait for it.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A node is not dialled more often than this, however many want it.
const DIAL_GAP: Duration = Duration::from_millis(100);

/// The keeper of one slot.
pub(crate) async fn keep(plane: Arc<Plane>, slot: Arc<Slot>) {
    let mut failures = 0u32;
    slot.want.notified().await;
    loop {
        let began = Instant::now();
        match dial::dial(&plane, &slot.key.expected, slot.key.address, slot.key.lane).await {
            Ok(dialled) => {
                failures = 0;
                plane.counters.links_dialled.up();
                plane.measures.link_dial_seconds.took(began.elapsed());
                plane.measures.link_rtt_seconds.took(dialled.rtt);
                let reason = watch_over(&plane, &slot, dialled).await;
                slot.set(State::Idle); // an end is no failed dial: who waits now waits for the next
                slot.tell_down(&plane, &reason);
            }
            Err(why) => {
                failures = failures.saturating_add(1);
                plane.counters.links_failed.up();
                if failures == 1 {
                    slot.tell_down(&plane, &why);
                }
                slot.fail(why);
            }
        }
        if slot.key.lane == Lane::DialOut && *plane.draining().borrow() {
            return; // whoever comes after us has dialled, or nobody shall be sent here
        }
        tokio::time::sleep_until(began + DIAL_GAP.mul_f64(jitter())).await;
        if slot.warm.load(Relaxed) {
            let pause = BACKOFF_MIN.saturating_mul(1 << failures.min(10)).min(BACKOFF_MAX).mul_f64(jitter());
            let _ = timeout(pause, slot.want.notified()).await;
        } else {
            slot.want.notified().await;
        }
    }
}

/// Announces a link, measures it, and returns why it ended. A link is replaced some time before the peer's certificate ends.
async fn watch_over(plane: &Arc<Plane>, slot: &Slot, dialled: Dialled) -> LinkError {
    let Dialled { live, peer, mut pings, mut task, rtt } = dialled;
    slot.rtt_us.store(micros(rtt), Relaxed);
    let live = Arc::new(live);
    let due = renewal_due(peer.not_after, unix_now());
    slot.set(State::Up(live.clone()));
    plane.stir();
    plane.emit(Event::Link { name: peer.name.to_string(), up: true, rtt_us: micros(rtt), reason: String::new() });
    let _open = plane.counters.links_open.hold();
    loop {
        let busy = slot.key.lane == Lane::DialOut || slot.used_within(LATELY);
        let pause = if busy { PING_BUSY } else { PING_EVERY };
        tokio::select! {
            _ = &mut task => return LinkError::new("the connection ended"),
            () = live.used_up.notified() => {
                slot.want.notify_one();
                return LinkError::new("the peer takes no more streams on this connection");
            }
            () = live.late.notified() => {}
            () = tokio::time::sleep(pause.mul_f64(jitter())) => {}
        }
        if unix_now() >= due {
            return LinkError::new("the peer's certificate ends soon: the link is renewed");
        }
        let Some(pings) = &mut pings else { continue };
        if let Err(why) = sign_of_life(plane, slot, &live, pings, &mut task).await {
            return why;
        }
    }
}

/// Sends a PING and waits for its answer, as long as anything comes at all.
async fn sign_of_life(
    plane: &Plane,
    slot: &Slot,
    live: &Live,
    pings: &mut PingPong,
    task: &mut JoinHandle<()>,
) -> Result<(), LinkError> {
    let most = plane.world().map_or(1500, |world| world.plan.limits.silence_ms);
    let most = Duration::from_millis(most.into());
    let step = (2 * Duration::from_micros(slot.rtt_us.load(Relaxed)) + SLACK).min(most / 4);
    let sent = Instant::now();
    let mut pong = std::pin::pin!(pings.ping(Ping::opaque()));
    let (mut heard, mut quiet) = (live.heard(), Duration::ZERO);
    loop {
        tokio::select! {
            biased;
            _ = &mut *task => return Err(LinkError::new("the connection ended")),
            pong = &mut pong => {
                pong.map_err(LinkError::new)?;
                slot.rtt_us.store(micros(sent.elapsed()), Relaxed);
                plane.measures.link_rtt_seconds.took(sent.elapsed());
                live.silent.send_replace(false);
                return Ok(());
            }
            // Counted in steps: a process that was stopped itself finds one step gone, not all of them.
            () = tokio::time::sleep(step) => {}
        }
        if live.heard() == heard {
            quiet += step;
            if !live.silent.send_replace(true) {
                plane.counters.links_silent.up();
            }
        } else {
            (heard, quiet) = (live.heard(), Duration::ZERO);
            live.silent.send_replace(false);
        }
        if quiet >= most {
            task.abort();
            return Err(LinkError::new("the peer does not answer: it or the network in between is down"));
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// When to replace a link whose peer showed a certificate that ends at `not_after`: a minute before, or a sixth of what was
/// left, whatever is less; the peer has renewed by then (at two thirds of the whole). Unix seconds.
fn renewal_due(not_after: i64, now: i64) -> i64 {
    not_after - ((not_after - now) / 6).clamp(0, 60)
}

/// A factor between 0.75 and 1.25, so that nodes do not act in step. Not secret: the hasher's keys are chance enough.
pub(crate) fn jitter() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    let chance = RandomState::new().hash_one(0u8) >> 32;
    0.75 + (chance as f64) / f64::from(u32::MAX) / 2.0
}
