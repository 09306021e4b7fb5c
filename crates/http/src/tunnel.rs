//! A tunnel is two directions of bytes. Everything that carries (links, fronts, deliveries) meets here.
//!
//! Chunks are `Bytes`, so that what arrives as an HTTP/2 DATA frame leaves as one without a copy.

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use polder_types::Identity;
use polder_wire::Refusal;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Largest chunk read from a byte stream at once: one TLS record.
const CHUNK: usize = 16 * 1024;

/// A boxed future, for the trait objects at room borders.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where a tunnel's bytes come from.
pub struct Source {
    front: VecDeque<Bytes>,
    rest: Rest,
}

enum Rest {
    Io(Box<dyn AsyncRead + Send + Unpin>, BytesMut),
    H2(RecvStream),
    Ended,
}

impl Source {
    /// Bytes of a stream.
    pub fn io(reader: impl AsyncRead + Send + Unpin + 'static) -> Self {
        Source { front: VecDeque::new(), rest: Rest::Io(Box::new(reader), BytesMut::new()) }
    }

    /// DATA frames of an HTTP/2 stream. Flow-control capacity is released as chunks are taken.
    pub fn h2(stream: RecvStream) -> Self {
        Source { front: VecDeque::new(), rest: Rest::H2(stream) }
    }

    /// Fixed bytes, then the end.
    pub fn bytes(chunk: Bytes) -> Self {
        Source { front: VecDeque::from([chunk]), rest: Rest::Ended }
    }

    /// Puts bytes that were read too early back in front.
    pub fn unread(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.front.push_front(chunk);
        }
    }

    /// The next chunk; `None` at the end. Cancel safe.
    pub async fn next(&mut self) -> Option<std::io::Result<Bytes>> {
        if let Some(chunk) = self.front.pop_front() {
            return Some(Ok(chunk));
        }
        match &mut self.rest {
            Rest::Io(reader, buffer) => {
                buffer.reserve(CHUNK);
                match reader.read_buf(buffer).await {
                    Ok(0) => {
                        self.rest = Rest::Ended;
                        None
                    }
                    Ok(_) => Some(Ok(buffer.split().freeze())),
                    Err(e) => Some(Err(e)),
                }
            }
            Rest::H2(stream) => match stream.data().await {
                Some(Ok(chunk)) => {
                    let released = stream.flow_control().release_capacity(chunk.len());
                    Some(released.map(|()| chunk).map_err(std::io::Error::other))
                }
                Some(Err(e)) => Some(Err(std::io::Error::other(e))),
                None => None,
            },
            Rest::Ended => None,
        }
    }
}

/// Where a tunnel's bytes go.
pub enum Sink {
    /// A byte stream.
    Io(Box<dyn AsyncWrite + Send + Unpin>),
    /// An HTTP/2 stream.
    H2(SendStream<Bytes>),
}

impl Sink {
    /// A byte stream.
    pub fn io(writer: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        Sink::Io(Box::new(writer))
    }

    /// Sends a chunk, waiting for the peer's window or socket. Not cancel safe.
    pub async fn send(&mut self, mut chunk: Bytes) -> std::io::Result<()> {
        match self {
            Sink::Io(writer) => {
                writer.write_all(&chunk).await?;
                writer.flush().await
            }
            Sink::H2(stream) => {
                while !chunk.is_empty() {
                    stream.reserve_capacity(chunk.len());
                    let granted = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
                    let granted = granted.unwrap_or(Err(h2::Reason::CANCEL.into())).map_err(std::io::Error::other)?;
                    let part = chunk.split_to(granted.min(chunk.len()));
                    stream.send_data(part, false).map_err(std::io::Error::other)?;
                }
                Ok(())
            }
        }
    }

    /// Ends this direction in good order.
    pub async fn finish(&mut self) -> std::io::Result<()> {
        match self {
            Sink::Io(writer) => writer.shutdown().await,
            Sink::H2(stream) => stream.send_data(Bytes::new(), true).map_err(std::io::Error::other),
        }
    }

    /// Ends this direction so that the other side notices that it was cut.
    pub fn reset(&mut self) {
        if let Sink::H2(stream) = self {
            stream.send_reset(h2::Reason::CANCEL);
        }
    }
}

/// Both directions.
pub struct Tunnel {
    /// What the other side sends.
    pub source: Source,
    /// What it is sent.
    pub sink: Sink,
}

/// What a client asks to be carried to: a host in lower case without port, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Host.
    pub host: Arc<str>,
    /// Port.
    pub port: u16,
}

/// Who asks: `None` in a user's own forwarder, where the loopback peer is the user.
pub type Asker = Option<Arc<Identity>>;

/// Opens tunnels for the front: through the overlay in an access point, through access points in a forwarder.
pub trait Opener: Send + Sync + 'static {
    /// Whether `who` may be carried to `target`: no I/O, constant cost. `open` checks again.
    fn admit(&self, who: &Asker, target: &Target) -> Result<(), Refusal>;

    /// Opens a tunnel. What `client` yields meanwhile travels along with the open and is kept (up to
    /// `Limits::replay_bytes`) to be said again on another path, until a path answers. On return `client` continues
    /// behind what has been sent. Ends when a path has accepted or every path has refused.
    fn open<'a>(&'a self, who: &'a Asker, target: &'a Target, client: &'a mut Source) -> BoxFuture<'a, Result<Tunnel, Refusal>>;
}
