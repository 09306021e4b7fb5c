//! The proxy in HTTP/2 (RFC 9113 §8.5). Extended CONNECT is not offered: browsers tunnel WebSocket.

use super::backlog::{Backlog, Unbegun};
use super::client::{Client, malformed};
use super::effort::Task;
use super::exchange::{Ended, exchange};
use super::local;
use super::origin::Body;
use super::out::{H2Out, Out, Patience};
use super::paced::Paced;
use super::pool::Pool;
use super::request::{Parts, Request, one_trace};
use crate::hop::read_detour;
use crate::pump::{End, Terms, pump};
use crate::tunnel::{Sink, Source, Target, Tunnel};
use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::header::{ACCEPT, HeaderValue};
use http::request::Parts as Head;
use http::{Method, Response};
use polder_flow::Bucket;
use polder_types::Limits;
use polder_wire::Refusal;
use polder_wire::http1::{Authority, BodyLength, HttpError, method};
use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

/// Bytes that wait per stream for the client to take them.
const SEND_BUFFER: usize = 4 * polder_tls::FRAME;
/// Window of a whole client connection: what one client can make us hold.
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Locally reset streams remembered, and resets forced on us by the client's errors, before GOAWAY.
const MAX_RESETS: usize = 100;
/// Where users' forwarders ask for tickets of the spread plane.
const TICKET: &str = "/polder/v1/ticket";
/// How long a connection that was sent away may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(5);

/// How a stream ended.
enum StreamEnd {
    Good,
    /// The client reset it before it was answered: what rapid-reset floods do.
    Reset,
}

struct Shared {
    client: Arc<Client>,
    pool: Pool,
}

pub(crate) async fn serve<S>(io: S, client: Arc<Client>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let limits = client.ctx.limits();
    let patience = Duration::from_millis(u64::from(limits.header_timeout_ms));
    let backlog = Arc::new(Backlog::default());
    let io = Paced::new(io, client.clone(), backlog.clone());
    let Ok(Ok(mut connection)) = timeout(patience, builder(&limits).handshake::<_, Bytes>(io)).await else {
        return;
    };
    // Longer than HTTP/1's: forwarders keep their links warm.
    let idle = Duration::from_millis(u64::from(limits.idle_timeout_ms));
    let most_tasks = 2 * limits.streams_per_client as usize;
    let mut draining = client.ctx.draining();
    let mut resets = Bucket::full(limits.reset_rate_per_client, client.ctx.now());
    let shared = Arc::new(Shared { client: client.clone(), pool: Pool::default() });
    // Dropping the set ends every stream's task: nothing outlives the connection.
    let mut streams = JoinSet::new();
    let mut leaving = false;
    let mut check = Idle::new(idle);
    let silent = AtomicU32::new(client.ctx.pressure().time());
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                // Streams that the client has reset no longer count for h2, but their tasks have yet to end.
                Some(Ok((_, mut respond))) if streams.len() >= most_tasks => respond.send_reset(Reason::REFUSED_STREAM),
                Some(Ok((request, respond))) => {
                    check = Idle::new(idle);
                    silent.store(client.ctx.pressure().time(), Relaxed);
                    streams.spawn(fairly(shared.clone(), backlog.enter(), request, respond));
                }
                Some(Err(error)) => return broke(&client, &error),
                None => return,
            },
            Some(ended) = streams.join_next() => {
                check = Idle::new(idle);
                silent.store(client.ctx.pressure().time(), Relaxed);
                let reset = matches!(ended, Ok(StreamEnd::Reset));
                if reset && !resets.take(limits.reset_rate_per_client, client.ctx.now()) {
                    client.ctx.counters.over_resets.up();
                    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    let _ = timeout(FAREWELL, poll_fn(|cx| connection.poll_closed(cx))).await;
                    return;
                }
            }
            () = async { _ = draining.wait_for(|draining| *draining).await.is_ok() }, if !leaving => {
                leaving = true;
                check = Idle::new(FAREWELL);
                connection.graceful_shutdown();
            }
            // Memory is short: a connection that carries nothing goes, the idlest first.
            () = client.ctx.pressure().dismisses(&silent), if streams.is_empty() => {
                client.ctx.counters.shed_idle.up();
                return;
            }
            () = sleep_until(check.next), if streams.is_empty() => {
                shared.pool.sweep();
                match (check.over(), leaving) {
                    (true, true) => return,
                    (true, false) => {
                        leaving = true;
                        check = Idle::new(FAREWELL);
                        connection.graceful_shutdown();
                    }
                    (false, _) => check.again(),
                }
            }
        }
    }
}

/// h2 ends a connection that uses up one of its budgets, or breaks the rules: counted by what it says about that.
fn broke(client: &Client, error: &h2::Error) {
    match error.reason() {
        _ if error.is_io() || error.is_remote() => {}
        Some(Reason::ENHANCE_YOUR_CALM) => client.ctx.counters.over_resets.up(),
        _ => client.ctx.counters.refused_protocol.up(),
    }
}

/// When to look after a connection without streams.
struct Idle {
    next: Instant,
    end: Instant,
}

impl Idle {
    fn new(idle: Duration) -> Self {
        let now = Instant::now();
        Idle { next: now + idle.min(super::pool::MAX_AGE), end: now + idle }
    }

    fn over(&self) -> bool {
        Instant::now() >= self.end
    }

    fn again(&mut self) {
        self.next = (Instant::now() + super::pool::MAX_AGE).min(self.end);
    }
}

/// Budgets against rapid reset, MadeYouReset, CONTINUATION and HPACK floods; h2 sends GOAWAY when one is used up.
fn builder(limits: &Limits) -> Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(limits.streams_per_client)
        .max_header_list_size(limits.head_bytes)
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.link_window.min(CONNECTION_WINDOW).max(limits.stream_window))
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(Some(MAX_RESETS));
    builder
}

async fn fairly(
    shared: Arc<Shared>,
    unbegun: Unbegun,
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
) -> StreamEnd {
    let client = shared.client.clone();
    let work = async {
        drop(unbegun);
        stream(shared, request, respond).await
    };
    client.ctx.fairly(client.effort.as_deref(), Task::Stream, Box::pin(work)).await
}

/// One stream, in a box as large as its kind needs: a client can have as many as he is allowed, and floods are refused.
fn stream(
    shared: Arc<Shared>,
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
) -> Pin<Box<dyn Future<Output = StreamEnd> + Send>> {
    let ctx = shared.client.ctx.clone();
    ctx.counters.requests.up();
    let (head, body) = request.into_parts();
    let authority = match named(&head, ctx.limits().head_fields as usize) {
        Ok(authority) => authority,
        Err(error) => return Box::pin(refused(shared, Asked::from(head), respond, malformed(error))),
    };
    if head.method == Method::CONNECT {
        return Box::pin(connect(shared, head, authority, body, respond));
    }
    if head.uri.scheme_str() != Some("http") {
        return Box::pin(origin_form(shared, head, authority, body, respond));
    }
    let request = for_origin(&head, &authority, &body, &fields(&head), ctx.traces_to_origins());
    let asked = Asked::from(head);
    match request {
        Ok(request) => Box::pin(carry(shared, request, asked, body, respond)),
        Err(refusal) => Box::pin(refused(shared, asked, respond, refusal)),
    }
}

/// For whom a request is.
fn named(head: &Head, most_fields: usize) -> Result<Authority, HttpError> {
    if head.headers.len() > most_fields {
        return Err(HttpError::TooManyFields);
    }
    let authority = head.uri.authority().and_then(|a| Authority::parse(a.as_str().as_bytes())).ok_or(HttpError::Target)?;
    // RFC 9113 §8.3.1: Host and :authority that differ are malformed.
    let differs = |host: &HeaderValue| Authority::parse(host.as_bytes()).as_ref() != Some(&authority);
    if head.headers.get_all("host").iter().any(differs) {
        return Err(HttpError::Host);
    }
    Ok(authority)
}

async fn carry(shared: Arc<Shared>, request: Request, asked: Asked, body: RecvStream, respond: SendResponse<Bytes>) -> StreamEnd {
    let client = &shared.client;
    let body = Body::Stream((!body.is_end_stream()).then(|| Source::h2(body)));
    let mut out = h2_out(client, respond);
    let ended = exchange(client, &shared.pool, &request, body, &mut out).await;
    settle(client, &asked, out, ended).await
}

/// Fields in the form of HTTP/1: cookies, which HTTP/2 may split, joined again (RFC 9113 §8.2.3).
fn fields(head: &Head) -> Vec<(&str, Cow<'_, [u8]>)> {
    let mut fields: Vec<(&str, Cow<'_, [u8]>)> = Vec::with_capacity(head.headers.len());
    for (name, value) in &head.headers {
        match fields.iter_mut().find(|(seen, _)| name == http::header::COOKIE && *seen == "cookie") {
            Some((_, cookies)) => cookies.to_mut().extend([b"; ", value.as_bytes()].concat()),
            None => fields.push((name.as_str(), Cow::Borrowed(value.as_bytes()))),
        }
    }
    fields
}

fn for_origin(
    head: &Head,
    authority: &Authority,
    body: &RecvStream,
    fields: &[(&str, Cow<'_, [u8]>)],
    foreign: bool,
) -> Result<Request, Refusal> {
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    // h2 takes more characters than HTTP/1 would, and paths that begin with `?` (RFC 9113 §8.3.1 forbids them).
    let begins = path.starts_with('/') || (path == "*" && head.method == Method::OPTIONS);
    if !begins || !path.bytes().all(|b| matches!(b, 0x21..=0x7e)) {
        return Err(malformed(HttpError::Target));
    }
    method(head.method.as_str()).map_err(malformed)?;
    let declared = head.headers.get(http::header::CONTENT_LENGTH).map(|value| value.to_str().unwrap_or_default().parse::<u64>());
    let length = match declared {
        Some(Err(_)) => return Err(malformed(HttpError::Length)),
        Some(Ok(0)) | None if body.is_end_stream() => BodyLength::Empty,
        Some(Ok(n)) => BodyLength::Sized(n),
        None => BodyLength::Chunked,
    };
    let path = path.as_bytes();
    let parts = Parts { method: &head.method, authority, path, length, upgrade: None, version: "2", foreign };
    Request::new(&parts, || fields.iter().map(|(name, value)| (*name, value.as_ref())))
}

async fn connect(
    shared: Arc<Shared>,
    head: Head,
    authority: Authority,
    body: RecvStream,
    mut respond: SendResponse<Bytes>,
) -> StreamEnd {
    let detour = read_detour(&head.headers);
    let trace = one_trace(head.headers.get_all("traceparent").iter().map(HeaderValue::as_bytes));
    let asked = Asked::from(head);
    let (Some(port), Some(detour)) = (authority.port, detour) else {
        return refused(shared, asked, respond, malformed(HttpError::Target)).await;
    };
    let (client, target) = (&shared.client, Target { host: authority.host, port });
    // DATA that follows at once travels with the open.
    let mut source = Source::h2(body);
    source.detour = detour.map(Box::new);
    let opened = tokio::select! {
        // In a box, so that a tunnel that stands does not keep the room that opening it took.
        opened = Box::pin(client.open(&target, &mut source, trace)) => opened,
        _ = poll_fn(|cx| respond.poll_reset(cx)) => return StreamEnd::Reset,
    };
    let (far, _permit) = match opened {
        Ok(opened) => opened,
        Err(refusal) => return settle(client, &asked, h2_out(client, respond), Ended::Refused(refusal)).await,
    };
    let Ok(stream) = respond.send_response(Response::new(()), false) else { return StreamEnd::Reset };
    let near = Tunnel { source, sink: Sink::H2(stream) };
    let terms = Terms::from(&*client.ctx.limits());
    let counters = &client.ctx.counters;
    let _open = counters.tunnels_open.hold();
    if pump(near, far, terms, client.ctx.meter(client)).await == End::Idle {
        counters.over_idle.up();
    }
    StreamEnd::Good
}

/// `https` in :scheme is a request to this proxy as a web server.
async fn origin_form(
    shared: Arc<Shared>,
    head: Head,
    authority: Authority,
    body: RecvStream,
    respond: SendResponse<Bytes>,
) -> StreamEnd {
    let client = &shared.client;
    if let Some(who) = client.who.as_ref().filter(|_| head.method == Method::POST && head.uri.path() == TICKET)
        && let Some(answering) = client.opener.ticket(who, client.source, body)
    {
        let (status, body) = answering.await;
        return answered(respond, status, body);
    }
    let head_only = head.method == Method::HEAD;
    let mut out = h2_out(client, respond);
    let answer = local::answer(client, &head.method, Some(&authority), head.uri.path());
    drop(head);
    let sent = match answer {
        Ok(page) => {
            let fields = page.fields();
            let body = if head_only { Bytes::new() } else { page.body.into() };
            out.own(page.status, &fields, body).await
        }
        Err(problem) => out.problem(problem, head_only).await,
    };
    sent.map_or(StreamEnd::Reset, |()| StreamEnd::Good)
}

fn answered(mut respond: SendResponse<Bytes>, status: u16, body: Bytes) -> StreamEnd {
    let Ok(response) = Response::builder().status(status).body(()) else { return StreamEnd::Reset };
    match respond.send_response(response, body.is_empty()) {
        Ok(mut stream) if !body.is_empty() => stream.send_data(body, true).map_or(StreamEnd::Reset, |()| StreamEnd::Good),
        Ok(_) => StreamEnd::Good,
        Err(_) => StreamEnd::Reset,
    }
}

async fn refused(shared: Arc<Shared>, asked: Asked, respond: SendResponse<Bytes>, refusal: Refusal) -> StreamEnd {
    settle(&shared.client, &asked, h2_out(&shared.client, respond), Ended::Refused(refusal)).await
}

/// What a refusal needs of a head: a client that takes no answer makes us hold nothing else of it.
struct Asked {
    accept: Option<HeaderValue>,
    head_only: bool,
}

impl From<Head> for Asked {
    fn from(mut head: Head) -> Self {
        Asked { accept: head.headers.remove(ACCEPT), head_only: head.method == Method::HEAD }
    }
}

async fn settle(client: &Client, asked: &Asked, mut out: Out<'_>, ended: Ended) -> StreamEnd {
    match ended {
        Ended::Answered { .. } => StreamEnd::Good,
        Ended::Refused(refusal) => {
            client.tell(&refusal);
            let problem = client.problem(&refusal, asked.accept.as_ref().map(HeaderValue::as_bytes));
            // In a box, so that a tunnel that stands does not keep the room.
            let sent = Box::pin(out.problem(problem, asked.head_only)).await;
            sent.map_or(StreamEnd::Reset, |()| StreamEnd::Good)
        }
        Ended::Cut | Ended::Switched(_) => {
            let begun = out.begun();
            out.cut();
            if begun { StreamEnd::Good } else { StreamEnd::Reset }
        }
    }
}

fn h2_out(client: &Client, respond: SendResponse<Bytes>) -> Out<'_> {
    Out::H2(H2Out { respond, stream: None, patience: Patience::with(client), ended: false })
}
