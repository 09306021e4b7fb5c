//! A TLS connection under HTTP/2 that says much at once.
//!
//! Theory of operation. HTTP/2 flushes after every DATA frame, and each flush is a system call, a run through the kernel's TCP and a
//! wake-up of the peer. Here what is written is encrypted at once, but kept until the connection's task has had its turn:
//! a flush of much only asks for another turn, and that turn begins by sending (HTTP/2 reads at the beginning of every turn, and
//! flushes at its end: where somebody above holds reading back, the flush sends). A flush of little goes out at once:
//! that is what somebody waits for. In the other direction, a turn ends after [`TURN`] bytes, so that what was read goes on while
//! the processor's cache still holds it.

use crate::{Accepted, Connected};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What waits is sent when it is so much: sixteen full records.
const MUCH: usize = 256 * 1024;
/// Less than this is not kept: one full record.
const LITTLE: usize = 16 * 1024;
/// Bytes read before others get their turn.
const TURN: usize = 256 * 1024;

/// A TLS connection that can encrypt without sending.
pub trait Hold: AsyncRead + AsyncWrite + Unpin {
    /// Lets up to `bytes` wait; a write may exceed it by as much again.
    fn hold_up_to(&mut self, bytes: usize);

    /// Encrypts without sending; returns how many bytes were taken.
    fn hold(&mut self, data: &[IoSlice<'_>]) -> io::Result<usize>;
}

macro_rules! hold {
    ($($stream:ty),*) => {$(
        impl Hold for $stream {
            fn hold_up_to(&mut self, bytes: usize) {
                self.get_mut().1.set_buffer_limit(Some(2 * bytes));
            }

            fn hold(&mut self, data: &[IoSlice<'_>]) -> io::Result<usize> {
                io::Write::write_vectored(&mut self.get_mut().1.writer(), data)
            }
        }
    )*};
}

hold!(Accepted, Connected);

/// A connection for HTTP/2 alone: whoever uses it must flush at the end of every turn of its task.
#[derive(Debug)]
pub struct Corked<S> {
    stream: S,
    /// Encrypted and not sent.
    kept: usize,
    /// The next turn begins by sending.
    owed: bool,
    /// Flushes since the last write. The first may be the end of the turn that wrote, the third is surely of another.
    flushes: u8,
    /// Read in this turn.
    read: usize,
}

impl<S: Hold> Corked<S> {
    /// Wraps a connection after its handshake.
    pub fn new(mut stream: S) -> Self {
        stream.hold_up_to(MUCH);
        Corked { stream, kept: 0, owed: false, flushes: 0, read: 0 }
    }

    fn send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.owed = true;
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        (self.kept, self.owed) = (0, false);
        Poll::Ready(Ok(()))
    }
}

impl<S: Hold> AsyncRead for Corked<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.owed
            && let Poll::Ready(Err(e)) = self.send(cx)
        {
            return Poll::Ready(Err(e));
        }
        if self.read >= TURN {
            self.read = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.read = if read.is_pending() { 0 } else { self.read + buf.filled().len() - before };
        read
    }
}

impl<S: Hold> AsyncWrite for Corked<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.kept >= MUCH {
            ready!(self.send(cx))?;
        }
        let taken = self.stream.hold(data)?;
        self.kept += taken;
        self.flushes = 0;
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flushes = self.flushes.saturating_add(1);
        let keeps = self.owed || self.kept >= LITTLE;
        if !keeps || self.kept >= MUCH || self.flushes > 2 {
            return self.send(cx);
        }
        self.owed = true;
        cx.waker().wake_by_ref();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.send(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    use std::task::{Wake, Waker};

    /// A connection whose socket takes what the test lets it take, and yields what the test gives it.
    #[derive(Default)]
    struct Socket {
        held: Vec<u8>,
        sent: Vec<u8>,
        sends: usize,
        room: usize,
        /// A send met a full socket: who waits is woken when there is room.
        full: bool,
        inbound: usize,
    }

    impl Hold for Socket {
        fn hold_up_to(&mut self, _bytes: usize) {}

        fn hold(&mut self, data: &[IoSlice<'_>]) -> io::Result<usize> {
            data.iter().for_each(|part| self.held.extend_from_slice(part));
            Ok(data.iter().map(|part| part.len()).sum())
        }
    }

    impl AsyncRead for Socket {
        fn poll_read(mut self: Pin<&mut Self>, _cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let n = self.inbound.min(buf.remaining());
            self.inbound -= n;
            buf.put_slice(&vec![0; n]);
            if n == 0 { Poll::Pending } else { Poll::Ready(Ok(())) }
        }
    }

    impl AsyncWrite for Socket {
        fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, _data: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            let n = self.held.len().min(self.room);
            let part: Vec<u8> = self.held.drain(..n).collect();
            self.sends += usize::from(n > 0);
            self.room -= n;
            self.sent.extend(part);
            self.full = !self.held.is_empty();
            if self.full { Poll::Pending } else { Poll::Ready(Ok(())) }
        }

        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[derive(Default)]
    struct Called(AtomicBool);

    impl Wake for Called {
        fn wake(self: Arc<Self>) {
            self.0.store(true, SeqCst);
        }
    }

    /// What HTTP/2 does in one turn: reads until nothing comes, then writes and flushes. Returns what was not taken.
    fn turn<'a>(corked: &mut Corked<Socket>, called: &Arc<Called>, mut data: &'a [u8]) -> &'a [u8] {
        let waker = Waker::from(called.clone());
        let cx = &mut Context::from_waker(&waker);
        called.0.store(false, SeqCst);
        while read(corked, cx, 16 * 1024).is_ready() {}
        while !data.is_empty() {
            match Pin::new(&mut *corked).poll_write(cx, &data[..data.len().min(65_536)]) {
                Poll::Ready(taken) => data = &data[taken.unwrap()..],
                Poll::Pending => return data,
            }
            if Pin::new(&mut *corked).poll_flush(cx).is_pending() {
                return data;
            }
        }
        data
    }

    fn read(corked: &mut Corked<Socket>, cx: &mut Context<'_>, most: usize) -> Poll<usize> {
        let mut buffer = vec![0; most];
        let mut buf = ReadBuf::new(&mut buffer);
        Pin::new(corked).poll_read(cx, &mut buf).map(|read| read.map(|()| buf.filled().len()).unwrap())
    }

    fn roomy() -> (Corked<Socket>, Arc<Called>) {
        (Corked::new(Socket { room: usize::MAX, ..Socket::default() }), Arc::default())
    }

    #[test]
    fn little_leaves_at_once() {
        let (mut corked, called) = roomy();
        turn(&mut corked, &called, &[7; LITTLE - 1]);
        assert_eq!((corked.stream.sent.len(), called.0.load(SeqCst)), (LITTLE - 1, false));
    }

    #[test]
    fn much_leaves_as_one_at_the_beginning_of_the_next_turn() {
        let (mut corked, called) = roomy();
        turn(&mut corked, &called, &[7; 200_000]);
        assert_eq!((corked.stream.sent.len(), called.0.load(SeqCst)), (0, true), "it asks for another turn");
        turn(&mut corked, &called, &[]);
        assert_eq!((corked.stream.sent.len(), corked.stream.sends, called.0.load(SeqCst)), (200_000, 1, false));
    }

    #[test]
    fn much_leaves_also_where_reading_is_held_back() {
        let (mut corked, called) = roomy();
        turn(&mut corked, &called, &[7; 200_000]);
        let waker = Waker::from(called.clone());
        let mut turns = 0;
        while called.0.swap(false, SeqCst) {
            turns += 1;
            assert!(Pin::new(&mut corked).poll_flush(&mut Context::from_waker(&waker)).is_ready());
        }
        assert_eq!(corked.stream.sent.len(), 200_000);
        assert!(turns <= 2, "{turns} turns");
    }

    #[test]
    fn a_full_socket_bounds_what_is_kept() {
        let (mut corked, called) = roomy();
        corked.stream.room = 0;
        let data = vec![7; 8 * MUCH];
        let mut left = &data[..];
        for _ in 0..10 {
            left = turn(&mut corked, &called, left);
        }
        assert!(corked.stream.held.len() < 2 * MUCH, "{}", corked.stream.held.len());
    }

    #[test]
    fn a_turn_of_reading_ends_and_another_is_asked_for() {
        let (mut corked, called) = roomy();
        corked.stream.inbound = 3 * TURN;
        for left in [2 * TURN, TURN, 0] {
            turn(&mut corked, &called, &[]);
            assert_eq!((corked.stream.inbound, called.0.load(SeqCst)), (left, true));
        }
        turn(&mut corked, &called, &[]);
        assert!(!called.0.load(SeqCst));
    }

    proptest! {
        /// Whoever has another turn whenever he is woken, and when a full socket has room, loses nothing and waits for nothing.
        #[test]
        fn all_is_sent_in_order_and_nothing_waits_for_ever(
            said in proptest::collection::vec((0usize..300_000, 0usize..400_000), 1..12),
        ) {
            let mut corked = Corked::new(Socket::default());
            let called = Arc::<Called>::default();
            let mut all = Vec::new();
            let mut waiting: Vec<u8> = Vec::new();
            for (n, (length, room)) in said.into_iter().enumerate() {
                let data = vec![n as u8; length];
                all.extend_from_slice(&data);
                waiting.extend_from_slice(&data);
                corked.stream.room += room;
                waiting = turn(&mut corked, &called, &waiting).to_vec();
                prop_assert!(corked.stream.held.len() < 2 * MUCH);
            }
            corked.stream.room = usize::MAX;
            while called.0.load(SeqCst) || corked.stream.full {
                corked.stream.full = false;
                waiting = turn(&mut corked, &called, &waiting).to_vec();
            }
            prop_assert_eq!(corked.stream.held.len(), 0);
            prop_assert!(corked.stream.sent == all);
        }
    }
}
