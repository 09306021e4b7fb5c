//! Keeps a listener from being flooded: what would only be refused is dropped by the system, before it costs anything.

use crate::accept::Door;
use polder_flow::sluice::{Passage, Sluice};
use polder_sock::sluice;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep_until;

/// What the refusals of one listener lead to. Nodes, and addresses from which a user came lately, always pass; others with a chance.
pub(crate) struct Lock {
    listener: Arc<TcpListener>,
    sluice: Sluice,
    born: Instant,
    /// Whether the listener has a filter, which its connections inherit.
    sifts: bool,
    dropped: u32,
    /// The system knows no filters: said once.
    helpless: bool,
}

impl Drop for Lock {
    /// The socket may live on in another process.
    fn drop(&mut self) {
        if self.sifts {
            let _ = sluice::open(&*self.listener);
        }
    }
}

impl Lock {
    /// Open, whatever a former process left at the socket.
    pub(crate) fn new(listener: Arc<TcpListener>) -> Self {
        let _ = sluice::open(&*listener);
        let dropped = sluice::dropped(&*listener).unwrap_or(0);
        Lock { listener, sluice: Sluice::new(0), born: Instant::now(), sifts: false, dropped, helpless: false }
    }

    /// A new connection: it needs no filter, and would keep this one in memory.
    pub(crate) fn admit(&self, socket: &TcpStream) {
        if self.sifts {
            let _ = sluice::open(socket);
        }
    }

    pub(crate) fn refused(&mut self, from: IpAddr) {
        self.sluice.refuse(from.into());
    }

    /// Ends when a look is due though nobody comes.
    pub(crate) async fn waits(&self) {
        match self.sluice.due() {
            Some(due) => sleep_until((self.born + Duration::from_millis(due)).into()).await,
            None => std::future::pending().await,
        }
    }

    /// A look, if one is due.
    pub(crate) fn look(&mut self, door: &Door) {
        let Some(world) = door.plane.world() else { return };
        let limits = &world.plan.limits;
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        let of_one = limits.handshake_rate_per_source.saturating_mul(2);
        let Some(passage) = self.sluice.look(limits.refusal_rate, of_one, now) else { return };
        let homes = world.plan.peers().map(|peer| peer.address.ip());
        let sifted = self.sifts;
        self.set(door, &passage, homes);
        let dropped = sluice::dropped(&*self.listener).unwrap_or(self.dropped);
        // What was lost without a filter found the backlog full.
        if sifted {
            door.plane.counters.over_refusals.add(u64::from(dropped.wrapping_sub(self.dropped)));
        }
        self.dropped = dropped;
    }

    fn set(&mut self, door: &Door, passage: &Passage, homes: impl Iterator<Item = IpAddr>) {
        let open = self.sluice.is_open();
        let done = if open {
            sluice::open(&*self.listener)
        } else {
            // The first one counts where a source is listed twice: who is loud is no longer known.
            let mut listed: Vec<_> = passage.loud.iter().map(|(source, chance)| (IpAddr::from(*source), *chance)).collect();
            listed.extend(homes.map(|home| (home, sluice::ALWAYS)));
            let room = sluice::MOST_SOURCES.saturating_sub(listed.len());
            listed.extend(door.front.guests(room).into_iter().map(|guest| (guest, sluice::ALWAYS)));
            sluice::sift(&*self.listener, &listed, passage.strangers)
        };
        match done {
            Ok(()) => self.sifts = !open,
            Err(e) if !self.helpless => {
                self.helpless = true;
                door.plane.log(
                    "warn",
                    "accept",
                    format!("{e}: the system drops nothing for us; floods of connections cost more"),
                );
            }
            Err(_) => {}
        }
    }
}
