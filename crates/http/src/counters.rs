//! Plain counters: handles are resolved at set-up, an increment is one relaxed atomic addition.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// What the plane has done since it started. Names ending in `_open` go up and down.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])* pub $name: Count,)+ }

        impl Counters {
            /// Every counter by name.
            pub fn all(&self) -> BTreeMap<&'static str, u64> {
                BTreeMap::from([$((stringify!($name), self.$name.get()),)+])
            }
        }
    };
}

impl Counters {
    /// What a tunnel counts.
    pub fn meter(&self) -> crate::pump::Meter<'_> {
        crate::pump::Meter { up: &self.bytes_up, down: &self.bytes_down, waiting: &self.receivers_waiting }
    }
}

/// One counter.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds one.
    pub fn up(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Counts one thing that is open until the guard is dropped.
    pub fn hold(&self) -> Held<'_> {
        self.up();
        Held(self)
    }
}

/// Something open; see [`Count::hold`].
#[derive(Debug)]
pub struct Held<'a>(&'a Count);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

counters! {
    /// Connections accepted.
    connections,
    /// Connections that are open now.
    connections_open,
    /// Connections refused because a limit was reached.
    connections_refused,
    /// Handshakes with those who connected that are under way now.
    handshakes_open,
    /// Handshakes that failed.
    handshakes_failed,
    /// Identities refused after a good handshake, or at one.
    identities_refused,
    /// Live connections cut because their identity was revoked or expired.
    identities_cut,
    /// Links dialled with success.
    links_dialled,
    /// Dials that failed.
    links_failed,
    /// Links that are up now, of all lanes.
    links_open,
    /// Tunnels opened, at any role.
    tunnels,
    /// Tunnels that are open now.
    tunnels_open,
    /// Tunnels that no candidate accepted.
    tunnels_failed,
    /// Candidates given up for the next one.
    failovers,
    /// Bytes carried away from users.
    bytes_up,
    /// Bytes carried to users.
    bytes_down,
    /// Directions of tunnels whose receiver takes nothing now.
    receivers_waiting,
    /// Tunnels ended because nothing moved.
    tunnels_idle,
    /// Requests refused by access rules.
    refused_access,
    /// Requests for names that no site registered.
    refused_target,
    /// Requests refused by a limit.
    refused_limit,
    /// Requests refused because the revocation list is too old.
    refused_stale,
    /// Hops that peers asked for wrongly: unknown site, no role for it, no hops left.
    refused_hop,
    /// Refusals that were counted but not told, because there were too many.
    refusals_untold,
    /// Control calls received.
    calls_in,
    /// Control calls answered 503 because the queue was full.
    calls_busy,
    /// Control calls that Python did not answer in time.
    calls_late,
    /// Control calls made.
    calls_out,
    /// Control calls made that got no answer.
    calls_failed,
    /// Dial-out connections now, at either end.
    dialouts_open,
}
