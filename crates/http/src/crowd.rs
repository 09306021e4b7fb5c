//! Room on a connection that many share.
//!
//! Theory of operation. HTTP/2 sends one frame of each stream in turn, whatever each has sent before. When hundreds of streams send as
//! fast as they can, a turn of all is tens of megabytes, and whoever says little waits for it at every node. So those who send
//! much have only a few bytes (`crowd_bytes`) between them that are with HTTP/2 and not yet written; they wait for it in the order in which they came. Who
//! sends little does not wait. The room that a piece takes is free again when HTTP/2 lets go of the piece, whether it was written or its stream was
//! reset: so a piece is asked room for only when its stream's window has place for it, and a receiver that takes nothing holds no room.

use crate::plane::Plane;
use crate::tunnel::BoxFuture;
use bytes::Bytes;
use h2::SendStream;
use polder_types::Limits;
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, Instant};

/// What a stream may say without waiting: the first flight of a site's TLS and a small page.
const LITTLE: usize = 32 * 1024;
/// And once more in every such time.
const REST: Duration = Duration::from_millis(250);

/// What the streams of one connection share.
pub(crate) struct Crowd {
    room: Arc<Semaphore>,
    most: u32,
    plane: Weak<Plane>,
}

impl Crowd {
    /// Room for the bytes of all who send much on one connection of `plane`.
    pub(crate) fn new(plane: &Arc<Plane>, limits: &Limits) -> Arc<Self> {
        Crowd::of(limits.crowd_bytes, Arc::downgrade(plane))
    }

    fn of(most: u32, plane: Weak<Plane>) -> Arc<Self> {
        Arc::new(Crowd { room: Arc::new(Semaphore::new(most as usize)), most, plane })
    }
}

/// One stream among many.
pub(crate) struct Member {
    stream: SendStream<Bytes>,
    crowd: Arc<Crowd>,
    /// What it may still say without waiting.
    little: usize,
    spoke: Instant,
    /// The room that it waits for; boxed, for few ever do.
    waits: Option<BoxFuture<'static, Result<OwnedSemaphorePermit, AcquireError>>>,
}

/// A piece on its way, and its room.
struct Piece {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Member {
    pub(crate) fn new(stream: SendStream<Bytes>, crowd: Arc<Crowd>) -> Self {
        Member { stream, crowd, little: LITTLE, spoke: Instant::now(), waits: None }
    }

    /// The stream itself, for all but sending.
    pub(crate) fn stream(&mut self) -> &mut SendStream<Bytes> {
        &mut self.stream
    }

    /// Sends what it can of `chunk`, waiting for the peer's window and, if it has said much of late, for room.
    pub(crate) fn poll_feed(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<()>> {
        let now = Instant::now();
        let rested = now.duration_since(self.spoke).min(REST).as_micros() as usize * LITTLE / REST.as_micros() as usize;
        (self.little, self.spoke) = ((self.little + rested).min(LITTLE), now);
        while !chunk.is_empty() {
            let capacity = ready!(poll_granted(&mut self.stream, cx, chunk.len().min(polder_tls::FRAME)))?;
            if capacity <= self.little {
                self.little -= capacity;
                self.stream.send_data(chunk.split_to(capacity), false).map_err(io::Error::other)?;
                continue;
            }
            let room = ready!(self.poll_room(cx, capacity))?;
            let bytes = chunk.split_to(capacity.min(room.num_permits()));
            let piece = Bytes::from_owner(Piece { bytes, _room: room });
            self.stream.send_data(piece, false).map_err(io::Error::other)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Room for `bytes`, or for as many as it asked for before.
    fn poll_room(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<io::Result<OwnedSemaphorePermit>> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.crowd.most);
        if self.waits.is_none() {
            if let Ok(room) = self.crowd.room.clone().try_acquire_many_owned(bytes) {
                return Poll::Ready(Ok(room));
            }
            if let Some(plane) = self.crowd.plane.upgrade() {
                plane.counters.over_crowd.up();
            }
            self.waits = Some(Box::pin(self.crowd.room.clone().acquire_many_owned(bytes)));
        }
        let Some(waits) = &mut self.waits else { return Poll::Pending };
        let room = ready!(waits.as_mut().poll(cx)).map_err(io::Error::other);
        self.waits = None;
        Poll::Ready(room)
    }
}

/// As [`poll_granted`].
pub(crate) async fn granted(stream: &mut SendStream<Bytes>, wanted: usize) -> io::Result<usize> {
    poll_fn(|cx| poll_granted(stream, cx, wanted)).await
}

/// Waits until the peer's windows have place for some of `wanted` bytes; for how many of them.
fn poll_granted(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
    stream.reserve_capacity(wanted);
    // `poll_capacity` reports growth only: what was granted before must be used first.
    while stream.capacity() == 0 {
        let grown = ready!(stream.poll_capacity(cx));
        grown.unwrap_or(Err(h2::Reason::CANCEL.into())).map_err(io::Error::other)?;
    }
    Poll::Ready(Ok(stream.capacity().min(wanted)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Request, Response};
    use std::task::Waker;

    const STREAMS: usize = 60;
    const ROOM: usize = 1 << 20;

    /// A peer that asks for `STREAMS` answers, with windows for all of each, and reads none.
    #[tokio::test]
    async fn those_who_say_much_wait_and_who_says_little_does_not() {
        let (near, far) = tokio::io::duplex(65_536);
        let asking = tokio::spawn(async move {
            let mut builder = h2::client::Builder::new();
            builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 28);
            let (mut send, connection) = builder.handshake::<_, Bytes>(far).await.expect("a connection");
            let asked: Vec<_> = (0..STREAMS).map(|_| send.send_request(Request::new(()), true).expect("a stream").0).collect();
            let driving = tokio::spawn(connection);
            (send, asked, driving)
        });
        let mut builder = h2::server::Builder::new();
        let mut serving = builder.max_send_buffer_size(1 << 20).handshake::<_, Bytes>(near).await.expect("a connection");
        let crowd = Crowd::of(ROOM as u32, Weak::new());
        let mut members = Vec::new();
        while members.len() < STREAMS {
            let (_, mut respond) = serving.accept().await.expect("a stream").expect("a good one");
            let stream = respond.send_response(Response::new(()), false).expect("an open stream");
            members.push(Member::new(stream, crowd.clone()));
        }
        // From here on nothing is written, so that what the streams say stays with HTTP/2.
        let mut cx = Context::from_waker(Waker::noop());
        let mut quiet = members.split_off(STREAMS - 1);
        let mut said = 0;
        for member in &mut members {
            let mut chunk = Bytes::from(vec![7; 512 * 1024]);
            let whole = chunk.len();
            let _ = member.poll_feed(&mut cx, &mut chunk).is_ready();
            said += whole - chunk.len();
        }
        assert!((ROOM / 2..=ROOM + STREAMS * LITTLE).contains(&said), "{said}");
        let mut little = Bytes::from_static(&[7; 1024]);
        assert!(quiet[0].poll_feed(&mut cx, &mut little).is_ready() && little.is_empty());
        // A stream that is reset gives its room to the next.
        let held = crowd.room.available_permits();
        members.iter_mut().for_each(|member| member.stream().send_reset(h2::Reason::CANCEL));
        drop(members);
        assert!(crowd.room.available_permits() > held && crowd.room.available_permits() > ROOM / 2);
        drop(asking);
    }
}
