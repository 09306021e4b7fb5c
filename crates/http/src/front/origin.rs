//! One request and its answer on one tunnel.

use super::client::Client;
use super::inbox::{Inbox, ReadError};
use super::out::Out;
use super::pool::Conn;
use super::request::Request;
use crate::tunnel::{Sink, Source};
use bytes::{BufMut, Bytes, BytesMut};
use polder_flow::MinRate;
use polder_wire::http1::{BodyReader, HttpError, LAST_CHUNK, ResponseHead, chunk_head};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// Most 1xx before a final answer.
const MAX_INTERIM: usize = 16;

/// A client's request body, and whether the client is still there when it has been read.
pub(crate) enum Body<'c> {
    /// On an HTTP/1 connection; `None` when all of it has been read.
    Framed(&'c mut Inbox, Option<BodyReader>),
    /// An HTTP/2 stream; `None` when all of it has been read. That a stream was reset is seen where it is answered.
    Stream(Option<Source>),
}

impl Body<'_> {
    /// Whether nothing of the request is left where it came from.
    pub(crate) fn is_read(&self) -> bool {
        matches!(self, Body::Framed(_, None) | Body::Stream(None))
    }

    async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        match self {
            Body::Framed(inbox, reader) => match reader {
                Some(body) => {
                    let piece = inbox.piece(body).await?;
                    if piece.is_none() {
                        *reader = None;
                    }
                    Ok(piece)
                }
                None => Ok(None),
            },
            Body::Stream(stream) => match stream {
                Some(source) => {
                    let piece = source.next().await.transpose()?;
                    if piece.is_none() {
                        *stream = None;
                    }
                    Ok(piece)
                }
                None => Ok(None),
            },
        }
    }

    /// Ends when an HTTP/1 client that has said all goes away before it has been answered. As in other proxies, one that
    /// shuts only its sending side counts as gone: the two look alike.
    async fn gone(&mut self) {
        match self {
            Body::Framed(inbox, None) => inbox.ended().await,
            _ => std::future::pending().await,
        }
    }
}

/// How a conversation failed.
pub(crate) enum Fault {
    /// The origin broke before the head of its answer was whole.
    NoAnswer,
    /// The origin broke later, or answered what is not HTTP.
    Origin(HttpError),
    /// The origin was silent for too long.
    Late,
    /// The client's body is malformed.
    Request(HttpError),
    /// The client's body came too slowly.
    Slow,
    /// The client is gone or takes nothing.
    Client,
}

/// How it went well.
pub(crate) enum Spoken {
    /// Answered wholly. `again`: the tunnel can take another request.
    Wholly { again: bool },
    /// The origin switches protocols; its head has been passed on.
    Switched,
}

/// Says what of the request has not travelled yet, and passes the answer on.
pub(crate) async fn converse(
    client: &Client,
    conn: &mut Conn,
    request: &Request,
    body: &mut Body<'_>,
    out: &mut Out<'_>,
) -> Result<Spoken, Fault> {
    let Conn { inbox, sink, .. } = conn;
    // Without a body all is said already: an answer that is there at the first look must not cost the tunnel.
    let said = AtomicBool::new(body.is_read());
    let ended = {
        let say = async {
            match say_body(client, sink, body, request.chunked).await {
                Ok(()) => said.store(true, Relaxed),
                // An origin that has heard enough may answer all the same.
                Err(Fault::Origin(_)) => std::future::pending().await,
                Err(fault) => return fault,
            }
            body.gone().await;
            Fault::Client
        };
        tokio::select! {
            biased;
            ended = hear(client, inbox, request, out) => ended?,
            fault = say => return Err(fault),
        }
    };
    Ok(match ended {
        Heard::Switched => Spoken::Switched,
        Heard::Wholly(persists) => Spoken::Wholly { again: persists && said.into_inner() && inbox.is_empty() },
    })
}

/// Carries the client's body to the origin, at no less than the least rate.
async fn say_body(client: &Client, sink: &mut Sink, body: &mut Body<'_>, chunked: bool) -> Result<(), Fault> {
    if body.is_read() {
        return Ok(());
    }
    let mut rate = MinRate::new(client.ctx.limits().body_rate_floor, client.ctx.now());
    loop {
        let left = rate.deadline().saturating_sub(client.ctx.now());
        let piece = match tokio::time::timeout(Duration::from_millis(left), body.next()).await {
            Err(_) if rate.came(0, client.ctx.now()) => continue,
            Err(_) => return Err(Fault::Slow),
            Ok(Err(ReadError::Http(error))) => return Err(Fault::Request(error)),
            Ok(Err(ReadError::Io(_))) => return Err(Fault::Client),
            Ok(Ok(piece)) => piece,
        };
        let length = piece.as_ref().map_or(0, Bytes::len);
        client.ctx.counters.bytes_up.add(length as u64);
        if piece.is_some() && !rate.came(length, client.ctx.now()) {
            return Err(Fault::Slow);
        }
        let last = piece.is_none();
        let before = client.ctx.now();
        let framed = match piece {
            Some(data) if chunked => framed(&data),
            Some(data) => data,
            None if chunked => Bytes::from_static(LAST_CHUNK),
            None => Bytes::new(),
        };
        sink.send(framed).await.map_err(|_| Fault::Origin(HttpError::Truncated))?;
        if last {
            return Ok(());
        }
        rate.excuse(client.ctx.now() - before);
    }
}

/// One chunk with its framing.
fn framed(data: &Bytes) -> Bytes {
    if data.is_empty() {
        return Bytes::new(); // a chunk of size 0 would be the last
    }
    let head = chunk_head(data.len());
    let mut framed = BytesMut::with_capacity(head.len() + data.len() + 2);
    framed.put_slice(&head);
    framed.put_slice(data);
    framed.put_slice(b"\r\n");
    framed.freeze()
}

enum Heard {
    Wholly(bool),
    Switched,
}

async fn hear(client: &Client, inbox: &mut Inbox, request: &Request, out: &mut Out<'_>) -> Result<Heard, Fault> {
    let idle = Duration::from_millis(u64::from(client.ctx.limits().idle_timeout_ms));
    let mut interims = 0;
    let head = loop {
        let answer = tokio::select! {
            answer = tokio::time::timeout(idle, inbox.response(&request.method)) => answer,
            () = out.gone() => return Err(Fault::Client),
        };
        let head = match answer {
            Err(_) => return Err(Fault::Late),
            Ok(Ok(None) | Err(ReadError::Io(_) | ReadError::Http(HttpError::Truncated))) => return Err(Fault::NoAnswer),
            Ok(Err(ReadError::Http(error))) => return Err(Fault::Origin(error)),
            Ok(Ok(Some(head))) => head,
        };
        if !head.interim() {
            break head;
        }
        interims += 1;
        if interims > MAX_INTERIM {
            return Err(Fault::Origin(HttpError::Status));
        }
        out.interim(&head).await.map_err(|_| Fault::Client)?;
    };
    if head.status == 101 {
        return if request.upgrade { switch(out, &head).await } else { Err(Fault::Origin(HttpError::Status)) };
    }
    pass_on(client, inbox, request, &head, out, idle).await
}

async fn pass_on(
    client: &Client,
    inbox: &mut Inbox,
    request: &Request,
    head: &ResponseHead,
    out: &mut Out<'_>,
    idle: Duration,
) -> Result<Heard, Fault> {
    let lost = |error: std::io::Error| {
        if error.kind() == std::io::ErrorKind::TimedOut {
            client.ctx.counters.over_stall.up();
        }
        Fault::Client
    };
    let bodiless = matches!(head.status, 204 | 304) || request.method == http::Method::HEAD;
    out.head(head, bodiless).await.map_err(lost)?;
    let mut reader = BodyReader::new(head.length);
    loop {
        let piece = match inbox.piece_now(&mut reader) {
            Some(piece) => piece,
            None => {
                out.flush().await.map_err(lost)?;
                tokio::select! {
                    piece = tokio::time::timeout(idle, inbox.piece(&mut reader)) => piece.map_err(|_| Fault::Late)?,
                    () = out.gone() => return Err(Fault::Client),
                }
            }
        };
        match piece {
            Ok(Some(data)) => {
                client.ctx.counters.bytes_down.add(data.len() as u64);
                out.data(data).await.map_err(lost)?;
            }
            Ok(None) => break,
            Err(ReadError::Http(error)) => return Err(Fault::Origin(error)),
            Err(ReadError::Io(_)) => return Err(Fault::Origin(HttpError::Truncated)),
        }
    }
    out.end().await.map_err(lost)?;
    client.ctx.counters.exchanges.up();
    Ok(Heard::Wholly(head.persists()))
}

/// Passes `101 Switching Protocols` on; HTTP/1.1 only, for only there was an upgrade asked for.
async fn switch(out: &mut Out<'_>, head: &ResponseHead) -> Result<Heard, Fault> {
    let Out::H1(out) = out else { return Err(Fault::Origin(HttpError::Status)) };
    out.switch(head);
    out.flush().await.map_err(|_| Fault::Client)?;
    Ok(Heard::Switched)
}
