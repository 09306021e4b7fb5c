//! A tunnel is two directions of bytes. Everything that carries (links, fronts, deliveries) meets here.
//!
//! Chunks are `Bytes`, so that what arrives as an HTTP/2 DATA frame leaves as one without a copy.

use crate::crowd::{Crowd, Member, granted};
use crate::mend::{Heard, Mend, Said};
use crate::trace;
use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use polder_types::Identity;
use polder_wire::Refusal;
use polder_wire::SMALL_DATA;
use polder_wire::detour::Claim;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;

/// A boxed future, for the trait objects at room borders.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where a tunnel's bytes come from.
pub struct Source {
    /// Where a user's tunnel comes from, for sites that ask.
    pub(crate) peer: Option<IpAddr>,
    /// Where it is for the end of a session of the spread plane, and not for the site: the claim to it.
    pub(crate) detour: Option<Box<Claim>>,
    /// Asked when the first chunk has come: whether it may pass.
    gate: Option<Box<dyn FnOnce() -> bool + Send>>,
    front: VecDeque<Bytes>,
    rest: Rest,
}

enum Rest {
    Io(Box<dyn AsyncRead + Send + Unpin>),
    H2(RecvStream),
    Mending(Arc<Mend>),
    Held,
    Broken(std::io::Error),
    Ended,
}

impl Source {
    /// Bytes of a stream.
    pub fn io(reader: impl AsyncRead + Send + Unpin + 'static) -> Self {
        Source { peer: None, detour: None, gate: None, front: VecDeque::new(), rest: Rest::Io(Box::new(reader)) }
    }

    /// DATA frames of an HTTP/2 stream. Flow-control capacity is released as chunks are taken.
    pub fn h2(stream: RecvStream) -> Self {
        Source { peer: None, detour: None, gate: None, front: VecDeque::new(), rest: Rest::H2(stream) }
    }

    /// A path that may yet be replaced.
    pub(crate) fn mending(mend: Arc<Mend>) -> Self {
        Source { peer: None, detour: None, gate: None, front: VecDeque::new(), rest: Rest::Mending(mend) }
    }

    /// Fixed bytes, then the end.
    pub fn bytes(chunk: Bytes) -> Self {
        Source { peer: None, detour: None, gate: None, front: VecDeque::from([chunk]), rest: Rest::Ended }
    }

    /// Fixed bytes that may travel with an open, then silence: more will be sent by other means.
    pub fn held(chunk: Bytes) -> Self {
        Source { peer: None, detour: None, gate: None, front: VecDeque::from([chunk]), rest: Rest::Held }
    }

    /// Silence: what is to be said will be said by other means.
    pub(crate) fn silent() -> Self {
        Source { peer: None, detour: None, gate: None, front: VecDeque::new(), rest: Rest::Held }
    }

    /// The first chunk that comes passes only if `gate` says so then; else the stream breaks.
    pub(crate) fn gated(mut self, gate: impl FnOnce() -> bool + Send + 'static) -> Self {
        self.gate = Some(Box::new(gate));
        self
    }

    /// Bytes that wait in front and have not travelled yet.
    pub fn take_front(&mut self) -> Option<Bytes> {
        self.front.pop_front()
    }

    /// Puts bytes that were read too early back in front.
    pub fn unread(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.front.push_front(chunk);
        }
    }

    /// Waits for the next chunk, at most so long, and leaves it in front. What comes together then travels together.
    pub(crate) async fn foresee(&mut self, patience: Duration) {
        if !self.front.is_empty() {
            return;
        }
        match tokio::time::timeout(patience, self.next()).await {
            Ok(Some(Ok(chunk))) => self.unread(chunk),
            Ok(Some(Err(error))) => self.rest = Rest::Broken(error),
            Ok(None) | Err(_) => {}
        }
    }

    /// Whether it is known to have broken, by [`Source::foresee`].
    pub(crate) fn is_broken(&self) -> bool {
        matches!(self.rest, Rest::Broken(_))
    }

    /// The next chunk; `None` at the end, and ever after. Cancel safe.
    pub async fn next(&mut self) -> Option<std::io::Result<Bytes>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Source::next`]. A waiting source holds no buffer.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<std::io::Result<Bytes>>> {
        if let Rest::Mending(mend) = &self.rest {
            match ready!(mend.poll_hear(cx)) {
                Heard::From(source) => {
                    self.front.extend(source.front);
                    self.rest = source.rest;
                }
                Heard::Broken(error) => {
                    self.rest = Rest::Ended;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        if let Some(chunk) = self.front.pop_front() {
            if self.front.is_empty() {
                self.front = VecDeque::new();
            }
            return Poll::Ready(Some(Ok(chunk)));
        }
        let result = match &mut self.rest {
            Rest::Io(reader) => match ready!(polder_tls::read_batch(Pin::new(reader), cx)) {
                Ok(chunk) if chunk.is_empty() => None,
                other => Some(other),
            },
            Rest::H2(stream) => match ready!(poll_chunk(stream, cx)) {
                Some(Ok(chunk)) if chunk.len() < CRUMB => Some(Ok(gather(stream, cx, chunk))),
                other => other,
            },
            Rest::Held | Rest::Mending(_) => return Poll::Pending,
            Rest::Broken(_) => match std::mem::replace(&mut self.rest, Rest::Ended) {
                Rest::Broken(error) => return Poll::Ready(Some(Err(error))),
                _ => None,
            },
            Rest::Ended => None,
        };
        if result.is_none() {
            self.rest = Rest::Ended;
        }
        if matches!(result, Some(Ok(_))) && self.gate.take().is_some_and(|gate| !gate()) {
            self.rest = Rest::Ended;
            return Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into())));
        }
        Poll::Ready(result)
    }
}

/// DATA that is shorter is gathered: each frame costs every node on the way as much as a long one.
const CRUMB: usize = SMALL_DATA as usize;

/// The next DATA with something in it. What says nothing is not passed on: a few would count as an attack on the link that others share.
fn poll_chunk(stream: &mut RecvStream, cx: &mut Context<'_>) -> Poll<Option<std::io::Result<Bytes>>> {
    loop {
        match ready!(stream.poll_data(cx)) {
            Some(Ok(chunk)) if chunk.is_empty() => {}
            Some(Ok(chunk)) => {
                let released = stream.flow_control().release_capacity(chunk.len());
                return Poll::Ready(Some(released.map(|()| chunk).map_err(std::io::Error::other)));
            }
            Some(Err(e)) => return Poll::Ready(Some(Err(std::io::Error::other(e)))),
            None => return Poll::Ready(None),
        }
    }
}

/// `first` and what has come behind it already, to about a frame. An end or an error is not lost: HTTP/2 says it again.
fn gather(stream: &mut RecvStream, cx: &mut Context<'_>, first: Bytes) -> Bytes {
    let Poll::Ready(Some(Ok(second))) = poll_chunk(stream, cx) else { return first };
    let mut all = BytesMut::with_capacity(4 * CRUMB);
    all.extend_from_slice(&first);
    all.extend_from_slice(&second);
    while all.len() < polder_tls::FRAME - CRUMB
        && let Poll::Ready(Some(Ok(more))) = poll_chunk(stream, cx)
    {
        all.extend_from_slice(&more);
    }
    all.freeze()
}

/// Where a tunnel's bytes go.
pub enum Sink {
    /// A byte stream.
    Io(Box<dyn AsyncWrite + Send + Unpin>),
    /// A TCP connection: when it is dropped before [`Sink::finish`], the peer sees a reset and not an end in good order.
    Tcp(TcpSink),
    /// An HTTP/2 stream.
    H2(SendStream<Bytes>),
    /// An HTTP/2 stream on a link, with those of others.
    #[allow(private_interfaces)]
    Shared(Box<Member>),
    /// A path that may yet be replaced.
    #[allow(private_interfaces)]
    Mending(Arc<Mend>),
}

/// The writing half of a TCP connection.
pub struct TcpSink {
    half: Option<OwnedWriteHalf>,
}

impl Drop for TcpSink {
    fn drop(&mut self) {
        if let Some(half) = self.half.take() {
            let _ = half.as_ref().set_zero_linger();
            half.forget();
        }
    }
}

impl TcpSink {
    fn half(&mut self) -> std::io::Result<&mut OwnedWriteHalf> {
        self.half.as_mut().ok_or_else(|| std::io::ErrorKind::BrokenPipe.into())
    }
}

impl Sink {
    /// A byte stream.
    pub fn io(writer: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        Sink::Io(Box::new(writer))
    }

    /// The writing half of a TCP connection.
    pub fn tcp(half: OwnedWriteHalf) -> Self {
        Sink::Tcp(TcpSink { half: Some(half) })
    }

    /// An HTTP/2 stream on a connection whose streams share `crowd`.
    pub(crate) fn shared(stream: SendStream<Bytes>, crowd: Arc<Crowd>) -> Self {
        Sink::Shared(Box::new(Member::new(stream, crowd)))
    }

    /// Sends a chunk at once, waiting for the peer's window or socket. Not cancel safe.
    pub async fn send(&mut self, chunk: Bytes) -> std::io::Result<()> {
        self.feed(chunk).await?;
        self.flush().await
    }

    /// Sends a chunk that may wait in a buffer until [`Sink::flush`]. Not cancel safe.
    pub async fn feed(&mut self, mut chunk: Bytes) -> std::io::Result<()> {
        if let Sink::Mending(mend) = self {
            match poll_fn(|cx| mend.poll_say(cx, &chunk)).await? {
                Said::Yes => return Ok(()),
                Said::To(sink) => *self = sink,
            }
        }
        match self {
            Sink::Mending(_) => Err(std::io::ErrorKind::BrokenPipe.into()),
            Sink::Io(writer) => writer.write_all(&chunk).await,
            Sink::Tcp(sink) => sink.half()?.write_all(&chunk).await,
            Sink::H2(stream) => {
                while !chunk.is_empty() {
                    let part = granted(stream, chunk.len()).await?;
                    stream.send_data(chunk.split_to(part), false).map_err(std::io::Error::other)?;
                }
                Ok(())
            }
            Sink::Shared(member) => poll_fn(|cx| member.poll_feed(cx, &mut chunk)).await,
        }
    }

    /// Whether what is fed may wait for [`Sink::flush`].
    pub fn buffers(&self) -> bool {
        matches!(self, Sink::Io(_))
    }

    /// Pushes out what [`Sink::feed`] left in a buffer.
    pub async fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Sink::Io(writer) => writer.flush().await,
            Sink::Tcp(_) | Sink::H2(_) | Sink::Shared(_) | Sink::Mending(_) => Ok(()),
        }
    }

    /// Ends this direction in good order.
    pub async fn finish(&mut self) -> std::io::Result<()> {
        if let Sink::Mending(mend) = self {
            match poll_fn(|cx| mend.poll_finish(cx)).await? {
                Said::Yes => return Ok(()),
                Said::To(sink) => *self = sink,
            }
        }
        match self {
            Sink::Mending(_) => Err(std::io::ErrorKind::BrokenPipe.into()),
            Sink::Io(writer) => writer.shutdown().await,
            Sink::Tcp(sink) => {
                sink.half()?.shutdown().await?;
                // Shut already: dropping the half neither resets nor shuts again.
                if let Some(half) = sink.half.take() {
                    half.forget();
                }
                Ok(())
            }
            Sink::H2(stream) => stream.send_data(Bytes::new(), true).map_err(std::io::Error::other),
            Sink::Shared(member) => member.stream().send_data(Bytes::new(), true).map_err(std::io::Error::other),
        }
    }

    /// Ends this direction so that the other side notices that it was cut.
    pub fn reset(&mut self) {
        self.reset_with(h2::Reason::CANCEL);
    }

    /// As [`Sink::reset`]; over HTTP/2 with a reason.
    pub(crate) fn reset_with(&mut self, reason: h2::Reason) {
        match self {
            Sink::Io(_) => {} // under TLS the missing close_notify says it
            Sink::Tcp(sink) => drop(TcpSink { half: sink.half.take() }),
            Sink::H2(stream) => stream.send_reset(reason),
            Sink::Shared(member) => member.stream().send_reset(reason),
            Sink::Mending(mend) => mend.reset(reason),
        }
    }

    /// Ready with an error once the peer has refused to be sent more; only HTTP/2 can tell.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Error> {
        if let Sink::Mending(mend) = self {
            match ready!(mend.poll_settled(cx)) {
                Ok(sink) => *self = sink,
                Err(error) => return Poll::Ready(error),
            }
        }
        let stream = match self {
            Sink::H2(stream) => stream,
            Sink::Shared(member) => member.stream(),
            Sink::Io(_) | Sink::Tcp(_) | Sink::Mending(_) => return Poll::Pending,
        };
        match ready!(stream.poll_reset(cx)) {
            Ok(reason) => Poll::Ready(std::io::Error::other(h2::Error::from(reason))),
            Err(e) => Poll::Ready(std::io::Error::other(e)),
        }
    }
}

/// The HTTP/2 error in an error of a [`Source`] or [`Sink`].
pub(crate) fn h2_error(error: &std::io::Error) -> Option<&h2::Error> {
    error.get_ref()?.downcast_ref()
}

/// Both directions.
pub struct Tunnel {
    /// What the other side sends.
    pub source: Source,
    /// What it is sent.
    pub sink: Sink,
}

impl Tunnel {
    /// Both directions of a TCP connection.
    pub fn tcp(socket: TcpStream) -> Self {
        let (read, write) = socket.into_split();
        Tunnel { source: Source::io(read), sink: Sink::tcp(write) }
    }
}

/// What a client asks to be carried to: a host in lower case without port, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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

    /// Answers a user's request for a ticket of the spread plane with an HTTP status and a body; `None`: not here.
    fn ticket<'a>(&'a self, who: &'a Identity, source: IpAddr, body: RecvStream) -> Option<BoxFuture<'a, (u16, Bytes)>> {
        let _ = (who, source, body);
        None
    }

    /// As `open`, in the trace that the client `brought`. An opener that traces nothing leaves it out of account.
    fn open_traced<'a>(
        &'a self,
        who: &'a Asker,
        target: &'a Target,
        client: &'a mut Source,
        brought: Option<trace::Context>,
    ) -> BoxFuture<'a, Result<Tunnel, Refusal>> {
        let _ = brought;
        self.open(who, target, client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    const SOON: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn what_was_foreseen_is_still_to_come() {
        let (mut far, near) = tokio::io::duplex(64);
        let mut source = Source::io(near);
        source.foresee(SOON).await;
        far.write_all(b"one").await.unwrap();
        source.foresee(Duration::MAX).await;
        far.write_all(b"two").await.unwrap();
        source.foresee(Duration::MAX).await;
        assert_eq!(source.next().await.unwrap().unwrap(), "one");
        assert_eq!(source.next().await.unwrap().unwrap(), "two");
        drop(far);
        source.foresee(Duration::MAX).await;
        assert!(!source.is_broken() && source.next().await.is_none());
    }

    #[tokio::test]
    async fn crumbs_go_on_together() {
        let (near, far) = tokio::io::duplex(1 << 20);
        let asking = tokio::spawn(async move {
            let (mut send, connection) = h2::client::handshake(far).await.expect("a connection");
            let driving = tokio::spawn(connection);
            let (_answer, mut stream) = send.send_request(http::Request::new(()), false).expect("a stream");
            for n in 0..50_u8 {
                stream.send_data(Bytes::from(vec![n]), false).expect("an open stream");
            }
            stream.send_data(Bytes::from(vec![7; 2 * CRUMB]), false).expect("an open stream");
            stream.send_data(Bytes::from_static(b"end"), true).expect("an open stream");
            let _ = driving.await;
        });
        let mut serving = h2::server::handshake(near).await.expect("a connection");
        let (request, _respond) = serving.accept().await.expect("a stream").expect("a good one");
        let mut source = Source::h2(request.into_body());
        // All of it is there before it is read.
        for _ in 0..1000 {
            poll_fn(|cx| Poll::Ready(serving.poll_accept(cx).is_ready())).await;
            tokio::task::yield_now().await;
        }
        let (mut all, mut chunks) = (Vec::new(), 0);
        while let Some(chunk) = source.next().await {
            all.extend_from_slice(&chunk.expect("no break"));
            chunks += 1;
        }
        assert_eq!(all, [(0..50).collect(), vec![7; 2 * CRUMB], b"end".to_vec()].concat());
        assert!(chunks <= 3, "{chunks}");
        asking.abort();
    }

    #[tokio::test]
    async fn a_break_that_was_foreseen_is_told_once_and_as_such() {
        let mut source = Source::io(breaks());
        source.foresee(Duration::MAX).await;
        assert!(source.is_broken());
        assert_eq!(source.next().await.unwrap().unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        assert!(source.next().await.is_none());
    }

    fn breaks() -> impl AsyncRead + Send + Unpin + 'static {
        struct Broken;
        impl AsyncRead for Broken {
            fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut tokio::io::ReadBuf<'_>) -> Poll<std::io::Result<()>> {
                Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()))
            }
        }
        Broken
    }
}
