//! One number.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// One counter or gauge.
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

    /// Takes `n` from a gauge.
    pub fn drop_by(&self, n: u64) {
        self.0.fetch_sub(n, Relaxed);
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
