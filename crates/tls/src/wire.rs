//! A TCP socket that reads much at once.
//!
//! rustls asks its transport for 4 KiB at a time, which costs four system calls for a full record. Here one call fetches up to
//! 64 KiB into a buffer that the thread shares; what rustls does not take at once waits in a slice of it. An idle connection
//! holds no buffer.

use bytes::{BufMut, Bytes, BytesMut};
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Payload of a DATA frame that fills four TLS records with its head of nine bytes: one byte more would make a fifth record.
pub const FRAME: usize = 4 * 16 * 1024 - 9;
/// Bytes per system call: every call may cost an acknowledgement and wake up the sender.
const BATCH: usize = 4 * FRAME;
/// What is shorter than this is copied out, so that it does not keep the whole batch alive.
const SMALL: usize = 16 * 1024;

thread_local! {
    /// One buffer per level of nesting: a TLS stream that is read here reads its socket here.
    static SCRATCH: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// Reads once into a scratch buffer of the thread and hands out what came: no buffer is held while nothing comes. Empty at
/// the end of the stream.
pub fn read_batch(reader: Pin<&mut (impl AsyncRead + ?Sized)>, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
    let mut scratch = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
    scratch.clear();
    if scratch.capacity() < BATCH / 4 {
        scratch.reserve(BATCH);
    }
    let mut reader = reader;
    let read = pin!(reader.read_buf(&mut (&mut scratch).limit(BATCH))).poll(cx);
    let chunk = read.map_ok(|n| if n < SMALL { Bytes::copy_from_slice(&scratch) } else { scratch.split().freeze() });
    SCRATCH.with_borrow_mut(|all| all.push(scratch));
    chunk
}

/// A TCP socket under TLS.
#[derive(Debug)]
pub struct Wire {
    socket: TcpStream,
    ahead: Bytes,
}

impl Wire {
    /// Wraps a connected socket.
    pub fn new(socket: TcpStream) -> Self {
        Wire { socket, ahead: Bytes::new() }
    }

    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            if buf.remaining() >= BATCH {
                return Pin::new(&mut self.socket).poll_read(cx, buf);
            }
            self.ahead = ready!(read_batch(Pin::new(&mut self.socket), cx))?;
        }
        let n = buf.remaining().min(self.ahead.len());
        let part = self.ahead.split_to(n);
        buf.put_slice(&part);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, data)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
