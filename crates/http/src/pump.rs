//! Carries bytes both ways until both directions have ended, one breaks, or nothing moves.

use crate::counters::Count;
use crate::tunnel::{Sink, Source, Tunnel};
use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both directions in good order.
    Finished,
    /// One direction broke; both were reset.
    Broken,
    /// Nothing moved; both were reset.
    Idle,
}

/// Carries between `near` (towards the user) and `far` (towards the site). The tunnel is closed between one and two times
/// `idle` after its last byte: looking at a flag then is cheaper than a timer per chunk.
pub async fn pump(mut near: Tunnel, mut far: Tunnel, idle: Duration, up: &Count, down: &Count) -> End {
    let moved = AtomicBool::new(true);
    let end = {
        let both = async {
            let outward = carry(&mut near.source, &mut far.sink, &moved, up);
            let homeward = carry(&mut far.source, &mut near.sink, &moved, down);
            if tokio::try_join!(outward, homeward).is_ok() { End::Finished } else { End::Broken }
        };
        let silence = async {
            while moved.swap(false, Relaxed) {
                tokio::time::sleep(idle).await;
            }
            End::Idle
        };
        tokio::select! { biased; end = both => end, end = silence => end }
    };
    if end != End::Finished {
        near.sink.reset();
        far.sink.reset();
    }
    end
}

/// One direction. Flushes only when the source has nothing more at once, so that a run of chunks leaves as one.
async fn carry(source: &mut Source, sink: &mut Sink, moved: &AtomicBool, count: &Count) -> io::Result<()> {
    loop {
        let chunk = poll_fn(|cx| match source.poll_next(cx) {
            Poll::Pending => Poll::Ready(None),
            Poll::Ready(chunk) => Poll::Ready(Some(chunk)),
        });
        let chunk = match chunk.await {
            Some(chunk) => chunk,
            None => {
                sink.flush().await?;
                // The peer may give up on what it is sent while it has nothing to say itself.
                poll_fn(|cx| match source.poll_next(cx) {
                    Poll::Pending => sink.poll_reset(cx).map(|reset| Some(Err(reset))),
                    ready => ready,
                })
                .await
            }
        };
        match chunk {
            Some(chunk) => {
                let chunk = chunk?;
                moved.store(true, Relaxed);
                count.add(chunk.len() as u64);
                sink.feed(chunk).await?;
            }
            None => return sink.finish().await,
        }
    }
}
