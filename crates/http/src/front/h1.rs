//! The proxy in HTTP/1.1 and 1.0.

use super::client::{Client, malformed};
use super::exchange::{Ended, exchange};
use super::inbox::{Inbox, ReadError, tunnel};
use super::local;
use super::origin::Body;
use super::out::{H1Out, Out, Patience};
use super::pool::Pool;
use super::request::{Request, one_trace};
use crate::pump::{End, Terms, pump};
use crate::tunnel::{Sink, Source, Target, Tunnel};
use bytes::{Bytes, BytesMut};
use polder_wire::Refusal;
use polder_wire::http1::{Authority, BodyLength, BodyReader, RequestHead, RequestTarget, Version};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

/// How long, and for how many bytes, a refused client is heard out.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 256 * 1024);

struct Connection<'a> {
    client: &'a Client,
    inbox: Inbox,
    sink: Sink,
    pool: Pool,
}

/// For so long a client that was answered early is waited for, so that the open and its first bytes cross every node together: it
/// speaks at once, unless in its protocol the site speaks first.
const SPEAKS_FIRST: Duration = Duration::from_millis(5);

/// What follows a request.
enum Next {
    /// Another request.
    Request,
    /// The end, in good order.
    Close,
    /// The end at once: the client must notice that an answer is not whole.
    Cut,
    /// The connection is now a tunnel to this.
    Tunnel(Tunnel, super::context::Permit),
}

pub(crate) async fn serve<S>(io: S, client: &Client)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (reader, writer) = tokio::io::split(io);
    serve_tunnel(Tunnel { source: Source::io(reader), sink: Sink::io(writer) }, client).await;
}

/// As [`serve`], for a client at the other end of a tunnel.
pub(crate) async fn serve_tunnel(near: Tunnel, client: &Client) {
    let mut connection =
        Connection { client, inbox: Inbox::of_client(near.source, &client.ctx.limits()), sink: near.sink, pool: Pool::default() };
    let mut first = true;
    loop {
        let next = match connection.next_head(first).await {
            Ok(Some(head)) => {
                connection.pace().await;
                // In a box: what is idle or a tunnel does not keep the room that answering took.
                Box::pin(connection.answer(&head)).await
            }
            Ok(None) => Next::Close,
            Err(refusal) => connection.refuse(None, refusal).await,
        };
        first = false;
        match next {
            Next::Request => {}
            Next::Close => return connection.linger().await,
            Next::Cut => return,
            Next::Tunnel(far, _permit) => {
                let near = tunnel(connection.inbox, connection.sink);
                return carry(client, near, far).await;
            }
        }
    }
}

async fn carry(client: &Client, near: Tunnel, far: Tunnel) {
    let terms = Terms::from(&*client.ctx.limits());
    let counters = &client.ctx.counters;
    let _open = counters.tunnels_open.hold();
    if pump(near, far, terms, client.ctx.meter(client)).await == End::Idle {
        counters.over_idle.up();
    }
}

impl Connection<'_> {
    /// The next request head; `None` when the client has gone, has been idle for too long, or is sent away.
    async fn next_head(&mut self, first: bool) -> Result<Option<RequestHead>, Refusal> {
        let limits = self.client.ctx.limits();
        let head_time = Duration::from_millis(u64::from(limits.header_timeout_ms));
        let idle = if first { head_time } else { Duration::from_millis(u64::from(limits.keepalive_timeout_ms)) };
        let mut draining = self.client.ctx.draining();
        tokio::select! {
            biased;
            came = timeout(idle, wait(&mut self.inbox, &self.pool)) => match came {
                Ok(Ok(true)) => {}
                _ => return Ok(None),
            },
            _ = draining.wait_for(|draining| *draining) => return Ok(None),
        }
        // Slowloris: the time runs from the first byte, however many follow.
        match timeout(head_time, self.inbox.request()).await {
            Ok(Ok(head)) => Ok(head),
            Ok(Err(ReadError::Io(_))) => Ok(None),
            Ok(Err(ReadError::Http(error))) => Err(malformed(error)),
            Err(_) => {
                self.client.ctx.counters.over_header_timeout.up();
                Ok(None)
            }
        }
    }

    /// Requests have a budget, too; and who has sent many at once lets others go ahead.
    async fn pace(&mut self) {
        match self.client.spend(1) {
            0 if self.inbox.is_empty() => {}
            0 => tokio::task::yield_now().await,
            wait => tokio::time::sleep(Duration::from_millis(wait)).await,
        }
    }

    async fn answer(&mut self, head: &RequestHead) -> Next {
        self.client.ctx.counters.requests.up();
        if let Some(reverse) = &self.client.reverse {
            return match reverse.request(head) {
                Ok(request) => self.exchange(head, &request).await,
                Err(refusal) => self.refuse(Some(head), refusal).await,
            };
        }
        match &head.target {
            RequestTarget::Authority(authority) => self.connect(head, authority).await,
            RequestTarget::Absolute { authority, path } => {
                match Request::from_h1(head, authority, path, self.client.ctx.traces_to_origins()) {
                    Ok(request) => self.exchange(head, &request).await,
                    Err(refusal) => self.refuse(Some(head), refusal).await,
                }
            }
            RequestTarget::Origin(path) => self.local(head, path).await,
            RequestTarget::Asterisk => self.local(head, b"*").await,
        }
    }

    async fn connect(&mut self, head: &RequestHead, authority: &Authority) -> Next {
        let Some(port) = authority.port else { return Next::Cut };
        let target = Target { host: authority.host.clone(), port };
        let early = self.client.ctx.forwarder().is_some_and(|forwarder| forwarder.early_answer);
        if let Err(refusal) = self.client.admit(&target) {
            return self.refuse(Some(head), refusal).await;
        }
        if early && self.established().await.is_err() {
            return Next::Cut;
        }
        // Bytes that have come already, and those that come meanwhile, travel with the open.
        let inbox = std::mem::replace(&mut self.inbox, Inbox::new(Source::bytes(Bytes::new())));
        let mut source = inbox.into_source();
        if early {
            source.foresee(SPEAKS_FIRST).await;
        }
        let trace = one_trace(head.fields.all("traceparent"));
        let opened = self.client.open(&target, &mut source, trace).await;
        self.inbox = Inbox::of_client(source, &self.client.ctx.limits());
        match opened {
            Err(refusal) if early => {
                self.client.ctx.counters.refused(refusal.error);
                Next::Cut
            }
            Err(refusal) => self.refuse(Some(head), refusal).await,
            Ok((far, permit)) => {
                if !early && self.established().await.is_err() {
                    return Next::Cut;
                }
                Next::Tunnel(far, permit)
            }
        }
    }

    /// RFC 9110 §9.3.6: any 2xx; neither Content-Length nor Transfer-Encoding.
    async fn established(&mut self) -> io::Result<()> {
        self.sink.send(Bytes::from_static(b"HTTP/1.1 200 Connection established\r\n\r\n")).await
    }

    async fn exchange(&mut self, head: &RequestHead, request: &Request) -> Next {
        let reader = (head.length != BodyLength::Empty).then(|| BodyReader::new(head.length));
        let body = Body::Framed(&mut self.inbox, reader);
        let mut out = Out::H1(h1_out(self.client, &mut self.sink, head, head.persists()));
        let ended = exchange(self.client, &self.pool, request, body, &mut out).await;
        let keep = matches!(&out, Out::H1(out) if out.keep);
        match ended {
            Ended::Answered { body_read: true } if keep => Next::Request,
            Ended::Answered { .. } => Next::Close,
            Ended::Cut => Next::Cut,
            // A body may still be coming that must not be read as a request.
            Ended::Refused(refusal) if head.length == BodyLength::Empty && keep => self.tell(head, refusal).await,
            Ended::Refused(refusal) => self.refuse(Some(head), refusal).await,
            Ended::Switched(conn) => {
                let super::pool::Conn { inbox, sink, permit, .. } = *conn;
                Next::Tunnel(tunnel(inbox, sink), permit)
            }
        }
    }

    async fn local(&mut self, head: &RequestHead, path: &[u8]) -> Next {
        let path = String::from_utf8_lossy(path);
        let keep = head.persists() && head.length == BodyLength::Empty;
        let head_only = head.method == http::Method::HEAD;
        let mut out = Out::H1(h1_out(self.client, &mut self.sink, head, keep));
        let sent = match local::answer(self.client, &head.method, head.host.as_ref(), &path) {
            Ok(page) => {
                let fields = page.fields();
                out.own(page.status, &fields, if head_only { Bytes::new() } else { page.body.into() }).await
            }
            Err(problem) => out.problem(problem, head_only).await,
        };
        match sent {
            Ok(()) if keep => Next::Request,
            Ok(()) => Next::Close,
            Err(_) => Next::Cut,
        }
    }

    /// Refuses a request after which the connection can go on.
    async fn tell(&mut self, head: &RequestHead, refusal: Refusal) -> Next {
        match self.say_no(Some(head), &refusal, true).await {
            Ok(()) => Next::Request,
            Err(_) => Next::Cut,
        }
    }

    /// Refuses a request and ends: bytes behind it might have been meant for a tunnel, or as a body.
    async fn refuse(&mut self, head: Option<&RequestHead>, refusal: Refusal) -> Next {
        match self.say_no(head, &refusal, false).await {
            Ok(()) => Next::Close,
            Err(_) => Next::Cut,
        }
    }

    async fn say_no(&mut self, head: Option<&RequestHead>, refusal: &Refusal, keep: bool) -> io::Result<()> {
        self.client.tell(refusal);
        let accept = head.and_then(|head| head.fields.all("accept").next());
        let problem = self.client.problem(refusal, accept);
        let head_only = head.is_some_and(|head| head.method == http::Method::HEAD);
        let mut out = match head {
            Some(head) => h1_out(self.client, &mut self.sink, head, keep),
            None => plain_out(self.client, &mut self.sink),
        };
        out.keep = keep;
        Out::H1(out).problem(problem, head_only).await
    }

    async fn linger(mut self) {
        if self.sink.finish().await.is_ok() {
            let _ = timeout(LINGER.0, self.inbox.discard(LINGER.1)).await;
        }
    }
}

/// Waits for the first byte of a request; tunnels that wait meanwhile are closed in their time.
async fn wait(inbox: &mut Inbox, pool: &Pool) -> io::Result<bool> {
    let mut came = std::pin::pin!(inbox.wait());
    loop {
        tokio::select! {
            biased;
            came = &mut came => return came,
            () = tokio::time::sleep(super::pool::MAX_AGE) => pool.sweep(),
        }
    }
}

fn h1_out<'c>(client: &'c Client, sink: &'c mut Sink, head: &RequestHead, keep: bool) -> H1Out<'c> {
    let draining = *client.ctx.draining().borrow();
    H1Out {
        old: head.version == Version::Http10,
        keep: keep && !draining && !client.ctx.pressure().is_full(),
        ..plain_out(client, sink)
    }
}

fn plain_out<'c>(client: &'c Client, sink: &'c mut Sink) -> H1Out<'c> {
    H1Out {
        sink,
        old: false,
        keep: false,
        patience: Patience::with(client),
        pending: BytesMut::new(),
        chunked: false,
        begun: false,
    }
}
