//! Tunnels to origins that wait for the client's next request.
//!
//! They belong to one client's connection: what one identity opened is never used for another.

use super::context::Permit;
use super::inbox::Inbox;
use crate::tunnel::{Sink, Target, Tunnel};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Most tunnels that wait per client's connection: a browser uses 6 per host.
const MAX_IDLE: usize = 16;
/// How long one waits. Below the keep-alive timeout of common origins (nginx 75 s, Apache and Node.js 5 s), mostly.
pub(crate) const MAX_AGE: Duration = Duration::from_secs(20);

/// A tunnel spoken through as HTTP/1.1.
pub(crate) struct Conn {
    pub(crate) inbox: Inbox,
    pub(crate) sink: Sink,
    pub(crate) permit: Permit,
    used: Instant,
}

impl Conn {
    pub(crate) fn new(tunnel: Tunnel, permit: Permit) -> Self {
        Conn { inbox: tunnel.source.into(), sink: tunnel.sink, permit, used: Instant::now() }
    }
}

#[derive(Default)]
pub(crate) struct Pool(Mutex<HashMap<Target, Vec<Conn>>>);

impl Pool {
    /// A tunnel to `target` on which nothing has happened since its last answer.
    pub(crate) fn take(&self, target: &Target) -> Option<Conn> {
        let mut table = self.table();
        let waiting = table.get_mut(target)?;
        while let Some(mut conn) = waiting.pop() {
            if conn.used.elapsed() < MAX_AGE && conn.inbox.is_quiet() {
                return Some(conn);
            }
        }
        None
    }

    /// Keeps a tunnel for later, unless enough wait already.
    pub(crate) fn give(&self, target: &Target, mut conn: Conn) {
        let mut table = self.table();
        forget_old(&mut table);
        if table.values().map(Vec::len).sum::<usize>() < MAX_IDLE {
            conn.used = Instant::now();
            table.entry(target.clone()).or_default().push(conn);
        }
    }

    /// Closes what has waited too long.
    pub(crate) fn sweep(&self) {
        forget_old(&mut self.table());
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Target, Vec<Conn>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn forget_old(table: &mut HashMap<Target, Vec<Conn>>) {
    table.retain(|_, waiting| {
        waiting.retain(|conn| conn.used.elapsed() < MAX_AGE);
        !waiting.is_empty()
    });
}
