//! A client's HTTP/2 bytes, at a pace that leaves room for others.
//!
//! Frames that carry little cost the client nothing and us a microsecond or ten: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, resets,
//! empty DATA, heads. They are counted before `h2` sees them, against a budget of the identity, whatever number of connections
//! it has. Who has used it up is not read for a while (back-pressure), and nobody is cut for a burst; but who goes on over his budget for
//! `flood_patience_ms` is: what he has left in the kernel's buffers would keep his connection for hours after he has gone. Between a few dozen such
//! frames the task yields, so that one client's flood delays another's request by a fraction of a millisecond. Nor is a client read while a
//! crowd of his streams has yet to begin.

use super::backlog::Backlog;
use super::client::Client;
use crate::turns::Bell;
use polder_wire::FrameCounter;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// What a turn may take: costly frames, or 4 KiB of anything.
const TURN: u32 = 64;
/// What a turn with costly frames in numbers may last: some are heads whose hundred fields take longer than all else.
const LONG: Duration = Duration::from_micros(250);
/// Bytes at once from somebody who sends costly frames in numbers.
const SIP: usize = 1024;
/// Costly frames after which the budget is asked.
const SETTLE: u32 = 32;

/// Who is within his budget for so long has ended his flood; others of the same identity may have had it meanwhile.
const RESTED: Duration = Duration::from_secs(1);
/// So often at least it is seen whether a flood goes on.
const LOOK: Duration = Duration::from_secs(1);

/// What a client waits for before it is heard again.
enum Pause {
    /// Until others have worked. `h2` asks for more after each stream that it has accepted, many times in one step.
    Turn(Option<Arc<Bell>>),
    /// Until the debt is paid; looked after in between.
    Budget(Pin<Box<Sleep>>, Instant),
}

/// A client's connection.
pub(crate) struct Paced<S> {
    io: S,
    client: Arc<Client>,
    backlog: Arc<Backlog>,
    frames: FrameCounter,
    turn: u32,
    /// When something was read first in this turn.
    began: Option<Instant>,
    owed: u32,
    busy: bool,
    pause: Option<Pause>,
    /// When the budget was found used up first, and last, in one flood.
    over: Option<(Instant, Instant)>,
}

impl<S> Paced<S> {
    pub(super) fn new(io: S, client: Arc<Client>, backlog: Arc<Backlog>) -> Self {
        let frames = FrameCounter::default();
        Paced { io, client, backlog, frames, turn: 0, began: None, owed: 0, busy: false, pause: None, over: None }
    }

    /// Counts what came; decides on a pause before more. An error: it has been too much for too long.
    fn came(&mut self, bytes: &[u8]) -> io::Result<()> {
        let costly = self.frames.count(bytes);
        self.busy = costly > 4;
        self.owed += costly;
        self.turn += costly + u32::try_from(bytes.len() / 4096).unwrap_or(TURN);
        if self.owed >= SETTLE {
            let wait = self.client.spend(std::mem::take(&mut self.owed));
            if wait > 0 {
                return self.rest(Instant::now() + Duration::from_millis(wait));
            }
        }
        let began = *self.began.get_or_insert_with(Instant::now);
        if self.turn >= TURN || (self.busy && began.elapsed() >= LONG) {
            (self.turn, self.began) = (0, None);
            self.pause = Some(Pause::Turn(None));
        }
        Ok(())
    }

    /// Over the budget: a pause until the debt is paid, or until the next look. An error: it has been so for too long.
    fn rest(&mut self, until: Instant) -> io::Result<()> {
        let now = Instant::now();
        let since = self.over.filter(|(_, last)| now.duration_since(*last) < LOOK + RESTED).map_or(now, |(first, _)| first);
        self.over = Some((since, now));
        let patience = self.client.ctx.limits().flood_patience_ms;
        if patience != 0 && now.duration_since(since) > Duration::from_millis(u64::from(patience)) {
            self.client.ctx.counters.over_flood_patience.up();
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        self.pause = Some(Pause::Budget(Box::pin(sleep_until(until.min(now + LOOK))), until));
        Ok(())
    }

    /// Ends when the next bytes may be read. An error: see [`Paced::rest`].
    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match &mut self.pause {
                Some(Pause::Turn(bell)) if !bell.as_ref().is_some_and(|bell| bell.has_rung()) => {
                    if !bell.as_ref().is_some_and(|bell| bell.is_for(cx)) {
                        *bell = Some(Bell::after_others(cx));
                    }
                    return Poll::Pending;
                }
                Some(Pause::Turn(_)) | None => {}
                Some(Pause::Budget(sleep, until)) => {
                    ready!(sleep.as_mut().poll(cx));
                    let until = *until;
                    if Instant::now() < until {
                        self.rest(until)?;
                        continue;
                    }
                }
            }
            self.pause = None;
            return Poll::Ready(Ok(()));
        }
    }
}

impl<S: AsyncRead + Unpin> Paced<S> {
    fn poll_some(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pause(cx))?;
        ready!(self.backlog.poll_room(cx));
        if self.busy && buf.remaining() > SIP {
            let mut sip = [0; SIP];
            let mut part = ReadBuf::new(&mut sip);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut part))?;
            self.came(part.filled())?;
            buf.put_slice(part.filled());
        } else {
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
            self.came(&buf.filled()[before..])?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let some = self.poll_some(cx, buf);
        if some.is_pending() {
            self.began = None;
        }
        some
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
