//! Where packets leave and come in: a UDP socket, or the node's relay.

use polder_spread::Run;
use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use std::collections::VecDeque;
use std::fmt::Debug;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// What came in one piece: packets of `segment` bytes from one address, the last may be shorter.
#[derive(Debug, Default)]
pub struct Batch {
    /// From where.
    pub from: Option<SocketAddr>,
    /// All packets, one behind the other.
    pub bytes: Vec<u8>,
    /// Bytes of each.
    pub segment: usize,
}

/// Carries packets. Never waits: what does not fit now is lost, as on any network.
pub trait Wire: Debug + Send + Sync + 'static {
    /// Sends a run.
    fn send(&self, run: Run<'_>);

    /// The next batch, into `batch`.
    fn poll_receive(&self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>>;

    /// Our own address.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// Socket buffers: what a fast path delivers while the runtime's thread does something else for a few milliseconds.
const BUFFER: usize = 4 << 20;

/// A UDP socket of one's own, with the kernel's segmentation and coalescing.
#[derive(Debug)]
pub struct UdpWire {
    io: UdpSocket,
    state: UdpSocketState,
    room: Mutex<Room>,
}

/// What one system call brought, and how many of it were taken.
struct Room {
    buffer: Vec<u8>,
    meta: [RecvMeta; AT_ONCE],
    next: usize,
    count: usize,
}

impl Room {
    fn new() -> Self {
        Room { buffer: vec![0; AT_ONCE * LONGEST], meta: [RecvMeta::default(); AT_ONCE], next: 0, count: 0 }
    }

    /// The next batch, if one waits.
    fn take(&mut self, batch: &mut Batch) -> bool {
        let (Some(meta), Some(bytes)) = (self.meta.get(self.next), self.buffer.chunks(LONGEST).nth(self.next)) else {
            return false;
        };
        if self.next >= self.count {
            return false;
        }
        (batch.from, batch.segment) = (Some(meta.addr), meta.stride.max(1));
        batch.bytes.clear();
        batch.bytes.extend_from_slice(&bytes[..meta.len.min(LONGEST)]);
        self.next += 1;
        true
    }
}

impl Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Room({} of {})", self.next, self.count)
    }
}

impl UdpWire {
    /// Binds to `address`; inside a runtime.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        let state = UdpSocketState::new((&socket).into())?;
        // The kernel may grant less; that is no reason to fail.
        let _ = state.set_send_buffer_size((&socket).into(), BUFFER);
        let _ = state.set_recv_buffer_size((&socket).into(), BUFFER);
        Ok(UdpWire { io: UdpSocket::from_std(socket)?, state, room: Mutex::new(Room::new()) })
    }
}

/// Batches that one system call takes, and most bytes of one.
const AT_ONCE: usize = 8;
const LONGEST: usize = 65_536;

impl Wire for UdpWire {
    fn send(&self, run: Run<'_>) {
        let segments = self.state.max_gso_segments().max(1);
        for part in run.bytes.chunks(run.segment.max(1) * segments) {
            let segment_size = (part.len() > run.segment).then_some(run.segment);
            let transmit = Transmit { destination: run.to, ecn: None, contents: part, segment_size, src_ip: None };
            let _ = self.io.try_io(Interest::WRITABLE, || self.state.try_send((&self.io).into(), &transmit));
        }
    }

    fn poll_receive(&self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if room.take(batch) {
                return Poll::Ready(Ok(()));
            }
            ready!(self.io.poll_recv_ready(cx))?;
            let Room { buffer, meta, next, count } = &mut *room;
            let received = self.io.try_io(Interest::READABLE, || {
                let mut slices: Vec<_> = buffer.chunks_mut(LONGEST).map(IoSliceMut::new).collect();
                self.state.recv((&self.io).into(), &mut slices, meta)
            });
            match received {
                Ok(received) => (*next, *count) = (0, received),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // What ICMP says of an earlier packet (RFC 1122 §4.1.3.3): a relay that is down, which the session notices.
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }
}

/// Where a node's relay sends for its servlet sessions.
pub trait Outlet: Debug + Send + Sync + 'static {
    /// Sends a run. Never waits.
    fn send(&self, run: Run<'_>);

    /// The relay's address.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// The servlet's wire: the relay thread hands in what ends here; a bounded queue lies between.
#[derive(Debug)]
pub struct Inlet {
    queue: Mutex<Queue>,
    most: usize,
    outlet: Arc<dyn Outlet>,
    /// Batches that came while the queue was full.
    pub lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    batches: VecDeque<Batch>,
    bytes: usize,
    waker: Option<Waker>,
    /// Buffers to use again.
    spare: Vec<Vec<u8>>,
}

/// Buffers kept for use.
const SPARE: usize = 64;

impl Inlet {
    /// Keeps at most `most` bytes for who reads too slowly.
    pub fn new(outlet: Arc<dyn Outlet>, most: usize) -> Arc<Self> {
        Arc::new(Inlet { queue: Mutex::default(), most, outlet, lost: AtomicU64::new(0) })
    }

    /// Hands in packets; from any thread.
    pub fn push(&self, from: SocketAddr, bytes: &[u8], segment: usize) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.bytes + bytes.len() > self.most {
            self.lost.fetch_add(1, Relaxed);
            return;
        }
        let mut copy = queue.spare.pop().unwrap_or_default();
        copy.extend_from_slice(bytes);
        queue.bytes += copy.len();
        queue.batches.push_back(Batch { from: Some(from), bytes: copy, segment: segment.max(1) });
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }
}

impl Wire for Inlet {
    fn send(&self, run: Run<'_>) {
        self.outlet.send(run);
    }

    fn poll_receive(&self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(next) = queue.batches.pop_front() else {
            queue.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        queue.bytes -= next.bytes.len();
        let mut used = std::mem::replace(batch, next).bytes;
        if used.capacity() > 0 && queue.spare.len() < SPARE {
            used.clear();
            queue.spare.push(used);
        }
        Poll::Ready(Ok(()))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.outlet.local_addr()
    }
}
