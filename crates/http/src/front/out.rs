//! Answers to clients, in whichever HTTP they speak.

use super::client::Client;
use super::request::{PSEUDONYM, field};
use crate::pump::at_once;
use crate::tunnel::Sink;
use bytes::{BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use polder_wire::Problem;
use polder_wire::http1::{BodyLength, LAST_CHUNK, ResponseHead, chunk_head, is_framing, is_hop_by_hop};
use std::future::poll_fn;
use std::io;
use std::time::Duration;

/// Bytes of an HTTP/1 answer gathered before they are sent: one TLS record.
const GATHER: usize = 16 * 1024;

/// Where an answer goes.
pub(crate) enum Out<'c> {
    H1(H1Out<'c>),
    H2(H2Out<'c>),
}

/// An answer on an HTTP/1 connection.
pub(crate) struct H1Out<'c> {
    pub(crate) sink: &'c mut Sink,
    /// The client speaks HTTP/1.0.
    pub(crate) old: bool,
    /// The connection goes on after this answer; [`Out::head`] may say otherwise.
    pub(crate) keep: bool,
    pub(crate) patience: Patience<'c>,
    pub(crate) pending: BytesMut,
    pub(crate) chunked: bool,
    /// Something has been sent, interim answers aside.
    pub(crate) begun: bool,
}

/// An answer on an HTTP/2 stream.
pub(crate) struct H2Out<'c> {
    pub(crate) respond: SendResponse<Bytes>,
    pub(crate) stream: Option<Sink>,
    pub(crate) patience: Patience<'c>,
    pub(crate) ended: bool,
}

impl Out<'_> {
    /// Whether any of the answer has left: until then it can still become another one.
    pub(crate) fn begun(&self) -> bool {
        match self {
            Out::H1(out) => out.begun,
            Out::H2(out) => out.stream.is_some() || out.ended,
        }
    }

    /// Whether the connection goes on after the answer, as far as the client is concerned.
    pub(crate) fn keeps(&self) -> bool {
        matches!(self, Out::H1(out) if out.keep)
    }

    /// Makes way for another answer; only before any of this one has left. `keeps`: as it was before.
    pub(crate) fn forget(&mut self, keeps: bool) {
        if let Out::H1(out) = self {
            out.pending.clear();
            (out.chunked, out.keep) = (false, keeps);
        }
    }

    /// Ends when the client has given up on this answer; only HTTP/2 can tell.
    pub(crate) async fn gone(&mut self) {
        match self {
            Out::H1(_) => std::future::pending().await,
            Out::H2(H2Out { stream: Some(sink), .. }) => drop(poll_fn(|cx| sink.poll_reset(cx)).await),
            Out::H2(H2Out { respond, .. }) => drop(poll_fn(|cx| respond.poll_reset(cx)).await),
        }
    }

    /// Cuts an answer short, so that the client notices.
    pub(crate) fn cut(&mut self) {
        match self {
            Out::H1(_) => {} // dropping the connection says it
            Out::H2(H2Out { stream: Some(sink), .. }) => sink.reset(),
            Out::H2(out) => out.respond.send_reset(h2::Reason::CANCEL),
        }
    }

    /// Passes a 1xx on. HTTP/1.0 clients know none (RFC 9110 §15.2).
    pub(crate) async fn interim(&mut self, head: &ResponseHead) -> io::Result<()> {
        match self {
            Out::H1(out) if out.old => Ok(()),
            Out::H1(out) => {
                out.status(head.status);
                out.fields(head);
                out.pending.put_slice(b"\r\n");
                let flushed = out.flush().await;
                out.begun = false;
                flushed
            }
            Out::H2(out) => out.respond.send_informational(h2_head(head, None)?).map_err(io::Error::other),
        }
    }

    /// Passes a final head on. `content_length` is the field as the origin sent it, for answers that have no body.
    pub(crate) async fn head(&mut self, head: &ResponseHead, bodiless: bool) -> io::Result<()> {
        let length = match head.length {
            BodyLength::Sized(n) => Some(n.to_string().into_bytes()),
            BodyLength::Empty if bodiless => head.fields.all("content-length").next().map(<[u8]>::to_vec),
            BodyLength::Empty => Some(b"0".to_vec()),
            BodyLength::Chunked | BodyLength::UntilClose => None,
        };
        match self {
            Out::H1(out) => {
                out.chunked = length.is_none() && !bodiless && !out.old;
                out.keep &= length.is_some() || bodiless || out.chunked;
                out.status(head.status);
                out.fields(head);
                out.framing(length.as_deref());
                Ok(())
            }
            Out::H2(out) => {
                let end = head.length == BodyLength::Empty;
                out.begin(h2_head(head, length.as_deref())?, end)
            }
        }
    }

    /// Sends a part of the body; it may wait until [`Out::flush`].
    pub(crate) async fn data(&mut self, data: Bytes) -> io::Result<()> {
        match self {
            Out::H1(out) => out.data(data).await,
            Out::H2(H2Out { stream: Some(sink), patience, .. }) => send(sink, data, *patience).await,
            Out::H2(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Sends what waits.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        match self {
            Out::H1(out) => out.flush().await,
            Out::H2(_) => Ok(()),
        }
    }

    /// Ends the answer.
    pub(crate) async fn end(&mut self) -> io::Result<()> {
        match self {
            Out::H1(out) => {
                if out.chunked {
                    out.pending.put_slice(LAST_CHUNK);
                }
                out.flush().await
            }
            Out::H2(H2Out { stream: Some(sink), ended: false, .. }) => sink.finish().await,
            Out::H2(_) => Ok(()),
        }
    }

    /// Answers in Polder's own name. `head_only`: to HEAD.
    pub(crate) async fn problem(&mut self, problem: Problem, head_only: bool) -> io::Result<()> {
        let length = problem.body.len().to_string();
        let mut fields = vec![
            ("content-type", problem.content_type.to_owned()),
            ("content-length", length),
            ("cache-control", "no-store".to_owned()),
            ("proxy-status", problem.proxy_status),
        ];
        fields.extend(problem.retry_after.map(|seconds| ("retry-after", seconds.to_string())));
        let body = if head_only { Bytes::new() } else { problem.body.into() };
        self.own(problem.status, &fields, body).await
    }

    /// Answers with a whole small body.
    pub(crate) async fn own(&mut self, status: u16, fields: &[(&str, String)], body: Bytes) -> io::Result<()> {
        match self {
            Out::H1(out) => {
                out.status(status);
                for (name, value) in fields {
                    field(&mut out.pending, name, value.as_bytes());
                }
                out.framing(None);
                out.pending.put_slice(&body);
                out.flush().await
            }
            Out::H2(out) => {
                let mut response = Response::new(());
                *response.status_mut() = StatusCode::from_u16(status).map_err(io::Error::other)?;
                for (name, value) in fields {
                    insert(&mut response, name, value.as_bytes())?;
                }
                out.begin(response, body.is_empty())?;
                self.data(body).await?;
                self.end().await
            }
        }
    }
}

impl H1Out<'_> {
    fn status(&mut self, status: u16) {
        let reason = StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or_default();
        self.pending.put_slice(format!("HTTP/1.1 {status} {reason}\r\n").as_bytes());
    }

    fn fields(&mut self, head: &ResponseHead) {
        for (name, value) in head.fields.iter().filter(|(name, _)| passes(head, name)) {
            field(&mut self.pending, name, value);
        }
        field(&mut self.pending, "Via", format!("1.1 {PSEUDONYM}").as_bytes());
    }

    /// A whole 101 head (RFC 9110 §15.2.2): the one answer in which `Upgrade` is for the client.
    pub(crate) fn switch(&mut self, head: &ResponseHead) {
        self.keep = false;
        self.status(head.status);
        self.fields(head);
        field(&mut self.pending, "Connection", b"upgrade");
        for protocol in head.fields.all("upgrade") {
            field(&mut self.pending, "Upgrade", protocol);
        }
        self.pending.put_slice(b"\r\n");
    }

    fn framing(&mut self, length: Option<&[u8]>) {
        if let Some(length) = length {
            field(&mut self.pending, "Content-Length", length);
        }
        if self.chunked {
            field(&mut self.pending, "Transfer-Encoding", b"chunked");
        }
        match (self.keep, self.old) {
            (false, _) => field(&mut self.pending, "Connection", b"close"),
            (true, true) => field(&mut self.pending, "Connection", b"keep-alive"),
            (true, false) => {}
        }
        self.pending.put_slice(b"\r\n");
    }

    async fn data(&mut self, data: Bytes) -> io::Result<()> {
        if data.is_empty() {
            return Ok(()); // a chunk of size 0 would be the last
        }
        if self.chunked {
            self.pending.put_slice(&chunk_head(data.len()));
        }
        if self.pending.len() + data.len() <= GATHER {
            self.pending.put_slice(&data);
        } else {
            self.begun = true;
            let waiting = self.pending.split().freeze();
            send(self.sink, waiting, self.patience).await?;
            send(self.sink, data, self.patience).await?;
        }
        if self.chunked {
            self.pending.put_slice(b"\r\n");
        }
        Ok(())
    }

    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        if !self.begun && self.pending.is_empty() {
            return Ok(());
        }
        self.begun = true;
        let waiting = self.pending.split().freeze();
        send(self.sink, waiting, self.patience).await?;
        stalled(self.patience, 0, self.sink.flush()).await
    }
}

impl H2Out<'_> {
    fn begin(&mut self, head: Response<()>, end: bool) -> io::Result<()> {
        let stream = self.respond.send_response(head, end).map_err(io::Error::other)?;
        self.stream = Some(Sink::H2(stream));
        self.ended = end;
        Ok(())
    }
}

/// Sends in pieces, so that a reader has to take one within the time, and not a whole chunk. What a byte stream still holds
/// back goes with the next flush.
async fn send(sink: &mut Sink, mut data: Bytes, patience: Patience<'_>) -> io::Result<()> {
    while !data.is_empty() {
        let piece = data.split_to(data.len().min(GATHER));
        stalled(patience, piece.len(), sink.feed(piece)).await?;
    }
    Ok(())
}

/// How long a reader may take nothing, and whose it is.
#[derive(Clone, Copy)]
pub(crate) struct Patience<'c> {
    stall: Duration,
    client: &'c Client,
}

impl<'c> Patience<'c> {
    pub(crate) fn with(client: &'c Client) -> Self {
        Patience { stall: Duration::from_millis(u64::from(client.ctx.limits().stall_timeout_ms)), client }
    }
}

/// A reader who takes nothing for so long counts as one who does not read.
const SOON: Duration = Duration::from_secs(1);

/// Waits for the reader, but not for one that takes nothing for `stall`, or less than 1 KiB/s, nor for too many of one client.
async fn stalled(patience: Patience<'_>, bytes: usize, work: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let mut work = std::pin::pin!(work);
    if let Some(done) = at_once(work.as_mut()).await {
        return done;
    }
    let _waits = patience.client.waits();
    let most = patience.stall + Duration::from_millis(bytes as u64);
    if let Ok(done) = tokio::time::timeout(SOON.min(most), work.as_mut()).await {
        return done;
    }
    let _stalled = patience.client.stalls().ok_or(io::ErrorKind::TimedOut)?;
    tokio::time::timeout(most.saturating_sub(SOON), work).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}

/// Whether the origin's field `name` is for the client. `Alt-Svc` would send it past the overlay.
fn passes(head: &ResponseHead, name: &str) -> bool {
    !is_framing(name) && !is_hop_by_hop(name) && !name.eq_ignore_ascii_case("alt-svc") && !head.fields.nominated(name)
}

fn h2_head(head: &ResponseHead, length: Option<&[u8]>) -> io::Result<Response<()>> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status).map_err(io::Error::other)?;
    for (name, value) in head.fields.iter().filter(|(name, _)| passes(head, name)) {
        insert(&mut response, name, value)?;
    }
    insert(&mut response, "via", format!("1.1 {PSEUDONYM}").as_bytes())?;
    if let Some(length) = length {
        insert(&mut response, "content-length", length)?;
    }
    Ok(response)
}

fn insert(response: &mut Response<()>, name: &str, value: &[u8]) -> io::Result<()> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(io::Error::other)?;
    let value = HeaderValue::from_bytes(value).map_err(io::Error::other)?;
    response.headers_mut().append(name, value);
    Ok(())
}
