//! A QUIC stream as a tunnel.

use crate::tunnel::{Sink, Source, Tunnel};
use polder_quic::{RecvStream, SendStream, VarInt};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// Code of a stream that was cut.
pub(crate) const CUT: u32 = 1;

/// The writing half.
pub(crate) fn sink(send: SendStream) -> Sink {
    Sink::io(QuicSink { stream: send, finished: false })
}

/// Both directions of a stream.
pub(crate) fn tunnel(send: SendStream, receive: RecvStream) -> Tunnel {
    Tunnel { source: Source::io(receive), sink: sink(send) }
}

/// Ends in good order only when it is told to: dropped before, the peer sees a reset. quinn would finish it.
struct QuicSink {
    stream: SendStream,
    finished: bool,
}

impl AsyncWrite for QuicSink {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(ready!(Pin::new(&mut self.stream).poll_write(cx, bytes)).map_err(io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // QUIC sends what it may at once
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ends = !std::mem::replace(&mut self.finished, true);
        Poll::Ready(if ends { self.stream.finish().map_err(io::Error::other) } else { Ok(()) })
    }
}

impl Drop for QuicSink {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.stream.reset(VarInt::from_u32(CUT));
        }
    }
}
