//! A tunnel that heals itself until the site's first byte.
//!
//! That a path stands does not mean that the site has heard anything. So what the client says is kept, and when the path
//! breaks before a byte has come back, another is opened and it is said again: the client notices nothing. Every node does
//! this for the part of the path behind it, so that the nearest to the fault mends it; only when it finds nobody else does the
//! break travel back to the one before.
//!
//! ```text
//!             the path breaks, or its link falls silent
//!          ┌──────────────────────────────────────────┐
//!          ▼                                          │
//!       Again ──── another path stands, all is said ─▶ Trial ──▶ Settled: plain source and sink from here on
//!          └────────── nobody else ─────────────────────────▶    (first byte, or more said than may be said twice)
//! ```
//!
//! What must not be said twice is never repeated (`early`), nor what the site itself has answered by breaking the
//! connection: nodes tell that by `CONNECT_ERROR` (RFC 9113 §8.5), a broken path by any other code.

use crate::early::Early;
use crate::link::{Leg, Live};
use crate::plane::Plane;
use crate::race::{Accepted, Guide, Race};
use crate::tunnel::{BoxFuture, Sink, Source, Tunnel, h2_error};
use crate::way::Way;
use bytes::Bytes;
use h2::{Reason, SendStream};
use polder_wire::ProxyError;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// Paths that one tunnel may use up.
const MOST: u8 = 4;
/// Added to the measured time to the first byte: sites think now and then. Late costs a PING.
const FLOOR: Duration = Duration::from_millis(100);
/// Late, where nothing was measured.
const UNMEASURED: Duration = Duration::from_millis(300);

/// Both halves of a tunnel hold one.
pub(crate) struct Mend(Mutex<State>);

struct State {
    plane: Arc<Plane>,
    guide: Arc<dyn Guide>,
    early: Early,
    phase: Phase,
    paths: u8,
    /// The half that speaks waits for another path, or to hear of a reset.
    speaker: Option<Waker>,
}

enum Phase {
    Trial(Trial),
    Again(BoxFuture<'static, (Early, Result<Accepted, ProxyError>)>, Option<io::Error>),
    /// Each half waits here until it is taken by its side.
    Settled {
        sink: Option<Sink>,
        source: Option<Source>,
    },
}

const OVER: Phase = Phase::Settled { sink: None, source: None };

struct Trial {
    source: Source,
    sink: SendStream<Bytes>,
    way: Way,
    live: Option<Arc<Live>>,
    /// Since when the first byte is awaited; `None` while the client has said nothing.
    since: Option<Instant>,
    late: Option<Pin<Box<Sleep>>>,
    silent: Option<BoxFuture<'static, ()>>,
}

/// What became of what was to be said.
pub(crate) enum Said {
    /// It is on its way.
    Yes,
    /// Say it to this, and all that follows.
    To(Sink),
}

/// What was heard.
pub(crate) enum Heard {
    /// All that the site says is read from here.
    From(Source),
    /// The path broke, and nobody else can be asked.
    Broken(io::Error),
}

/// A tunnel over `accepted`, on which what `early` holds has been said.
pub(crate) fn tunnel(plane: &Arc<Plane>, guide: Arc<dyn Guide>, early: Early, accepted: Accepted) -> Tunnel {
    let trial = match Trial::new(accepted, &early) {
        Ok(trial) => trial,
        Err(tunnel) => return *tunnel,
    };
    let state = State { plane: plane.clone(), guide, early, phase: Phase::Trial(trial), paths: 1, speaker: None };
    let mend = Arc::new(Mend(Mutex::new(state)));
    Tunnel { source: Source::mending(mend.clone()), sink: Sink::Mending(mend) }
}

impl Trial {
    /// A path out of the overlay ends here: behind it nobody else can be asked.
    fn new(accepted: Accepted, early: &Early) -> Result<Self, Box<Tunnel>> {
        let Accepted { tunnel: Tunnel { source, sink }, way, live } = accepted;
        match sink {
            Sink::H2(sink) => {
                let since = (!early.kept().is_empty()).then(Instant::now);
                Ok(Trial { source, sink, way, live, since, late: None, silent: None })
            }
            sink => Err(Box::new(Tunnel { source, sink })),
        }
    }

    fn measured_late(&self, plane: &Plane) -> Duration {
        let Way::Node(peer, stage) = &self.way else { return UNMEASURED };
        let late = plane.links.measured(peer).and_then(|measured| measured.first[Leg::from(*stage) as usize].late());
        late.map_or(UNMEASURED, |late| late + FLOOR)
    }

    fn measure(&self, plane: &Plane) {
        if let (Way::Node(peer, stage), Some(since)) = (&self.way, self.since)
            && let Some(measured) = plane.links.measured(peer)
        {
            measured.first[Leg::from(*stage) as usize].note(since.elapsed());
        }
    }

    /// Whether the link has fallen silent. When the first byte is late, the link is asked for a sign of life.
    fn poll_silent(&mut self, plane: &Plane, cx: &mut Context<'_>) -> Poll<()> {
        let Some(live) = &self.live else { return Poll::Pending };
        if self.silent.is_none() {
            if self.since.is_none() {
                return Poll::Pending;
            }
            let after = if self.late.is_none() { self.measured_late(plane) } else { Duration::ZERO };
            ready!(self.late.get_or_insert_with(|| Box::pin(sleep(after))).as_mut().poll(cx));
            live.late.notify_one();
            let live = live.clone();
            self.silent = Some(Box::pin(async move { live.falls_silent().await }));
        }
        let Some(silent) = &mut self.silent else { return Poll::Pending };
        ready!(silent.as_mut().poll(cx));
        // It has ended; where nobody else can be asked, the link is looked at anew when something wakes the tunnel again.
        self.silent = None;
        Poll::Ready(())
    }
}

impl Mend {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the site's first byte, and opens other paths meanwhile when one breaks.
    pub(crate) fn poll_hear(&self, cx: &mut Context<'_>) -> Poll<Heard> {
        let state = &mut *self.lock();
        loop {
            match &mut state.phase {
                Phase::Settled { source, .. } => {
                    let ended = || Heard::Broken(io::ErrorKind::BrokenPipe.into());
                    return Poll::Ready(source.take().map_or_else(ended, Heard::From));
                }
                Phase::Trial(trial) => match trial.source.poll_next(cx) {
                    Poll::Ready(Some(Err(error))) => {
                        if let Some(error) = state.broke(error) {
                            return Poll::Ready(Heard::Broken(error));
                        }
                    }
                    Poll::Ready(chunk) => {
                        // The end of a session speaks unasked.
                        if state.guide.detour().is_none() {
                            trial.measure(&state.plane);
                        }
                        trial.source.unread(chunk.and_then(Result::ok).unwrap_or_default());
                        state.settle();
                    }
                    Poll::Pending => {
                        ready!(trial.poll_silent(&state.plane, cx));
                        if !state.fell_silent() {
                            return Poll::Pending;
                        }
                    }
                },
                Phase::Again(opening, _) => {
                    let (early, outcome) = ready!(opening.as_mut().poll(cx));
                    if let Some(error) = state.go_on(early, outcome) {
                        return Poll::Ready(Heard::Broken(error));
                    }
                }
            }
        }
    }

    /// Says `chunk`, unless the path is settled.
    pub(crate) fn poll_say(&self, cx: &mut Context<'_>, chunk: &Bytes) -> Poll<io::Result<Said>> {
        let state = &mut *self.lock();
        if let Phase::Trial(trial) = &mut state.phase {
            if state.early.keep(chunk) {
                // What breaks here is met by the half that hears.
                let _ = trial.sink.send_data(chunk.clone(), false);
                trial.since.get_or_insert_with(Instant::now);
                return Poll::Ready(Ok(Said::Yes));
            }
            // It must not be said twice, or is too much: this path it is.
            state.settle();
        }
        state.poll_settled(cx).map_ok(Said::To)
    }

    /// Ends what is said, in good order.
    pub(crate) fn poll_finish(&self, cx: &mut Context<'_>) -> Poll<io::Result<Said>> {
        let state = &mut *self.lock();
        if let Phase::Trial(trial) = &mut state.phase {
            state.early.ended = true;
            let _ = trial.sink.send_data(Bytes::new(), true);
            return Poll::Ready(Ok(Said::Yes));
        }
        state.poll_settled(cx).map_ok(Said::To)
    }

    /// Ready with the sink once the path is settled.
    pub(crate) fn poll_settled(&self, cx: &mut Context<'_>) -> Poll<io::Result<Sink>> {
        self.lock().poll_settled(cx)
    }

    /// Cuts whatever path there is.
    pub(crate) fn reset(&self, reason: Reason) {
        let state = &mut *self.lock();
        match std::mem::replace(&mut state.phase, OVER) {
            Phase::Trial(mut trial) => trial.sink.send_reset(reason),
            Phase::Settled { sink: Some(mut sink), .. } => sink.reset_with(reason),
            Phase::Again(..) | Phase::Settled { .. } => {}
        }
    }
}

impl State {
    /// From here on nothing is kept and nothing repeated.
    fn settle(&mut self) {
        self.phase = match std::mem::replace(&mut self.phase, OVER) {
            Phase::Trial(Trial { source, sink, live, .. }) => {
                // On a link, with those of others: what many send at once must not keep one who says little.
                let sink = match live {
                    Some(live) => Sink::shared(sink, live.crowd.clone()),
                    None => Sink::H2(sink),
                };
                Phase::Settled { sink: Some(sink), source: Some(source) }
            }
            other => other,
        };
        self.early = Early::new(0);
        self.speaker.take().into_iter().for_each(Waker::wake);
    }

    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Sink>> {
        match &mut self.phase {
            Phase::Settled { sink, .. } => Poll::Ready(sink.take().ok_or_else(|| io::ErrorKind::BrokenPipe.into())),
            Phase::Trial(_) | Phase::Again(..) => {
                self.speaker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The path broke. Returns the error when the tunnel ends with it.
    fn broke(&mut self, error: io::Error) -> Option<io::Error> {
        let refused = h2_error(&error).is_some_and(h2::Error::is_reset);
        if is_sites_own(&error) || self.paths >= MOST || (refused && !self.may_repeat()) {
            self.settle();
            return Some(error);
        }
        self.again(Some(error));
        None
    }

    /// The link fell silent. Whether another path is opened: only where there is one that is well.
    fn fell_silent(&mut self) -> bool {
        let Phase::Trial(trial) = &self.phase else { return false };
        let ways = self.guide.ways(&self.plane);
        let other = |way: &Way| *way != trial.way && way.is_up(&self.plane);
        let begin = self.paths < MOST && ways.iter().any(other) && self.may_repeat();
        if begin {
            self.again(None);
        }
        begin
    }

    fn may_repeat(&self) -> bool {
        let Some(world) = self.plane.world() else { return false };
        let may = self.plane.paths.may_try_again(self.guide.site(), &world.plan.limits, self.plane.now());
        if !may {
            self.plane.counters.retries_refused.up();
        }
        may
    }

    fn again(&mut self, error: Option<io::Error>) {
        let Phase::Trial(trial) = std::mem::replace(&mut self.phase, OVER) else { return };
        self.plane.counters.replays.up();
        self.paths += 1;
        let (plane, guide) = (self.plane.clone(), self.guide.clone());
        let mut early = std::mem::replace(&mut self.early, Early::new(0));
        let way = trial.way;
        let opening = async move {
            let outcome = match Race::new(&plane, &*guide, Some(way)) {
                Some(race) => race.run(&mut early, None).await,
                None => Err(ProxyError::Unavailable),
            };
            let outcome = match outcome {
                Ok(mut accepted) if early.ended => {
                    accepted.tunnel.sink.finish().await.map(|()| accepted).map_err(|_| ProxyError::Terminated)
                }
                outcome => outcome,
            };
            (early, outcome)
        };
        self.phase = Phase::Again(Box::pin(opening), error);
    }

    /// Another path stands, or none does: returns the error that the tunnel ends with.
    fn go_on(&mut self, early: Early, outcome: Result<Accepted, ProxyError>) -> Option<io::Error> {
        let before = match std::mem::replace(&mut self.phase, OVER) {
            Phase::Again(_, error) => error,
            other => {
                self.phase = other;
                None
            }
        };
        match outcome {
            Err(_) => {
                self.settle();
                return Some(before.unwrap_or_else(|| io::ErrorKind::TimedOut.into()));
            }
            Ok(accepted) => match Trial::new(accepted, &early) {
                Ok(trial) => (self.phase, self.early) = (Phase::Trial(trial), early),
                Err(tunnel) => {
                    let Tunnel { source, sink } = *tunnel;
                    self.phase = Phase::Settled { sink: Some(sink), source: Some(source) };
                }
            },
        }
        self.speaker.take().into_iter().for_each(Waker::wake);
        None
    }
}

/// Whether the site itself broke the connection: no other path would change that.
fn is_sites_own(error: &io::Error) -> bool {
    h2_error(error).is_some_and(|error| error.reason() == Some(Reason::CONNECT_ERROR))
}
