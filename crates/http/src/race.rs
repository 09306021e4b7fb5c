//! Opens the next step of a tunnel: candidates race when one is late, and the first that answers carries.
//!
//! A candidate that fails gives way to the next at once. One that is late by its own measure (`estimate`) is not given up: the
//! next begins *beside* it. When all have failed and some may yet come back (a link that is dialled again, a servlet
//! that a site appoints in place of a dead one), the opener waits for news until its deadline instead of failing the user.
//!
//! Repetition is bounded. What a dead link took with it is asked elsewhere for nothing: a link dies once. Whoever is asked again
//! after a refusal, or beside one that is late, is paid from the site's budget (`memory`), a share of all its tunnels, so that
//! N hops with M candidates each never become N·M times the load on a site that fails. That the site itself has refused is
//! final: nobody else is asked.

use crate::early::Early;
use crate::link::{Lane, LinkError, Live};
use crate::plane::Plane;
use crate::trace::{self, Span};
use crate::tunnel::{BoxFuture, Sink, Source, Tunnel};
use crate::way::Way;
use crate::{deliver, plane};
use bytes::Bytes;
use h2::SendStream;
use h2::client::ResponseFuture;
use http::{HeaderMap, Request, StatusCode};
use polder_types::{Limits, SiteName};
use polder_wire::ProxyError;
use polder_wire::detour::Claim;
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Pause before somebody who refused or could not be reached is asked again.
const AGAIN: Duration = Duration::from_millis(250);

/// Knows the candidates and how to ask them.
pub(crate) trait Guide: Send + Sync {
    /// Candidates by what is in force now, best first.
    fn ways(&self, plane: &Arc<Plane>) -> Vec<Way>;

    /// What a candidate is asked, and how long the asker will wait.
    fn request(&self, way: &Way, within: Duration, trace: Option<trace::Context>) -> Result<Request<()>, http::Error>;

    /// The trace that this opening belongs to.
    fn trace(&self) -> Option<trace::Context>;

    /// What the site is told of the user, once for each attempt.
    fn word(&self) -> Option<Arc<str>>;

    /// Reads a refusal.
    fn error_of(&self, headers: &HeaderMap) -> ProxyError;

    /// Whether no other candidate will say otherwise.
    fn is_final(&self, error: ProxyError) -> bool;

    /// Whether those who had no path are asked again for a while. One place on a path does: where it begins.
    fn persists(&self) -> bool;

    /// Where the end of one session of the spread plane is meant, the claim to it. Only one servlet has it: that others have not
    /// says nothing of them.
    fn detour(&self) -> Option<Claim>;

    /// Whose budget pays.
    fn site(&self) -> &SiteName;

    /// The port that was asked for.
    fn port(&self) -> u16;

    /// How long the asker waits.
    fn within(&self) -> Duration;
}

/// A path that stands.
pub(crate) struct Accepted {
    pub(crate) tunnel: Tunnel,
    pub(crate) way: Way,
    /// The link that carries it.
    pub(crate) live: Option<Arc<Live>>,
}

/// Why an attempt failed.
enum Failed {
    /// The candidate could not be reached, or its link broke before an answer.
    Link,
    /// It refused.
    Refused(ProxyError),
}

impl From<LinkError> for Failed {
    fn from(_: LinkError) -> Self {
        Failed::Link
    }
}

/// The tunnel that stands, and the link that carries it.
type Outcome = Result<(Tunnel, Option<Arc<Live>>), Failed>;
type Opened = (ResponseFuture, SendStream<Bytes>, Option<Arc<Live>>);

enum Step {
    Linking(BoxFuture<'static, Result<Opened, LinkError>>),
    Asking { response: ResponseFuture, stream: SendStream<Bytes>, live: Option<Arc<Live>>, said: usize },
    Connecting(BoxFuture<'static, std::io::Result<Tunnel>>),
}

/// One candidate being asked.
struct Attempt<'a> {
    way: Way,
    span: Option<Span<'a>>,
    request: Request<()>,
    step: Step,
    began: Instant,
    /// Whether a link has broken under the question already.
    broken: bool,
    late: bool,
}

impl<'a> Attempt<'a> {
    fn new(plane: &'a Arc<Plane>, guide: &dyn Guide, way: Way, within: Duration) -> Result<Self, http::Error> {
        let span = plane.span(guide.trace(), if matches!(way, Way::Node(..)) { "ask" } else { "deliver" }, "");
        let request = guide.request(&way, within, span.as_ref().map(Span::context).or(guide.trace()))?;
        let step = Attempt::step(plane, guide, &way, &request);
        Ok(Attempt { way, span, request, step, began: Instant::now(), broken: false, late: false })
    }

    fn step(plane: &Arc<Plane>, guide: &dyn Guide, way: &Way, request: &Request<()>) -> Step {
        let (plane, request) = (plane.clone(), request.clone());
        match way.clone() {
            Way::Node(peer, _) => Step::Linking(Box::pin(async move {
                let opened = plane.links.open_on(&plane, &peer, Lane::Bulk, request, false).await;
                opened.map(|(response, stream, live)| (response, stream, Some(live)))
            })),
            Way::DialOut => {
                let site = guide.site().clone();
                Step::Linking(Box::pin(async move {
                    let (response, stream) = plane.dialouts.open(&plane, &site, request).await?;
                    Ok((response, stream, None))
                }))
            }
            Way::Session => {
                let (claim, site) = (guide.detour(), guide.site().clone());
                Step::Connecting(Box::pin(async move {
                    let servlet = plane.servlet.get().and_then(Weak::upgrade);
                    let found = servlet.zip(claim).and_then(|(servlet, claim)| servlet.detour(&plane, &claim, &site));
                    found.ok_or_else(|| io::ErrorKind::NotFound.into())
                }))
            }
            Way::Tcp(delivery) => {
                let (port, word) = (guide.port(), guide.word());
                Step::Connecting(Box::pin(async move { deliver::open(&delivery, port, word.as_deref()).await }))
            }
        }
    }

    fn poll(&mut self, plane: &Arc<Plane>, guide: &dyn Guide, early: &Early, cx: &mut Context<'_>) -> Poll<Outcome> {
        loop {
            match &mut self.step {
                Step::Connecting(connecting) => {
                    return connecting.as_mut().poll(cx).map(|connected| match connected {
                        Ok(tunnel) => Ok((tunnel, None)),
                        Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => Err(Failed::Refused(ProxyError::Refused)),
                        Err(_) => Err(Failed::Refused(ProxyError::Unavailable)),
                    });
                }
                Step::Linking(linking) => match linking.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Failed::Link)),
                    Poll::Ready(Ok((response, stream, live))) => self.step = Step::Asking { response, stream, live, said: 0 },
                },
                Step::Asking { .. } => match self.poll_answer(guide, early, cx) {
                    Poll::Ready(Err(Failed::Link)) if !self.broken && matches!(self.way, Way::Node(..)) => {
                        // A link that has just died must not fail a tunnel that has no other candidate.
                        self.broken = true;
                        self.step = Attempt::step(plane, guide, &self.way, &self.request);
                    }
                    other => return other,
                },
            }
        }
    }

    /// Says what the client has said meanwhile, and hears the answer.
    fn poll_answer(&mut self, guide: &dyn Guide, early: &Early, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Step::Asking { response, stream, live, said } = &mut self.step else { return Poll::Pending };
        // A reset is the peer's answer; anything else is the connection's end.
        let broken = |e: h2::Error| if e.is_reset() { Failed::Refused(ProxyError::Unavailable) } else { Failed::Link };
        // Not waiting for window: h2 keeps what does not fit yet, and the amount is bounded by the replay limit.
        for chunk in &early.kept()[*said..] {
            if let Err(e) = stream.send_data(chunk.clone(), false) {
                return Poll::Ready(Err(broken(e)));
            }
            *said += 1;
        }
        match std::pin::Pin::new(response).poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(e)) => Poll::Ready(Err(broken(e))),
            Poll::Ready(Ok(answer)) if answer.status() != StatusCode::OK => {
                Poll::Ready(Err(Failed::Refused(guide.error_of(answer.headers()))))
            }
            Poll::Ready(Ok(answer)) => {
                let live = live.take();
                // What was said is said; the stream moves into the tunnel.
                let Step::Asking { stream, .. } = std::mem::replace(&mut self.step, Step::Connecting(Box::pin(never()))) else {
                    return Poll::Pending;
                };
                let tunnel = Tunnel { source: Source::h2(answer.into_body()), sink: Sink::H2(stream) };
                Poll::Ready(Ok((tunnel, live)))
            }
        }
    }

    fn poke(&mut self) {
        self.late = true;
        if let Step::Asking { live: Some(live), .. } = &self.step {
            live.late.notify_one();
        }
    }
}

async fn never() -> std::io::Result<Tunnel> {
    std::future::pending().await
}

/// Somebody who was asked in vain.
struct Tried {
    way: Way,
    at: Instant,
    /// Could not be reached: its link may come up again.
    link: bool,
    /// Had no path: it may find one.
    pathless: bool,
}

/// One opening.
pub(crate) struct Race<'a> {
    plane: &'a Arc<Plane>,
    guide: &'a dyn Guide,
    limits: Limits,
    began: Instant,
    until: Instant,
    /// Until then those who had no path are asked again.
    persist: Instant,
    /// Asked last: the path that broke.
    avoid: Option<Way>,
    running: Vec<Attempt<'a>>,
    tried: Vec<Tried>,
    last: ProxyError,
}

impl<'a> Race<'a> {
    /// Prepares an opening; `None` without a snapshot. `avoid`: who is asked last, for a path through it has just broken.
    pub(crate) fn new(plane: &'a Arc<Plane>, guide: &'a dyn Guide, avoid: Option<Way>) -> Option<Self> {
        let limits = plane.world()?.plan.limits.clone();
        let began = Instant::now();
        let until = began + guide.within();
        let patience = Duration::from_millis(u64::from(limits.open_timeout_ms));
        let persist = if guide.persists() { until.min(began + patience) } else { began };
        let (running, tried, last) = (Vec::new(), Vec::new(), ProxyError::Unavailable);
        Some(Race { plane, guide, limits, began, until, persist, avoid, running, tried, last })
    }

    /// Runs until a candidate has accepted, all have failed for good, time is over or the client has gone. What `client` says
    /// meanwhile travels along, as far as it may be said twice, and is kept in `early`.
    pub(crate) async fn run(mut self, early: &mut Early, mut client: Option<&mut Source>) -> Result<Accepted, ProxyError> {
        let mut stirred = self.plane.stirred();
        let (mut over, mut late) = (std::pin::pin!(sleep_until(self.until)), std::pin::pin!(sleep_until(self.until)));
        let mut reading = client.is_some();
        let (mut wanted, mut parked) = (true, false);
        loop {
            if std::mem::take(&mut wanted)
                && let Some(patience) = self.start(parked)?
            {
                late.as_mut().reset(Instant::now() + patience);
            }
            parked = self.running.is_empty();
            if parked {
                if !self.may_wait() {
                    return Err(self.last);
                }
                late.as_mut().reset(Instant::now() + AGAIN);
            }
            tokio::select! {
                biased;
                (index, outcome) = poll_any(&mut self.running, self.plane, self.guide, early), if !parked => match outcome {
                    Ok((tunnel, live)) => return self.finish(index, tunnel, live, early).await,
                    Err(failed) => wanted = self.failed(index, &failed)?,
                },
                chunk = next(&mut client), if reading => match chunk {
                    Some(Ok(chunk)) => if !early.keep(&chunk) {
                        reading = false; // it waits until a path stands
                        client.iter_mut().for_each(|client| client.unread(chunk.clone()));
                    },
                    Some(Err(_)) => return Err(ProxyError::Terminated),
                    None => reading = false, // the pump meets the end again and passes it on
                },
                _ = stirred.changed(), if parked => wanted = true,
                () = &mut late => wanted = parked || self.late(),
                () = &mut over => return Err(if parked { self.last } else { ProxyError::Timeout }),
            }
            if late.is_elapsed() && !wanted {
                late.as_mut().reset(self.until + AGAIN);
            }
        }
    }

    /// Asks the best candidate; says after how long it is late. `again`: it has been asked in vain before, or is new.
    fn start(&mut self, again: bool) -> Result<Option<Duration>, ProxyError> {
        let Some(way) = self.next_way() else { return Ok(None) };
        if again && self.tried.iter().any(|tried| tried.way == way && !tried.link) && !self.may_repeat() {
            return Err(self.last);
        }
        let patience = way.patience(self.plane);
        // Time for the answer to travel back, so that the asker hears our verdict before it gives up on us.
        let within = self.until.saturating_duration_since(Instant::now()).mul_f64(0.9);
        let attempt = Attempt::new(self.plane, self.guide, way, within).map_err(|_| ProxyError::Malformed)?;
        self.running.push(attempt);
        Ok(Some(patience))
    }

    /// The best candidate: its link is up, it has not refused lately, no path through it has just broken.
    fn next_way(&self) -> Option<Way> {
        let mut ways = self.guide.ways(self.plane);
        ways.retain(|way| self.may_ask(way));
        if ways.len() > 1 {
            let shunned = self.plane.paths.shunned(self.guide.site(), self.plane.now());
            ways.sort_by_cached_key(|way| {
                let shun = match way {
                    Way::Node(peer, _) => {
                        self.plane.links.wake(self.plane, peer);
                        shunned.contains(&peer.name)
                    }
                    _ => false,
                };
                (self.avoid.as_ref() == Some(way), !way.is_up(self.plane), shun)
            });
        }
        ways.into_iter().next()
    }

    fn may_ask(&self, way: &Way) -> bool {
        if self.running.iter().any(|attempt| attempt.way == *way) {
            return false;
        }
        let Some(tried) = self.tried.iter().rev().find(|tried| tried.way == *way) else { return true };
        tried.at.elapsed() >= AGAIN && self.may_yet(tried)
    }

    /// Whether somebody who was asked in vain may yet carry.
    fn may_wait(&self) -> bool {
        self.tried.iter().any(|tried| self.may_yet(tried))
    }

    fn may_yet(&self, tried: &Tried) -> bool {
        if tried.link { matches!(tried.way, Way::Node(..)) } else { tried.pathless && Instant::now() < self.persist }
    }

    /// A candidate is late: whether another may begin beside it.
    fn late(&mut self) -> bool {
        self.running.iter_mut().for_each(Attempt::poke);
        if self.next_way().is_none() {
            return false;
        }
        let beside = self.may_repeat();
        if beside {
            self.plane.counters.hedges.up();
        }
        beside
    }

    /// A candidate has failed: whether another may be asked.
    fn failed(&mut self, index: usize, failed: &Failed) -> Result<bool, ProxyError> {
        let attempt = self.running.swap_remove(index);
        if let Some(span) = attempt.span {
            span.end(Some(match failed {
                Failed::Link => ProxyError::Terminated,
                Failed::Refused(error) => *error,
            }));
        }
        let link = matches!(failed, Failed::Link);
        // One servlet has what is searched: that this one has not is no failure.
        let search = !link && self.guide.detour().is_some();
        let mut pathless = false;
        if let Failed::Refused(error) = failed {
            self.last = *error;
            if self.guide.is_final(*error) {
                return Err(*error);
            }
            pathless = matches!(error, ProxyError::Unavailable | ProxyError::Timeout | ProxyError::Terminated);
            if let (Way::Node(peer, _), false) = (&attempt.way, search) {
                self.plane.paths.shun(self.guide.site(), &peer.name, self.plane.now());
            }
        }
        self.tried.retain(|tried| tried.way != attempt.way);
        self.tried.push(Tried { way: attempt.way, at: Instant::now(), link, pathless });
        if !self.running.is_empty() || self.next_way().is_none() {
            return Ok(false);
        }
        if search {
            return Ok(true);
        }
        if !link && !self.may_repeat() {
            return Err(self.last);
        }
        self.plane.counters.failovers.up();
        Ok(true)
    }

    fn may_repeat(&self) -> bool {
        let may = self.plane.paths.may_try_again(self.guide.site(), &self.limits, self.plane.now());
        if !may {
            self.plane.counters.retries_refused.up();
        }
        may
    }

    async fn finish(
        mut self,
        index: usize,
        mut tunnel: Tunnel,
        live: Option<Arc<Live>>,
        early: &Early,
    ) -> Result<Accepted, ProxyError> {
        let mut won = self.running.swap_remove(index);
        won.span.take().into_iter().for_each(|span| span.end(None));
        // A search says nothing of how long paths to the site take, nor whether they stand.
        if self.guide.detour().is_none() {
            won.way.measure_open(self.plane, won.began.elapsed());
            self.plane.measures.tunnel_open_seconds.took(self.began.elapsed());
            // Who lost the race took at least so long; who was given up for another is a failover.
            for lost in self.running.iter().filter(|lost| lost.late) {
                lost.way.measure_open(self.plane, lost.began.elapsed());
                self.plane.counters.failovers.up();
            }
            if let Way::Node(peer, _) = &won.way {
                self.plane.paths.trust(self.guide.site(), &peer.name);
            }
        }
        if !matches!(tunnel.sink, Sink::H2(_)) {
            for chunk in early.kept() {
                tunnel.sink.send(chunk.clone()).await.map_err(|_| ProxyError::Terminated)?;
            }
        }
        Ok(Accepted { tunnel, way: won.way, live })
    }
}

/// The first attempt that ends.
async fn poll_any(running: &mut [Attempt<'_>], plane: &Arc<plane::Plane>, guide: &dyn Guide, early: &Early) -> (usize, Outcome) {
    poll_fn(|cx| {
        for (index, attempt) in running.iter_mut().enumerate() {
            if let Poll::Ready(outcome) = attempt.poll(plane, guide, early, cx) {
                return Poll::Ready((index, outcome));
            }
        }
        Poll::Pending
    })
    .await
}

async fn next(client: &mut Option<&mut Source>) -> Option<std::io::Result<Bytes>> {
    match client {
        Some(client) => client.next().await,
        None => std::future::pending().await,
    }
}
